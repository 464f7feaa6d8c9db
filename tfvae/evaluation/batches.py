"""The models that are evaluated, and the batches that they are evaluated on."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.models.autoencoder import Autoencoder
from tfvae.models.vae import VAE

tfd = tfp.distributions


def check_model(model: Any, *others: type[Autoencoder], but: type[VAE] | None = None) -> None:
    """Raises ValueError unless a model is of a class that serves.

    Args:
        model: what was given.
        others: the classes that serve beside `tfvae.VAE`.
        but: a class of VAEs that does not.
    """
    kinds: tuple[type[Autoencoder], ...] = (VAE, *others)
    if not isinstance(model, kinds) or (but is not None and isinstance(model, but)):
        names = " or a ".join(f"tfvae.{kind.__name__}" for kind in kinds)
        without = "" if but is None else f", but no tfvae.{but.__name__}"
        raise ValueError(f"`model` must be a {names}{without}. Received: {model!r}")


def prior_of(model: VAE, x: Any) -> tfd.Distribution:
    """p(z), or p(z|c) for the conditions of a batch.

    Args:
        model: the model.
        x: a batch, as `seeded` gives it.
    """
    return model._prior_given(*model._split(x)[1])


def seeded(model: Autoencoder, x: Any, batch_size: int, seed: int | None) -> Iterator[tuple[Any, tf.Tensor]]:
    """Cuts data into checked batches, each with a seed of its own.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        batch_size: B, of arrays.
        seed: the same seed gives the same seeds; None takes the next ones of the model.

    Returns:
        Batches [B, ...], float32, with a stateless seed, int32 [2].

    Raises:
        ValueError: an argument is not what it must be.
    """
    start = model._seed(seed)
    for index, batch in enumerate(model._checked_batches(x, batch_size)):
        yield batch, tf.random.experimental.stateless_fold_in(start, index)
