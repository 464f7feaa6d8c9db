"""The posterior that is a point, of autoencoders whose codes have no noise."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.posteriors.posterior import PACKAGE, Posterior, float32

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Deterministic(Posterior):
    """The posterior that is a point: z = loc(x), linear in the features.

    It is for the objectives `MMD`, `Adversarial` and `RAE`. It has no density, so a model with it has no KL divergence,
    no lower bound on log p(x) and no importance weights: see `tfvae.VAE.undefined`.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Tolstikhin et al. 2018, Wasserstein Auto-Encoders, section 2; Ghosh et al. 2020, From Variational to
    Deterministic Autoencoders, section 3.
    """

    is_independent = False
    has_density = False
    has_log_prob = False
    is_fast_by_xla = True

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the head for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc`, float32 [B, L], from features [B, F]."""
        return {"loc": float32(self.loc_head(features))}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """The point loc, with batch shape [B] and event shape [L]."""
        return tfd.VectorDeterministic(parameters["loc"])

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The point loc [B, L]."""
        return tf.convert_to_tensor(parameters["loc"])

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The point loc [B, L], whatever the noise."""
        return self.center(parameters)

    def sample_and_log_prob_from(
        self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, None]:
        """The point loc [B, L], and None, because it has no density."""
        return self.center(parameters), None
