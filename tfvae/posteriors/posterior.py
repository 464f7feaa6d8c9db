"""What every posterior is, and what their heads are made of."""

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

    Attributes:
        scales_only: whether the family changes when z is rotated: then z may be rescaled for it, but not decorrelated.
    """

    scales_only = True

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

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The one z [B, L] that stands for q(z|x), as in a reconstruction: its mean, unless a family says otherwise.

        Args:
            parameters: what `call` gives.
        """
        return self.distribution(parameters).mean()

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

    def _head(self, name: str, units: int, input_shape: tuple[int | None, ...], **kwargs: Any) -> keras.layers.Dense:
        """A head: linear in the features or, where there are none, F = 0, a weight alone."""
        kind = keras.layers.Dense if input_shape[-1] else _Constant
        head = kind(units, dtype=self.dtype_policy, name=name, **kwargs)
        head.build(input_shape)
        return head


class _Constant(keras.layers.Layer):
    """A dense layer of no features, which oneDNN aborts on: a bias [units] for each row.

    Args:
        units: the number of outputs.
        bias_initializer: of the bias.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, units: int, bias_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.bias_initializer = bias_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return keras.ops.broadcast_to(self.bias, (keras.ops.shape(features)[0], self.units))


def float32(x: tf.Tensor) -> tf.Tensor:
    """Casts what a head gives, which computes in half precision under a mixed policy."""
    return keras.ops.cast(x, "float32")


def positive(raw: tf.Tensor) -> tf.Tensor:
    """Turns a head's output into scales: 1 where it is 0."""
    return softplus(raw + math.log(math.e - 1)) + _MIN_SCALE
