"""Batches of 4 examples in the forms in which `fit` takes them."""

import keras
import tensorflow as tf


class BatchesWithoutLength(keras.utils.PyDataset):
    """Batches of 4 of a tuple of arrays; their number is given by `num_batches`, the newer of the two ways in Keras."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    @property
    def num_batches(self):
        return len(self.arrays[0]) // 4

    def __getitem__(self, index):
        return tuple(array[4 * index : 4 * index + 4] for array in self.arrays)


class Batches(BatchesWithoutLength):
    """The same, whose number is given by `len` too."""

    def __len__(self):
        return self.num_batches


def dataset(data):
    """A dataset of batches of 4."""
    return tf.data.Dataset.from_tensor_slices(data).batch(4)


def generator(x):
    """A generator of batches of 4, each a tuple of x alone."""
    return ((x[start : start + 4],) for start in range(0, len(x), 4))
