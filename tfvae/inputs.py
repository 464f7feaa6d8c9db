"""What a user hands to a model, whatever its form: x is found in it, and its first batch is looked at."""

import itertools
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks


def unpack(data: Any) -> tuple[Any, Any]:
    """Finds x and the sample weights in one element of what `fit` is given.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; x may be a dictionary with the key "x" or with one entry.

    Returns:
        x and the sample weights, or None for the latter.

    Raises:
        ValueError: x is not one array.
    """
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(x, dict):
        if "x" not in x and len(x) != 1:
            raise ValueError(
                '`x` as a dictionary must have the key "x" or one entry; otherwise choose one, for example '
                f'dataset.map(lambda example: example["image"]). Received: keys {sorted(x)}'
            )
        x = x["x"] if "x" in x else next(iter(x.values()))
    if isinstance(x, list | tuple):
        raise ValueError(f"`x` must be one array or tensor. Received: a {type(x).__name__} of {len(x)}")
    return x, sample_weight


def peek(data: Any) -> tuple[Any, Any]:
    """Takes a look at the first batch of anything that `fit` accepts.

    Args:
        data: a dataset, a `keras.utils.PyDataset`, a generator, or arrays.

    Returns:
        The first batch (all of it for arrays; None when there is none), and the data with nothing taken from it.
    """
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return next(iter(data), None), data
    if isinstance(data, tf.distribute.DistributedDataset):
        local_results = tf.distribute.get_strategy().experimental_local_results
        return tf.nest.map_structure(lambda value: local_results(value)[0], next(iter(data), None)), data
    if isinstance(data, types.GeneratorType):
        batch = next(data, None)
        return batch, (item for item in itertools.chain([batch], data))
    return data, data


def batches(x: np.ndarray, batch_size: Any) -> Iterator[tf.Tensor]:
    """Cuts x [N, ...] into batches of float32.

    Args:
        x: an array.
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is not an integer of at least 1.
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    for start in range(0, len(x), batch_size):
        yield tf.cast(x[start : start + batch_size], tf.float32)
