"""Stateless seeds for parts of the work, of which each has its own, whatever the others are."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import tensorflow as tf

from tfvae import chunks

_Part = TypeVar("_Part")


def for_each(parts: Iterable[_Part], seed: tf.Tensor) -> Iterator[tuple[_Part, tf.Tensor]]:
    """Gives each part a seed: a function of the one seed and of the number of the part.

    Args:
        parts: the parts, such as batches.
        seed: a stateless seed, int32 [2].
    """
    for index, part in enumerate(parts):
        yield part, tf.random.experimental.stateless_fold_in(seed, index)


def for_slices(length: int, size: int, seed: tf.Tensor) -> Iterator[tuple[slice, tf.Tensor]]:
    """Cuts rows into slices as `tfvae.chunks` does, with a seed for each: a function of the one seed and of its start.

    Args:
        length: how many rows there are.
        size: how many rows a slice has, but for the last, which may have fewer.
        seed: a stateless seed, int32 [2].
    """
    for part in chunks.slices(length, size):
        yield part, tf.random.experimental.stateless_fold_in(seed, part.start)


def for_draws(num_samples: int, size: int, seed: tf.Tensor) -> Iterator[tuple[int, tf.Tensor]]:
    """The number of draws of each of `for_slices`, and its seed."""
    for part, part_seed in for_slices(num_samples, size, seed):
        yield part.stop - part.start, part_seed
