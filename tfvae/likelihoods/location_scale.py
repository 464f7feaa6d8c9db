"""The base class of likelihoods of real numbers: the decoder gives a location; the scale is fixed or learned."""

import abc
import math
import numbers
import warnings
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import Likelihood
from tfvae.numerics import scale_of

tfd = tfp.distributions

Scale = float | Literal["learned", "per_channel", "per_dimension", "predicted"]

# The least scale: without it the density of data that repeat, or can be reconstructed exactly, is unbounded.
MIN_SCALE = 1e-3
# Data so many times larger or smaller than a fixed scale cause a warning, and data so many times larger than 1, where a
# scale that is trained starts.
_FAR = 10.0
_FAR_FROM_START = 1000.0
# How many times as far as a weight the logarithm of a scale for each channel moves in a step: the few steps of a
# training on one series would hardly move it, whatever the noise is.
_SPEED_OF_CHANNELS = 10.0


class LocationScale(Likelihood):
    """The likelihood of x = f(z) + scale * noise, where f is the decoder.

    Args:
        scale: a number > 0; "learned" trains one scalar, "per_channel" one for each entry of the last axis of x, such
            as a channel of time series, and "per_dimension" one for each element of x, all starting at 1; "predicted"
            takes it from the decoder, whose two outputs for each element are the location and r:
            scale = softplus(r + log(e - 1)) + 0.001, which is 1.001 for r = 0.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `scale` is out of its range.
    """

    scales: tuple[str, ...] = ("learned", "per_channel", "per_dimension", "predicted")

    def __init__(self, scale: Scale = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        is_number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
        is_name = isinstance(scale, str) and scale in self.scales
        if not (is_name or (is_number and 0 < float(scale) < math.inf)):
            names = ", ".join(f'"{name}"' for name in self.scales)
            raise ValueError(
                f"`scale` must be a finite number above 0, or one of {names}. Received: scale={checks.shown(scale)}"
            )
        self._scale: float | str = float(scale) if is_number else scale
        self._log_scale = None
        predicted = self._scale == "predicted"
        self.outputs = "locations and unscaled scales" if predicted else "locations"
        self.outputs_range = "real" if predicted else "data"

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one element of x."""
        return 2 if self._scale == "predicted" else 1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variable of a learned scale."""
        super().build(input_shape)
        shapes = {"learned": (), "per_channel": self._event_shape[-1:], "per_dimension": self._event_shape}
        if self._scale in shapes:
            self._log_scale = self.add_weight(
                name="log_scale", shape=shapes[self._scale], initializer="zeros", dtype="float32", autocast=False
            )

    @property
    def scale(self) -> tf.Tensor:
        """The scale in use: a scalar, of the event shape if each element has its own, or [C] for one for each channel.

        Raises:
            ValueError: the decoder predicts the scale, so there is not one scale for all z.
        """
        if self._scale == "predicted":
            raise ValueError(
                '`scale` must not be "predicted", where each z has its own scale: see `loc_and_scale`. Received: a '
                'likelihood with scale="predicted"'
            )
        if self._log_scale is None:
            return tf.constant(self._scale, tf.float32)
        return tf.exp(self._log_scale * (_SPEED_OF_CHANNELS if self._scale == "per_channel" else 1.0))

    def loc_and_scale(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The location [..., *event_shape] and the scale that the decoder's output, float32, stands for."""
        if self._scale != "predicted":
            return parameters, self.scale
        loc, raw = self.split(parameters)
        return loc, scale_of(raw + math.log(math.e - 1)) + MIN_SCALE

    @abc.abstractmethod
    def located(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element, with its location and scale."""

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element."""
        return self.located(*self.loc_and_scale(parameters))

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element: see `Likelihood`."""
        loc, scale = self.loc_and_scale(parameters)
        return loc + scale * self.standard_sample_from(first, second)

    def standard_sample_from(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw for location 0 and scale 1, from noise between 0 and 1; needed if `samples_from_noise`."""
        raise NotImplementedError(f"{type(self).__name__} has no draws from noise")

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The location: the mean, or the centre of a distribution that has no mean.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        return self.loc_and_scale(tf.cast(parameters, tf.float32))[0]

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError for integers, nearly always unscaled pixels; warns if all floats are whole numbers."""
        if np.issubdtype(x.dtype, np.integer):
            raise ValueError(
                f"`x` must hold floats under the {type(self).__name__} likelihood: scale integer data first, for "
                "example x / 255 for 8-bit pixels, or cast them to float if they are meant to be real numbers. "
                f"Received: x of dtype {x.dtype}"
            )
        is_whole = x.dtype != bool and checks.find(x, lambda part: part % 1 != 0) is None
        if is_whole and x.max() > 1:
            warnings.warn(
                "All values of `x` are whole numbers; if they are pixels, scale them, for example x / 255. "
                f"Received: x with a maximum of {x.max():g}",
                stacklevel=2,
            )

    def check_training(self, x: np.ndarray) -> str | None:
        """Warns when the data are far larger than the scale, or hardly vary beside one that is a number."""
        values = np.ma.masked_invalid(x.astype(np.float64))
        if not values.count():
            return None
        size, spread = np.sqrt(np.ma.max(np.ma.mean(values**2, axis=0))), np.ma.max(np.ma.std(values, axis=0))
        name = type(self).__name__
        standardise = "Standardise x, for example (x - x.mean(axis=0)) / x.std(axis=0)"
        if not isinstance(self._scale, float):
            if size <= _FAR_FROM_START:
                return None
            return (
                f"`x` should have values of about 1, where the networks and the scale of {name} start: with far larger "
                f"ones training is slow. {standardise}, as tfvae.data.load does with tables. Received: x with a root "
                f"mean square of {size:.3g}"
            )
        # Data of about 1 suit the networks, however small the scale.
        if size > _FAR * max(self._scale, 1.0):
            what, found = "x is far larger than the noise, so training is slow", f"a root mean square of {size:.3g}"
        elif 0 < spread < self._scale / _FAR:
            what, found = "the noise hides how x varies, so z can say nothing about x", f"a deviation of {spread:.3g}"
        else:
            return None
        return (
            f"`x` should vary about as much as the likelihood's scale says: {what}. {standardise}, "
            "or x / 255 for 8-bit pixels, or let the scale be trained, "
            f'{name}(scale="learned"). Received: x with {found}, under {name}(scale={self._scale:g})'
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "scale": self._scale}
