"""Likelihoods of real numbers with a normal distribution."""

import math
import numbers
import warnings
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Likelihood

tfd = tfp.distributions


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
