"""How a batch is read: what is x and what is its weight in whatever form a user hands over."""

import itertools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfvae import checks, chunks


class Batch(NamedTuple):
    """What a step computes with.

    Attributes:
        x: the data [B, ...], as `elbo_terms` takes them.
        sample_weight: the weights [B], float32, or None where each is 1.
        size: how many of the examples are this replica's: B; or 0 where B is 1 because an example of weight 0 was added
            to an empty batch.
        global_size: the sum of `size` over the replicas.
        seed: a stateless seed, int32 [2].
    """

    x: tf.Tensor
    sample_weight: tf.Tensor | None
    size: tf.Tensor
    global_size: tf.Tensor
    seed: tf.Tensor


def unpack(data: Any) -> tuple[Any, Any]:
    """Finds x and the sample weights in one element of the data that `fit` was given.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; x may be a dictionary with the key "x" or with one entry.

    Returns:
        x, and the sample weights or None.

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


def unpack_named(data: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Finds several arrays and the sample weights in one element of the data that `fit` was given.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, with x a dictionary.
        names: the keys.

    Returns:
        The arrays by name, and the sample weights or None.

    Raises:
        ValueError: x is no dictionary with these keys, or an entry is not one array.
    """
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict) or not set(names) <= set(x):
        keys = " and ".join(f'"{name}"' for name in names)
        received = f"the keys {sorted(x)}" if isinstance(x, dict) else f"x of type {type(x).__name__}"
        raise ValueError(f"`x` must be a dictionary with the keys {keys}. Received: {received}")
    for name in names:
        if isinstance(x[name], list | tuple | dict):
            raise ValueError(f"`{name}` must be one array or tensor. Received: a {type(x[name]).__name__}")
    return {name: x[name] for name in names}, sample_weight


def peek(data: Any) -> tuple[Any, Any]:
    """Looks at the first batch of anything that `fit` accepts.

    Args:
        data: a dataset, a `keras.utils.PyDataset`, a generator, or arrays.

    Returns:
        The first batch (of arrays, all of the data; None where there is none), and the data with nothing taken away.
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


def batches(x: Any, batch_size: Any) -> Iterator[Any]:
    """Cuts x [N, ...] into batches of float32.

    Args:
        x: an array, or a dictionary of arrays.
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is not an integer of at least 1.
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    for part in chunks.slices(len(tf.nest.flatten(x)[0]), batch_size):
        yield tf.nest.map_structure(lambda array, part=part: tf.cast(array[part], tf.float32), x)
