"""Variational autoencoders and variational inference for Keras 3, from `model.fit` to TF Serving and the phone.

Each public name is imported when it is first used, so that opening an exported model on a device loads little else.
"""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes
from tfvae._registration import import_with_keras

if TYPE_CHECKING:
    from tfvae import (
        callbacks,
        data,
        detection,
        epochs,
        evaluation,
        export,
        inference,
        likelihoods,
        networks,
        objectives,
        plots,
        posteriors,
        priors,
        samplers,
        shards,
        sklearn,
        strategies,
    )
    from tfvae.distribute.strategies import strategy
    from tfvae.inference.amortized_inference import AmortizedInference
    from tfvae.inference.chains import Chains
    from tfvae.inference.draws import Draws
    from tfvae.inference.latents import Latent
    from tfvae.inference.local_latents import LocalLatents
    from tfvae.inference.structured_normal import StructuredNormal
    from tfvae.inference.variational_inference import VariationalInference
    from tfvae.models.autoregressive import AutoregressiveVAE
    from tfvae.models.code_prior import CodePrior
    from tfvae.models.conditional import ConditionalVAE
    from tfvae.models.deep_hierarchy import DeepHierarchicalVAE
    from tfvae.models.density import Density
    from tfvae.models.forecasting import forecast
    from tfvae.models.hierarchical import HierarchicalVAE
    from tfvae.models.imputation import impute
    from tfvae.models.semi_supervised import SemiSupervisedVAE
    from tfvae.models.sequential import SequentialVAE
    from tfvae.models.vae import VAE
    from tfvae.models.vae_gan import VAEGAN
    from tfvae.models.variational_model import VariationalModel
    from tfvae.models.vq import VQVAE
    from tfvae.reporting.document import report

__version__ = "0.3.0.dev0"

__all__ = [
    "VAE",
    "VAEGAN",
    "VQVAE",
    "AmortizedInference",
    "AutoregressiveVAE",
    "Chains",
    "CodePrior",
    "ConditionalVAE",
    "DeepHierarchicalVAE",
    "Density",
    "Draws",
    "HierarchicalVAE",
    "Latent",
    "LocalLatents",
    "SemiSupervisedVAE",
    "SequentialVAE",
    "StructuredNormal",
    "VariationalInference",
    "VariationalModel",
    "callbacks",
    "data",
    "detection",
    "epochs",
    "evaluation",
    "export",
    "forecast",
    "impute",
    "inference",
    "likelihoods",
    "networks",
    "objectives",
    "plots",
    "posteriors",
    "priors",
    "report",
    "samplers",
    "shards",
    "sklearn",
    "strategies",
    "strategy",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.callbacks": [],
        "tfvae.data": [],
        "tfvae.detection": [],
        "tfvae.epochs": [],
        "tfvae.evaluation": [],
        "tfvae.export": [],
        "tfvae.inference": [],
        "tfvae.likelihoods": [],
        "tfvae.networks": [],
        "tfvae.objectives": [],
        "tfvae.plots": [],
        "tfvae.posteriors": [],
        "tfvae.priors": [],
        "tfvae.samplers": [],
        "tfvae.shards": [],
        "tfvae.sklearn": [],
        "tfvae.strategies": [],
        "tfvae.distribute.strategies": ["strategy"],
        "tfvae.inference.amortized_inference": ["AmortizedInference"],
        "tfvae.inference.chains": ["Chains"],
        "tfvae.inference.draws": ["Draws"],
        "tfvae.inference.latents": ["Latent"],
        "tfvae.inference.local_latents": ["LocalLatents"],
        "tfvae.inference.structured_normal": ["StructuredNormal"],
        "tfvae.inference.variational_inference": ["VariationalInference"],
        "tfvae.models.autoregressive": ["AutoregressiveVAE"],
        "tfvae.models.code_prior": ["CodePrior"],
        "tfvae.models.conditional": ["ConditionalVAE"],
        "tfvae.models.density": ["Density"],
        "tfvae.models.forecasting": ["forecast"],
        "tfvae.models.deep_hierarchy": ["DeepHierarchicalVAE"],
        "tfvae.models.hierarchical": ["HierarchicalVAE"],
        "tfvae.models.imputation": ["impute"],
        "tfvae.models.semi_supervised": ["SemiSupervisedVAE"],
        "tfvae.models.sequential": ["SequentialVAE"],
        "tfvae.models.vae": ["VAE"],
        "tfvae.models.vae_gan": ["VAEGAN"],
        "tfvae.models.variational_model": ["VariationalModel"],
        "tfvae.models.vq": ["VQVAE"],
        "tfvae.reporting.document": ["report"],
    },
)

# `keras.saving.load_model` finds only registered classes, so all are registered once Keras and tfvae are imported.
import_with_keras(
    __name__,
    __path__,
    [
        "tfvae.models.vae",
        "tfvae.models.autoregressive",
        "tfvae.models.conditional",
        "tfvae.models.density",
        "tfvae.models.semi_supervised",
        "tfvae.models.deep_hierarchy",
        "tfvae.models.hierarchical",
        "tfvae.models.sequential",
        "tfvae.models.vq",
        "tfvae.models.vae_gan",
        "tfvae.evaluation.digits",
        "tfvae.inference.amortized_inference",
        "tfvae.inference.variational_inference",
        "tfvae.networks",
    ],
)
