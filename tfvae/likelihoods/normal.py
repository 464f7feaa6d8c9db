"""The normal likelihood of real numbers."""

from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.likelihoods.likelihood import PACKAGE
from tfvae.likelihoods.location_scale import MIN_SCALE, LocationScale, Scale
from tfvae.numerics import cos_of_turns

tfd = tfp.distributions

# How much of the moving average a training step keeps.
_MOMENTUM = 0.99


@keras.saving.register_keras_serializable(PACKAGE)
class Normal(LocationScale):
    """The likelihood p(x|z) = N(x | f(z), scale^2 I), where f is the decoder.

    Args:
        scale: the standard deviation, > 0; "learned" trains one scalar, "per_channel" one for each entry of the last
            axis of x, and "per_dimension" one for each element of x, all starting at 1; "predicted" takes it from the
            decoder, whose two outputs for each element are the location and r: scale = softplus(r + log(e - 1)) +
            0.001, which is 1.001 for r = 0; "optimal" takes the best scale for the batch, at least 0.001: in training
            the root of the mean of (x - f(z))^2 over draws, examples and elements, which ignores sample weights and
            which each replica computes from its own part of the batch; elsewhere the root of a moving average of that
            mean.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `scale` is out of its range.

    Reference: Kingma & Welling 2013, appendix C.2; for the learned scale Rybkin et al. 2021, Simple and Effective VAE
    Training with Calibrated Decoders, section 3.1, and for the optimal one the same paper.
    """

    samples_from_noise = True
    scales = (*LocationScale.scales, "optimal")

    def __init__(self, scale: Scale | Literal["optimal"] = 1.0, **kwargs: Any) -> None:
        # `scales` has one more here.
        super().__init__(scale, **kwargs)  # type: ignore[arg-type]
        self.has_moving_statistics = self._scale == "optimal"

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables of the scale."""
        super().build(input_shape)
        if self._scale == "optimal":
            # Moving averages of the mean square and of 1, both starting at 0: the quotient corrects for this start.
            self._moving = self.add_weight(
                name="moving_mean_square",
                shape=(2,),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                autocast=False,
            )

    @property
    def scale(self) -> tf.Tensor:
        """The standard deviation in use: see `LocationScale.scale`. "optimal" is 1 before any training."""
        if self._scale != "optimal":
            return super().scale
        total, weight = tf.unstack(self._moving.value)
        return _root(tf.where(weight > 0, tf.math.divide_no_nan(total, weight), 1.0))

    def located(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        """N(loc, scale^2)."""
        return tfd.Normal(loc, scale)

    def standard_sample_from(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw from N(0, 1), by the method of Box and Muller: see `LocationScale`."""
        return tf.sqrt(-2 * tf.math.log(first)) * cos_of_turns(second)

    def element_log_prob_in_training(
        self, x: tf.Tensor, parameters: tf.Tensor, is_observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The log-density of each element: see `Likelihood`. "optimal" takes the best scale for the batch."""
        if self._scale != "optimal" or not self.trainable:
            return self.element_log_prob(x, parameters)
        observed = tf.ones_like(x) if is_observed is None else tf.cast(is_observed, tf.float32)
        count = tf.reduce_sum(observed) * tf.cast(tf.shape(parameters)[0], tf.float32)
        mean_square = tf.math.divide_no_nan(tf.reduce_sum(observed * (x - parameters) ** 2), count)
        change = (1 - _MOMENTUM) * (tf.stack([tf.stop_gradient(mean_square), 1.0]) - self._moving.value)
        self._moving.assign_add(tf.where(count > 0, change, tf.zeros_like(change)))
        return self.located(parameters, _root(mean_square)).log_prob(x)


def _root(mean_square: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.maximum(mean_square, MIN_SCALE**2))
