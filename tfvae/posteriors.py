"""Posteriors q(z|x), amortised: a layer turns the encoder's features into the parameters of a distribution.

`posterior(features)` gives the parameters as a dictionary of tensors [B, L]; `posterior.distribution(parameters)` wraps
them. Two steps, because a Keras layer can hand on tensors but not a distribution.
"""

import abc
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.numerics import softplus

tfd = tfp.distributions

PACKAGE = "tfvae.posteriors"

# A softplus that underflows to 0 would make log q(z|x) infinite.
_MIN_SCALE = 1e-6


class Posterior(keras.layers.Layer, abc.ABC):
    """A family of distributions over the latent space, with the heads that turn features into its parameters.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the parameters.

        Args:
            features: what the encoder gives [B, F].

        Returns:
            The parameters by name, each float32 with leading dimension B.
        """

    @abc.abstractmethod
    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """Wraps the parameters into q(z|x), with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` gives.
        """

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] of q(z|x) that noise epsilon ~ N(0, I) stands for; what is exported needs it.

        Args:
            parameters: what `call` gives.
            epsilon: the noise [B, L].

        Raises:
            NotImplementedError: a sample of this posterior is no function of such noise.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `sample_from`, which an export needs")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(PACKAGE)
class DiagonalNormal(Posterior):
    """The posterior q(z|x) = N(z | loc(x), diag(scale(x)^2)), reparameterised: z = loc + scale * eps, eps ~ N(0, I).

    Both heads are linear in the features; scale = softplus(raw + log(e - 1)), which is 1 where raw is 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, equation 9.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head = None
        self.scale_head = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = keras.layers.Dense(self.latent_dim, dtype=self.dtype_policy, name="loc")
        self.scale_head = keras.layers.Dense(self.latent_dim, dtype=self.dtype_policy, name="scale")
        self.loc_head.build(input_shape)
        self.scale_head.build(input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale`, each float32 [B, L], from features [B, F]."""
        loc = keras.ops.cast(self.loc_head(features), "float32")
        raw = keras.ops.cast(self.scale_head(features), "float32") + math.log(math.e - 1)
        return {"loc": loc, "scale": softplus(raw) + _MIN_SCALE}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.Independent(tfd.Normal(parameters["loc"], parameters["scale"]), 1)

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * epsilon [B, L]."""
        return parameters["loc"] + parameters["scale"] * epsilon
