"""What the evaluations share: the check of the model, its prior, and batches with seeds."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, seeds
from tfvae.models.autoencoder import Autoencoder
from tfvae.models.deep_hierarchy import DeepHierarchicalVAE
from tfvae.models.hierarchical import HierarchicalVAE
from tfvae.models.vae import VAE

tfd = tfp.distributions

# The models of many layers of latent variables.
HIERARCHIES = (HierarchicalVAE, DeepHierarchicalVAE)


def check_model(model: Any, *others: type[Autoencoder], but: type[VAE] | None = None) -> None:
    """Raises ValueError unless a model is of a supported class.

    Args:
        model: the model that was given.
        others: the supported classes besides `tfvae.VAE`.
        but: a subclass of `tfvae.VAE` that is not supported.
    """
    kinds: tuple[type[Autoencoder], ...] = (VAE, *others)
    if not isinstance(model, kinds) or (but is not None and isinstance(model, but)):
        names = " or a ".join(f"tfvae.{kind.__name__}" for kind in kinds)
        without = "" if but is None else f", but not a tfvae.{but.__name__}"
        raise ValueError(f"`model` must be a {names}{without}. Received: {checks.shown(model)}")


def prior_of(model: VAE, x: Any) -> tfd.Distribution:
    """p(z), or p(z|c) for the conditions of a batch.

    Args:
        model: the model.
        x: a batch, as `seeded` gives it.
    """
    return model._prior_given(*model._split(x)[1])


def seeded(model: Autoencoder, x: Any, batch_size: int, seed: int | None) -> Iterator[tuple[Any, tf.Tensor]]:
    """Cuts data into checked batches, each with its own seed.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        batch_size: B, for arrays; a dataset has its own batches.
        seed: the same seed gives the same seeds; None takes the next of the model's own seeds.

    Returns:
        Batches [B, ...], float32, with a stateless seed, int32 [2].

    Raises:
        ValueError: an argument is invalid.
    """
    yield from seeds.for_each(model._checked_batches(x, batch_size), model._seed(seed))
