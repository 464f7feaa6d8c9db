"""A control variate for batches: the error of a batch's log-likelihood is known at one fixed point, and subtracted.

The log-likelihood of a batch of B rows, scaled by N / B, has a gradient whose noise, on the scale of the posterior,
grows as sqrt(N / B): with a million rows and small batches the iterates hardly settle. But at a point z0 near the
posterior the sum over all rows is known from one pass, and on the scale of the posterior the log-likelihood of each row
is nearly linear around z0. So

    log p(batch | z) + d(z0) + (z - z0)^T grad d(z0),  d(z0) = log p(data | z0) - log p(batch | z0)

has the same mean over batches, and its noise vanishes as N grows.

Where the coordinates are many and each row tells only of a few of them, as in groups, the quadratic terms of a batch
have much noise too: of most groups it holds no row. If the sparse Hessian at z0 is known, these terms are subtracted
and added in the same way.

Reference: Baker et al. 2019, Control Variates for Stochastic Gradient MCMC, section 3.1; Johnson & Zhang 2013,
Accelerating Stochastic Gradient Descent using Predictive Variance Reduction, section 2.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import graphs
from tfvae.distributions.conditional_chain import linear
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


class Curvature(NamedTuple):
    """The Hessian of a log-likelihood at one point, where it is banded but for some rows and columns.

    Attributes:
        order: the places in z [L] of the G variables of these rows, and then of the other N.
        full: [G, G].
        cross: [G, N].
        band: [W + 1, N]; row k and column j hold the element (j + k, j).
    """

    order: np.ndarray
    full: np.ndarray
    cross: np.ndarray
    band: np.ndarray


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
        # Set past Keras's `__setattr__`: it is found anew at each fit, and so need not be saved.
        self.__dict__["_curvature"] = None

    def correction(self, z: tf.Tensor, log_likelihood: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Computes what to add to the log-likelihood of a batch at z, d(z0) + (z - z0)^T grad d(z0).

        Args:
            z: points [S, L].
            log_likelihood: maps a point [1, L] to the log-likelihood [1] of the batch, scaled to all of the data.

        Returns:
            The correction [S], in nats, whose mean over batches is 0.
        """
        point = self.point.value[tf.newaxis]
        quadratic = 0.0 if self._curvature is None else self._quadratic(z - point, point, log_likelihood)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            value = log_likelihood(point)
        difference = self.gradient - tf.stop_gradient(tape.gradient(value, point))
        return tf.stop_gradient(self.value - value) + tf.reduce_sum((z - point) * difference, axis=-1) + quadratic

    def _quadratic(
        self, moves: tf.Tensor, point: tf.Tensor, log_likelihood: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """The quadratic terms [S] of all data, minus those of the batch, at moves [S, L] from the fixed point."""
        fixed = tf.stop_gradient(moves)
        points = tf.repeat(point, moves.shape[0], axis=0)
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(points)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(points)
                values = log_likelihood(points)
            along = tf.reduce_sum(inner.gradient(values, points) * fixed, axis=-1)
        product = outer.gradient(along, points, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        change = tf.stop_gradient(self._times_curvature(fixed) - product)
        # Its value is moves^T change / 2, and its gradient change.
        return tf.reduce_sum((moves - 0.5 * fixed) * change, axis=-1)

    def _times_curvature(self, moves: tf.Tensor) -> tf.Tensor:
        """Multiplies moves [S, L] by the Hessian."""
        order, full, cross, band = self._curvature
        size = full.shape[0]
        moves = tf.gather(moves, order, axis=1)
        first, rest = moves[:, :size], moves[:, size:]
        product = band[0] * rest + linear(first, tf.transpose(cross))
        for k in range(1, band.shape[0]):
            below = band[k, :-k]
            product += tf.pad(below * rest[:, :-k], [[0, 0], [k, 0]]) + tf.pad(below * rest[:, k:], [[0, 0], [0, k]])
        product = tf.concat([linear(first, full) + linear(rest, cross), product], axis=1)
        return tf.gather(product, tf.argsort(order), axis=1)

    def set(self, at_point: AtPoint, curvature: Curvature | None = None) -> None:
        """Sets the fixed point, and the log-likelihood of all of the data there, perhaps with its Hessian."""
        if curvature is not None and self._curvature is None:
            dtypes = (tf.int32, *(3 * [self.variable_dtype]))
            variables = [
                tf.Variable(tf.cast(part, dtype), trainable=False)
                for part, dtype in zip(curvature, dtypes, strict=True)
            ]
            self.__dict__["_curvature"] = Curvature(*variables)
        elif curvature is not None:
            for variable, part in zip(self._curvature, curvature, strict=True):
                variable.assign(tf.cast(part, variable.dtype))
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

    @functools.partial(graphs.graph, reduce_retracing=True)
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
