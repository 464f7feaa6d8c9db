"""Sequences whose steps are computed one after the other: what a decoder is shown, and the loop that generates them."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae.models import parts
from tfvae.networks.stepwise import NotStepwiseError, Stepwise, stepwise
from tfvae.numerics import is_number

# Computes a step [B, C] from the parameters of its distribution [B, P] and its number.
Draw = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# How far outputs may differ by rounding, relative to their size.
_ROUNDING = 1e-4


def previous(x: tf.Tensor) -> tf.Tensor:
    """The steps before those of x [B, T, C]: x shifted by one, with NaN before the first."""
    return tf.concat([tf.fill(tf.shape(x[:, :1]), np.float32(np.nan)), x[:, :-1]], axis=1)


def dropped(before: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """The steps before [B, T, C], of which each is replaced by NaN with the probability `rate`."""
    shape = tf.concat([tf.shape(before)[:2], [1]], axis=0)
    return tf.where(tf.random.stateless_uniform(shape, seed) < rate, np.float32(np.nan), before)


def ended(sequences: tf.Tensor, end: int) -> tf.Tensor:
    """Sequences of codes [B, T, 1] with NaN after the first code of the end."""
    is_end = tf.cast(sequences == end, tf.int32)
    return tf.where(tf.cumsum(is_end, axis=1, exclusive=True) > 0, np.float32(np.nan), sequences)


def checked_causal(decoder: keras.Model, z: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Checks that what a decoder gives at a step depends on the steps before it alone.

    Args:
        decoder: the decoder.
        z: latent variables [B, L].
        before: the steps before, as data show them [B, T, C], T at least 1.

    Returns:
        The outputs of the decoder [B, T, P].

    Raises:
        ValueError: what it gives at some step changes with a later one.
    """
    length = before.shape[1]
    outputs = np.asarray(decoder([z, before], training=False), np.float32)
    # One row for each step, in which nothing after this step is shown.
    rows = np.arange(length) % len(z)
    is_later = np.arange(length) > np.arange(length)[:, np.newaxis]
    hidden = np.where(is_later[..., np.newaxis], np.float32(np.nan), before[rows])
    with parts.moved_weights(decoder):
        shown, unseen = (
            np.asarray(decoder([z[rows], each], training=False), np.float32) for each in (before[rows], hidden)
        )
    changes = np.abs(unseen - shown).max(axis=-1)
    leaks = ~is_later & ~(changes <= _ROUNDING * np.abs(shown).max())
    if leaks.any():
        last, step = np.argwhere(leaks)[0]
        raise ValueError(
            "`decoder` must compute its output at a step from the steps before alone: it is given x shifted by one, so "
            "that recurrent layers, convolutions with padding='causal' and attention with use_causal_mask=True do so. "
            f"Received: a decoder whose output at step {step} changes by {changes[last, step]:.3g} with what it is "
            f"given after step {last}"
        )
    return outputs


def one_step_of(decoder: keras.Model) -> Stepwise | None:
    """The decoder for one step at a time; None for one of which no state of fixed size is known, as with attention."""
    try:
        return stepwise(decoder)
    except NotStepwiseError:
        return None


def generated(
    decoder: keras.Model,
    one_step: Stepwise | None,
    z: tf.Tensor,
    length: int,
    channels: int,
    draw: Draw,
    end: int | None,
) -> tf.Tensor:
    """Computes sequences step by step, each step from those before it.

    Args:
        decoder: a network from z and the steps before to the parameters of each step: see `AutoregressiveVAE`.
        one_step: the same for one step at a time; None computes all steps anew for each, so that the cost grows with
            the square of the length.
        z: the latent variables [B, L].
        length: T.
        channels: C.
        draw: computes a step.
        end: the code after which a sequence has ended; None if there is none.

    Returns:
        The sequences [B, T, C]; after its end a sequence goes on with the code of the end.
    """
    places = tf.reshape(tf.range(length), [1, -1, 1])
    # Not by `tf.fill`, whose shape a device would have to compute.
    zero = 0.0 * z[:, :1]
    unseen = zero[:, :, tf.newaxis] + np.full([1, length, channels], np.nan, np.float32)
    if one_step is None:
        carried = [unseen]
    else:
        # States of zeros have one row, to which the others are added.
        starts = one_step.initial_state(1, z)
        carried = [each + tf.reshape(tf.cast(zero, each.dtype), [-1, *(1 for _ in each.shape[1:])]) for each in starts]

    def parameters_of(t: tf.Tensor, last: tf.Tensor, carried: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if one_step is not None:
            return one_step(last, carried, z)
        before = tf.where(places == t, last[:, tf.newaxis], carried[0])
        return tf.gather(decoder([z, before], training=False), t, axis=1), [before]

    def body(
        t: tf.Tensor, last: tf.Tensor, made: tf.Tensor, goes_on: tf.Tensor, carried: list[tf.Tensor]
    ) -> tuple[Any, ...]:
        parameters, after = parameters_of(t, last, carried)
        step = draw(parameters, t)
        if end is not None:
            step = tf.where(goes_on > 0, step, float(end))
            goes_on = tf.where(step == end, 0.0, goes_on)
        after = [tf.ensure_shape(new, old.shape) for new, old in zip(after, carried, strict=True)]
        return t + 1, step, tf.where(places == t, step[:, tf.newaxis], made), goes_on, after

    def is_unfinished(t: tf.Tensor, last: Any, made: Any, goes_on: tf.Tensor, carried: Any) -> tf.Tensor:
        return (t < length) & (tf.reduce_max(goes_on) > 0)

    made = tf.where(is_number(unseen), unseen, float(end or 0))
    state = (tf.constant(0), unseen[:, 0], made, zero + 1, carried)
    shapes = tf.nest.map_structure(lambda each: tf.TensorShape(each.shape), state)
    return tf.while_loop(is_unfinished, body, state, shape_invariants=shapes, maximum_iterations=length)[2]
