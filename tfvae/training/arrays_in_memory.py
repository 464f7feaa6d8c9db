"""Arrays in memory, from which a model takes its batches in a new order in each epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfvae.data import epochs


class Batches(NamedTuple):
    """The batches of an epoch, as a program of many steps takes them.

    Attributes:
        rows: the data, each a tensor [N, ...].
        order: the row numbers of whole batches, int32 [N // B, B].
        rest: those of the last batch where it is smaller, int32 [N % B].
        first: the number of the batch to start with.
    """

    rows: Any
    order: tf.Tensor
    rest: tf.Tensor
    first: int


class Resident:
    """Data in memory, and the order of their batches.

    Args:
        rows: the data, a structure of tensors [N, ...].
        size: N.
        batch_size: B; the last batch of an epoch may be smaller.
        seed: gives the seed of the order.
    """

    def __init__(self, rows: Any, size: int, batch_size: int, seed: Callable[[], int]) -> None:
        self._rows = rows
        self._size = size
        self._batch_size = batch_size
        self._seed = seed
        # The seed and the epoch of the batches that were asked for last.
        self._key: tuple[int, int] | None = None
        self._order: tuple[tf.Tensor, tf.Tensor] | None = None

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-self._size // self._batch_size)

    def dataset(self) -> tf.data.Dataset:
        """The batches as a pipeline, which knows from `tfvae.epochs` which epoch it is."""
        order = epochs.shuffled_batches(self._size, self._batch_size, seed=self._seed)
        return epochs.read_ahead(order, lambda indices, _: take(self._rows, indices))

    def batches(self, epoch: int, first: int) -> Batches:
        """The same batches, without a pipeline.

        Args:
            epoch: which epoch.
            first: the number of the batch to start with.
        """
        key = self._seed(), epoch
        if key != self._key:
            whole = self._size // self._batch_size
            order, rest = tf.split(epochs.order(self._size, *key), [whole * self._batch_size, -1])
            self._key, self._order = key, (tf.reshape(order, [whole, self._batch_size]), rest)
        return Batches(self._rows, *self._order, first)


def take(rows: Any, indices: tf.Tensor) -> Any:
    """The batch of some rows of a structure of tensors [N, ...]."""
    return tf.nest.map_structure(lambda row: tf.gather(row, indices), rows)
