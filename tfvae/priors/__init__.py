"""Priors p(z)."""

from tfvae.priors.normal import StandardNormal
from tfvae.priors.prior import Prior

__all__ = ["Prior", "StandardNormal"]
