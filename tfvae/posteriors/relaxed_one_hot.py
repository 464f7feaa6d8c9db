"""The relaxed categorical posterior, for the prior of the same name."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions.relaxed_one_hot import RelaxedOneHot, num_groups, support
from tfvae.numerics import noise_to_gumbel
from tfvae.posteriors.posterior import PACKAGE, Posterior, float32

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class RelaxedOneHotCategorical(Posterior):
    """The posterior of L / K relaxed one-hot vectors, flattened: softmax((logits(x) + g) / temperature), g ~ Gumbel.

    The head is linear in the features. `center` is the z of g = 0, softmax(logits / temperature), because the mean has
    no closed form. The KL divergence is that of the relaxed densities, by Monte Carlo, so that the ELBO is a bound.

    Args:
        latent_dim: L, a multiple of K, or None to take the model's.
        num_categories: K, at least 2.
        temperature: > 0; as it falls, z approaches one-hot vectors and the gradient becomes noisier.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Jang et al. 2017, Categorical Reparameterization with Gumbel-Softmax, section 2; Maddison et al. 2017,
    The Concrete Distribution, definition 1 and appendix C.3.
    """

    support = "simplex"
    is_independent = False

    def __init__(
        self, latent_dim: int | None = None, num_categories: int = 10, temperature: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_categories = checks.positive_integer("num_categories", num_categories, 2)
        self.temperature = checks.positive_number("temperature", temperature)
        self.support = support(self.num_categories)
        self.logits_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the head for features [B, F]."""
        num_groups(self.latent_dim, self.num_categories)
        self.logits_head = self._head("logits", self.latent_dim, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `logits` [B, L], float32, from features [B, F]."""
        return {"logits": float32(self.logits_head(features))}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> RelaxedOneHot:
        """q(z|x), with batch shape [B] and event shape [L]."""
        groups = num_groups(self.latent_dim, self.num_categories)
        logits = tf.reshape(parameters["logits"], [-1, groups, self.num_categories])
        return RelaxedOneHot(logits, self.temperature)

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The z [B, L] without noise, softmax(logits / temperature) in each group."""
        return self.distribution(parameters).from_gumbel(tf.zeros_like(parameters["logits"]))

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] with the Gumbel noise g = -log(-log P(N(0, 1) < epsilon))."""
        return self.distribution(parameters).from_gumbel(noise_to_gumbel(epsilon))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_categories": self.num_categories, "temperature": self.temperature}
