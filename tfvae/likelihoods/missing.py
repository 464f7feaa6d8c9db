"""The likelihood of data with missing values."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Group, Likelihood, configuration_of, likelihood_of
from tfvae.numerics import is_number

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Missing(Likelihood):
    """The likelihood of the observed elements of x, where NaN marks those that are missing (at random).

    log p(x_observed|z) = sum over the observed elements of log p(x_i|z)

    The bounds and log p(x) of a model with this likelihood are those of the observed elements. `tfvae.impute` fills in
    the missing ones. With the `IWAE` objective such a model is the MIWAE.

    Args:
        likelihood: the likelihood of complete data, or its configuration.
        fill: whether the encoder is given 0 for missing elements; False gives it NaN, for an encoder that handles NaN
            itself: see `tfvae.networks.MissingMask`.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
    """

    allows_missing = True

    def __init__(self, likelihood: Likelihood | dict[str, Any], fill: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.likelihood = likelihood_of(likelihood, "likelihood")
        if self.likelihood.allows_missing:
            raise ValueError(
                f"`likelihood` must be a likelihood of complete data. Received: likelihood={checks.shown(likelihood)}"
            )
        self.fill = checks.boolean("fill", fill)

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example, as for complete data."""
        return self.likelihood.parameter_shape(event_shape)

    def mean_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `mean` returns for each example."""
        return self.likelihood.mean_shape(event_shape)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the likelihood of complete data."""
        super().build(input_shape)
        if not self.likelihood.built:
            self.likelihood.build(input_shape)
        self._event_shape = self.likelihood._event_shape

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element, observed or not."""
        return self.likelihood.element_distribution(parameters)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each observed element, and 0 for each missing one."""
        is_observed, filled = self._observed(x)
        return tf.where(is_observed, self.likelihood.element_log_prob(filled, parameters), 0.0)

    def element_log_prob_in_training(
        self, x: tf.Tensor, parameters: tf.Tensor, is_observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The log-density of each element in a training step: see `Likelihood`."""
        is_observed, filled = self._observed(x)
        elements = self.likelihood.element_log_prob_in_training(filled, parameters, is_observed)
        return tf.where(is_observed, elements, 0.0)

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """The encoder's input: x with 0 for missing elements, or x as it is if `fill` is False."""
        return tf.where(is_number(x), x, tf.zeros_like(x)) if self.fill else x

    @property
    def samples_from_noise(self) -> bool:
        """Whether `sample_from` is defined: see `Likelihood`."""
        return self.likelihood.samples_from_noise

    def sample_from(self, parameters: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Computes a draw of all elements, observed or not: see `Likelihood`.

        Args:
            parameters: the decoder's output [B, *parameter_shape].
            noise: numbers drawn uniformly from [0, 1) [B, *noise_shape].
        """
        return self.likelihood.sample_from(parameters, noise)

    @property
    def takes_temperature(self) -> bool:
        """Whether all parameters are logits: see `Likelihood`."""
        return self.likelihood.takes_temperature

    def best_guess(self, parameters: tf.Tensor) -> tf.Tensor:
        """The best guess of all elements, observed or not: see `Likelihood`.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.likelihood.best_guess(parameters)

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z) for all elements, observed or not.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.likelihood.mean(parameters)

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The names of the columns: see `Likelihood`."""
        return self.likelihood.column_names

    def units_of_mean(
        self, offset: np.ndarray, scale: np.ndarray, event_shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The units of the mean of the likelihood of complete data: see `Likelihood`."""
        return self.likelihood.units_of_mean(offset, scale, event_shape)

    def to_data(self, mean: np.ndarray) -> np.ndarray:
        """Turns a mean into a value of x [..., *event_shape]: see `Likelihood`.

        Args:
            mean: what `mean` returns [..., *mean_shape].
        """
        return self.likelihood.to_data(mean)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when the observed elements cannot come from the likelihood of complete data."""
        if x.dtype.kind == "f" and (is_missing := np.isnan(x)).any():
            x = np.where(is_missing, np.asarray(self.likelihood.placeholder, x.dtype), x)
        self.likelihood.check(x)

    def groups(self, x: np.ndarray, outputs: np.ndarray) -> list[Group]:
        """Those of the likelihood of complete data: see `Likelihood`."""
        return self.likelihood.groups(x, outputs)

    def _observed(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Which elements are observed, and x with the placeholder for those that are not."""
        is_observed = is_number(x)
        # The gradient of the density at NaN would be NaN, even where it is multiplied by 0.
        placeholder = np.asarray(self.likelihood.placeholder, np.float32)
        if np.ptp(placeholder) == 0:
            # GPU delegates of TFLite take a single number here, and no row of them.
            placeholder = placeholder.max()
        return is_observed, tf.where(is_observed, x, placeholder)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "likelihood": configuration_of(self.likelihood), "fill": self.fill}
