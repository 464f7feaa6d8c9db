"""Measures of a trained model: log p(x), what its latent variables hold, and why its bound falls short of log p(x).

The functions take a `tfvae.VAE`, some of them other models too, and return nats; the disentanglement scores take arrays
of codes and of the factors that these are compared with, and `recovery` a `tfvae.AmortizedInference`.
"""

from tfvae._lazy import lazy_attributes

__all__ = [
    "DCI",
    "ActiveUnits",
    "InferenceGap",
    "Information",
    "LogLikelihood",
    "RateDistortion",
    "Recovery",
    "Traversals",
    "active_units",
    "amortization_gap",
    "annealed_importance_sampling",
    "dci",
    "factor_vae_score",
    "importance_sampling",
    "interpolations",
    "kl_per_dimension",
    "mutual_information",
    "mutual_information_gap",
    "rate_distortion",
    "recovery",
    "sap",
    "traversals",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.evaluation.amortization": ["InferenceGap", "amortization_gap"],
        "tfvae.evaluation.annealing": ["annealed_importance_sampling"],
        "tfvae.evaluation.disentanglement": ["DCI", "dci", "factor_vae_score", "mutual_information_gap", "sap"],
        "tfvae.evaluation.importance": ["LogLikelihood", "importance_sampling"],
        "tfvae.evaluation.information": ["Information", "mutual_information"],
        "tfvae.evaluation.latent_space": [
            "ActiveUnits",
            "RateDistortion",
            "active_units",
            "kl_per_dimension",
            "rate_distortion",
        ],
        "tfvae.evaluation.simulated": ["Recovery", "recovery"],
        "tfvae.evaluation.walks": ["Traversals", "interpolations", "traversals"],
    },
)
