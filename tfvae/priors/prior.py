"""The base class of all priors."""

import abc
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.posteriors import Posterior

tfd = tfp.distributions

PACKAGE = "tfvae.priors"


class Prior(keras.layers.Layer, abc.ABC):
    """A distribution over the latent space. It is a layer so that Keras tracks and saves its variables.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        support: the space in which z lies, which must be that of the posterior: "real", "sphere", or "simplex" with its
            number of categories; None for a prior that takes on the posterior's.
        is_independent: whether the dimensions of z are independent: `distribution` is then a `tfd.Independent`.
        noise_dim: how many numbers of noise log p(z) is computed from, which `sample_from` takes after those of z: 0,
            unless the prior has latent variables of its own.
    """

    support: str | None = "real"
    is_independent = True
    noise_dim: int = 0
    latent_dim: int

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # None until the model gives its own.
        self.latent_dim = latent_dim  # type: ignore[assignment]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of z, (None, L), for `keras.Model.summary`."""
        return (None, self.latent_dim)

    def connect(
        self,
        encode: Callable[[tf.Tensor], dict[str, tf.Tensor]],
        posterior: Posterior,
        event_shape: tuple[int, ...],
    ) -> None:
        """Receives the parts of the model of which a prior may be made, before it is built; does nothing by default.

        Args:
            encode: maps x [B, ...] to the parameters of q(z|x).
            posterior: the posterior that these are the parameters of.
            event_shape: the shape of one example.
        """

    @abc.abstractmethod
    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""

    def distribution_from(self, noise: tf.Tensor) -> tfd.Distribution:
        """p(z) whose log-density at z [B, L] is computed from given noise, if `noise_dim` is not 0.

        Args:
            noise: noise from N(0, I) [B, noise_dim].
        """
        return self.distribution()

    def start_near(self, loc: tf.Tensor, raw_scale: tf.Tensor) -> None:
        """Takes the mean of some z, and their standard deviations, as where a fit starts; does nothing by default.

        Args:
            loc: [L].
            raw_scale: [L], that `numerics.positive` maps to the standard deviations.
        """

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """Maps noise epsilon ~ N(0, I) to a sample z [B, L] of p(z). Exports need it: noise is their input.

        Args:
            epsilon: the noise [B, L + noise_dim].

        Raises:
            NotImplementedError: this prior has no such map.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `sample_from`, which an export needs")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}
