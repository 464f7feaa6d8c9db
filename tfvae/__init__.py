"""Variational autoencoders and variational inference for Keras 3, from `model.fit` to TF Serving and the phone.

What is imported here is imported when it is first used, so that a device can open an exported model with little.
"""

import importlib
from typing import TYPE_CHECKING

import wrapt

from tfvae._lazy import lazy_attributes

if TYPE_CHECKING:
    from tfvae import (
        callbacks,
        data,
        epochs,
        evaluation,
        export,
        likelihoods,
        networks,
        objectives,
        posteriors,
        priors,
        restart,
        shards,
        strategies,
    )
    from tfvae.amortized import LocalLatents
    from tfvae.draws import Draws
    from tfvae.imputation import impute
    from tfvae.latents import Latent
    from tfvae.model import VariationalModel
    from tfvae.strategies import strategy
    from tfvae.vae import VAE
    from tfvae.variational_inference import VariationalInference

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "Draws",
    "Latent",
    "LocalLatents",
    "VariationalInference",
    "VariationalModel",
    "callbacks",
    "data",
    "epochs",
    "evaluation",
    "export",
    "impute",
    "likelihoods",
    "networks",
    "objectives",
    "posteriors",
    "priors",
    "restart",
    "shards",
    "strategies",
    "strategy",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "amortized": ["LocalLatents"],
        "callbacks": [],
        "data": [],
        "draws": ["Draws"],
        "epochs": [],
        "evaluation": [],
        "export": [],
        "imputation": ["impute"],
        "latents": ["Latent"],
        "likelihoods": [],
        "model": ["VariationalModel"],
        "networks": [],
        "objectives": [],
        "posteriors": [],
        "priors": [],
        "restart": [],
        "shards": [],
        "strategies": ["strategies", "strategy"],
        "vae": ["VAE"],
        "variational_inference": ["VariationalInference"],
    },
)

# `keras.saving.load_model` finds only classes that are registered, so whoever has both Keras and tfvae has them all.
wrapt.register_post_import_hook(lambda keras: importlib.import_module("tfvae.vae"), "keras")
wrapt.register_post_import_hook(lambda keras: importlib.import_module("tfvae.variational_inference"), "keras")
