"""Normalizing flows: a standard normal distribution, transformed by functions that can be inverted."""

import functools
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.posteriors.posterior import PACKAGE, Posterior, float32, positive

tfb = tfp.bijectors
tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class CouplingFlow(Posterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a flow of affine couplings.

    Each coupling leaves half of its input as it is and shifts and scales the other half by functions of that half and
    of the features: networks with one hidden layer. f is the identity at the start.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        num_couplings: how many couplings follow each other, which leave the halves in turn.
        hidden: units of the hidden layer of each network.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Dinh et al. 2017, Density Estimation Using Real NVP, equations 7 and 8; Rezende & Mohamed 2015,
    Variational Inference with Normalizing Flows, section 3.
    """

    scales_only = False

    def __init__(self, latent_dim: int | None = None, num_couplings: int = 6, hidden: int = 32, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.loc_head = None
        self.scale_head = None
        self.networks = []

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads and the networks for features [B, F]."""
        if self.latent_dim < 2:
            raise ValueError(
                "`latent_dim` must be at least 2 for a CouplingFlow; FullCovarianceNormal takes 1. Received: "
                f"latent_dim={self.latent_dim}"
            )
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)
        kept = self.latent_dim // 2
        for index in range(self.num_couplings):
            network = keras.Sequential(
                [
                    keras.layers.Dense(self.hidden, activation="tanh", dtype="float32"),
                    keras.layers.Dense(2 * (self.latent_dim - kept), kernel_initializer="zeros", dtype="float32"),
                ],
                name=f"coupling_{index}",
            )
            network.build((None, kept + input_shape[-1]))
            self.networks.append(network)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L], and `features` [B, F] for the couplings, float32, from features [B, F]."""
        return {
            "loc": float32(self.loc_head(features)),
            "scale": positive(float32(self.scale_head(features))),
            "features": float32(features),
        }

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        base = tfd.Independent(tfd.Normal(tf.zeros_like(parameters["loc"]), 1.0), 1)
        return tfd.TransformedDistribution(base, self._flow(parameters))

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The sample z [B, L] of epsilon = 0, the median of the noise: the mean has no closed form."""
        return self.sample_from(parameters, tf.zeros_like(parameters["loc"]))

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * f(epsilon) [B, L]."""
        return self._flow(parameters).forward(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_couplings": self.num_couplings, "hidden": self.hidden}

    def _flow(self, parameters: dict[str, tf.Tensor]) -> tfb.Bijector:
        kept = self.latent_dim // 2
        couplings = [
            # A negative number keeps the last ones.
            tfb.RealNVP(
                num_masked=kept if index % 2 == 0 else -kept,
                shift_and_log_scale_fn=functools.partial(_shift_and_log_scale, network, parameters["features"]),
            )
            for index, network in enumerate(self.networks)
        ]
        return tfb.Chain([tfb.Shift(parameters["loc"]), tfb.Scale(parameters["scale"]), *couplings])


def _shift_and_log_scale(
    network: keras.Model, features: tf.Tensor, kept: tf.Tensor, _: int, **kwargs: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """What a coupling does to the half of z that it changes [..., B, L - L // 2], from the half that it keeps."""
    leading = tf.shape(kept)[:-1]
    features = tf.broadcast_to(features, tf.concat([leading, tf.shape(features)[-1:]], axis=0))
    inputs = tf.concat([kept, features], axis=-1)
    # A Keras network takes one batch axis.
    outputs = network(tf.reshape(inputs, [-1, inputs.shape[-1]]))
    outputs = tf.reshape(outputs, tf.concat([leading, tf.shape(outputs)[-1:]], axis=0))
    shift, log_scale = tf.split(outputs, 2, axis=-1)
    # Scales between 1/e and e, so that no draw is far from all others after several couplings.
    return shift, tf.tanh(log_scale)
