"""Likelihoods p(x|z): the distribution of x whose parameters the decoder gives.

Log-densities are float32 whatever the dtype of the decoder's output.
"""

import abc
import math
import numbers
import warnings
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.numerics import softplus

tfd = tfp.distributions

PACKAGE = "tfvae.likelihoods"


class Likelihood(keras.layers.Layer, abc.ABC):
    """A distribution over the event x, independent over its elements given z.

    Built with the shape of the decoder's output.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._event_rank = None

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example. Here one parameter for each element of x."""
        return event_shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Takes the rank of the event from the shape of the decoder's output, [B, ...]."""
        self._event_rank = len(input_shape) - 1

    @abc.abstractmethod
    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element of x, from float32 parameters."""

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element of x [B, ...] under float32 parameters [S, B, ...], in nats."""
        return self.element_distribution(parameters).log_prob(x)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when x cannot come from this distribution.

        Args:
            x: data as it was given [N, ...], finite and of the right shape.
        """

    def distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """p(x|z), with the event shape of x.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        parameters = tf.cast(parameters, tf.float32)
        return tfd.Independent(self.element_distribution(parameters), self._event_rank)

    def log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Evaluates log p(x|z).

        Args:
            x: the data [B, ...].
            parameters: the decoder's output [S, B, ...].

        Returns:
            log p(x|z) [S, B], in nats per example.
        """
        self._check_built()
        elements = self.element_log_prob(tf.cast(x, tf.float32), tf.cast(parameters, tf.float32))
        return tf.reduce_sum(elements, axis=list(range(-self._event_rank, 0)))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z), with the shape of the parameters' leading dimensions and the event.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.distribution(parameters).mean()

    def _check_built(self) -> None:
        if self._event_rank is None:
            raise ValueError("A likelihood must be built before it is used, with the shape of the decoder's output")


@keras.saving.register_keras_serializable(PACKAGE)
class Normal(Likelihood):
    """The likelihood p(x|z) = N(x | f(z), scale^2 I), where f is the decoder.

    Args:
        scale: the standard deviation, > 0; "learned" trains one scalar, from 1.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `scale` is out of its range.

    Reference: Kingma & Welling 2013, appendix C.2; for the learned scale Rybkin et al. 2021, Simple and Effective VAE
    Training with Calibrated Decoders, section 3.1.
    """

    def __init__(self, scale: float | Literal["learned"] = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        is_number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
        if scale != "learned" and not (is_number and 0 < scale < math.inf):
            raise ValueError(f'`scale` must be a finite number above 0, or "learned". Received: scale={scale!r}')
        self._scale = float(scale) if is_number else scale
        self._log_scale = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variable of a learned scale."""
        super().build(input_shape)
        if self._scale == "learned":
            self._log_scale = self.add_weight(name="log_scale", initializer="zeros", dtype="float32", autocast=False)

    @property
    def scale(self) -> tf.Tensor:
        """The standard deviation in use, a scalar."""
        return tf.exp(self._log_scale) if self._scale == "learned" else tf.constant(self._scale, tf.float32)

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """N(parameters, scale^2) for each element."""
        return tfd.Normal(parameters, self.scale)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError for integers, nearly always pixels not scaled; warns of floats that are whole numbers."""
        if np.issubdtype(x.dtype, np.integer):
            raise ValueError(
                "`x` must hold floats under the Normal likelihood: scale integer data first, for example x / 255 for "
                f"8-bit pixels, or cast it where it is meant so. Received: x of dtype {x.dtype}"
            )
        is_whole = x.dtype != bool and checks.find(x, lambda part: part % 1 != 0) is None
        if is_whole and x.max() > 1:
            warnings.warn(
                "All values of `x` are whole numbers; if they are pixels, scale them, for example x / 255. "
                f"Received: x with a maximum of {x.max():g}",
                stacklevel=2,
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "scale": self._scale}


@keras.saving.register_keras_serializable(PACKAGE)
class Bernoulli(Likelihood):
    """The likelihood of x in {0, 1}: x = 1 with probability sigmoid(f(z)), where f is the decoder.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, appendix C.1.
    """

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """Bernoulli(logits=parameters) for each element."""
        return tfd.Bernoulli(logits=parameters, dtype=tf.float32)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The sum x log p + (1 - x) log(1 - p) = x f - softplus(f), f the logit of p."""
        return x * parameters - softplus(parameters)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is neither 0 nor 1."""
        wrong = checks.find(x, lambda part: (part != 0) & (part != 1))
        if wrong is not None:
            raise ValueError(
                "`x` must hold only 0 and 1 under the Bernoulli likelihood: binarise it, for example x > 0.5, or use "
                f"ContinuousBernoulli for values in [0, 1]. Received: x with the value {x[wrong]!s}"
            )


@keras.saving.register_keras_serializable(PACKAGE)
class ContinuousBernoulli(Likelihood):
    """The likelihood of x in [0, 1]: p(x|z) proportional to p^x (1 - p)^(1 - x), p = sigmoid(f(z)), f the decoder.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli, equations 6 and 8.
    """

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """ContinuousBernoulli(logits=parameters) for each element."""
        return tfd.ContinuousBernoulli(logits=parameters)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The sum x log p + (1 - x) log(1 - p) + log C(p) = x f - softplus(f) + log C, f the logit of p.

        C = 2 atanh(1 - 2p) / (1 - 2p) = f / tanh(f / 2); near 0 by its Taylor series.
        """
        is_small = tf.abs(parameters) < 0.1
        logits = tf.where(is_small, 0.1, parameters)
        series = math.log(2) + parameters**2 / 12 - 7 * parameters**4 / 1440
        log_normalizer = tf.where(is_small, series, tf.math.log(logits / tf.tanh(logits / 2)))
        return x * parameters - softplus(parameters) + log_normalizer

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is outside [0, 1]."""
        wrong = checks.find(x, lambda part: (part < 0) | (part > 1))
        if wrong is not None:
            raise ValueError(
                "`x` must lie in [0, 1] under the ContinuousBernoulli likelihood: scale it, for example x / 255 for "
                f"8-bit pixels. Received: x with the value {x[wrong]!s}"
            )
