"""Normal priors."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.distributions import normal
from tfvae.numerics import positive
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
        return tfd.Independent(normal.Normal(loc=tf.zeros(self.latent_dim), scale=tf.ones(self.latent_dim)), 1)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = epsilon [B, L]."""
        return epsilon


@keras.saving.register_keras_serializable(PACKAGE)
class Normal(Prior):
    """The prior p(z) = N(z | loc, diag(scale^2)), with loc and scale learned, starting at 0 and 1.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, section 2.1: the prior p_theta(z), whose parameters are those of the model.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self._loc: keras.Variable = None
        self._raw_scale: keras.Variable = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the variables."""
        arguments = {"shape": (self.latent_dim,), "initializer": "zeros", "dtype": "float32", "autocast": False}
        self._loc = self.add_weight(name="loc", **arguments)
        self._raw_scale = self.add_weight(name="raw_scale", **arguments)

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        return tfd.Independent(normal.Normal(self._loc.value, positive(self._raw_scale.value)), 1)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * epsilon [B, L]."""
        return self._loc + positive(self._raw_scale.value) * epsilon
