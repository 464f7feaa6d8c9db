"""Normal posteriors, from independent dimensions to a full covariance."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions.correlated_normal import CorrelatedNormal, LowRankRoot, TriangularRoot
from tfvae.distributions.normal import Normal
from tfvae.numerics import positive
from tfvae.posteriors.posterior import PACKAGE, LocationScalePosterior, TransformedPosterior, float32

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class DiagonalNormal(LocationScalePosterior):
    """The posterior q(z|x) = N(z | loc(x), diag(scale(x)^2)), reparameterised: z = loc + scale * eps, eps ~ N(0, I).

    Both heads are linear in the features; scale = softplus(raw + log(e - 1)), which is 1 where raw is 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, equation 9.
    """

    is_fast_by_xla = True

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.Independent(Normal(parameters["loc"], parameters["scale"]), 1)

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * epsilon [B, L]."""
        return parameters["loc"] + parameters["scale"] * epsilon


@keras.saving.register_keras_serializable(PACKAGE)
class FullCovarianceNormal(TransformedPosterior):
    """The posterior q(z|x) = N(z | loc(x), T(x) T(x)^T), T lower triangular: z = loc + T eps, eps ~ N(0, I).

    The heads are linear in the features; T is the identity where its head gives 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2019, An Introduction to Variational Autoencoders, section 2.5.1.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head: keras.layers.Layer = None
        self.scale_tril_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_tril_head = self._head("scale_tril", self.latent_dim * (self.latent_dim + 1) // 2, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` [B, L] and `scale_tril` [B, L, L], the matrix T, float32, from features [B, F]."""
        raw = tfp.math.fill_triangular(float32(self.scale_tril_head(features)))
        # XLA cannot compile the gradient of `set_diag` where B is not known, and TFLite has no `diag_part`.
        identity = tf.eye(self.latent_dim)
        diagonal = positive(tf.reduce_sum(raw * identity, axis=-1, keepdims=True))
        scale_tril = raw * (1 - identity) + diagonal * identity
        return {"loc": float32(self.loc_head(features)), "scale_tril": scale_tril}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.TransformedDistribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return CorrelatedNormal(parameters["loc"], TriangularRoot(parameters["scale_tril"]))


@keras.saving.register_keras_serializable(PACKAGE)
class LowRankNormal(TransformedPosterior):
    """The posterior q(z|x) = N(z | loc(x), diag(scale(x)^2) + V(x) V(x)^T) with V [L, rank], for a large L.

    The heads are linear in the features. V starts small and random: at 0 its gradient would be 0.

    Args:
        latent_dim: L, or None to take the model's.
        rank: the number of columns of V, at least 1.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `rank` is out of its range.

    Reference: Ong et al. 2018, Gaussian Variational Approximation with a Factor Covariance Structure, section 3.
    """

    def __init__(self, latent_dim: int | None = None, rank: int = 5, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.rank = checks.positive_integer("rank", rank)
        self.loc_head: keras.layers.Layer = None
        self.scale_head: keras.layers.Layer = None
        self.factor_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)
        small = keras.initializers.RandomNormal(stddev=0.1)
        self.factor_head = self._head("factor", self.latent_dim * self.rank, input_shape, bias_initializer=small)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L] and `factor` [B, L, rank], float32, from features [B, F]."""
        factor = tf.reshape(float32(self.factor_head(features)), [-1, self.latent_dim, self.rank])
        scale = positive(float32(self.scale_head(features)))
        return {"loc": float32(self.loc_head(features)), "scale": scale, "factor": factor}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.TransformedDistribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return CorrelatedNormal(parameters["loc"], LowRankRoot(parameters["scale"], parameters["factor"]))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rank": self.rank}
