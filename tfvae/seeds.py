"""Stateless seeds for the parts of some work: the seed of a part does not depend on the other parts."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import tensorflow as tf

from tfvae import chunks

_Part = TypeVar("_Part")


def of_z_and_x(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The seeds of z and of x. That of z is the given one, so that z is the same whether x is drawn or not."""
    return seed, tf.random.experimental.stateless_fold_in(seed, -1)


def for_each(parts: Iterable[_Part], seed: tf.Tensor) -> Iterator[tuple[_Part, tf.Tensor]]:
    """Pairs each part with a seed, which depends only on the given seed and the index of the part.

    Args:
        parts: the parts, such as batches.
        seed: a stateless seed, int32 [2].
    """
    for index, part in enumerate(parts):
        yield part, tf.random.experimental.stateless_fold_in(seed, index)


def for_slices(length: int, size: int, seed: tf.Tensor) -> Iterator[tuple[slice, tf.Tensor]]:
    """Cuts rows into slices like `tfvae.chunks.slices`, each with a seed that depends on the given seed and its start.

    Args:
        length: the number of rows.
        size: the number of rows in a slice; the last slice may have fewer.
        seed: a stateless seed, int32 [2].
    """
    for part in chunks.slices(length, size):
        yield part, tf.random.experimental.stateless_fold_in(seed, part.start)


def for_draws(num_samples: int, size: int, seed: tf.Tensor) -> Iterator[tuple[int, tf.Tensor]]:
    """Cuts a number of draws into parts like `for_slices`, but yields the number of draws in each, with its seed."""
    for part, part_seed in for_slices(num_samples, size, seed):
        yield part.stop - part.start, part_seed
