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
