"""Posteriors q(z|x), amortised: a layer turns the encoder's features into the parameters of a distribution.

`posterior(features)` gives the parameters as a dictionary of tensors [B, L]; `posterior.distribution(parameters)` wraps
them. Two steps, because a Keras layer can hand on tensors but not a distribution.
"""

from tfvae.posteriors.flow import CouplingFlow
from tfvae.posteriors.normal import DiagonalNormal, FullCovarianceNormal, LowRankNormal
from tfvae.posteriors.posterior import Posterior

__all__ = ["CouplingFlow", "DiagonalNormal", "FullCovarianceNormal", "LowRankNormal", "Posterior"]
