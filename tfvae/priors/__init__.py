"""Priors p(z): distributions of the latent variables, fixed or learned. One of your own is a subclass of `Prior`."""

from tfvae.priors.flow import Flow
from tfvae.priors.mixture import NormalMixture, VampPrior
from tfvae.priors.normal import Normal, StandardNormal
from tfvae.priors.prior import Prior
from tfvae.priors.relaxed_one_hot import RelaxedOneHotCategorical
from tfvae.priors.spherical import HypersphericalUniform

__all__ = [
    "Flow",
    "HypersphericalUniform",
    "Normal",
    "NormalMixture",
    "Prior",
    "RelaxedOneHotCategorical",
    "StandardNormal",
    "VampPrior",
]
