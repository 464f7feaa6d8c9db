"""What a user hands to a model: found, looked at and checked before any training step runs."""

import itertools
import types
from collections.abc import Iterator
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
    if isinstance(data, tf.data.Dataset):
        return next(iter(data), None), data
    if isinstance(data, tf.distribute.DistributedDataset):
        local_results = tf.distribute.get_strategy().experimental_local_results
        return tf.nest.map_structure(lambda value: local_results(value)[0], next(iter(data), None)), data
    if isinstance(data, keras.utils.PyDataset):
        return (data[0] if len(data) else None), data
    if isinstance(data, types.GeneratorType):
        batch = next(data, None)
        return batch, (item for item in itertools.chain([batch], data))
    return data, data


def to_numpy(x: Any) -> np.ndarray:
    """Turns a user's x into an array.

    Raises:
        ValueError: it is not numeric, or it is empty.
    """
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"`x` must be one numeric array or tensor. Received: {type(x).__name__}") from error
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer) or x.dtype == bool):
        # bfloat16 tensors come as a dtype of their own, which NumPy does not count among its floats.
        if x.dtype.name != "bfloat16":
            raise ValueError(f"`x` must hold real numbers. Received: x of dtype {x.dtype}")
        x = x.astype(np.float32)
    if x.size == 0:
        raise ValueError(f"`x` must hold at least one example. Received: x of shape {x.shape}")
    return x


def parts(x: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts x along its first axis into parts of nearly equal, moderate size."""
    return iter(np.array_split(x, max(1, min(len(x), x.size // _CHECK_ELEMENTS))))


def check_shape(x: np.ndarray, event_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless x is [N, *event_shape]."""
    if x.shape[1:] != event_shape:
        expected = ", ".join(["N", *map(str, event_shape)])
        hint = "; add the batch axis" if x.shape == event_shape else ""
        raise ValueError(f"`x` must have the shape [{expected}]{hint}. Received: x of shape {list(x.shape)}")


def check_finite(x: np.ndarray) -> None:
    """Raises ValueError when x holds NaN or infinity."""
    wrong = ~np.isfinite(x)
    if wrong.any():
        first = np.unravel_index(wrong.argmax(), wrong.shape)
        raise ValueError(
            f"`x` must be finite. Received: {np.count_nonzero(wrong)} values that are NaN or infinite, the first at "
            f"index {[int(i) for i in first]}"
        )


def batches(x: Any, batch_size: int) -> Iterator[tf.Tensor]:
    """Cuts arrays into batches of float32, or passes on those of a dataset.

    Args:
        x: an array [N, ...] or a dataset of what `unpack` takes.
        batch_size: B for arrays, at least 1.
    """
    if isinstance(x, tf.data.Dataset):
        for element in x:
            yield tf.cast(unpack(element)[0], tf.float32)
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an integer of at least 1. Received: batch_size={batch_size!r}")
    for start in range(0, len(x), batch_size):
        yield tf.cast(x[start : start + batch_size], tf.float32)
