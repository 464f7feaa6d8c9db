"""Posteriors q(z|x), amortised: a layer turns the encoder's features into the parameters of a distribution.

`posterior(features)` returns the parameters as a dictionary of tensors whose first dimension is B, most of them [B, L];
`posterior.distribution(parameters)` makes the distribution. There are two steps because a Keras layer can return
tensors but not a distribution.
"""

from tfvae.posteriors.deterministic import Deterministic
from tfvae.posteriors.flow import CouplingFlow, InverseAutoregressiveFlow, SplineFlow, SylvesterFlow
from tfvae.posteriors.laplace import Laplace
from tfvae.posteriors.normal import DiagonalNormal, FullCovarianceNormal, LowRankNormal
from tfvae.posteriors.posterior import Posterior
from tfvae.posteriors.relaxed_one_hot import RelaxedOneHotCategorical
from tfvae.posteriors.spherical import PowerSpherical, VonMisesFisher

__all__ = [
    "CouplingFlow",
    "Deterministic",
    "DiagonalNormal",
    "FullCovarianceNormal",
    "InverseAutoregressiveFlow",
    "Laplace",
    "LowRankNormal",
    "Posterior",
    "PowerSpherical",
    "RelaxedOneHotCategorical",
    "SplineFlow",
    "SylvesterFlow",
    "VonMisesFisher",
]
