"""Likelihoods of 8-bit pixels by exact probabilities of the 256 values, instead of a density.

A logistic distribution, or a mixture of them, is cut into bins around the values; the bins of 0 and 255 extend to
infinity. As in PixelCNN++ the parameters are in the units of 2 x - 1, in which black is -1 and white is 1.

Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow; Salimans et
al. 2017, PixelCNN++, section 2.1.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods import elements
from tfvae.likelihoods.likelihood import PACKAGE, Likelihood
from tfvae.numerics import log1mexp, log_softmax, logsumexp, softplus

tfd = tfp.distributions

# Half the width of a bin, in the units of 2 x - 1.
_HALF = 1 / 255
# As in the code of PixelCNN++: far narrower than a bin, but not so narrow that the density degenerates.
_MIN_LOG_SCALE = -7.0
# So wide that nearly all draws are black or white. Above it the mean loses precision; from 88 on gradients are NaN.
_MAX_LOG_SCALE = 7.0


class _Pixels(Likelihood):
    """The likelihood of x in {0, 1/255, ..., 1} by discretised logistic distributions.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    outputs_range = "real"
    samples_from_noise = True

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is not one of 0, 1/255, ..., 1."""

        def is_wrong(part: np.ndarray) -> np.ndarray:
            levels = part.astype(np.float64) * 255
            return ~((np.abs(levels - np.round(levels)) < 1e-3) & (levels > -0.5) & (levels < 255.5))

        expected = "hold 8-bit pixels divided by 255, the values 0, 1/255, ..., 1, under the {} likelihood"
        checks.check_elements(x, is_wrong, expected.format(type(self).__name__))


@keras.saving.register_keras_serializable(PACKAGE)
class DiscretizedLogistic(_Pixels):
    """The likelihood of 8-bit pixels x in {0, 1/255, ..., 1}, a logistic distribution in 256 bins.

    P(x|z) = product of F(u + 1/255) - F(u - 1/255),  u = 2 x - 1,  F(u) = sigmoid((u - loc) / scale),
    F = 0 at the lower edge of the bin of 0, and F = 1 at the upper edge of the bin of 1

    The two outputs of the decoder for each element of x are loc and log scale; log scale is clipped to [-7, 7].

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow.
    """

    num_parameters = 2
    outputs = "locations and logarithms of scales"

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The discretised logistic for each element."""
        loc, log_scale = self.split(parameters)
        return _rounded(
            tfd.Logistic(loc, _scale(log_scale)),
            lambda x: _log_mass(x, loc, log_scale),
            lambda: _unit(_clipped_mean(loc, _scale(log_scale))),
        )

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element: see `Likelihood`."""
        loc, log_scale = self.split(parameters)
        return _pixel(loc + _scale(log_scale) * _logistic(first))

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        return _log_mass(x, *self.split(parameters))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean before x is rounded to one of 256 values, which is within 1/510 of the mean of p(x|z).

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return super().mean(parameters)


@keras.saving.register_keras_serializable(PACKAGE)
class DiscretizedLogisticMixture(_Pixels):
    """The likelihood of 8-bit pixels x in {0, 1/255, ..., 1}, a mixture of K logistic distributions in 256 bins.

    P(x|z) = product of sum over k of softmax(logits)_k P_k(x),  P_k as in `DiscretizedLogistic`

    Given z the channels of a pixel are independent, each with its own mixture; in PixelCNN++ they depend on each other.
    The 3 K outputs of the decoder for each element of x are the logits, the locs and the log scales.

    Args:
        num_components: K, at least 1.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `num_components` is not an integer of at least 1.

    Reference: Salimans et al. 2017, PixelCNN++, equations 1 and 2.
    """

    outputs = "logits, locations and logarithms of scales"

    def __init__(self, num_components: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_components = checks.positive_integer("num_components", num_components)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one element of x."""
        return 3 * self.num_components

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The discretised mixture for each element."""
        logits, loc, log_scale = (self.to_event(p, (self.num_components,)) for p in self._components(parameters))
        mixture = tfd.MixtureSameFamily(tfd.Categorical(logits), tfd.Logistic(loc, _scale(log_scale)))
        means = _clipped_mean(loc, _scale(log_scale))
        return _rounded(
            mixture,
            lambda x: self._log_mixture(x[..., tf.newaxis], logits, loc, log_scale),
            lambda: _unit(tf.reduce_sum(tf.nn.softmax(logits) * means, axis=-1)),
        )

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element, of which the first number chooses the component: see `Likelihood`."""
        elements = math.prod(self._event_shape)
        logits, loc, log_scale = tf.split(tf.reshape(parameters, [-1, elements, self.num_parameters]), 3, axis=-1)
        first, second = (tf.reshape(noise, [-1, elements, 1]) for noise in (first, second))
        passed = tf.cast(first >= tf.cumsum(tf.nn.softmax(logits), axis=-1)[..., :-1], tf.float32)
        passed = tf.pad(passed, [[0, 0], [0, 0], [1, 1]]) + tf.one_hot(0, self.num_components + 1)
        chosen = passed[..., :-1] - passed[..., 1:]
        loc, log_scale = (tf.reduce_sum(chosen * each, axis=-1, keepdims=True) for each in (loc, log_scale))
        return tf.reshape(_pixel(loc + _scale(log_scale) * _logistic(second)), [-1, *self._event_shape])

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        logits, loc, log_scale = self._components(parameters)
        # The event is flattened to one axis, because TFLite does not take tensors of six dimensions.
        x = tf.reshape(x, [-1, loc.shape[-2], 1])
        return self.to_event(self._log_mixture(x, logits, loc, log_scale))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean before x is rounded to one of 256 values, which is within 1/510 of the mean of p(x|z).

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        logits, loc, log_scale = self._components(tf.cast(parameters, tf.float32))
        means = tf.nn.softmax(logits) * _clipped_mean(loc, _scale(log_scale))
        return _unit(self.to_event(tf.reduce_sum(means, axis=-1)))

    def _components(self, parameters: tf.Tensor) -> list[tf.Tensor]:
        """Logits, locs and log scales, each [..., E, K]."""
        return tf.split(self.by_element(parameters), 3, axis=-1)

    def _log_mixture(self, x: tf.Tensor, logits: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
        log_masses = log_softmax(logits) + _log_mass(x, loc, log_scale)
        return logsumexp(log_masses)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_components": self.num_components}


def _scale(log_scale: tf.Tensor) -> tf.Tensor:
    return tf.exp(_cut(log_scale))


def _cut(log_scale: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(log_scale, _MIN_LOG_SCALE, _MAX_LOG_SCALE)


def _unit(u: tf.Tensor) -> tf.Tensor:
    """Converts u = 2 x - 1 back to x."""
    return (u + 1) / 2


def _pixel(u: tf.Tensor) -> tf.Tensor:
    """The one of the 256 values of x in whose bin u = 2 x - 1 is."""
    return tf.round(255 * _unit(tf.clip_by_value(u, -1.0, 1.0))) / 255


def _logistic(uniform: tf.Tensor) -> tf.Tensor:
    """A draw of the standard logistic distribution, from noise between 0 and 1."""
    return tf.math.log(uniform) - tf.math.log(1 - uniform)


def _log_mass(x: tf.Tensor, loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """The log-probability of the bin of x, in a form that stays precise where the probability is small.

    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
    """
    inverse = tf.exp(-_cut(log_scale))
    centred = 2 * x - 1 - loc
    log_below_upper = -softplus(-inverse * (centred + _HALF))
    log_above_lower = -softplus(inverse * (centred - _HALF))
    inside = log_below_upper + log_above_lower + log1mexp(2 * _HALF * inverse)
    return tf.where(x < 0.5 / 255, log_below_upper, tf.where(x > 254.5 / 255, log_above_lower, inside))


def _clipped_mean(loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """The mean of a logistic variable that is clipped to [-1, 1]: 1 minus the integral of its F from -1 to 1."""
    return 1 - scale * (softplus((1 - loc) / scale) - softplus((-1 - loc) / scale))


def _rounded(continuous: tfd.Distribution, log_prob: Any, mean: Any) -> tfd.Distribution:
    """The distribution of draws of `continuous` that are clipped to [-1, 1] and rounded to one of 256 values of x."""

    def sample(n: Any, seed: Any) -> tf.Tensor:
        return _pixel(continuous.sample(n, seed=seed))

    return elements.distribution(continuous.batch_shape_tensor(), continuous.batch_shape, sample, log_prob, mean)
