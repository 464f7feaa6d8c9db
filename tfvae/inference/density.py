"""A log density of an unconstrained vector, with its derivatives, each traced once for any number of points."""

import abc
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfvae import graphs

# With more dimensions, a whole Hessian is not computed, and one point is differentiated at a time.
_FULL_DIM, _FEWEST_ROWS = 500, 32


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
        # Without a signature, each number of points would be traced, which takes longer than to evaluate them. The
        # derivatives take a fixed number of points, that of the columns of a Hessian: with an unknown one they have
        # half as many operations again.
        self._rows = max(dim, _FEWEST_ROWS) if dim <= _FULL_DIM else 1
        points, rows = tf.TensorSpec([None, dim], dtype), tf.TensorSpec([self._rows, dim], dtype)
        self._values = graphs.graph(function, input_signature=[points])
        self._derivatives = graphs.graph(self._differentiate, input_signature=[rows, rows])

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Evaluates the log density [S] at z [S, L]."""
        return self._values(tf.constant(z, self.dtype)).numpy().astype(float)

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluates the log density [S], its gradient [S, L] and the product [S, L] of its Hessian with a direction.

        Args:
            z: the points [S, L].
            directions: one direction for each point [S, L].
        """
        count, found = len(z), []
        missing = -count % self._rows
        z, directions = (np.concatenate([each, np.repeat(each[-1:], missing, axis=0)]) for each in (z, directions))
        for start in range(0, len(z), self._rows):
            part = slice(start, start + self._rows)
            outputs = self._derivatives(tf.constant(z[part], self.dtype), tf.constant(directions[part], self.dtype))
            found.append([each.numpy().astype(float) for each in outputs])
        values, gradients, products = (np.concatenate(each)[:count] for each in zip(*found, strict=True))
        return values, gradients, products

    def _differentiate(self, z: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return differentiate(self.function, z, directions)


def differentiate(
    function: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor, directions: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A log density [S] at z [S, L], its gradient [S, L] and the product [S, L] of its Hessian with a direction each.

    Args:
        function: the log density.
        z: the points.
        directions: the directions [S, L].
    """
    # Reverse mode twice works for every op that has a gradient.
    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as inner:
            inner.watch(z)
            values = function(z)
        gradients = inner.gradient(values, z)
        along = tf.reduce_sum(gradients * directions, axis=-1)
    products = outer.gradient(along, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return values, gradients, products
