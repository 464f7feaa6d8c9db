"""Exports a model to files that run without tfvae, verifies that they agree with the model, and opens them again.

Each name here is imported when it is first used, so that opening a file needs no Keras and, for a .tflite file, no
TensorFlow.
"""

from tfvae._lazy import lazy_attributes

__all__ = [
    "Agreement",
    "Card",
    "Cost",
    "Endpoints",
    "Exportable",
    "ExportedModel",
    "NamedColumns",
    "PosteriorEndpoints",
    "Signature",
    "Verification",
    "load",
    "onnx",
    "saved_model",
    "tflite",
    "verify",
    "web",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.export.card": ["Card"],
        "tfvae.export.client": ["ExportedModel", "load"],
        "tfvae.export.device": ["tflite"],
        "tfvae.export.endpoints": ["Endpoints", "PosteriorEndpoints"],
        "tfvae.export.onnx_runtime": ["onnx"],
        "tfvae.export.serving": ["saved_model"],
        "tfvae.export.report": ["Agreement", "Cost", "Verification"],
        "tfvae.export.verification": ["verify"],
        # Defined above this room, because it knows models; public here, with the other exports.
        "tfvae.reporting.explorer": ["web"],
        "tfvae.exportable": ["Exportable", "NamedColumns", "Signature"],
    },
)
