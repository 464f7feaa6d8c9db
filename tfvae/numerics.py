"""Functions in a form that every runtime evaluates right: TensorFlow, XLA, and TFLite in float32 and int8."""

from collections.abc import Callable

import tensorflow as tf


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)).

    TFLite takes `tf.nn.softplus` literally, which overflows from 89 on, and its int8 form of a sigmoid cross-entropy is
    off by a third. The gradient of the form used here, taken term by term, would be wrong at 0.
    """
    return tf.nn.relu(x) + tf.math.log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


@tf.custom_gradient
def scale_of(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)) with as many digits where it is near 0, for what is divided by it."""
    return tf.nn.relu(x) + log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


def log1p(x: tf.Tensor) -> tf.Tensor:
    """Computes log(1 + x), near 0 by its Taylor series: TFLite takes `tf.math.log1p` literally."""
    is_small = tf.abs(x) < 0.1
    small = tf.where(is_small, x, 0.0)
    series = tf.ones_like(small) / 8
    for order in range(7, 0, -1):
        series = 1 / order - small * series
    return tf.where(is_small, small * series, tf.math.log1p(tf.where(is_small, 0.1, x)))


def log1mexp(x: tf.Tensor) -> tf.Tensor:
    """Computes log(1 - exp(-x)) for x > 0, near 0 by the series of log(2 sinh(x / 2)) - x / 2."""
    is_small = x < 0.5
    small = tf.where(is_small, x, 0.5)
    square = small**2
    series = tf.math.log(small) - small / 2 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
    return tf.where(is_small, series, tf.math.log(1 - tf.exp(-tf.where(is_small, 0.5, x))))


def log_rising(x: tf.Tensor, start: tf.Tensor | float) -> tf.Tensor:
    """Computes log Gamma(start + x) - log Gamma(start), the logarithm of a rising factorial.

    By Stirling's series at start + 3, where four terms of it suffice for float32, and the recurrence from there to
    start. The difference of two `tf.math.lgamma` would lose its digits where start is large; and TFLite has none.

    Args:
        x: at least 0.
        start: above 0.

    Reference: Abramowitz & Stegun 1964, Handbook of Mathematical Functions, equations 6.1.16 and 6.1.41.
    """
    shifted = start + 3.0
    rise = (start + 2.5) * log1p(x / shifted) + x * (tf.math.log(x + shifted) - 1)
    rise += _stirling(x + shifted) - _stirling(shifted)
    return rise - log1p(x / start) - log1p(x / (start + 1.0)) - log1p(x / (start + 2.0))


def log_gamma(x: tf.Tensor) -> tf.Tensor:
    """Computes log Gamma(x) for x > 0, in ops that TFLite has."""
    return log_rising(x, 1.0) - tf.math.log(x)


def _stirling(x: tf.Tensor | float) -> tf.Tensor:
    """The series of log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2."""
    inverse = 1 / x
    square = inverse**2
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


class LowRankRoot(tf.linalg.LinearOperator):
    """A matrix T [..., L, L] with T T^T = diag(scale^2) + V V^T, in O(L rank^2).

    T = diag(scale) (I + W (I + K)^-1 W^T), where W = V / scale and K K^T = I + W^T W by Cholesky. TFP's own operator
    has a gradient that XLA cannot compile where B is not known.

    Args:
        scale: [..., L].
        factor: V [..., L, rank].
    """

    def __init__(self, scale: tf.Tensor, factor: tf.Tensor) -> None:
        parameters = {"scale": scale, "factor": factor}
        super().__init__(scale.dtype, is_non_singular=True, is_square=True, parameters=parameters)
        self.scale = scale[..., tf.newaxis]
        self.w = factor / self.scale
        self.identity = tf.eye(factor.shape[-1])
        self.root = tf.linalg.cholesky(self.identity + tf.matmul(self.w, self.w, transpose_a=True))

    def _shape(self) -> tf.TensorShape:
        return self.w.shape[:-1].concatenate(self.w.shape[-2:-1])

    def _shape_tensor(self) -> tf.Tensor:
        shape = tf.shape(self.w)
        return tf.concat([shape[:-1], shape[-2:-1]], axis=0)

    def _matmul(self, x: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        x = tf.linalg.adjoint(x) if adjoint_arg else x
        x = self.scale * x if adjoint else x
        inner = tf.linalg.triangular_solve(
            self.identity + self.root, tf.matmul(self.w, x, transpose_a=True), adjoint=adjoint
        )
        x += tf.matmul(self.w, inner)
        return x if adjoint else self.scale * x

    def _solve(self, rhs: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        # The inverse is (I - W (I + K^T)^-1 K^-1 W^T) / scale.
        rhs = tf.linalg.adjoint(rhs) if adjoint_arg else rhs
        rhs = rhs if adjoint else rhs / self.scale
        factors = [(self.root, False), (self.identity + self.root, True)]
        inner = tf.matmul(self.w, rhs, transpose_a=True)
        for matrix, transpose in reversed(factors) if adjoint else factors:
            inner = tf.linalg.triangular_solve(matrix, inner, adjoint=transpose != adjoint)
        rhs -= tf.matmul(self.w, inner)
        return rhs / self.scale if adjoint else rhs

    def _log_abs_determinant(self) -> tf.Tensor:
        return tf.reduce_sum(tf.math.log(self.scale), [-2, -1]) + tf.reduce_sum(
            tf.math.log(tf.linalg.diag_part(self.root)), -1
        )
