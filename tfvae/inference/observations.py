"""Turns the data given to `VariationalInference.fit`, in any of their forms, into a `tf.data.Dataset`."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.training import fit_arguments
from tfvae.training.arrays_in_memory import ArraysInMemory

# The only key of the placeholder element that is used when the model contains its own data: see `is_none`.
_NONE = "no data"
# With at most this many rows, each step takes all of them.
_WHOLE_ROWS = 4096
_BATCH_SIZE = 1024
# The most that rounding may add to the standard deviation of data, relative to it.
_MAX_ROUNDED = 0.01


class Observations(NamedTuple):
    """The data as a dataset.

    Attributes:
        dataset: its elements are 1-tuples of the data for the log joint density, or of a placeholder: see `is_none`.
        num_data: N, the number of rows; None if the model contains its own data.
        whole: whether each element is all of the data.
    """

    dataset: tf.data.Dataset
    num_data: int | None
    whole: bool


def read(
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
    num_data: int | None,
    replicas: int,
    seed: Callable[[], int],
    dtype: tf.DType = tf.float32,
) -> Observations:
    """Makes a dataset from the arguments of `fit`.

    Args:
        x: an array, or a dictionary or tuple of arrays, each with N rows; a batched `tf.data.Dataset` of such
            structures; or None.
        y: a second array or structure; the data are then `(x, y)`.
        batch_size: B; None takes all rows if there are at most 4096, and 1024 otherwise.
        num_data: N if the user gave it, else None.
        replicas: how many replicas share a batch.
        seed: returns the seed of the order of the rows.
        dtype: what floats become.

    Raises:
        ValueError: the arguments are not valid data, or N is unknown or differs from `num_data`.
    """
    if x is None:
        if y is not None or num_data is not None:
            raise ValueError(
                f"`x` must be the data if `y` or `num_data` is given. Received: x=None, num_data={num_data}"
            )
        return Observations(tf.data.Dataset.from_tensors(({_NONE: tf.zeros([replicas])},)), None, True)
    if isinstance(x, tf.data.Dataset):
        if y is not None or batch_size is not None:
            raise ValueError(
                "`y` and `batch_size` must be None if `x` is a tf.data.Dataset, which contains both. Received: "
                f"y of type {type(y).__name__}, batch_size={batch_size}"
            )
        if num_data is None:
            raise ValueError(
                "`num_data`, the number of rows of all of the data, must be given to VariationalInference if `x` is "
                "a tf.data.Dataset: the log-likelihood of a batch is scaled by num_data / rows. Received: num_data=None"
            )
        parts = len(x.element_spec) if isinstance(x.element_spec, tuple) else 1
        if parts > 2:
            raise ValueError(
                "`x` must be a dataset of x or (x, y): sample weights belong in the model's log-likelihood. Received: "
                f"elements of {parts} parts"
            )
        return Observations(x.map(functools.partial(_one, dtype)), num_data, False)
    arrays = _arrays(x, "x", dtype) if y is None else (_arrays(x, "x", dtype), _arrays(y, "y", dtype))
    rows = check_rows(arrays)
    if num_data not in (None, rows):
        raise ValueError(
            f"`x` must have num_data={num_data} rows, all of the data, as given before. Received: {rows} rows"
        )
    if batch_size is None:
        batch_size = rows if rows <= _WHOLE_ROWS else _BATCH_SIZE
    if checks.positive_integer("batch_size", batch_size) >= rows:
        return Observations(tf.data.Dataset.from_tensors((arrays,)), rows, True)
    return Observations(ArraysInMemory((arrays,), rows, batch_size, seed).dataset(), rows, False)


def one_pass(data: Observations) -> Iterator[Any]:
    """Iterates over the data once, in batches.

    Raises:
        ValueError: the batches do not have N rows in all.
    """
    rows = 0
    for (batch,) in data.dataset:
        rows += len(tf.nest.flatten(batch)[0])
        yield batch
        if data.num_data is not None and rows >= data.num_data:
            break
    if data.num_data not in (None, rows):
        raise ValueError(
            f"`x` must be all of the data, num_data={data.num_data} rows, with batch() before any repeat(). Received: "
            f"{rows} rows"
        )


def first_rows(dataset: tf.data.Dataset, count: int) -> Any:
    """The first batches of the data, as many as give at least `count` rows, joined into one batch.

    Raises:
        ValueError: the dataset is empty.
    """
    batches, rows = [], 0
    for (batch,) in dataset:
        batches.append(batch)
        rows += len(tf.nest.flatten(batch)[0])
        if rows >= count:
            break
    if not batches:
        raise ValueError("`x` must hold at least one batch. Received: an empty dataset")
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *batches)


def cast(x: Any, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Converts data to the tensors that a log joint density takes: integers stay as they are.

    Args:
        x: the data.
        dtype: what floats become.
    """
    x = tf.convert_to_tensor(x)
    return tf.cast(x, dtype) if x.dtype.is_floating else x


def check_unused(arguments: dict[str, Any]) -> None:
    """Raises an error if `fit` was given arguments that have no meaning here, where one bound covers all of the data.

    Args:
        arguments: the other keyword arguments of `fit`.

    Raises:
        TypeError: there is no argument of one of the names.
        ValueError: one has no meaning here.
    """
    fit_arguments.check_names(arguments)
    for name in ("validation_data", "validation_split", "sample_weight", "class_weight"):
        value = arguments.get(name)
        if value is not None and not (name == "validation_split" and value == 0.0):
            raise ValueError(
                f"`{name}` must be None: one bound covers all of the data, and sample weights belong in the model. "
                f"Received: {name} of type {type(value).__name__}"
            )


def is_none(x: Any) -> bool:
    """Whether x is the placeholder that `read` makes when the model contains its own data."""
    return isinstance(x, dict) and list(x) == [_NONE]


def check_rows(arrays: Any) -> int:
    """The number of rows of a structure of arrays.

    Raises:
        ValueError: there are no arrays, one of them is a scalar, or their numbers of rows differ.
    """
    lengths = {len(array) if np.ndim(array) else -1 for array in tf.nest.flatten(arrays)}
    if len(lengths) != 1 or -1 in lengths:
        found = sorted({np.shape(array) for array in tf.nest.flatten(arrays)})
        shapes = checks.shown_names(list(shape) for shape in found)
        raise ValueError(
            "`x` must hold arrays with one row for each observation; a list is taken as several arrays. Received: "
            f"{f'arrays of shape {shapes}' if shapes else 'no arrays'}"
        )
    return lengths.pop()


def _arrays(data: Any, argument: str, dtype: tf.DType) -> Any:
    """Converts data to arrays of finite numbers, in the structure of the data.

    Args:
        data: an array, or a dictionary or tuple of arrays.
        argument: the name of the argument, for error messages.
        dtype: what floats become.
    """
    if isinstance(data, Mapping):
        return {name: _arrays(part, f"{argument}[{name!r}]", dtype) for name, part in data.items()}
    if type(data) in (tuple, list):
        return type(data)(_arrays(part, f"{argument}[{index}]", dtype) for index, part in enumerate(data))
    return tf.nest.map_structure(functools.partial(_array, argument=argument, dtype=dtype), data)


def _array(x: Any, argument: str, dtype: tf.DType) -> np.ndarray:
    x = checks.to_numpy(x, argument)
    if not np.issubdtype(x.dtype, np.floating):
        return x
    checks.check_finite(np.atleast_1d(x), argument)
    cast = x.astype(dtype.as_numpy_dtype, copy=False)
    if cast.dtype.itemsize < x.dtype.itemsize and x.ndim:
        _check_rounding(x, cast, argument)
    return cast


def _check_rounding(x: np.ndarray, cast: np.ndarray, argument: str) -> None:
    """Raises ValueError if rounding an array [N, ...] takes much of what differs between its rows."""
    spread = np.std(x - x[:1], axis=0)
    rounded = np.sqrt(np.mean((cast.astype(x.dtype) - x) ** 2, axis=0))
    lost = np.atleast_1d((rounded > _MAX_ROUNDED * spread) & (spread > 0.0) & (np.ptp(x, axis=0) > 0.0))
    if lost.any():
        first = x.reshape([len(x), -1])[:, np.argmax(lost)]
        raise ValueError(
            f"`{argument}` must keep in {cast.dtype.name} what differs between its rows: subtract a constant, or pass "
            f'dtype="float64" to VariationalInference. Received: values from {first.min():.17g} to {first.max():.17g}'
        )


def _one(dtype: tf.DType, *element: Any) -> tuple[Any]:
    """Packs an element of a user's dataset, x or (x, y), into the 1-tuple that `Observations` describes."""
    data = element[0] if len(element) == 1 else element
    return (tf.nest.map_structure(lambda part: cast(part, dtype), data),)
