"""Which features of data sets are typical of simulated ones."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae.detection import threshold

# The share of simulated data sets that are taken for unlike.
_RATE = 1e-3
# Directions in which features vary less than this share of the largest count as constant.
_CONSTANT = 1e-4


class TypicalFeatures(keras.layers.Layer):
    """The mean and the covariance of features of simulated data sets, and how far from them typical ones are.

    Args:
        size: F, the number of features.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        constants = {"dtype": "float32", "trainable": False, "autocast": False}
        self.mean = self.add_weight(name="mean", shape=(size,), initializer="zeros", **constants)
        # Its columns map the difference from the mean to numbers of mean 0 and variance 1.
        self.whitening = self.add_weight(name="whitening", shape=(size, size), initializer="zeros", **constants)
        self.threshold = self.add_weight(name="threshold", shape=(), initializer="ones", **constants)
        self.built = True

    def set(self, features: np.ndarray) -> None:
        """Sets the mean and covariance by one half of features [N, F], and the threshold by the other, conformally.

        Args:
            features: those of simulated data sets.
        """
        fitted, held = features[::2].astype(np.float64), features[1::2].astype(np.float32)
        self.mean.assign(fitted.mean(axis=0))
        scales = np.maximum(fitted.std(axis=0), 1e-30)
        values, vectors = np.linalg.eigh(np.cov((fitted / scales).T).reshape([features.shape[1]] * 2))
        floor = _CONSTANT * max(float(values.max()), 1e-30)
        self.whitening.assign(vectors / np.sqrt(np.maximum(values, floor)) / scales[:, np.newaxis])
        self.threshold.assign(1.0)
        if not len(held):
            return
        with warnings.catch_warnings():
            # With fewer than 999 the threshold is the largest distance.
            warnings.simplefilter("ignore", UserWarning)
            limit = threshold(self.relative_distance(held).numpy(), false_alarm_rate=_RATE).value
        self.threshold.assign(max(limit, 1e-30))

    def relative_distance(self, features: tf.Tensor) -> tf.Tensor:
        """The Mahalanobis distance [B] of features [B, F], divided by the threshold."""
        white = tf.matmul(features - self.mean, self.whitening)
        return tf.sqrt(tf.reduce_sum(white * white, axis=-1)) / self.threshold
