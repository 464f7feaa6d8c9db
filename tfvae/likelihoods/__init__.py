"""Likelihoods p(x|z): the distribution of x whose parameters the decoder gives.

Log-densities are float32 whatever the dtype of the decoder's output.
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
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
