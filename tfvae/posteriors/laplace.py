"""The posterior of independent Laplace distributions."""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.numerics import normal_log_survival
from tfvae.posteriors.posterior import PACKAGE, LocationScalePosterior

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Laplace(LocationScalePosterior):
    """The posterior of independent Laplace distributions: q(z|x) = prod_l exp(-|z_l - loc_l| / scale_l) / (2 scale_l).

    The heads are linear in the features, as those of `DiagonalNormal`. `center` is the mean, loc.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, section 2.4: location-scale families.
    """

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.Independent(tfd.Laplace(parameters["loc"], parameters["scale"]), 1)

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc - scale * sign(epsilon) * log(2 P(N(0, 1) > |epsilon|)) [B, L]."""
        magnitude = -normal_log_survival(tf.abs(epsilon)) - math.log(2)
        return parameters["loc"] + parameters["scale"] * tf.sign(epsilon) * magnitude
