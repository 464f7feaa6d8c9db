"""A log density of an unconstrained vector, with its derivatives, each traced once for any number of points."""

import abc
from collections.abc import Callable

import numpy as np
import tensorflow as tf


class Density(abc.ABC):
    """What gives a log density and its derivatives as `LogDensity` does."""

    dim: int
    dtype: tf.DType
    epsilon: float

    @abc.abstractmethod
    def __call__(self, z: np.ndarray) -> np.ndarray:
        """See `LogDensity`."""

    @abc.abstractmethod
    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `LogDensity`."""


class LogDensity(Density):
    """A log density that takes and returns arrays in double precision, and is computed in a precision of its own.

    Args:
        function: maps z [S, L] to the log density [S] in nats, up to a constant; twice differentiable.
        dim: L.
        dtype: the precision in which `function` computes.

    Attributes:
        function: the argument.
        dim: the argument.
        dtype: the argument.
        epsilon: the spacing of the numbers of that precision around 1.
    """

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor], dim: int, dtype: tf.DType = tf.float32) -> None:
        self.function = function
        self.dim = dim
        self.dtype = dtype
        self.epsilon = float(np.finfo(dtype.as_numpy_dtype).eps)
        points = tf.TensorSpec([None, dim], dtype)
        # Without a signature, each number of points would be traced, which takes longer than to evaluate them.
        self._values = tf.function(function, input_signature=[points], autograph=False)
        self._derivatives = tf.function(self._differentiate, input_signature=[points, points], autograph=False)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Evaluates the log density [S] at z [S, L]."""
        return self._values(tf.constant(z, self.dtype)).numpy().astype(float)

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluates the log density [S], its gradient [S, L] and the product [S, L] of its Hessian with a direction.

        Args:
            z: the points [S, L].
            directions: one direction for each point [S, L].
        """
        found = self._derivatives(tf.constant(z, self.dtype), tf.constant(directions, self.dtype))
        return tuple(each.numpy().astype(float) for each in found)

    def _differentiate(self, z: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Reverse mode twice works for every op that has a gradient.
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                values = self.function(z)
            gradients = inner.gradient(values, z)
            along = tf.reduce_sum(gradients * directions, axis=-1)
        products = outer.gradient(along, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return values, gradients, products
