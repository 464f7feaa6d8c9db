"""Functions in a form that every runtime evaluates right: TensorFlow, XLA, and TFLite in float32 and int8."""

import math
from collections.abc import Callable

import tensorflow as tf


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)).

    TFLite takes `tf.nn.softplus` literally, which overflows from 89 on, and its int8 form of a sigmoid cross-entropy is
    off by a third. The gradient of the form used here, taken term by term, would be wrong at 0.
    """
    return tf.nn.relu(x) + tf.math.log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


def normal_cdf(x: tf.Tensor) -> tf.Tensor:
    """The distribution function of N(0, 1), right to the digits of float32 where it is near 0 too.

    TFLite has neither erf nor erfc.

    Reference: Press et al. 1992, Numerical Recipes in C, section 6.2, the Chebyshev fit of erfc.
    """
    magnitude = tf.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.5 * magnitude)
    exponent = _polynomial(t, _ERFC)
    tail = 0.5 * t * tf.exp(exponent - magnitude**2)
    return tf.where(x < 0, tail, 1 - tail)


def normal_quantile(p: tf.Tensor) -> tf.Tensor:
    """The inverse of `normal_cdf`, for p from 1e-7 to 1 - 1e-7.

    Reference: Giles 2010, Approximating the erfinv Function, table 5.
    """
    x = 2 * p - 1
    w = -tf.math.log(4 * p * (1 - p))
    central = _polynomial(tf.minimum(w, 5.0) - 2.5, _ERFINV_CENTRAL)
    tail = _polynomial(tf.sqrt(tf.maximum(w, 5.0)) - 3, _ERFINV_TAIL)
    return math.sqrt(2) * x * tf.where(w < 5, central, tail)


# From the constant term on.
_ERFC = (
    -1.26551223,
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)
_ERFINV_CENTRAL = (
    1.50140941,
    0.246640727,
    -0.00417768164,
    -0.00125372503,
    0.00021858087,
    -4.39150654e-06,
    -3.5233877e-06,
    3.43273939e-07,
    2.81022636e-08,
)
_ERFINV_TAIL = (
    2.83297682,
    1.00167406,
    0.00943887047,
    -0.0076224613,
    0.00573950773,
    -0.00367342844,
    0.00134934322,
    0.000100950558,
    -0.000200214257,
)


def _polynomial(x: tf.Tensor, coefficients: tuple[float, ...]) -> tf.Tensor:
    value = tf.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


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
