"""The likelihood of features that a frozen network computes."""

import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Group, Likelihood, configuration_of, likelihood_of

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Perceptual(Likelihood):
    """The likelihood of features of x that a frozen network f computes, where two pictures that look alike are close.

    sum over k of log N(f_k(x) | f_k(m(z)), scale_k^2 I) + log p(x|z),  m(z) the mean of p(x|z)

    f_k(x) are the outputs of the network. p(x|z) is `likelihood`, whose parameters are the decoder's output; without
    it the decoder's output is m(z), and there is no second term. This is a density of features, not of x, so a model
    with it has no lower bound on log p(x): see `tfvae.VAE.undefined`. Draws are of p(x|z), or else m(z) itself.

    The network is copied: that of the user is not changed, and the copy is never trained, which setting `trainable`
    does not change. It runs as in inference. It is saved with the model, and is a part of exports, whose `score` is the
    same, so that a .tflite needs it to be of ops that are built into TFLite.

    Args:
        network: a Keras model from x [B, ...] to one tensor [B, ...] of features or a list of such; or its
            configuration.
        scale: the standard deviation of the features, > 0; for several tensors also one for each.
        likelihood: p(x|z), of x without missing values and with a mean of its shape, or its configuration; or None.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range; or, when the model is built, the network does not fit x.

    Reference: Hou et al. 2017, Deep Feature Consistent Variational Autoencoder, section 3.
    """

    is_of_x = False

    def __init__(
        self,
        network: keras.Model | dict[str, Any],
        scale: float | Sequence[float] = 1.0,
        likelihood: Likelihood | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.network = _copied(network)
        self.network.trainable = False
        given = list(scale) if isinstance(scale, list | tuple) else [scale]
        # As it was given, for the configuration: a number, or one for each tensor of features.
        self._scales = [checks.positive_number("scale", each) for each in given]
        self._has_one_scale = not isinstance(scale, list | tuple)
        self.likelihood = None if likelihood is None else likelihood_of(likelihood, "likelihood", False)
        if self.likelihood is not None and self.likelihood.allows_missing:
            raise ValueError(
                "`likelihood` must be one of complete data, because a network makes features of them. Received: "
                f"likelihood={checks.shown(likelihood)}"
            )
        self._point: Any = _Point() if self.likelihood is None else None

    @property
    def _of_x(self) -> Likelihood:
        """What p(x|z) is, or stands for it."""
        return self._point if self.likelihood is None else self.likelihood

    @property
    def trainable(self) -> bool:
        """Whether the weights of `likelihood` are trained; those of the network never are."""
        return bool(keras.layers.Layer.trainable.fget(self))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self.network.trainable = False

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example, as for `likelihood`."""
        return self._of_x.parameter_shape(event_shape)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds `likelihood`, and checks that the network takes x.

        Raises:
            ValueError: the network does not take x, or has not as many outputs as there are scales; or the mean of
                `likelihood` does not have the shape of x.
        """
        super().build(input_shape)
        if not self._of_x.built:
            self._of_x.build(input_shape)
        self._event_shape = self._of_x._event_shape
        if self._of_x.mean_shape(self._event_shape) != self._event_shape:
            raise ValueError(
                "`likelihood` must have a mean of the shape of x, of which the network makes features. Received: "
                f"likelihood={checks.shown(self.likelihood)}"
            )
        try:
            features = tf.nest.flatten(self.network(keras.KerasTensor((None, *self._event_shape))))
        except ValueError as error:
            raise ValueError(
                f"`network` must take x of shape {[None, *self._event_shape]}. Received: a network that fails: {error}"
            ) from error
        if not self._has_one_scale and len(self._scales) != len(features):
            raise ValueError(
                f"`scale` must be one number, or one for each of the {len(features)} outputs of the network. Received: "
                f"scale={self._scales}"
            )
        # What the network made only now.
        self.network.trainable = False

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element of x under `likelihood`; without it, its mean."""
        return self._of_x.element_distribution(parameters)

    def log_prob(self, x: tf.Tensor, parameters: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Evaluates the log-density of the features, and log p(x|z) if there is a `likelihood`.

        Args:
            x: the data [B, ...].
            parameters: the decoder's output [S, B, ...].
            training: whether this is a training step, in which a likelihood may adapt to the batch.

        Returns:
            The sum [S, B], in nats per example.
        """
        self._check_built()
        x = tf.cast(x, tf.float32)
        mean = self.mean(parameters)
        of_x, of_mean = self._features(x), self._features(tf.reshape(mean, [-1, *self._event_shape]))
        leading = tf.shape(mean)[: -self._event_rank]
        total: Any = 0.0
        scales = self._scales * len(of_x) if self._has_one_scale else self._scales
        for scale, expected, found in zip(scales, of_x, of_mean, strict=True):
            if len(mean.shape) > self._event_rank + 1:
                found = tf.reshape(found, tf.concat([leading, tf.shape(found)[1:]], axis=0))
            nats = tfd.Normal(found, scale).log_prob(expected)
            total += tf.reduce_sum(nats, axis=list(range(1 - len(expected.shape), 0)))
        return total if self.likelihood is None else total + self.likelihood.log_prob(x, parameters, training)

    def _features(self, x: tf.Tensor) -> list[tf.Tensor]:
        """The outputs of the network for x [B, ...], each float32 [B, ...]."""
        return [tf.cast(each, tf.float32) for each in tf.nest.flatten(self.network(x, training=False))]

    def distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """p(x|z) of `likelihood`; without it, its mean.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self._of_x.distribution(parameters)

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """The encoder's input for x [B, ...]: see `Likelihood`."""
        return self._of_x.encoder_input(x)

    @property
    def samples_from_noise(self) -> bool:
        """Whether `sample_from` is defined: see `Likelihood`."""
        return self._of_x.samples_from_noise

    def sample_from(self, parameters: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Computes a draw of p(x|z) from noise: see `Likelihood`.

        Args:
            parameters: the decoder's output [B, *parameter_shape].
            noise: numbers drawn uniformly from [0, 1) [B, *noise_shape].
        """
        return self._of_x.sample_from(parameters, noise)

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean m(z) of p(x|z) [..., *event_shape].

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self._of_x.mean(parameters)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when x cannot come from `likelihood`."""
        self._of_x.check(x)

    def groups(self, x: np.ndarray, outputs: np.ndarray) -> list[Group]:
        """Those of `likelihood`: see `Likelihood`."""
        return self._of_x.groups(x, outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            # As it comes out of a file, with lists for tuples.
            "network": json.loads(json.dumps(keras.saving.serialize_keras_object(self.network))),
            "scale": self._scales[0] if self._has_one_scale else self._scales,
            "likelihood": None if self.likelihood is None else configuration_of(self.likelihood),
        }


class _Point(Likelihood):
    """What stands for p(x|z) where there is none: all of it at the decoder's output."""

    outputs = "locations"
    outputs_range = "data"

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        return tfd.Deterministic(parameters)


def _copied(network: Any) -> keras.Model:
    """A copy of a network, with its weights; or the network of a configuration.

    Raises:
        ValueError: it is no network, was not built, or is one that Keras cannot make anew from its configuration.
    """
    if isinstance(network, dict):
        return keras.saving.deserialize_keras_object(network)
    if not isinstance(network, keras.layers.Layer) or not network.built:
        raise ValueError(f"`network` must be a Keras model that was built. Received: network={checks.shown(network)}")
    try:
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "`network` must be a Keras model that Keras can save and load, of registered classes. Received: "
            f"network={checks.shown(network)}, for which this fails: {error}"
        ) from error
    copy.set_weights(network.get_weights())
    return copy
