"""Arrays in memory, whose batches are taken in a new random order in each epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfvae.data import epochs


class EpochBatches(NamedTuple):
    """The remaining batches of an epoch, in the form that one execution of many training steps takes.

    Attributes:
        rows: the data, a structure of tensors [N, ...].
        order: the row numbers in the order of this epoch, int32 [N].
        batch_size: B.
        first: the index of the first remaining batch.
    """

    rows: Any
    order: tf.Tensor
    batch_size: int
    first: int

    @property
    def num_left(self) -> int:
        """The number of remaining batches, including a smaller one at the end."""
        return -(-self.order.shape[0] // self.batch_size) - self.first

    @property
    def num_whole(self) -> int:
        """The number of remaining batches of exactly B rows."""
        return self.order.shape[0] // self.batch_size - self.first


class ArraysInMemory:
    """Data in memory, and the order in which their rows form batches.

    Args:
        rows: the data, a structure of arrays [N, ...].
        size: N.
        batch_size: B; the last batch of an epoch may be smaller.
        seed: returns the seed of the order, which the epoch is combined with.
    """

    def __init__(self, rows: Any, size: int, batch_size: int, seed: Callable[[], int]) -> None:
        # If there is a GPU, TensorFlow would put the data on it, and copy each batch back for the pipeline.
        with tf.device("CPU:0"):
            self._rows = tf.nest.map_structure(tf.convert_to_tensor, rows)
        self._size = size
        self.batch_size = batch_size
        self._seed = seed
        # The seed and the epoch for which `_order` was computed.
        self._key: tuple[int, int] | None = None
        self._order: tf.Tensor | None = None

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-self._size // self.batch_size)

    def dataset(self) -> tf.data.Dataset:
        """The batches as a `tf.data` pipeline, which reads the current epoch from `tfvae.epochs`."""
        rows = self._rows
        order = epochs.shuffled_batches(self._size, self.batch_size, seed=self._seed)
        return epochs.read_ahead(order, lambda indices, _: take(rows, indices))

    def batches(self, epoch: int, first: int) -> EpochBatches:
        """The same batches as those of `dataset`, without a pipeline.

        Args:
            epoch: the epoch, on which the order depends.
            first: the index of the batch to start with.
        """
        key = self._seed(), epoch
        if key != self._key:
            self._key, self._order = key, epochs.order(self._size, *key)
        return EpochBatches(self._rows, self._order, self.batch_size, first)


def take(rows: Any, indices: tf.Tensor) -> Any:
    """Gathers the batch with the given row numbers from a structure of tensors [N, ...]."""
    return tf.nest.map_structure(lambda row: tf.gather(row, indices), rows)
