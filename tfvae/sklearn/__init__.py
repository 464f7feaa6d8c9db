"""scikit-learn's estimators: a VAE that detects anomalies, estimates a density, reduces dimensions or fills gaps.

They take a table X [N, D], and choose the networks, the scaling and the length of the training themselves.
"""

from tfvae._lazy import lazy_attributes

__all__ = ["VAEDensity", "VAEImputer", "VAEOutlierDetector", "VAETransformer"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.sklearn.density": ["VAEDensity"],
        "tfvae.sklearn.imputer": ["VAEImputer"],
        "tfvae.sklearn.outlier_detector": ["VAEOutlierDetector"],
        "tfvae.sklearn.transformer": ["VAETransformer"],
    },
)
