"""TFP distributions made from functions, for likelihoods whose elements no distribution of TFP describes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


def distribution(
    shape: tf.Tensor,
    static_shape: tf.TensorShape,
    sample: Callable[[Any, Any], tf.Tensor],
    log_prob: Callable[[tf.Tensor], tf.Tensor],
    mean: Callable[[], tf.Tensor],
) -> tfd.Distribution:
    """Makes a batch of distributions of scalars from the functions that define them.

    Args:
        shape: the batch shape, an int32 tensor.
        static_shape: the batch shape as far as it is known while the graph is traced.
        sample: maps a number n and a seed to n draws [n, *shape].
        log_prob: maps values to their log-densities.
        mean: returns the mean [*shape].
    """
    return _Elements(shape, static_shape, sample, log_prob, mean)


class _Elements(tfd.Distribution):
    def __init__(
        self,
        shape: tf.Tensor,
        static_shape: tf.TensorShape,
        sample: Callable[[Any, Any], tf.Tensor],
        log_prob: Callable[[tf.Tensor], tf.Tensor],
        mean: Callable[[], tf.Tensor],
    ) -> None:
        self._functions = (sample, log_prob, mean)
        self._shapes = (shape, static_shape)
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            name="Elements",
        )

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self._shapes[0]

    def _batch_shape(self) -> tf.TensorShape:
        return self._shapes[1]

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        return self._functions[0](n, seed)

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        return self._functions[1](x)

    def _mean(self) -> tf.Tensor:
        return self._functions[2]()
