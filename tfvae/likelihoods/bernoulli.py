"""Likelihoods of binary data, and of numbers between 0 and 1."""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Likelihood
from tfvae.numerics import is_by_xla, softplus, sum_softplus_minus_relu

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Bernoulli(Likelihood):
    """The likelihood of x in {0, 1}: x = 1 with probability sigmoid(f(z)), where f is the decoder.

    The decoder's outputs are logits, any real numbers, so it must not end in a sigmoid.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, appendix C.1.
    """

    outputs = "logits"
    outputs_range = "real"
    takes_temperature = True
    samples_from_noise = True
    # Its own `log_prob` is the same sum, which XLA makes faster.
    factorises = True

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """Bernoulli(logits=parameters) for each element."""
        return tfd.Bernoulli(logits=parameters, dtype=tf.float32)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element, x log p + (1 - x) log(1 - p) = x f - softplus(f), f the logit of p."""
        return x * parameters - softplus(parameters)

    def log_prob(self, x: tf.Tensor, parameters: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Evaluates log p(x|z) [S, B], as `Likelihood.log_prob` does."""
        # What follows is this density only; a subclass may have another.
        if not is_by_xla() or type(self) is not Bernoulli:
            return super().log_prob(x, parameters, training)
        self._check_built()
        x, logits = tf.cast(x, tf.float32), tf.cast(parameters, tf.float32)
        linear = tf.reduce_sum(x * logits - tf.nn.relu(logits), axis=list(range(-self._event_rank, 0)))
        return linear - sum_softplus_minus_relu(self.by_element(logits)[..., 0])

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element, 1 where the noise is below its probability: see `Likelihood`."""
        return tf.cast(first < tf.sigmoid(parameters), tf.float32)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is neither 0 nor 1."""
        expected = (
            "hold only 0 and 1 under the Bernoulli likelihood: binarise it, for example x > 0.5, or use "
            "ContinuousBernoulli for values in [0, 1]"
        )
        checks.check_elements(x, lambda part: (part != 0) & (part != 1), expected)


@keras.saving.register_keras_serializable(PACKAGE)
class ContinuousBernoulli(Likelihood):
    """The likelihood of x in [0, 1]: p(x|z) proportional to p^x (1 - p)^(1 - x), p = sigmoid(f(z)), f the decoder.

    The decoder's outputs are logits, any real numbers, so it must not end in a sigmoid.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli, equations 6 and 8.
    """

    outputs = "logits"
    outputs_range = "real"
    samples_from_noise = True

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """ContinuousBernoulli(logits=parameters) for each element."""
        return tfd.ContinuousBernoulli(logits=parameters)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element, x log p + (1 - x) log(1 - p) + log C(p) = x f - softplus(f) + log C.

        f is the logit of p, and C = 2 atanh(1 - 2p) / (1 - 2p) = f / tanh(f / 2), near f = 0 by its Taylor series.
        """
        is_small = tf.abs(parameters) < 0.1
        logits = tf.where(is_small, 0.1, parameters)
        series = math.log(2) + parameters**2 / 12 - 7 * parameters**4 / 1440
        log_normalizer = tf.where(is_small, series, tf.math.log(logits / tf.tanh(logits / 2)))
        return x * parameters - softplus(parameters) + log_normalizer

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element, by the inverse of its distribution function: see `Likelihood`.

        That is log(1 + u (exp(f) - 1)) / f, which is used for f < 0 alone, where it does not overflow.
        """
        is_positive = parameters > 0
        u, f = tf.where(is_positive, 1 - first, first), -tf.abs(parameters)
        is_small = f > -0.01
        safe = tf.where(is_small, -0.01, f)
        # Near f = 0 by its Taylor series.
        x = tf.where(is_small, u + f * u * (1 - u) / 2, tf.math.log(1 + u * (tf.exp(safe) - 1)) / safe)
        return tf.where(is_positive, 1 - x, x)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is outside [0, 1]."""
        expected = (
            "lie in [0, 1] under the ContinuousBernoulli likelihood: scale it, for example x / 255 for 8-bit pixels"
        )
        checks.check_elements(x, lambda part: (part < 0) | (part > 1), expected)
