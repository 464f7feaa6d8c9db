"""Priors p(z)."""

from tfvae.priors.mixture import NormalMixture, VampPrior
from tfvae.priors.normal import StandardNormal
from tfvae.priors.prior import Prior

__all__ = ["NormalMixture", "Prior", "StandardNormal", "VampPrior"]
