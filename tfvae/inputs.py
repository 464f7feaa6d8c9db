"""What a user hands to a model: found, looked at and checked before any training step runs."""

import itertools
import math
import numbers
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Elements that are checked at a time, so that the check of an array that is mapped from disk stays small in memory.
_CHECK_ELEMENTS = 2**24


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


def to_numpy(x: Any, argument: str = "x") -> np.ndarray:
    """Turns what a user gave into an array.

    Raises:
        ValueError: it is not numeric, or it is empty.
    """
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"`{argument}` must be one numeric array or tensor. Received: {type(x).__name__}") from error
    # bfloat16 tensors come as a dtype of their own, which NumPy does not count among its floats.
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"`{argument}` must hold real numbers. Received: {argument} of dtype {x.dtype}")
    if x.ndim and len(x) == 0:
        raise ValueError(f"`{argument}` must hold at least one example. Received: {argument} of shape {x.shape}")
    return x


def check_shape(x: np.ndarray, shape: tuple[int, ...], argument: str = "x") -> None:
    """Raises ValueError unless x is [N, *shape]."""
    if x.ndim == 0 or x.shape[1:] != shape:
        expected = ", ".join(["N", *map(str, shape)])
        hint = "; add the batch axis" if x.shape == shape else ""
        raise ValueError(
            f"`{argument}` must have the shape [{expected}]{hint}. Received: {argument} of shape {list(x.shape)}"
        )


def check_finite(x: np.ndarray) -> None:
    """Raises ValueError when x holds NaN or infinity."""
    first = find(x, lambda part: ~np.isfinite(part))
    if first is not None:
        count = sum(np.count_nonzero(~np.isfinite(part)) for _, part in _parts(x))
        raise ValueError(
            f"`x` must be finite. Received: {count} values that are NaN or infinite, the first at index {list(first)}"
        )


def find(x: np.ndarray, condition: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The index of the first element of x for which an elementwise condition holds, or None."""
    for start, part in _parts(x):
        holds = condition(part)
        if holds.any():
            row, *rest = np.unravel_index(holds.argmax(), holds.shape)
            return (start + int(row), *map(int, rest))
    return None


def positive_integer(argument: str, value: Any) -> int:
    """The value as an int.

    Raises:
        ValueError: it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{argument}` must be an integer of at least 1. Received: {argument}={value!r}")
    return int(value)


def batches(x: np.ndarray, batch_size: Any) -> Iterator[tf.Tensor]:
    """Cuts x [N, ...] into batches of float32.

    Args:
        x: an array.
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is not an integer of at least 1.
    """
    batch_size = positive_integer("batch_size", batch_size)
    for start in range(0, len(x), batch_size):
        yield tf.cast(x[start : start + batch_size], tf.float32)


def _parts(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts x along its first axis into parts of moderate size, each with the index of its first row."""
    rows = max(1, _CHECK_ELEMENTS // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]
