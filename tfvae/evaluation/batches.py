"""The batches that a model is evaluated on."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfvae.vae import VAE


def check_model(model: Any) -> None:
    """Raises ValueError unless the model is a `tfvae.VAE`."""
    if not isinstance(model, VAE):
        raise ValueError(f"`model` must be a tfvae.VAE. Received: {model!r}")


def seeded(model: VAE, x: Any, batch_size: int, seed: int | None) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Cuts data into checked batches, each with a seed of its own.

    Args:
        model: the model.
        x: an array [N, ...] or a dataset.
        batch_size: B, of an array.
        seed: the same seed gives the same seeds; None takes the next ones of the model.

    Returns:
        Batches [B, ...], float32, with a stateless seed, int32 [2].

    Raises:
        ValueError: an argument is not what it must be.
    """
    check_model(model)
    start = model._seed(seed)
    for index, batch in enumerate(model._checked_batches(x, batch_size)):
        yield batch, tf.random.experimental.stateless_fold_in(start, index)
