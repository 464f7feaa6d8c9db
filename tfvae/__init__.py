"""Variational autoencoders and variational inference for Keras 3, from `model.fit` to TF Serving and the phone."""

from tfvae import data, export, likelihoods, networks, objectives, posteriors, priors
from tfvae.model import VariationalModel
from tfvae.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "VariationalModel",
    "data",
    "export",
    "likelihoods",
    "networks",
    "objectives",
    "posteriors",
    "priors",
]
