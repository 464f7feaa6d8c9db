"""How a batch is read: where x and the sample weights are, in any form that `fit` accepts."""

import itertools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks
from tfvae.distribute import replicas


class Batch(NamedTuple):
    """The inputs of one step on one replica.

    Attributes:
        x: the data [B, ...], in the form that `elbo_terms` takes.
        sample_weight: the weights [B], float32; None means that all are 1.
        size: the number of real examples on this replica: B, or 0 if the batch was empty and was given one placeholder
            example of weight 0.
        global_size: the sum of `size` over the replicas.
        seed: a stateless seed, int32 [2].
        target: what the likelihood is of [B, ...], if that is not x.
    """

    x: tf.Tensor
    sample_weight: tf.Tensor | None
    size: tf.Tensor
    global_size: tf.Tensor
    seed: tf.Tensor
    target: tf.Tensor | None = None


def batch_of_step(model: Any, data: Any) -> Batch:
    """Makes the `Batch` of a step. It communicates with other replicas, outside of what XLA compiles.

    Args:
        model: a `tfvae.VariationalModel`.
        data: one element of the data passed to `fit`.
    """
    x, sample_weight = model.unpack(data)
    x = tf.nest.map_structure(model.cast, x)
    target = model.target(data)
    if target is not None:
        target = model.cast(target)
    if sample_weight is not None:
        sample_weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
    rows = tf.shape(tf.nest.flatten(x)[0])[:1]
    size = global_size = tf.cast(rows[0], tf.float32)
    if replicas.count() > 1:
        global_size = replicas.total(size)
        x = tf.nest.map_structure(replicas.at_least_one, x)
        target = None if target is None else replicas.at_least_one(target)
        weights = tf.ones(rows) if sample_weight is None else sample_weight
        sample_weight = tf.concat([weights, tf.zeros(tf.maximum(1 - rows, 0))], axis=0)
    return Batch(x, sample_weight, size, global_size, model.next_seed(), target)


def unpack(data: Any) -> tuple[Any, Any]:
    """Returns x and the sample weights from one element of the data passed to `fit`.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`; x may be a dictionary with the key "x" or with one entry.

    Returns:
        x, and the sample weights or None.

    Raises:
        ValueError: x is not one array.
    """
    if isinstance(data, list | tuple) and len(data) > 3:
        # Keras's message would print the data.
        raise ValueError(f"A batch must be x, (x,), (x, y) or (x, y, sample_weight). Received: {len(data)} parts")
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(x, dict):
        if "x" not in x and len(x) != 1:
            raise ValueError(
                '`x` as a dictionary must have the key "x" or one entry; otherwise choose one, for example '
                f'dataset.map(lambda example: example["image"]). Received: keys {checks.shown(sorted(x))}'
            )
        x = x["x"] if "x" in x else next(iter(x.values()))
    if isinstance(x, list | tuple):
        checks.check_one_array(x)
    return x, sample_weight


def unpack_named(data: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Returns several named arrays and the sample weights from one element of the data passed to `fit`.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, where x is a dictionary.
        names: the keys that x must have; others are ignored.

    Returns:
        The arrays by name, and the sample weights or None.

    Raises:
        ValueError: x is not a dictionary with these keys, or one of the entries is not a single array.
    """
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict) or not set(names) <= set(x):
        keys = " and ".join(f'"{name}"' for name in names)
        received = f"the keys {checks.shown(sorted(x))}" if isinstance(x, dict) else f"x of type {type(x).__name__}"
        raise ValueError(f"`x` must be a dictionary with the keys {keys}. Received: {received}")
    for name in names:
        if isinstance(x[name], list | tuple | dict):
            raise ValueError(f"`{name}` must be one array or tensor. Received: a {type(x[name]).__name__}")
    return {name: x[name] for name in names}, sample_weight


def check_weights(x: Any, sample_weight: Any) -> None:
    """Raises ValueError unless sample weights are one finite number for each example.

    Args:
        x: arrays or tensors with N rows.
        sample_weight: the weights, or None.
    """
    if sample_weight is None:
        return
    weights = np.asarray(sample_weight)
    if weights.ndim < 1 or weights.shape[1:] not in ((), (1,)) or weights.dtype.kind not in "biuf":
        raise ValueError(
            "`sample_weight` must be one number for each example, an array of the shape (N,). Received: an array of "
            f"the shape {weights.shape} and dtype {weights.dtype}"
        )
    checks.check_same_length(x=tf.nest.flatten(x)[0], sample_weight=weights)
    checks.check_finite(weights.astype(np.float32), "sample_weight")


def target_of(data: Any, x: Any) -> Any:
    """Returns y from one element of the data passed to `fit`, if it has the shape of x, and otherwise None.

    Args:
        data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as arrays, tensors or their specifications.
        x: the array in it that the likelihood is of where there is no such y.
    """
    _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    shape, own = (tf.TensorShape(getattr(each, "shape", None)) for each in (y, x))
    is_known = shape.rank is not None and own.rank is not None and own.rank > 1
    return y if is_known and shape[1:].is_compatible_with(own[1:]) else None


def peek(data: Any, argument: str = "x") -> tuple[Any, Any]:
    """Returns the first batch of any data that `fit` accepts, without consuming it.

    Args:
        data: a dataset, a `keras.utils.PyDataset`, a generator, or arrays.
        argument: the name of the caller's argument, for error messages.

    Returns:
        The first batch, or all of the data if they are arrays, or None if there is no batch; and the complete data,
        which replace a generator, a data frame, a sparse matrix or an AnnData object that was passed.

    Raises:
        ValueError: the data are a list of arrays, or cannot become an array.
    """
    if isinstance(data, tf.data.Dataset):
        data = _dense(data)
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return next(iter(data), None), data
    if isinstance(data, tf.distribute.DistributedDataset):
        local_results = tf.distribute.get_strategy().experimental_local_results
        return tf.nest.map_structure(lambda value: local_results(value)[0], next(iter(data), None)), data
    if isinstance(data, types.GeneratorType):
        # Keras takes no x alone from a generator, as it does from a dataset.
        pairs = (item if isinstance(item, tuple | list) else (item,) for item in data)
        items = (tf.nest.map_structure(lambda value: checks.unwrap(value, argument), item) for item in pairs)
        batch = next(items, None)
        return batch, (item for item in itertools.chain([batch], items))
    if isinstance(data, list) or (isinstance(data, tuple) and len(data) > 1):
        checks.check_one_array(data, argument)
    data = checks.unwrap(data, argument)
    return data, data


def check_no_weights(model: Any, data: Any) -> None:
    """Raises ValueError for a dataset x with sample weights, for a method that takes all examples alike.

    Args:
        model: the model, whose `unpack` tells x from weights.
        data: a dataset; other data have no weights.
    """
    if isinstance(data, tf.data.Dataset) and model.unpack(data.element_spec)[1] is not None:
        raise ValueError(
            "`x` must be a dataset without sample weights, which would not be used here: give x alone, or repeat "
            f"examples that weigh more. Received: a dataset of {checks.shown(data.element_spec)}"
        )


def check_ends(data: Any, argument: str = "x", steps: str | None = None) -> None:
    """Raises ValueError for a dataset without end, of which a method that needs all of it would never return.

    Args:
        data: a dataset; other data are not checked.
        argument: the name of the caller's argument.
        steps: the name of the argument that was not given, but would say how many batches are taken.
    """
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        advice = f"give `{steps}`" if steps else "`take` some of it"
        raise ValueError(
            f"`{argument}` must be a dataset that ends: leave out `repeat()`, or {advice}. Received: one without end"
        )


def _dense(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with dense tensors for sparse ones."""
    spec = dataset.element_spec
    if not any(isinstance(each, tf.SparseTensorSpec) for each in tf.nest.flatten(spec)):
        return dataset

    def convert(*element: Any) -> Any:
        return tf.nest.map_structure(
            lambda value: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value,
            element if isinstance(spec, tuple) else element[0],
        )

    return dataset.map(convert)


def batches(x: Any, batch_size: Any) -> Iterator[Any]:
    """Cuts x [N, ...] into float32 batches [B, ...], the last of which may be smaller.

    Args:
        x: an array, or a dictionary of arrays.
        batch_size: B, at least 1.

    Raises:
        ValueError: `batch_size` is not an integer of at least 1.
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    for part in chunks.slices(len(tf.nest.flatten(x)[0]), batch_size):
        yield tf.nest.map_structure(lambda array, part=part: tf.cast(array[part], tf.float32), x)
