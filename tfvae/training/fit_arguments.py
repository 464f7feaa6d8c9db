"""Reads and checks the arguments of `fit` and `evaluate` before they are passed to Keras."""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, files, private_apis, renamed
from tfvae.distribute import replicas
from tfvae.training.arrays_in_memory import ArraysInMemory
from tfvae.training.batch import check_ends, check_weights, peek

# What most models have as metrics. Other names may be those of what a user's callback logs.
_NUMBERS = ("elbo", renamed.NEW, "kl")
# Keras's default for arrays.
_BATCH_SIZE = 32


class FitArguments(NamedTuple):
    """The arguments of one call of `fit`, interpreted.

    Attributes:
        x: the training data: `ArraysInMemory` if tfvae shuffles the arrays itself, otherwise the data that Keras reads.
        num_batches: the number of batches in one pass over the data; infinity if it is unknown.
        rows: the number of examples in a batch.
        is_shuffled: whether Keras or `tf.data` shuffles the data, in an order that a resumed training cannot reproduce.
        initial_epoch: the epoch to start with, counted from 0.
        epochs: the epoch to stop before.
        steps_per_epoch: the number of steps in an epoch; None if an epoch is one pass over the data.
        callbacks: the user's callbacks.
        callback_list: the `CallbackList` in which the user passed them, or None.
        others: the arguments of `keras.Model.fit` that were given, by name, except x and the callbacks.
    """

    x: Any
    num_batches: float
    rows: int
    is_shuffled: bool
    initial_epoch: int
    epochs: int
    steps_per_epoch: int | None
    callbacks: list[keras.callbacks.Callback]
    callback_list: keras.callbacks.CallbackList | None
    others: dict[str, Any]


def check_names(arguments: Iterable[str]) -> None:
    """Raises TypeError, as Python does, if `fit` has no argument of one of these names.

    A `fit` that prepares data calls it first, because Keras is called last.

    Args:
        arguments: the names of keyword arguments.
    """
    known = list(inspect.signature(keras.Model.fit).parameters)[1:]
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise TypeError(f"`{name}` must be an argument of `fit`: {', '.join(known)}.{hint} Received: {name}")


def read_fit(model: Any, seed: Callable[[], int], *args: Any, **kwargs: Any) -> FitArguments:
    """Reads and checks the arguments of a call of `fit`.

    Args:
        model: a `tfvae.VariationalModel`, which this builds if it is not built yet.
        seed: returns the seed of the order in which arrays are shuffled.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Raises:
        ValueError: the model is not compiled, or cannot be trained on the data.
    """
    given, batch, element = _read(model, keras.Model.fit, *args, **kwargs)
    model.check_training(element)
    validation_data = _checked_validation(model, given.pop("validation_data", None))
    if given.get("validation_steps") is None:
        check_ends(validation_data, "validation_data", "validation_steps")
    callbacks = given.pop("callbacks", None)
    callback_list = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
    callbacks = callbacks.callbacks if callback_list is not None else callbacks
    callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or [])
    for callback in callbacks:
        _check_monitor(model, callback)
        if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_weights_only:
            files.check_whole_model(callback.filepath)
    x = source = given.pop("x")
    arrays = _arrays(model, x) if given.get("shuffle", True) is True else None
    if arrays is not None:
        has_target = model.target(element) is not None
        x, validation_data, given = _in_memory(arrays, validation_data, given, seed, has_target)
    if isinstance(x, ArraysInMemory | tf.data.Dataset | types.GeneratorType):
        # Keras would warn that its default, shuffle=True, has no effect on a dataset or generator.
        given["shuffle"] = False
    if validation_data is not None:
        given["validation_data"] = validation_data
    rows = given.get("batch_size")
    if not rows:
        rows = _BATCH_SIZE if batch is source else len(tf.nest.flatten(model.unpack(batch)[0])[0])
    return FitArguments(
        x,
        _num_batches(x, given),
        rows,
        _is_shuffled(x, given),
        given.get("initial_epoch", 0),
        given.get("epochs", 1),
        given.get("steps_per_epoch"),
        callbacks,
        callback_list,
        given,
    )


def read_evaluate(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Checks the arguments of a call of `evaluate`, and returns them by name.

    Args:
        model: a `tfvae.VariationalModel`, which this builds if it is not built yet.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Raises:
        ValueError: the model is not compiled, or cannot be evaluated on the data.
    """
    return _read(model, keras.Model.evaluate, *args, **kwargs)[0]


def _read(model: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[dict[str, Any], Any, Any]:
    """Returns the arguments of a call by name, the first batch of x, and the first element of the data, checked."""
    given = inspect.signature(method).bind(model, *args, **kwargs).arguments
    given = {name: value for name, value in given.items() if name not in ("self", "kwargs")} | given.get("kwargs", {})
    _check_compiled(model, method.__name__)
    _check_no_swap(given.get("callbacks"))
    replicas.check(model)
    y = given.get("y")
    is_x = y is not None and y is given["x"]
    batch, given["x"] = peek(model.of_rows(given["x"]))
    steps = "steps_per_epoch" if method is keras.Model.fit else "steps"
    if given.get(steps) is None:
        check_ends(given["x"], steps=steps)
    if is_x:
        # As Keras's autoencoders are fitted: the likelihood is of x anyway.
        y = given["y"] = None
    elif isinstance(y, list | tuple):
        y = given["y"] = np.asarray(y)
    elif hasattr(y, "shape") and len(y.shape) > 1 and tuple(y.shape) == tuple(getattr(batch, "shape", ())):
        # Perhaps a data frame, as x may be. Labels may be of any type.
        y = given["y"] = checks.unwrap(y, "y")
    element = batch if y is None else (batch, y)
    model.check_source(element if batch is given["x"] else batch, given["x"], "x")
    check_weights(batch, given.get("sample_weight"))
    if given.get("class_weight") is not None and (y is None or model.target(element) is not None):
        raise ValueError(
            "`class_weight` needs the classes as `y`. Received: y"
            + ("=None" if y is None else f" of the shape of x, {list(np.shape(y))}")
        )
    if y is None:
        given["y"] = _placeholder(given.get("sample_weight"))
    return given, batch, element


def _placeholder(sample_weight: Any) -> np.ndarray | None:
    """A y that the model ignores, without which Keras would drop the sample weights; None if there are no weights."""
    return None if sample_weight is None else np.zeros(np.shape(sample_weight)[:1], np.float32)


def check_compile(model: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Checks the arguments of `compile`.

    Args:
        model: the model.
        args: the arguments of `keras.Model.compile`.
        kwargs: the arguments of `keras.Model.compile`.

    Raises:
        ValueError: a loss or metrics are given, or another argument is out of its range.
    """
    given = inspect.signature(keras.Model.compile).bind(model, *args, **kwargs).arguments
    for argument in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if given.get(argument) is not None:
            raise ValueError(
                f"`compile({argument}=...)` has no meaning here: the model's objective is its loss, and its "
                "metrics are loss, elbo, reconstruction_log_likelihood and kl; leave it out. Received: "
                f"{argument}={checks.shown(given[argument])}"
            )
    if given.get("optimizer", "rmsprop") is None:
        raise ValueError("`optimizer` must be an optimizer or its name. Received: optimizer=None")
    checks.positive_integer("steps_per_execution", given.get("steps_per_execution", 1))
    checks.boolean("run_eagerly", given.get("run_eagerly", False))
    jit_compile = given.get("jit_compile", "auto")
    if jit_compile not in (True, False, "auto"):
        raise ValueError(
            f'`jit_compile` must be True, False or "auto". Received: jit_compile={checks.shown(jit_compile)}'
        )


def _check_compiled(model: keras.Model, method: str) -> None:
    if not model.compiled:
        raise ValueError(f"Call `compile()` before `{method}()`. Received: a model that is not compiled")


def _check_no_swap(callbacks: Any) -> None:
    for callback in tf.nest.flatten(getattr(callbacks, "callbacks", callbacks)):
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ValueError(
                "`callbacks` must be without `keras.callbacks.SwapEMAWeights`: with `use_ema=True` the model has the "
                "averages in validation, at the end of each epoch and after `fit` (see `use_averages`), by an exchange "
                f"that does not round. Received: {callback}"
            )


def _check_monitor(model: Any, callback: keras.callbacks.Callback) -> None:
    """Refuses a callback such as `EarlyStopping` that monitors a number of other models, which this one does not have.

    If it monitors a metric by its earlier name, it then uses the present one.
    """
    monitor = getattr(callback, "monitor", None)
    if monitor in (renamed.OLD, f"val_{renamed.OLD}"):
        renamed.warn(f"monitor={monitor!r} of {type(callback).__name__}")
        monitor = callback.monitor = renamed.metric(monitor)
    number = monitor.removeprefix("val_") if isinstance(monitor, str) else None
    names = [metric.name for metric in model.metrics]
    if number in _NUMBERS and number not in names:
        why = getattr(model, "undefined", {}).get(number, "")
        raise ValueError(
            f"`monitor` of {type(callback).__name__} must be one of the model's metrics, {', '.join(names)}, or one of "
            f"them with `val_` before it. This model has no {number}{': ' + why if why else '.'} Received: "
            f"monitor={monitor!r}"
        )


def _checked_validation(model: Any, validation: Any) -> Any:
    """Checks the validation data, and adds a y to sample weights without one, because Keras would drop them."""
    if validation is None:
        return None
    if isinstance(validation, list):
        # Rows or texts are a list too.
        validation = model.of_rows(validation)
    if isinstance(validation, tuple | list):
        if not 1 <= len(validation) <= 3:
            raise ValueError(
                "`validation_data` must be x, (x,), (x, y) or (x, y, sample_weight). Received: a "
                f"{type(validation).__name__} of {len(validation)}"
            )
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(validation))
        batch, x = peek(model.of_rows(x), "validation_data")
        if isinstance(y, list | tuple):
            y = np.asarray(y)
        model.check_source(None if batch is None else (batch, y), x, "validation_data")
        check_weights(batch, sample_weight)
        return x, _placeholder(sample_weight) if y is None else y, sample_weight
    batch, validation = peek(model.of_rows(validation), "validation_data")
    model.check_source(batch, validation, "validation_data")
    return validation


def _arrays(model: Any, x: Any) -> Any:
    """Returns the arrays that the model is trained on, or None if x is neither an array nor a dictionary of arrays."""
    if isinstance(x, dict):
        x = model.unpack(x)[0]
    if not all(hasattr(array, "__array__") for array in (x.values() if isinstance(x, dict) else [x])):
        return None
    return tf.nest.map_structure(checks.to_numpy, x)


def _in_memory(
    x: Any, validation_data: Any, given: dict[str, Any], seed: Callable[[], int], has_target: bool
) -> tuple[ArraysInMemory, Any, dict[str, Any]]:
    """Lets tfvae rather than Keras shuffle arrays, in an order that is new in each epoch and can be resumed.

    If a global seed is set, Keras shuffles them in the same order in each epoch. If not, its order differs between
    processes, so that several workers would train on some examples twice and on others never.

    Args:
        x: arrays [N, ...].
        validation_data: the validation data, or None.
        given: the other arguments of `keras.Model.fit`, by name.
        seed: returns the seed of the order.
        has_target: whether y is what the likelihood is of.

    Returns:
        The training data; the validation data, which `validation_split` may have split off; and the arguments that
        remain for Keras.
    """
    size = len(tf.nest.flatten(x)[0])
    targets = {name: np.asarray(given[name]) for name in ("y", "sample_weight") if given.get(name) is not None}
    checks.check_same_length(**(x if isinstance(x, dict) else {"x": x}), **targets)
    class_weight = given.get("class_weight")
    arrays = [x]
    # Any other y is only needed to look up class weights, or as a placeholder before sample weights.
    if has_target or "sample_weight" in targets or class_weight is not None:
        arrays += targets.values()
    narrow = slice(2 if has_target else 1)
    arrays[narrow] = tf.nest.map_structure(
        lambda array: array.astype(np.float32) if array.dtype == np.float64 else array, arrays[narrow]
    )
    split = given.get("validation_split", 0.0)
    if split and validation_data is None:
        # Like Keras, takes the last examples, before any shuffling.
        at = math.floor(size * (1.0 - split))
        if not 0 < at < size:
            raise ValueError(
                "`validation_split` must leave at least one example for training and one for validation. Received: "
                f"validation_split={split} of {size} examples"
            )
        validation_data = tuple(tf.nest.map_structure(lambda array: array[at:], arrays))
        arrays = tf.nest.map_structure(lambda array: array[:at], arrays)
        size = at
    # If there are sample weights too, Keras must see the class weights, because it refuses to combine the two.
    kept = {"class_weight": class_weight} if len(arrays) > 2 and class_weight is not None else {}
    if len(arrays) == 2 and class_weight is not None:
        arrays.append(_weights_of_classes(arrays[1], class_weight))
    batch_size, steps = given.get("batch_size"), given.get("steps_per_epoch")
    if batch_size is None:
        batch_size = math.ceil(size / steps) if steps else _BATCH_SIZE
    batch_size = checks.positive_integer("batch_size", batch_size)
    read = ("y", "sample_weight", "class_weight", "validation_split")
    others = {name: value for name, value in given.items() if name not in read} | kept | {"batch_size": batch_size}
    return ArraysInMemory(tuple(arrays), size, batch_size, seed), validation_data, others


def _weights_of_classes(y: np.ndarray, class_weight: dict[int, float]) -> np.ndarray:
    """The weight of each example's class, or 1 if the class has none; Keras would fail there if x were a dataset."""
    classes = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.ravel()
    return np.array([class_weight.get(int(number), 1.0) for number in np.round(classes)], np.float32)


def _num_batches(x: Any, given: dict[str, Any]) -> float:
    """The number of batches in one pass over the data; infinity if it is unknown."""
    if isinstance(x, ArraysInMemory):
        return len(x)
    if isinstance(x, tf.data.Dataset):
        number = int(x.cardinality())
        return number if number >= 0 else math.inf
    if isinstance(x, keras.utils.PyDataset):
        return math.inf if x.num_batches is None else x.num_batches
    if isinstance(x, types.GeneratorType | tf.distribute.DistributedDataset):
        return math.inf
    batch_size, steps = given.get("batch_size"), given.get("steps_per_epoch")
    if steps and not batch_size:
        return steps
    return math.ceil(len(checks.to_numpy(tf.nest.flatten(x)[0])) / (batch_size or _BATCH_SIZE))


def _is_shuffled(x: Any, given: dict[str, Any]) -> bool:
    """Whether Keras or `tf.data` shuffles the data, in an order that a resumed training cannot reproduce."""
    if isinstance(x, tf.data.Dataset):
        return _has_shuffle(x)
    return bool(given.get("shuffle", True)) and not isinstance(x, ArraysInMemory | types.GeneratorType)


def _has_shuffle(dataset: tf.data.Dataset) -> bool:
    return "Shuffle" in type(dataset).__name__ or any(map(_has_shuffle, private_apis.input_datasets(dataset)))
