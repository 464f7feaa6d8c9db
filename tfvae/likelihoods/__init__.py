"""Likelihoods p(x|z): distributions of the data x whose parameters are the decoder's output.

Log-densities are computed in float32, whatever the dtype of the decoder's output. A likelihood of your own is a
subclass of `Likelihood`.
"""

from tfvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from tfvae.likelihoods.categorical import Categorical
from tfvae.likelihoods.columns import Columns
from tfvae.likelihoods.continuous import Laplace, StudentT
from tfvae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from tfvae.likelihoods.image import DiscretizedLogistic, DiscretizedLogisticMixture
from tfvae.likelihoods.likelihood import Likelihood
from tfvae.likelihoods.location_scale import LocationScale
from tfvae.likelihoods.missing import Missing
from tfvae.likelihoods.normal import Normal
from tfvae.likelihoods.perceptual import Perceptual

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Laplace",
    "Likelihood",
    "LocationScale",
    "Missing",
    "NegativeBinomial",
    "Normal",
    "Perceptual",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
