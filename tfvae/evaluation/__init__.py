"""Measures of a trained model: log p(x), what its latent variables hold, and why its bound falls short of log p(x).

The functions take a `tfvae.VAE`, some of them other models too, and return nats; the disentanglement scores take arrays
of codes and of the factors that these are compared with. `predictive_check` takes a `tfvae.VariationalInference`,
`recovery` a `tfvae.AmortizedInference`, and `calibration` either.
"""

from tfvae._lazy import lazy_attributes

__all__ = [
    "DCI",
    "ActiveUnits",
    "Calibration",
    "InferenceGap",
    "Information",
    "LogLikelihood",
    "PredictiveCheck",
    "RateDistortion",
    "Recovery",
    "Traversals",
    "active_units",
    "amortization_gap",
    "annealed_importance_sampling",
    "calibration",
    "dci",
    "factor_vae_score",
    "importance_sampling",
    "interpolations",
    "kl_per_dimension",
    "mutual_information",
    "mutual_information_gap",
    "predictive_check",
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
        "tfvae.evaluation.calibrating": ["Calibration", "calibration"],
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
        "tfvae.evaluation.predictive_checks": ["PredictiveCheck", "predictive_check"],
        "tfvae.evaluation.simulated": ["Recovery", "recovery"],
        "tfvae.evaluation.walks": ["Traversals", "interpolations", "traversals"],
    },
)
