"""Likelihoods p(x|z): the distribution of x whose parameters the decoder gives.

Log-densities are float32 whatever the dtype of the decoder's output.
"""

from tfvae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from tfvae.likelihoods.likelihood import Likelihood
from tfvae.likelihoods.normal import Normal

__all__ = ["Bernoulli", "ContinuousBernoulli", "Likelihood", "Normal"]
