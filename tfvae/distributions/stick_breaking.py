"""The bijector to a simplex, in log space."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

# Numbers whose sum is further from 1 than this are not proportions.
_TOLERANCE = 1e-3


class StickBreaking(tfb.IteratedSigmoidCentered):
    """The map of `tfb.IteratedSigmoidCentered`, from real numbers x [..., N - 1] to a simplex y [..., N].

    y_k = z_k (1 - z_1) ... (1 - z_{k-1}),  z_k = sigmoid(x_k - log(N - k)),  log |det dy/dx| = sum over k of log y_k

    TFP multiplies and subtracts these numbers, which loses small ones, by cumulative products, which TFLite and ONNX
    lack. Here they are sums of logarithms. The inverse of numbers that are not a simplex is NaN.

    Reference: Stan Development Team, Stan Reference Manual, section "Unit simplex".
    """

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_forward(x))

    def _log_forward(self, x: tf.Tensor) -> tf.Tensor:
        """Log y, which is finite where y itself rounds to 0."""
        x -= self._offset(x)
        log_rest = tf.cumsum(tf.math.log_sigmoid(-x), axis=-1)
        before = tf.concat([tf.zeros_like(x[..., :1]), log_rest], axis=-1)
        return before + tf.concat([tf.math.log_sigmoid(x), tf.zeros_like(x[..., :1])], axis=-1)

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        is_simplex = tf.abs(tf.reduce_sum(y, axis=-1, keepdims=True) - 1.0) < _TOLERANCE
        rest = tf.cumsum(y, axis=-1, reverse=True)
        x = tf.math.log(y[..., :-1]) - tf.math.log(rest[..., 1:])
        return tf.where(is_simplex, x + self._offset(x), float("nan"))

    def _inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(tf.math.log(y), axis=-1)

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self._log_forward(x), axis=-1)

    def _offset(self, x: Any) -> tf.Tensor:
        return tf.math.log(tf.range(x.shape[-1], 0, -1, dtype=x.dtype))
