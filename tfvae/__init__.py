"""Variational autoencoders and variational inference for Keras 3, from `model.fit` to TF Serving and the phone.

What is imported here is imported when it is first used, so that a device can open an exported model with little.
"""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes
from tfvae._registration import import_with_keras

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
    from tfvae.conditional import ConditionalVAE
    from tfvae.draws import Draws
    from tfvae.hierarchical import HierarchicalVAE
    from tfvae.imputation import impute
    from tfvae.latents import Latent
    from tfvae.model import VariationalModel
    from tfvae.semi_supervised import SemiSupervisedVAE
    from tfvae.strategies import strategy
    from tfvae.vae import VAE
    from tfvae.variational_inference import VariationalInference
    from tfvae.vq import VQVAE

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "VQVAE",
    "ConditionalVAE",
    "Draws",
    "HierarchicalVAE",
    "Latent",
    "LocalLatents",
    "SemiSupervisedVAE",
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
        "conditional": ["ConditionalVAE"],
        "data": [],
        "draws": ["Draws"],
        "epochs": [],
        "evaluation": [],
        "export": [],
        "hierarchical": ["HierarchicalVAE"],
        "imputation": ["impute"],
        "latents": ["Latent"],
        "likelihoods": [],
        "model": ["VariationalModel"],
        "networks": [],
        "objectives": [],
        "posteriors": [],
        "priors": [],
        "restart": [],
        "semi_supervised": ["SemiSupervisedVAE"],
        "shards": [],
        "strategies": ["strategies", "strategy"],
        "vae": ["VAE"],
        "variational_inference": ["VariationalInference"],
        "vq": ["VQVAE"],
    },
)

# `keras.saving.load_model` finds only classes that are registered, so whoever has both Keras and tfvae has them all.
import_with_keras(
    __name__, __path__, ["vae", "conditional", "semi_supervised", "hierarchical", "vq", "variational_inference"]
)
