"""How many steps run in one execution, where `compile` leaves it open."""

import math
from collections.abc import Iterable

import keras

# Floating-point operations of one execution: about a second of two cores, beside which Python takes no time.
_OPERATIONS = 1e11
_MOST_STEPS = 500


def operations(layers: Iterable[keras.layers.Layer]) -> float:
    """The floating-point operations that layers take for one example, forward.

    Those of dense and convolutional layers. Of a convolution in a network that is no graph of layers, whose shapes are
    not known, it counts those of one place.

    Args:
        layers: the layers, without those that hold others.
    """
    return sum(2.0 * math.prod(layer.kernel.shape) * _places(layer) for layer in layers if hasattr(layer, "kernel"))


def _places(layer: keras.layers.Layer) -> int:
    """At how many places of one example a layer applies its kernel."""
    try:
        # A transposed convolution applies it at each place of its input.
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):
        return 1
    return math.prod(size or 1 for size in shape[1:-1])


def steps(operations: float, steps_per_epoch: int | None, callbacks: Iterable[keras.callbacks.Callback]) -> int:
    """How many steps to run in one execution, between two looks of Python.

    As many as take about a second, so that a progress bar still moves; but one at a time where a callback looks at each
    batch.

    Args:
        operations: the floating-point operations of one step.
        steps_per_epoch: where an epoch is no pass over the data, its steps, which executions must divide; else None.
        callbacks: those of `fit`.
    """
    if any(map(_sees_batches, callbacks)):
        return 1
    most = int(max(1, min(_MOST_STEPS, _OPERATIONS // max(operations, 1.0))))
    if steps_per_epoch is None:
        return most
    return max(count for count in range(1, most + 1) if steps_per_epoch % count == 0)


def _sees_batches(callback: keras.callbacks.Callback) -> bool:
    if isinstance(callback, keras.callbacks.TerminateOnNaN):
        # It sees the loss of all steps of an execution.
        return False
    if "epoch" in (getattr(callback, "save_freq", None), getattr(callback, "update_freq", None)):
        return False
    base = keras.callbacks.Callback
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    return any(hook in vars(callback) or getattr(type(callback), hook) is not getattr(base, hook) for hook in hooks)
