"""Posteriors on the unit sphere, for the prior `HypersphericalUniform`."""

import abc
from typing import Any

import keras
import tensorflow as tf

from tfvae.distributions import spherical
from tfvae.numerics import first_axis, positive, unit
from tfvae.posteriors.posterior import PACKAGE, Posterior, float32


class SphericalPosterior(Posterior):
    """A distribution on the unit sphere of L dimensions, symmetric around loc(x).

    The heads are linear in the features; loc is the output of its head divided by its length, and the concentration is
    1 where its head gives 0. `center` is loc, because the mean, in the same direction, lies inside the sphere.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    support = "sphere"
    is_independent = False
    is_fast_by_xla = True

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head: keras.layers.Layer = None
        self.concentration_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads for features [B, F]."""
        if self.latent_dim < 2:
            raise ValueError(
                f"`latent_dim` must be at least 2 for a {type(self).__name__}: in one dimension the sphere is two "
                f"points. Received: latent_dim={self.latent_dim}"
            )
        # Features of 0 alone would give loc no direction.
        self.loc_head = self._head("loc", self.latent_dim, input_shape, bias_initializer=_first_axis)
        self.concentration_head = self._head("concentration", 1, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` [B, L], of length 1, and `concentration` [B], float32, from features [B, F]."""
        concentration = positive(float32(self.concentration_head(features)))
        return {"loc": unit(float32(self.loc_head(features))), "concentration": concentration[:, 0]}

    @abc.abstractmethod
    def distribution(self, parameters: dict[str, tf.Tensor]) -> spherical.Spherical:
        """Wraps the parameters into q(z|x), with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` returns.
        """

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The mean direction loc [B, L], the mode of q(z|x)."""
        return tf.convert_to_tensor(parameters["loc"])

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L]: the quantile of epsilon_1 gives its angle to loc, the rest of epsilon its direction."""
        return self.distribution(parameters).from_noise(epsilon)


@keras.saving.register_keras_serializable(PACKAGE)
class PowerSpherical(SphericalPosterior):
    """The posterior on the unit sphere with q(z|x) proportional to (1 + <loc(x), z>)^concentration(x).

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: De Cao & Aziz 2020, The Power Spherical distribution.
    """

    def distribution(self, parameters: dict[str, tf.Tensor]) -> spherical.Spherical:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return spherical.PowerSpherical(parameters["loc"], parameters["concentration"])


@keras.saving.register_keras_serializable(PACKAGE)
class VonMisesFisher(SphericalPosterior):
    """The posterior on the unit sphere with q(z|x) proportional to exp(concentration(x) <loc(x), z>).

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Davidson et al. 2018, Hyperspherical Variational Auto-Encoders, section 3.
    """

    def distribution(self, parameters: dict[str, tf.Tensor]) -> spherical.Spherical:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return spherical.VonMisesFisher(parameters["loc"], parameters["concentration"])


def _first_axis(shape: tuple[int], dtype: str) -> tf.Tensor:
    return tf.cast(first_axis(shape[0]), dtype)
