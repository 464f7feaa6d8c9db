"""What every prior is."""

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
    """A distribution over the latent space. A layer, so that Keras tracks and saves its variables.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        support: where z lies, which that of the posterior must be: "real", "sphere" or "simplex", with its number of
            categories; None where it is that of the posterior.
    """

    support: str | None = "real"
    latent_dim: int

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # None until the model gives its own.
        self.latent_dim = latent_dim  # type: ignore[assignment]

    def connect(
        self,
        encode: Callable[[tf.Tensor], dict[str, tf.Tensor]],
        posterior: Posterior,
        event_shape: tuple[int, ...],
    ) -> None:
        """Takes what a prior may be made of from the model that has it, before it is built; here nothing.

        Args:
            encode: gives the parameters of q(z|x) for x [B, ...].
            posterior: what these are the parameters of.
            event_shape: the shape of one example.
        """

    @abc.abstractmethod
    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] of p(z) that noise epsilon ~ N(0, I) [B, L] stands for; what is exported needs it.

        Raises:
            NotImplementedError: a sample of this prior is no function of such noise.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `sample_from`, which an export needs")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}
