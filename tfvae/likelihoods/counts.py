"""Likelihoods of counts: 0, 1, 2, ..."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Likelihood
from tfvae.numerics import log_binomial, log_poisson, softplus

tfd = tfp.distributions


def _check_counts(likelihood: Likelihood, x: np.ndarray) -> None:
    if x.dtype != bool:
        advice = "pass the counts as they were before any scaling or logarithm"
        if checks.find(x, lambda part: (part < 0) | (part > 1)) is None:
            advice += ", or take ContinuousBernoulli for numbers in [0, 1]"
        expected = (
            f"hold counts, whole numbers of at least 0, under the {type(likelihood).__name__} likelihood: {advice}"
        )
        checks.check_elements(x, lambda part: (part < 0) | (part % 1 != 0), expected)


@keras.saving.register_keras_serializable(PACKAGE)
class Poisson(Likelihood):
    """The likelihood of counts with mean and variance exp(f(z)), where f is the decoder.

    log p(x|z) = sum of x f - exp(f) - log x!

    exp(f) overflows for f above 88: where the counts are large, begin the encoder with log(1 + x).

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    outputs = "logarithms of means"
    outputs_range = "real"

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """Poisson(log_rate=parameters) for each element."""
        return tfd.Poisson(log_rate=parameters)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        return log_poisson(x, parameters)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is not a count."""
        _check_counts(self, x)


@keras.saving.register_keras_serializable(PACKAGE)
class NegativeBinomial(Likelihood):
    """The likelihood of counts that vary more than under `Poisson`: mean m = exp(f(z)) and variance m + m^2 / d.

    p(x|z) = product of Gamma(x + d) / (Gamma(d) x!) (d / (d + m))^d (m / (d + m))^x

    f is the decoder. d, the inverse dispersion, is learned for each element of x and starts at 1; it is large where the
    counts are nearly Poisson distributed.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics (scVI), without its factor
    for the size of a cell.
    """

    outputs = "logarithms of means"
    outputs_range = "real"

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variable of the inverse dispersion."""
        super().build(input_shape)
        self._log_inverse_dispersion = self.add_weight(
            name="log_inverse_dispersion",
            shape=self._event_shape,
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    @property
    def inverse_dispersion(self) -> tf.Tensor:
        """The inverse dispersion d, with the event shape."""
        return tf.exp(self._log_inverse_dispersion)

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """NegativeBinomial for each element."""
        return self._negative_binomial(parameters)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        return self._log_negative_binomial(x, parameters)

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean exp(f(z)).

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return tf.exp(tf.cast(parameters, tf.float32))

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is not a count."""
        _check_counts(self, x)

    def _negative_binomial(self, log_mean: tf.Tensor) -> tfd.Distribution:
        return tfd.NegativeBinomial(self.inverse_dispersion, logits=log_mean - self._log_inverse_dispersion)

    def _log_negative_binomial(self, x: tf.Tensor, log_mean: tf.Tensor) -> tf.Tensor:
        d = self.inverse_dispersion
        logits = log_mean - self._log_inverse_dispersion
        return log_binomial(x, d) - d * softplus(logits) - x * softplus(-logits)


@keras.saving.register_keras_serializable(PACKAGE)
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """The likelihood of counts that are 0 with probability sigmoid(g(z)), and otherwise as under `NegativeBinomial`.

    The two outputs of the decoder for each element of x are f, the logarithm of the mean of the negative binomial, and
    g.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics (scVI), without its factor
    for the size of a cell.
    """

    num_parameters = 2
    outputs = "logarithms of means, and logits"

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The zero-inflated NegativeBinomial for each element."""
        log_mean, logits = self.split(parameters)
        # Not by `inflated_loc_logits`, which TFP applies twice: the probability would be sigmoid(2 logits).
        return tfd.Inflated(self._negative_binomial(log_mean), inflated_loc_probs=tf.sigmoid(logits))

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        log_mean, logits = self.split(parameters)
        log_prob = self._log_negative_binomial(x, log_mean)
        # A zero may come from the inflation or from the negative binomial: log(exp(g) + p(0)).
        log_prob = tf.where(x == 0, log_prob + softplus(logits - log_prob), log_prob)
        return log_prob - softplus(logits)

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean sigmoid(-g(z)) exp(f(z)).

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        log_mean, logits = self.split(tf.cast(parameters, tf.float32))
        return tf.sigmoid(-logits) * tf.exp(log_mean)
