"""The plan of a `fit`: what Keras is given, how many steps run in one execution, and by which program.

`compile` may leave the last two open. On a CPU XLA makes many steps of dense layers, in one loop, faster than
TensorFlow, but takes seconds to compile; it makes convolutions slower, in JAX too (`benchmarks/training.py`).
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

# Floating-point operations of one execution: about a second of two cores, beside which Python takes no time.
_OPERATIONS = 1e11
_MOST_STEPS = 500
# XLA is used in a training of at least so many steps: it takes some seconds to compile, and saves about a millisecond a
# step.
_FEWEST_STEPS_BY_XLA = 3000
# The weights that a layer of Keras multiplies with its input.
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


class Plan(NamedTuple):
    """How one `fit` runs. It is made before the first step, and from then on only read.

    Attributes:
        arguments: those of `keras.Model.fit`, by name.
        data: arrays in memory, of which the loop of the steps gathers its batches itself; None where Keras's iterator
            yields the batches.
        steps_per_execution: the steps of training between two looks of Python. Evaluation and prediction have what
            `compile` was given.
        by_xla: whether XLA compiles many steps into one program. Where it does not, it may still compile each step by
            itself, as `compile` says.
        why: the reason for that.
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
        progress: where its training is.
        arguments: those of the call.
        is_by_xla: whether XLA has compiled the steps for an earlier `fit`, so that they need no time to compile.
    """
    layers = LayerTraits.of(private_apis.layers_of(model))
    operations = model.operations_per_example(layers)
    steps = model.steps_per_execution
    # All of several workers must take as many steps.
    if steps == 1 and not model.run_eagerly and strategies.workers(model.distribute_strategy)[1] == 1:
        per_epoch, number = arguments.steps_per_epoch, arguments.num_batches
        steps = choose_steps(arguments.rows * operations, per_epoch, number, arguments.callbacks)
    by_xla, why = _choose_xla(model, layers, steps, arguments, is_by_xla)
    x, data, batches_per_epoch = _source(model, arguments, steps)
    callbacks: Any = resume.with_callbacks_of_fit(model, progress, arguments, batches_per_epoch)
    if arguments.callback_list is not None:
        # A copy, because the user's own has what the user put into it.
        given, callbacks = callbacks, copy.copy(arguments.callback_list)
        callbacks.callbacks = given
        callbacks.set_model(model)
    return Plan({**arguments.others, "x": x, "callbacks": callbacks}, data, steps, by_xla, why)


def _source(model: Any, arguments: FitArguments, steps: int) -> tuple[Any, ArraysInMemory | None, int | None]:
    """What Keras is given as x; the data where the loop takes its batches itself; and the batches of an epoch, or None.

    The batches of an epoch are None where an epoch is a pass over the data.
    """
    x, per_epoch = arguments.x, arguments.steps_per_epoch
    if isinstance(x, ArraysInMemory):
        # A strategy would divide the data, and a device other than the CPU have them copied for each execution.
        is_plain = private_apis.strategy_of(model) is None and not tf.config.get_visible_devices("GPU")
        if is_plain and per_epoch is None and not model.run_eagerly and arguments.others.get("class_weight") is None:
            # Keras counts the batches of an epoch by this dataset; the loop does not read it.
            return tf.data.Dataset.range(len(x)), x, None
        x = x.dataset()
    if per_epoch is None:
        return x, None, None
    # Keras runs whole executions where the data do not end.
    per_epoch = math.ceil(per_epoch / steps) * steps
    if arguments.num_batches <= per_epoch:
        return x, None, None
    # Keras repeats a dataset likewise, but in a resumed epoch would be mistaken in where the data end.
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
    """How many steps to run in one execution, between two looks of Python.

    As many as take about a second, so that a progress bar still moves; but one at a time where a callback looks at each
    batch.

    Args:
        operations: the floating-point operations of one step.
        steps_per_epoch: where an epoch is no pass over the data, its steps, which executions must divide; else None.
        batches: how many the data have.
        callbacks: those of the user.
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
        # They do nothing after a batch, or see the loss of all steps of an execution; a subclass may do more, and a
        # profile is of single batches.
        known = all(hook.__module__.split(".")[0] in ("keras", "tfvae") for hook in changed)
        return not known or private_apis.profiles_batches(callback)
    return bool(changed)


class LayerTraits(NamedTuple):
    """What the choice of a program depends on in the layers of a model.

    Attributes:
        operations: the floating-point operations for one example, forward: those of products with weights of two axes
            or more. Infinity where they are not known: with recurrent layers, and with convolutions in a network that
            is no graph of layers, whose shapes are not known.
        are_dense: whether XLA can compile the layers, and the only kernels are those of dense layers.
        are_fast_by_xla: whether XLA makes them fast: dense ones in float32, without random numbers, of which XLA makes
            all but ours slowly.
    """

    operations: float
    are_dense: bool
    are_fast_by_xla: bool

    @classmethod
    def of(cls, layers: Iterable[keras.layers.Layer]) -> "LayerTraits":
        """Those of some layers.

        Args:
            layers: the layers, and perhaps those that hold them.
        """
        operations, are_dense, are_single, are_random = 0.0, True, True, False
        for layer in layers:
            kernels = [getattr(layer, name) for name in _KERNELS if hasattr(layer, name)]
            if not kernels and type(layer).__module__.split(".")[0] not in ("keras", "tfvae"):
                # A layer of a user's own may give its weights any names.
                kernels = [each for each in private_apis.own_trainable_variables(layer) if len(each.shape) > 1]
            is_recurrent = hasattr(layer, "recurrent_kernel")
            if kernels:
                operations += sum(2.0 * math.prod(kernel.shape) for kernel in kernels) * _places(layer, kernels)
                are_single &= layer.compute_dtype == "float32"
            are_dense &= layer.supports_jit and not is_recurrent and all(len(kernel.shape) == 2 for kernel in kernels)
            are_random |= hasattr(layer, "seed_generator") or not getattr(layer, "is_fast_by_xla", True)
        return cls(operations, are_dense, are_dense and are_single and not are_random)


def _places(layer: keras.layers.Layer, kernels: list[keras.Variable]) -> float:
    """At how many places of one example a layer applies its kernels."""
    if hasattr(layer, "recurrent_kernel"):
        return math.inf
    try:
        # A transposed convolution applies it at each place of its input.
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):
        return 1 if all(len(kernel.shape) == 2 for kernel in kernels) else math.inf
    return math.prod(size or 1 for size in shape[1:-1])
