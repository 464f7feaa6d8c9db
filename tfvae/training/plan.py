"""How the steps of a training run where `compile` leaves it open: how many in one execution, and whether by XLA.

On a CPU XLA makes many steps of dense layers, in one loop, faster than TensorFlow, but takes seconds to compile; its
convolutions are slower, as those of JAX, which are XLA's too, in `benchmarks/training.py`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfvae.distribute import replicas, strategies
from tfvae.training import loop, resume
from tfvae.training.arrays_in_memory import Resident

# Floating-point operations of one execution: about a second of two cores, beside which Python takes no time.
_OPERATIONS = 1e11
_MOST_STEPS = 500
# XLA is used in a training of at least so many steps: it takes some seconds to compile, and saves about a millisecond a
# step.
_FEWEST_STEPS_BY_XLA = 3000
# The weights of layers that are multiplied with their inputs.
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


def operations(layers: Iterable[keras.layers.Layer]) -> float:
    """The floating-point operations that layers take for one example, forward.

    Those of products with weights of two axes or more. Infinity where they are not known: with recurrent layers, and
    with convolutions in a network that is no graph of layers, whose shapes are not known.

    Args:
        layers: the layers, and perhaps those that hold them.
    """
    return sum(2.0 * math.prod(kernel.shape) * _places(layer) for layer in layers for kernel in _kernels(layer))


def _kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that a layer multiplies its input with: in a layer of a user's own, whatever their names."""
    named = [getattr(layer, name) for name in _KERNELS if hasattr(layer, name)]
    if named or type(layer).__module__.split(".")[0] in ("keras", "tfvae"):
        return named
    return [variable for variable in layer._trainable_variables if len(variable.shape) > 1]


def _places(layer: keras.layers.Layer) -> float:
    """At how many places of one example a layer applies its kernel."""
    if hasattr(layer, "recurrent_kernel"):
        return math.inf
    try:
        # A transposed convolution applies it at each place of its input.
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):
        return 1 if all(len(kernel.shape) == 2 for kernel in _kernels(layer)) else math.inf
    return math.prod(size or 1 for size in shape[1:-1])


def steps(
    operations: float, steps_per_epoch: int | None, batches: float, callbacks: Iterable[keras.callbacks.Callback]
) -> int:
    """How many steps to run in one execution, between two looks of Python.

    As many as take about a second, so that a progress bar still moves; but one at a time where a callback looks at each
    batch.

    Args:
        operations: the floating-point operations of one step.
        steps_per_epoch: where an epoch is no pass over the data, its steps, which executions must divide; else None.
        batches: how many the data have.
        callbacks: those of `fit`.
    """
    if any(map(_sees_batches, callbacks)):
        return 1
    most = int(max(1, min(_MOST_STEPS, _OPERATIONS // max(operations, 1.0), batches)))
    if steps_per_epoch is None:
        return most
    return max(count for count in range(1, most + 1) if steps_per_epoch % count == 0)


def _sees_batches(callback: keras.callbacks.Callback) -> bool:
    base, own = keras.callbacks.Callback, vars(callback)
    names = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    hooks = [own.get(name, getattr(type(callback), name)) for name in names]
    changed = [hook for name, hook in zip(names, hooks, strict=True) if hook is not getattr(base, name)]
    waits = "epoch" in (getattr(callback, "save_freq", None), getattr(callback, "update_freq", None))
    if waits or isinstance(callback, keras.callbacks.TerminateOnNaN):
        # They do nothing after a batch, or see the loss of all steps of an execution; a subclass may do more. A profile
        # is of batches.
        known = all(hook.__module__.split(".")[0] in ("keras", "tfvae") for hook in changed)
        return not known or getattr(callback, "_stop_batch", 0) > 0
    return bool(changed)


def are_dense(layers: Iterable[keras.layers.Layer]) -> bool:
    """Whether layers have no kernels but those of dense layers, and XLA can compile them."""

    def is_dense(layer: keras.layers.Layer) -> bool:
        are_matrices = all(len(kernel.shape) == 2 for kernel in _kernels(layer))
        return are_matrices and not hasattr(layer, "recurrent_kernel")

    return all(layer.supports_jit and is_dense(layer) for layer in layers)


def are_fast_by_xla(layers: Iterable[keras.layers.Layer]) -> bool:
    """Whether XLA makes layers fast: dense ones in float32.

    But not those with random numbers, of which it makes all but our own slowly.
    """
    layers = list(layers)
    is_random = any(hasattr(layer, "seed_generator") or not getattr(layer, "is_fast_by_xla", True) for layer in layers)
    is_single = all(layer.compute_dtype == "float32" for layer in layers if _kernels(layer))
    return are_dense(layers) and is_single and not is_random


def is_open(model: keras.Model) -> bool:
    """Whether `compile` left open whether XLA compiles a model, and it does not run eagerly."""
    return type(model.jit_compile) is int and not model.run_eagerly


class OpenExecution(keras.Model):
    """A Keras model whose trainings run as this module says, where `compile` leaves it open.

    With `steps_per_execution=1`, `fit` runs several steps in one execution; with `jit_compile="auto"`, on one CPU, XLA
    compiles the steps of a training that it makes faster.
    """

    # Whether the steps of training are compiled although `compile` left it open.
    _trains_by_xla = False
    # The steps of an execution of training. Evaluation and prediction have `steps_per_execution`.
    _steps_of_training = 1
    # What `compile` says, while `fit` begins.
    _given_steps = 1
    # The data of `fit` where the program of the steps takes its batches of them itself, by XLA or not.
    _resident: Resident | None = None

    def _resolve_auto_jit_compile(self) -> bool | int:
        # 0 is a no as well, and tells that it was left open, also in a file; Keras keeps it as it is.
        return super()._resolve_auto_jit_compile() or 0

    def _training(self) -> Callable[..., dict[str, Any]]:
        """The function that runs steps of training on the batches of an iterator."""
        if self.run_eagerly or not self._is_alone():
            return replicas.make_function(self, self.train_step, bool(self.jit_compile))
        return loop.Scan(self, self.train_step, self._scans())

    def _scans(self) -> bool:
        """Whether XLA compiles many steps of training together."""
        by_xla = (self._trains_by_xla and is_open(self)) or bool(self.jit_compile)
        # XLA makes convolutions slow in a loop.
        return by_xla and are_dense(self._flatten_layers())

    def _is_alone(self) -> bool:
        """Whether no other replica trains with this one."""
        return self.distribute_strategy.num_replicas_in_sync == 1

    def _operations(self) -> float:
        """The floating-point operations of one example in a step of training; infinity where they are not known."""
        return math.inf

    @contextlib.contextmanager
    def _fitting(
        self, arguments: dict[str, Any], data: Resident | None, rows: int, callbacks: list[keras.callbacks.Callback]
    ) -> Iterator[None]:
        """Sets how a `fit` runs.

        Args:
            arguments: those of `keras.Model.fit`, by name.
            data: what its dataset is made of, where that are arrays.
            rows: the examples of a batch.
            callbacks: those of `fit`.
        """
        # The data are those of another `fit`, where a callback of it trains.
        given, resident = self.steps_per_execution, self._resident
        self._resident = None
        try:
            # Keras reads it once, for the data of training: `FollowEpochs` restores it.
            self.steps_per_execution = self._steps_of_training = self._chosen_steps(arguments, rows, callbacks)
            self._given_steps = given
            self._choose_program(arguments, data)
            yield
        finally:
            self.steps_per_execution, self._resident = given, resident

    def _chosen_steps(self, arguments: dict[str, Any], rows: int, callbacks: list[keras.callbacks.Callback]) -> int:
        """How many steps of training run in one execution; of several workers each must take as many."""
        if self.steps_per_execution != 1 or self.run_eagerly or strategies.workers(self.distribute_strategy)[1] > 1:
            return self.steps_per_execution
        batches = resume.number_of_batches(arguments)
        return steps(rows * self._operations(), arguments.get("steps_per_epoch"), batches, callbacks)

    def _choose_program(self, arguments: dict[str, Any], data: Resident | None) -> None:
        """Settles whether XLA compiles the steps of a `fit`, and whether they take their batches of arrays."""
        per_epoch = arguments.get("steps_per_epoch")
        number = arguments.get("epochs", 1) * (per_epoch or resume.number_of_batches(arguments))
        is_compiled = self._trains_by_xla and self.train_function is not None
        by_xla = (
            is_open(self)
            and self._is_alone()
            and self._steps_of_training > 1
            and (is_compiled or number >= _FEWEST_STEPS_BY_XLA)
            # What a model computes whose operations are not known may be hard to compile.
            and math.isfinite(self._operations())
            and are_fast_by_xla(self._flatten_layers())
        )
        if by_xla != self._trains_by_xla:
            self._trains_by_xla, self.train_function = by_xla, None
        # A strategy would divide the data, and a device other than the CPU have them copied for each execution.
        is_plain = self._distribute_strategy is None and not tf.config.get_visible_devices("GPU")
        # `class_weight` is still there only beside `sample_weight`: Keras must see the data to refuse it.
        is_read_by_keras = self.run_eagerly or per_epoch is not None or arguments.get("class_weight") is not None
        if data is not None and is_plain and not is_read_by_keras:
            # Keras counts the batches, and takes none.
            self._resident, arguments["x"] = data, tf.data.Dataset.range(len(data))
