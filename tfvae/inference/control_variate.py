"""A control variate for batches: the error of a batch's log-likelihood is known at one fixed point, and subtracted.

The log-likelihood of a batch of B rows, scaled by N / B, has a gradient whose noise, on the scale of the posterior,
grows as sqrt(N / B): with a million rows and small batches the iterates hardly settle. But at a point z0 near the
posterior the sum over all rows is known from one pass, and on the scale of the posterior the log-likelihood of each row
is nearly linear around z0. So

    log p(batch | z) + d(z0) + (z - z0)^T grad d(z0),  d(z0) = log p(data | z0) - log p(batch | z0)

has the same mean over batches, and its noise vanishes as N grows.

Reference: Baker et al. 2019, Control Variates for Stochastic Gradient MCMC, section 3.1; Johnson & Zhang 2013,
Accelerating Stochastic Gradient Descent using Predictive Variance Reduction, section 2.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae.inference import newton

# The most passes over the data in `recentre`.
_MAX_PASSES = 6
# The expected gain of a step, in nats, below which the point is near enough to the mode.
_SMALL_GAIN = 0.1


class AtPoint(NamedTuple):
    """A log-likelihood at one point.

    Attributes:
        point: z0 [L].
        value: log p(data | z0), in nats.
        gradient: its gradient [L].
    """

    point: np.ndarray
    value: float
    gradient: np.ndarray


class ControlVariate(keras.layers.Layer):
    """The fixed point z0, and the log-likelihood of all of the data there, as weights that are not trained.

    Args:
        dim: L.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        point: z0 [L].
        value: log p(data | z0), in nats.
        gradient: its gradient [L].
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        frozen = {"dtype": self.variable_dtype, "trainable": False, "autocast": False, "initializer": "zeros"}
        self.point = self.add_weight(name="point", shape=(dim,), **frozen)
        self.value = self.add_weight(name="value", shape=(), **frozen)
        self.gradient = self.add_weight(name="gradient", shape=(dim,), **frozen)
        self.built = True

    def correction(self, z: tf.Tensor, log_likelihood: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Computes what to add to the log-likelihood of a batch at z, d(z0) + (z - z0)^T grad d(z0).

        Args:
            z: points [S, L].
            log_likelihood: maps a point [1, L] to the log-likelihood [1] of the batch, scaled to all of the data.

        Returns:
            The correction [S], in nats, whose mean over batches is 0.
        """
        point = self.point.value[tf.newaxis]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            value = log_likelihood(point)
        difference = self.gradient - tf.stop_gradient(tape.gradient(value, point))
        return tf.stop_gradient(self.value - value) + tf.reduce_sum((z - point) * difference, axis=-1)

    def set(self, at_point: AtPoint) -> None:
        """Sets the fixed point, and the log-likelihood of all of the data there."""
        self.point.assign(at_point.point)
        self.value.assign(at_point.value)
        self.gradient.assign(at_point.gradient)


def of_all_rows(
    log_likelihood: Callable[[tf.Tensor, Any], tf.Tensor],
    batches: Callable[[], Iterable[Any]],
    dtype: tf.DType = tf.float32,
) -> Callable[[np.ndarray], AtPoint]:
    """Makes a function that evaluates the log-likelihood of all of the data at a point [L], in one pass over batches.

    Args:
        log_likelihood: maps z [1, L] and some rows to log p(rows | z) [1], in nats.
        batches: returns an iterable over all of the data, in batches.
        dtype: that of z.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def of_batch(z: tf.Tensor, rows: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = log_likelihood(z, rows)
        return value[0], tape.gradient(value, z)[0]

    def evaluate(point: np.ndarray) -> AtPoint:
        z = tf.constant(point[np.newaxis], dtype)
        value, gradient = 0.0, np.zeros(len(point))
        for rows in batches():
            part, slope = of_batch(z, rows)
            value, gradient = value + float(part), gradient + slope.numpy()
        return AtPoint(point, value, gradient)

    return evaluate


def recentre(
    gaussian: newton.Gaussian,
    evaluate: Callable[[np.ndarray], AtPoint],
    log_prior: Callable[[tf.Tensor], tf.Tensor],
    dtype: tf.DType = tf.float32,
) -> newton.Gaussian:
    """Moves a Gaussian, found from a part of the data, to the mode of the posterior given all of the data.

    Takes Newton steps with the curvature of the Gaussian, which stays as it is. Each step is a pass over the data.

    Args:
        gaussian: a Gaussian near the posterior.
        evaluate: a function made by `of_all_rows`.
        log_prior: maps z [1, L] to log p(z) [1], in nats.
        dtype: that of z.
    """

    def with_prior(point: np.ndarray) -> AtPoint:
        at_point, z = evaluate(point), tf.constant(point[np.newaxis], dtype)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = log_prior(z)
        gradient = tape.gradient(value, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return AtPoint(point, at_point.value + float(value[0]), at_point.gradient + gradient.numpy()[0])

    scale = gaussian.scale if gaussian.scale.ndim == 2 else np.diag(gaussian.scale)
    best, length = with_prior(gaussian.loc), 1.0
    for _ in range(_MAX_PASSES):
        slope = scale.T @ best.gradient
        if not np.isfinite(slope).all() or 0.5 * slope @ slope < _SMALL_GAIN:
            break
        trial = with_prior(best.point + length * (scale @ slope))
        best, length = (trial, length) if trial.value > best.value else (best, length / 4.0)
    return gaussian._replace(loc=best.point)
