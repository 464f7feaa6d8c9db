"""The data of a Bayesian model, whatever its form, as a dataset for `fit`."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.training import arrays_in_memory

# The one key of what stands for the data of a model that has none apart.
_NONE = "no data"
# Up to so many rows a step takes all of them.
_WHOLE_ROWS = 4096
_BATCH_SIZE = 1024


class Observations(NamedTuple):
    """The data as a dataset.

    Attributes:
        dataset: its elements are 1-tuples of what a log joint density takes, or of what `is_none` knows.
        num_data: N, the number of rows; None where there are no data apart from the model.
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
) -> Observations:
    """Makes a dataset of what `fit` was given.

    Args:
        x: an array, a dictionary or a tuple of arrays, each with N rows; a `tf.data.Dataset`, batched, whose elements
            are such; or None.
        y: a second array or structure, for data `(x, y)`.
        batch_size: B; None takes all rows up to 4096, and 1024 of more.
        num_data: N where it was said.
        replicas: how many replicas share a batch.
        seed: gives the seed of the order of the rows.

    Raises:
        ValueError: it is no data, or N is not known or another one.
    """
    if x is None:
        if y is not None or num_data is not None:
            raise ValueError(
                f"`x` must be the data, where `y` or `num_data` is given. Received: x=None, num_data={num_data}"
            )
        return Observations(tf.data.Dataset.from_tensors(({_NONE: tf.zeros([replicas])},)), None, True)
    if isinstance(x, tf.data.Dataset):
        if y is not None or batch_size is not None:
            raise ValueError(
                "`y` and `batch_size` must be None where `x` is a tf.data.Dataset, which has both. Received: "
                f"y of type {type(y).__name__}, batch_size={batch_size}"
            )
        if num_data is None:
            raise ValueError(
                "`num_data`, the number of rows of all of the data, must be given to VariationalInference where `x` is "
                "a tf.data.Dataset: the likelihood of a batch is scaled by num_data / rows. Received: num_data=None"
            )
        parts = len(x.element_spec) if isinstance(x.element_spec, tuple) else 1
        if parts > 2:
            raise ValueError(
                "`x` must be a dataset of x or (x, y): weights are part of the model's log-likelihood. Received: "
                f"elements of {parts} parts"
            )
        return Observations(x.map(_one), num_data, False)
    arrays = tf.nest.map_structure(_array, x if y is None else (x, y))
    rows = check_rows(arrays)
    if num_data not in (None, rows):
        raise ValueError(
            f"`x` must have num_data={num_data} rows, all of the data, as said or given before. Received: {rows} rows"
        )
    if batch_size is None:
        batch_size = rows if rows <= _WHOLE_ROWS else _BATCH_SIZE
    if checks.positive_integer("batch_size", batch_size) >= rows:
        return Observations(tf.data.Dataset.from_tensors((arrays,)), rows, True)
    with tf.device("CPU:0"):
        tensors = tf.nest.map_structure(tf.convert_to_tensor, arrays)
    return Observations(arrays_in_memory.Resident((tensors,), rows, batch_size, seed).dataset(), rows, False)


def one_pass(data: Observations) -> Iterator[Any]:
    """Gives the data once, in batches.

    Raises:
        ValueError: there are other than N rows.
    """
    rows = 0
    for (batch,) in data.dataset:
        rows += len(tf.nest.flatten(batch)[0])
        yield batch
        if data.num_data is not None and rows >= data.num_data:
            break
    if data.num_data not in (None, rows):
        raise ValueError(
            f"`x` must be all of the data, num_data={data.num_data} rows, and batched before it repeats. Received: "
            f"{rows} rows"
        )


def first_rows(dataset: tf.data.Dataset, count: int) -> Any:
    """The first rows of the data, in whole batches up to a count, as one batch.

    Raises:
        ValueError: there are none.
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


def cast(x: Any) -> tf.Tensor:
    """A tensor of the data as a log joint density takes it: float32, or integers as they are."""
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) if x.dtype.is_floating else x


def check_unused(arguments: dict[str, Any]) -> None:
    """Raises ValueError where `fit` was given what has no meaning for a bound that is one for all of the data.

    Args:
        arguments: the further arguments of `fit`, by name.
    """
    for name in ("validation_data", "validation_split", "sample_weight", "class_weight"):
        value = arguments.get(name)
        if value is not None and not (name == "validation_split" and value == 0.0):
            raise ValueError(
                f"`{name}` must be None: the bound is one for all of the data, whose weights are part of the model. "
                f"Received: {name} of type {type(value).__name__}"
            )


def is_none(x: Any) -> bool:
    """Whether x stands for the data of a model that has none apart."""
    return isinstance(x, dict) and list(x) == [_NONE]


def check_rows(arrays: Any) -> int:
    """The number of rows of a structure of arrays.

    Raises:
        ValueError: there are none, or the arrays differ in it.
    """
    lengths = {len(array) if np.ndim(array) else -1 for array in tf.nest.flatten(arrays)}
    if len(lengths) != 1 or -1 in lengths:
        shapes = ", ".join(str(list(shape)) for shape in sorted({np.shape(array) for array in tf.nest.flatten(arrays)}))
        raise ValueError(
            "`x` must hold arrays with one row for each observation; a list is a structure of arrays. Received: "
            f"{f'arrays of shape {shapes}' if shapes else 'no arrays'}"
        )
    return lengths.pop()


def _array(x: Any) -> np.ndarray:
    x = checks.to_numpy(x)
    if np.issubdtype(x.dtype, np.floating):
        checks.check_finite(np.atleast_1d(x))
        return x.astype(np.float32, copy=False)
    return x


def _one(*element: Any) -> tuple[Any]:
    """The element of a user's dataset, as the one thing that a log joint density takes."""
    data = element[0] if len(element) == 1 else element
    return (tf.nest.map_structure(cast, data),)
