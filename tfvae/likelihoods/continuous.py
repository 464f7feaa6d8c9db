"""Likelihoods of real numbers with heavier tails than the normal."""

import math
import numbers
from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE
from tfvae.likelihoods.location_scale import LocationScale, Scale
from tfvae.numerics import cos_of_turns, log1p, log_rising, softplus

tfd = tfp.distributions

# Learned degrees of freedom stay above the first, where the variance is finite, and start at the second.
_MIN_DF, _START_DF = 2.0, 5.0


@keras.saving.register_keras_serializable(PACKAGE)
class Laplace(LocationScale):
    """The likelihood p(x|z) = product of exp(-|x - f(z)| / scale) / (2 scale), where f is the decoder.

    Args:
        scale: a number > 0, "learned", "per_channel", "per_dimension" or "predicted": see `LocationScale`.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `scale` is out of its range.
    """

    samples_from_noise = True

    def standard_sample_from(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw, by the inverse of the distribution function: see `LocationScale`."""
        centred = first - 0.5
        return -tf.sign(centred) * tf.math.log(1 - 2 * tf.abs(centred))

    def located(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        """Laplace(loc, scale)."""
        return tfd.Laplace(loc, scale)


@keras.saving.register_keras_serializable(PACKAGE)
class StudentT(LocationScale):
    """The likelihood of x = f(z) + scale * t, where t has Student's t distribution and f is the decoder.

    p(x|z) = product of Gamma((df + 1) / 2) / (Gamma(df / 2) sqrt(df pi) scale) (1 + y^2 / df)^(-(df + 1) / 2),
    y = (x - f(z)) / scale

    Args:
        df: the degrees of freedom, a number > 0; "learned" trains one scalar, which stays above 2 and starts at 5.
        scale: a number > 0, "learned", "per_channel", "per_dimension" or "predicted": see `LocationScale`.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `df` or `scale` is out of its range.

    Reference: for the VAE Mattei & Frellsen 2019, MIWAE, whose decoder has this distribution for continuous data.
    """

    samples_from_noise = True

    def __init__(self, df: float | Literal["learned"] = "learned", scale: Scale = "learned", **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        is_number = isinstance(df, numbers.Real) and not isinstance(df, bool)
        if df != "learned" and not (is_number and 0 < df < math.inf):
            raise ValueError(f'`df` must be a finite number above 0, or "learned". Received: df={checks.shown(df)}')
        self._df = float(df) if is_number else df

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables of a learned scale and of learned degrees of freedom."""
        super().build(input_shape)
        if self._df == "learned":
            start = keras.initializers.Constant(math.log(math.expm1(_START_DF - _MIN_DF)))
            self._raw_df = self.add_weight(name="raw_df", shape=(), initializer=start, dtype="float32", autocast=False)

    @property
    def df(self) -> tf.Tensor:
        """The degrees of freedom in use, a scalar."""
        return _MIN_DF + softplus(self._raw_df.value) if self._df == "learned" else tf.constant(self._df, tf.float32)

    def located(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        """StudentT(df, loc, scale)."""
        return tfd.StudentT(self.df, loc, scale)

    def standard_sample_from(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw, by the polar method of Bailey: see `LocationScale`.

        Reference: Bailey 1994, Polar Generation of Random Variates with the t-Distribution.
        """
        power = -2 / self.df * tf.math.log(first)
        # exp(power) - 1, for which TFLite has no op that is exact where power is small.
        small = tf.minimum(power, 0.02)
        squared = self.df * tf.where(power < 0.02, small * (1 + small / 2 * (1 + small / 3)), tf.exp(power) - 1)
        return tf.sqrt(squared) * cos_of_turns(second)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element: see `Likelihood`."""
        df = self.df
        loc, scale = self.loc_and_scale(parameters)
        log_normalizer = 0.5 * tf.math.log(df * math.pi) - log_rising(tf.constant(0.5), df / 2)
        return -(df + 1) / 2 * log1p(((x - loc) / scale) ** 2 / df) - tf.math.log(scale) - log_normalizer

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "df": self._df}
