"""Loops over the steps of sequences, and the steps that count."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfvae.numerics import is_number

_Tensors = tuple[tf.Tensor, ...]


def scan(
    step: Callable[..., tuple[_Tensors, _Tensors]],
    state: _Tensors,
    elements: Sequence[tf.Tensor],
    like: Sequence[tf.DType | tf.Tensor],
) -> tuple[_Tensors, _Tensors]:
    """Runs a function on one step after the other, each time with the state that it returned for the step before.

    Args:
        step: a function of the state and the elements of one step `[R, ...]`, which returns the new state and the
            outputs of the step.
        state: the state before the first step.
        elements: tensors `[R, T, ...]`; those that have no axis of rows come as `[1, T, ...]`.
        like: for each output its dtype, or a tensor of its dtype and shape, which TFLite must know.

    Returns:
        The state after the last step, and the outputs of all steps, each `[R, T, ...]`.
    """
    number = tf.shape(elements[0])[1]
    # Arrays, because the gradient of a slice of a tensor would be as large as the tensor, at each step.
    given = [
        tf.TensorArray(each.dtype, number, element_shape=each.shape[:1] + each.shape[2:]).unstack(_swapped(each))
        for each in elements
    ]
    arrays = tuple(
        tf.TensorArray(each.dtype, number, element_shape=each.shape)
        if isinstance(each, tf.Tensor)
        else tf.TensorArray(each, number)
        for each in like
    )

    def body(t: tf.Tensor, state: _Tensors, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        new, outputs = step(state, *(each.read(t) for each in given))
        new = tuple(tf.ensure_shape(after, before.shape) for after, before in zip(new, state, strict=True))
        written = (array.write(t, output) for array, output in zip(arrays, outputs, strict=True))
        return t + 1, new, tuple(written)

    # XLA needs to know how often the loop runs, for its gradient.
    _, state, arrays = tf.while_loop(
        lambda t, *_: t < number, body, (tf.constant(0), tuple(state), arrays), maximum_iterations=number
    )
    return state, tuple(_swapped(array.stack()) for array in arrays)


def is_step(x: tf.Tensor) -> tf.Tensor:
    """Which steps of sequences x [B, T, ...] are not padding, bool [B, T]: those up to the last with a number in it."""
    return until_last(is_number(x))


def until_last(is_observed: tf.Tensor) -> tf.Tensor:
    """Which steps [B, T] are not after the last one of which anything is observed, bool [B, T, ...]."""
    observed = tf.reduce_any(is_observed, axis=list(range(2, len(is_observed.shape))))
    return tf.cumsum(tf.cast(observed, tf.int32), axis=1, reverse=True) > 0


def before(sequences: tf.Tensor) -> tf.Tensor:
    """What was at the step before, of sequences [R, T, ...]: zeros before the first one."""
    return tf.concat([tf.zeros_like(sequences[:, :1]), sequences[:, :-1]], axis=1)


def folded(sequences: tf.Tensor) -> tf.Tensor:
    """Sequences [R, T, ...] as steps [R * T, ...]."""
    return tf.reshape(sequences, [-1, *sequences.shape[2:]])


def unfolded(steps: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Steps [R * T, ...] as sequences [R, T, ...], as many and as long as those of another tensor [R, T, ...]."""
    # Not by -1, which is not known where there are no rows.
    return tf.reshape(steps, [*tf.unstack(tf.shape(like)[:2]), *steps.shape[1:]])


def _swapped(x: tf.Tensor) -> tf.Tensor:
    """The tensor with its first two axes exchanged."""
    return tf.transpose(x, [1, 0, *range(2, len(x.shape))])
