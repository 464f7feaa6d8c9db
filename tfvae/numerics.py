"""Functions in a form that every runtime evaluates right: TensorFlow, XLA, and TFLite in float32 and int8."""

import math
from collections.abc import Callable

import tensorflow as tf

# A softplus that underflows to 0 would make a log-density infinite.
_MIN_SCALE = 1e-6

# The squared length below which a vector in float32 has no direction.
_MIN_SQUARED = 1e-30

# The polynomial of `normal_log_survival`, from its highest power on.
_LOG_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196)
_LOG_ERFC += (1.00002368, -1.26551223)


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)).

    TFLite takes `tf.nn.softplus` literally, which overflows from 89 on, and its int8 form of a sigmoid cross-entropy is
    off by a third. The gradient of the form used here, taken term by term, would be wrong at 0.
    """
    return tf.nn.relu(x) + tf.math.log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


def positive(raw: tf.Tensor) -> tf.Tensor:
    """Turns any number into a scale: 1 where it is 0."""
    return softplus(raw + math.log(math.e - 1)) + _MIN_SCALE


@tf.custom_gradient
def normal_log_survival(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log P(epsilon > x) for epsilon ~ N(0, 1).

    TFLite has neither erf nor erfc. The survival function of |x| is t exp(-x^2 / 2 + polynomial(t)) / 2 with
    t = 1 / (1 + |x| / sqrt(8)), whose relative error is below 1.2e-7 everywhere.

    Reference: Press et al. 1992, Numerical Recipes in C, second edition, section 6.2, erfcc.
    """
    magnitude = tf.abs(x)
    t = 1 / (1 + magnitude / math.sqrt(8))
    polynomial = tf.zeros_like(t)
    for coefficient in _LOG_ERFC:
        polynomial = polynomial * t + coefficient
    tail = tf.math.log(t) - magnitude**2 / 2 + polynomial - math.log(2)
    value = tf.where(x < 0, tf.math.log1p(-tf.exp(tail)), tail)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return -upstream * tf.exp(-(x**2) / 2 - value) / math.sqrt(2 * math.pi)

    return value, gradient


def noise_to_gumbel(epsilon: tf.Tensor) -> tf.Tensor:
    """Maps epsilon ~ N(0, 1) to a standard Gumbel variable: -log(-log P(N(0, 1) < epsilon))."""
    return -tf.math.log(-normal_log_survival(-epsilon))


def unit(x: tf.Tensor) -> tf.Tensor:
    """Divides vectors [..., L] by their length; one of length 0 becomes the first axis, which is on the sphere too."""
    squared = tf.reduce_sum(x**2, axis=-1, keepdims=True)
    return tf.where(
        squared > _MIN_SQUARED, x * tf.math.rsqrt(tf.maximum(squared, _MIN_SQUARED)), first_axis(x.shape[-1])
    )


def first_axis(dim: int) -> tf.Tensor:
    """The vector (1, 0, ..., 0) [dim]."""
    return tf.one_hot(0, dim)
