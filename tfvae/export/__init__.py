"""From a model to files that run without it, the proof that they agree, and a client that opens them.

What is imported here is imported when it is first used, so that the client needs neither Keras nor, for a .tflite file,
TensorFlow.
"""

from tfvae._lazy import lazy_attributes

__all__ = [
    "Agreement",
    "Cost",
    "Endpoints",
    "Exportable",
    "ExportedModel",
    "PosteriorEndpoints",
    "Signature",
    "Verification",
    "load",
    "saved_model",
    "tflite",
    "verify",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.export.client": ["ExportedModel", "load"],
        "tfvae.export.device": ["tflite"],
        "tfvae.export.endpoints": ["Endpoints", "PosteriorEndpoints"],
        "tfvae.export.serving": ["saved_model"],
        "tfvae.export.verification": ["Agreement", "Cost", "Verification", "verify"],
        "tfvae.exportable": ["Exportable", "Signature"],
    },
)
