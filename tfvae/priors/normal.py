"""Normal priors."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.priors.prior import PACKAGE, Prior

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class StandardNormal(Prior):
    """The prior p(z) = N(z | 0, I).

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, section 3.
    """

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        return tfd.Independent(tfd.Normal(loc=tf.zeros(self.latent_dim), scale=tf.ones(self.latent_dim)), 1)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = epsilon [B, L]."""
        return epsilon
