"""The relaxed categorical prior."""

from typing import Any, Literal

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.distributions.relaxed_one_hot import RelaxedOneHot, num_groups, support
from tfvae.numerics import noise_to_gumbel
from tfvae.priors.prior import PACKAGE, Prior


@keras.saving.register_keras_serializable(PACKAGE)
class RelaxedOneHotCategorical(Prior):
    """The prior of L / K relaxed one-hot vectors, flattened: softmax((log p + g) / temperature), g ~ Gumbel.

    It goes with the posterior of the same name and the same K; their temperatures may differ.

    Args:
        latent_dim: L, a multiple of K, or None to take the model's.
        num_categories: K, at least 2.
        temperature: > 0; as it falls, z approaches one-hot vectors.
        probabilities: "uniform", or "learned" for each of the vectors, starting at uniform ones.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Maddison et al. 2017, The Concrete Distribution, definition 1 and appendix C.3.
    """

    support = "simplex"
    is_independent = False

    def __init__(
        self,
        latent_dim: int | None = None,
        num_categories: int = 10,
        temperature: float = 0.5,
        probabilities: Literal["uniform", "learned"] = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_categories = checks.positive_integer("num_categories", num_categories, 2)
        self.temperature = checks.positive_number("temperature", temperature)
        if probabilities not in ("uniform", "learned"):
            raise ValueError(
                f'`probabilities` must be "uniform" or "learned". Received: probabilities={checks.shown(probabilities)}'
            )
        self.probabilities = probabilities
        self.support = support(self.num_categories)
        self._logits = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the variable of learned probabilities."""
        shape = (num_groups(self.latent_dim, self.num_categories), self.num_categories)
        if self.probabilities == "learned":
            self._logits = self.add_weight(
                name="logits", shape=shape, initializer="zeros", dtype="float32", autocast=False
            )

    def distribution(self) -> RelaxedOneHot:
        """p(z), with batch shape [] and event shape [L]."""
        shape = (num_groups(self.latent_dim, self.num_categories), self.num_categories)
        return RelaxedOneHot(tf.zeros(shape) if self._logits is None else self._logits.value, self.temperature)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] with the Gumbel noise g = -log(-log P(N(0, 1) < epsilon))."""
        return self.distribution().from_gumbel(noise_to_gumbel(epsilon))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("num_categories", "temperature", "probabilities")}
        return {**super().get_config(), **own}
