"""What a user hands to a model, whatever its form: x is found in it, and its first batch is looked at."""

import itertools
import math
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks
from tfvae.training import arrays_in_memory


class Batch(NamedTuple):
    """What a step computes with.

    Attributes:
        x: the data [B, ...], as `elbo_terms` takes them.
        sample_weight: the weights [B], float32, or None for 1.
        size: how many of the examples are this replica's: B, or 0 where B is 1 and the weight 0.
        global_size: the sum of `size` over the replicas.
        seed: a stateless seed, int32 [2].
    """

    x: tf.Tensor
    sample_weight: tf.Tensor | None
    size: tf.Tensor
    global_size: tf.Tensor
    seed: tf.Tensor


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


def unpack_named(data: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Finds several arrays and the sample weights in one element of what `fit` is given.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, with x a dictionary.
        names: the keys.

    Returns:
        The arrays by name, and the sample weights or None.

    Raises:
        ValueError: x is no dictionary with these keys, or what it has there is not one array.
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


def batches(x: Any, batch_size: Any) -> Iterator[Any]:
    """Cuts x [N, ...] into batches of float32.

    Args:
        x: an array, or a dictionary of such.
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is not an integer of at least 1.
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    for part in chunks.slices(len(tf.nest.flatten(x)[0]), batch_size):
        yield tf.nest.map_structure(lambda array, part=part: tf.cast(array[part], tf.float32), x)


def shuffle_arrays(
    arguments: dict[str, Any], unpack: Callable[[Any], tuple[Any, Any]], seed: Callable[[], int]
) -> arrays_in_memory.Resident | None:
    """Makes a dataset of the arrays that `fit` was given, in an order that is new in each epoch and can be resumed.

    Keras shuffles them too, but with the global seed set in the same order in each epoch, and else in another one in
    each process, so that several workers would train on some examples twice and on others never.

    Args:
        arguments: those of `keras.Model.fit`, by name. Nothing is done where x is no array, and no dictionary of such.
        unpack: finds what the model is trained on in a dictionary: see `tfvae.VariationalModel.unpack`.
        seed: gives the seed of the order.

    Returns:
        What the dataset is made of, or None where nothing was done.
    """
    x = arguments["x"]
    if isinstance(x, dict):
        x, _ = unpack(x)
    if not all(hasattr(array, "__array__") for array in (x.values() if isinstance(x, dict) else [x])):
        return None
    x = tf.nest.map_structure(checks.to_numpy, x)
    size = len(tf.nest.flatten(x)[0])
    given = {name: np.asarray(arguments[name]) for name in ("y", "sample_weight") if arguments.get(name) is not None}
    checks.check_same_length(**(x if isinstance(x, dict) else {"x": x}), **given)
    arrays = [tf.nest.map_structure(lambda array: array.astype(np.float32) if array.dtype == np.float64 else array, x)]
    # What y is does not matter, unless classes have weights.
    if "sample_weight" in given or arguments.get("class_weight") is not None:
        arrays += given.values()
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:
        # As Keras does: the last ones, before the others are shuffled.
        at = math.floor(size * (1.0 - split))
        if not 0 < at < size:
            raise ValueError(
                "`validation_split` must leave at least one example for training and one for validation. Received: "
                f"validation_split={split} of {size} examples"
            )
        arguments["validation_data"] = tuple(tf.nest.map_structure(lambda array: array[at:], arrays))
        arrays = tf.nest.map_structure(lambda array: array[:at], arrays)
        size = at
    if len(arrays) == 2:
        arrays.append(_weights_of_classes(arrays[1], arguments.pop("class_weight")))
    batch_size, steps = arguments.get("batch_size"), arguments.get("steps_per_epoch")
    if batch_size is None:
        batch_size = math.ceil(size / steps) if steps else 32
    batch_size = checks.positive_integer("batch_size", batch_size)
    # With a GPU, TensorFlow would keep the data there and copy each batch back for the pipeline.
    with tf.device("CPU:0"):
        rows = tuple(tf.nest.map_structure(tf.convert_to_tensor, arrays))
    data = arrays_in_memory.Resident(rows, size, batch_size, seed)
    arguments.update(x=data.dataset(), y=None, sample_weight=None, batch_size=batch_size)
    return data


def _weights_of_classes(y: np.ndarray, class_weight: dict[int, float]) -> np.ndarray:
    """The weight of each example, 1 where its class has none; Keras fails there where the data are a dataset."""
    classes = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.ravel()
    return np.array([class_weight.get(int(number), 1.0) for number in np.round(classes)], np.float32)
