"""The uniform prior on the unit sphere."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.numerics import unit
from tfvae.priors.prior import PACKAGE, Prior

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class HypersphericalUniform(Prior):
    """The prior that is uniform on the unit sphere of L dimensions: p(z) = Gamma(L / 2) / (2 pi^(L / 2)).

    It goes with the posteriors `PowerSpherical` and `VonMisesFisher`, whose KL divergence from it needs no draws.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Davidson et al. 2018, Hyperspherical Variational Auto-Encoders, section 3.
    """

    support = "sphere"
    is_independent = False

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        return tfd.SphericalUniform(self.latent_dim)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = epsilon / |epsilon| [B, L]."""
        return unit(epsilon)
