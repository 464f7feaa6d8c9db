"""The plan of a `fit`: what is passed to Keras, how many steps run in one execution, and whether XLA compiles them.

`compile` may leave the last two open. On a CPU, XLA runs a loop of many steps of dense layers faster than TensorFlow
does, but takes seconds to compile it; convolutions are slower with XLA, in JAX too (`benchmarks/training.py`).
"""

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfvae import private_apis
from tfvae.distribute import strategies
from tfvae.training import resume
from tfvae.training.arrays_in_memory import ArraysInMemory
from tfvae.training.fit_arguments import FitArguments

# The most floating-point operations in one execution: about a second of two cores, long enough to hide the time that
# Python takes between executions.
_OPERATIONS = 1e11
_MOST_STEPS = 500
# XLA is only used for a training of at least this many steps: it takes 2 to 3 seconds to compile, and saves 0.2 to 0.3
# milliseconds per step of small dense models.
_FEWEST_STEPS_BY_XLA = 8000
# The names under which Keras's layers keep the weights that they multiply their inputs by.
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


class Plan(NamedTuple):
    """How one `fit` runs. The plan is made before the first step, and never changed after that.

    Attributes:
        arguments: the arguments to pass to `keras.Model.fit`, by name.
        data: arrays in memory, from which the loop of training steps gathers its own batches; None if the batches come
            from Keras's iterator.
        steps_per_execution: the number of training steps that run before control returns to Python. Evaluation and
            prediction use the value that was passed to `compile`.
        by_xla: whether XLA compiles many steps into one program. If it does not, it may still compile each step by
            itself, as `compile` says.
        why: the reason for `by_xla`, in words.
    """

    arguments: dict[str, Any]
    data: ArraysInMemory | None
    steps_per_execution: int
    by_xla: bool
    why: str


def make_plan(model: Any, progress: resume.Progress, arguments: FitArguments, is_by_xla: bool) -> Plan:
    """Decides how a `fit` runs.

    Args:
        model: a `tfvae.VariationalModel` that is compiled and built.
        progress: the position of the model's training.
        arguments: the arguments of the call of `fit`.
        is_by_xla: whether XLA has already compiled the steps for an earlier `fit`, so that no time is lost on it.
    """
    layers = LayerTraits.of(private_apis.layers_of(model))
    operations = model.operations_per_example(layers)
    steps = model.steps_per_execution
    # With several workers, the value of `compile` is kept, because all workers must run the same number of steps.
    if steps == 1 and not model.run_eagerly and strategies.workers(model.distribute_strategy)[1] == 1:
        per_epoch, number = arguments.steps_per_epoch, arguments.num_batches
        steps = choose_steps(arguments.rows * operations, per_epoch, number, arguments.callbacks)
    by_xla, why = _choose_xla(model, layers, steps, arguments, is_by_xla)
    x, data, batches_per_epoch = _source(model, arguments, steps)
    callbacks: Any = resume.with_callbacks_of_fit(model, progress, arguments, batches_per_epoch)
    if arguments.callback_list is not None:
        # A copy, so that the user's list does not get further callbacks.
        given, callbacks = callbacks, copy.copy(arguments.callback_list)
        callbacks.callbacks = given
        callbacks.set_model(model)
    return Plan({**arguments.others, "x": x, "callbacks": callbacks}, data, steps, by_xla, why)


def _source(model: Any, arguments: FitArguments, steps: int) -> tuple[Any, ArraysInMemory | None, int | None]:
    """Chooses where the batches of a `fit` come from.

    Returns:
        The x to pass to Keras; the arrays in memory if the loop gathers its own batches, else None; and the number of
        batches in an epoch, or None if every epoch starts a new pass over the data.
    """
    x, per_epoch = arguments.x, arguments.steps_per_epoch
    if isinstance(x, ArraysInMemory):
        # Under a strategy the data must be divided between replicas, and a GPU would copy them for each execution.
        is_plain = private_apis.strategy_of(model) is None and not tf.config.get_visible_devices("GPU")
        if is_plain and per_epoch is None and not model.run_eagerly and arguments.others.get("class_weight") is None:
            # Keras only uses this dataset to count the batches of an epoch; the loop gathers the rows itself.
            return tf.data.Dataset.range(len(x)), x, None
        x = x.dataset()
    if per_epoch is None:
        return x, None, None
    # If the data do not end with the epoch, Keras does not shorten its last execution.
    per_epoch = math.ceil(per_epoch / steps) * steps
    if arguments.num_batches <= per_epoch:
        return x, None, None
    # Keras would repeat the dataset too, but would miscount where the data end in an epoch that was resumed.
    return x.repeat() if isinstance(x, tf.data.Dataset) else x, None, per_epoch


def _choose_xla(
    model: Any, layers: "LayerTraits", steps: int, arguments: FitArguments, is_by_xla: bool
) -> tuple[bool, str]:
    """Whether XLA compiles many steps into one program, and why.

    Args:
        model: the model.
        layers: what is known of its layers.
        steps: how many steps run in one execution.
        arguments: those of `fit`.
        is_by_xla: see `make_plan`.
    """
    if model.run_eagerly:
        return False, "the model runs eagerly"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return False, "several replicas train together"
    if not layers.are_dense:
        return False, "some layers are not dense, and XLA cannot compile them or makes them slow in a loop"
    if not private_apis.leaves_jit_compile_open(model):
        return bool(model.jit_compile), f"jit_compile is {bool(model.jit_compile)}"
    if not layers.are_fast_by_xla:
        return False, "some layers draw random numbers or compute in half precision, which XLA makes slow"
    if not math.isfinite(layers.operations) or not math.isfinite(model.operations_per_example(layers)):
        return False, "the cost of a step is not known, and XLA may be slow to compile it"
    if steps == 1:
        return False, "one step runs at a time: it is long, or a callback looks at each batch"
    if is_by_xla:
        return True, "XLA has compiled the steps for an earlier fit"
    number = arguments.epochs * (arguments.steps_per_epoch or arguments.num_batches)
    if number < _FEWEST_STEPS_BY_XLA:
        return False, f"{number:g} steps are fewer than {_FEWEST_STEPS_BY_XLA}, which repay the time to compile"
    return True, f"{number:g} steps of dense layers in float32 repay the time to compile"


def choose_steps(
    operations: float, steps_per_epoch: int | None, batches: float, callbacks: Iterable[keras.callbacks.Callback]
) -> int:
    """Chooses how many steps to run in one execution, before control returns to Python.

    These are as many as take about a second, so that a progress bar still moves, or one if a callback reads each batch.
    A callback with hooks for batches that only needs to be called once an execution has `reads_each_batch = False`.

    Args:
        operations: the floating-point operations of one step.
        steps_per_epoch: the number of steps in an epoch, of which the result is then a divisor; None if an epoch is one
            pass over the data.
        batches: the number of batches in one pass over the data.
        callbacks: the user's callbacks.
    """
    if any(map(_sees_batches, callbacks)):
        return 1
    most = int(max(1, min(_MOST_STEPS, _OPERATIONS // max(operations, 1.0), batches)))
    if steps_per_epoch is None:
        return most
    return max(count for count in range(1, most + 1) if steps_per_epoch % count == 0)


def _sees_batches(callback: keras.callbacks.Callback) -> bool:
    if not getattr(callback, "reads_each_batch", True):
        return False
    base, own = keras.callbacks.Callback, vars(callback)
    names = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    hooks = [own.get(name, getattr(type(callback), name)) for name in names]
    changed = [hook for name, hook in zip(names, hooks, strict=True) if hook is not getattr(base, name)]
    waits = "epoch" in (getattr(callback, "save_freq", None), getattr(callback, "update_freq", None))
    if waits or isinstance(callback, keras.callbacks.TerminateOnNaN):
        # Such a callback of Keras or tfvae does nothing after a batch, or checks a loss that covers all steps of an
        # execution. A user's subclass may do more, and TensorBoard's profiler records single batches.
        known = all(hook.__module__.split(".")[0] in ("keras", "tfvae") for hook in changed)
        return not known or private_apis.profiles_batches(callback)
    return bool(changed)


class LayerTraits(NamedTuple):
    """The properties of a model's layers that decide whether XLA compiles the model.

    Attributes:
        operations: the floating-point operations per example of one forward pass, counting only products with weights
            of at least two axes. Infinity if they are unknown: for recurrent layers, and for convolutions in a
            subclassed network, whose output shapes are unknown.
        are_dense: whether XLA can compile the layers, and all kernels are those of dense layers.
        are_fast_by_xla: whether the layers run fast with XLA: they are dense, compute in float32, and draw no random
            numbers but by `tfvae.distributions.normal.Normal`, because XLA generates all others slowly.
    """

    operations: float
    are_dense: bool
    are_fast_by_xla: bool

    @classmethod
    def of(cls, layers: Iterable[keras.layers.Layer]) -> "LayerTraits":
        """Collects the traits of some layers.

        Args:
            layers: the layers, which may include the layers that contain them.
        """
        operations, are_dense, are_single, are_random = 0.0, True, True, False
        for layer in layers:
            kernels = [getattr(layer, name) for name in _KERNELS if hasattr(layer, name)]
            if not kernels and type(layer).__module__.split(".")[0] not in ("keras", "tfvae"):
                # A user's own layer may give its weights any names.
                kernels = [each for each in private_apis.own_trainable_variables(layer) if len(each.shape) > 1]
            is_recurrent = hasattr(layer, "recurrent_kernel")
            if kernels:
                operations += sum(2.0 * math.prod(kernel.shape) for kernel in kernels) * _places(layer, kernels)
                are_single &= layer.compute_dtype == "float32"
            are_dense &= layer.supports_jit and not is_recurrent and all(len(kernel.shape) == 2 for kernel in kernels)
            are_random |= hasattr(layer, "seed_generator") or not getattr(layer, "is_fast_by_xla", True)
        return cls(operations, are_dense, are_dense and are_single and not are_random)


def _places(layer: keras.layers.Layer, kernels: list[keras.Variable]) -> float:
    """At how many positions of one example, such as pixels, a layer applies its kernels."""
    if hasattr(layer, "recurrent_kernel"):
        return math.inf
    try:
        # A transposed convolution applies its kernel at each position of its input, any other at each of its output.
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):
        return 1 if all(len(kernel.shape) == 2 for kernel in kernels) else math.inf
    return math.prod(size or 1 for size in shape[1:-1])
