"""Measures of a trained model: log p(x), what its latent variables hold, and why its bound falls short of log p(x).

The functions take a `tfvae.VAE`, some of them other models too, and return nats; the disentanglement scores take arrays
of codes and of the factors that these are compared with, and `frechet_distance`, `kernel_distance` and
`precision_recall` arrays of features of real and of generated examples. `predictive_check` takes a
`tfvae.VariationalInference`, `recovery` a `tfvae.AmortizedInference`, and `calibration` either.
"""

from tfvae._lazy import lazy_attributes

__all__ = [
    "DCI",
    "ActiveUnits",
    "Calibration",
    "FrechetDistance",
    "InferenceGap",
    "Information",
    "KernelDistance",
    "LogLikelihood",
    "PrecisionRecall",
    "PredictiveCheck",
    "RateDistortion",
    "Recovery",
    "Traversals",
    "active_units",
    "amortization_gap",
    "annealed_importance_sampling",
    "calibration",
    "dci",
    "digit_features",
    "factor_vae_score",
    "features",
    "frechet_distance",
    "importance_sampling",
    "interpolations",
    "kernel_distance",
    "kl_per_dimension",
    "mutual_information",
    "mutual_information_gap",
    "precision_recall",
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
        "tfvae.evaluation.digits": ["digit_features"],
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
        "tfvae.evaluation.samples": [
            "FrechetDistance",
            "KernelDistance",
            "PrecisionRecall",
            "features",
            "frechet_distance",
            "kernel_distance",
            "precision_recall",
        ],
        "tfvae.evaluation.simulated": ["Recovery", "recovery"],
        "tfvae.evaluation.walks": ["Traversals", "interpolations", "traversals"],
    },
)
