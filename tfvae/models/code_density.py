"""The maximum-likelihood training of a prior of codes."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.models.code_prior import CodePrior
from tfvae.models.density import MaximumLikelihood


class CodeDensity(MaximumLikelihood):
    """A model of codes that trains a prior: its loss is the mean of -log p(z).

    Args:
        prior: the prior, which is built.
    """

    def __init__(self, prior: CodePrior) -> None:
        super().__init__()
        self.prior = prior
        self.built = True

    def call(self, x: Any, training: bool = False) -> tf.Tensor:
        """Log p(z) [B] of codes [B, ...], in nats."""
        return self.prior.log_prob(x, training=training)

    def check_data(self, x: np.ndarray, is_encoded_only: bool = False) -> None:
        """Raises ValueError unless x are codes of the prior.

        Args:
            x: the codes [N, ...].
            is_encoded_only: has no effect.
        """
        checks.check_shape(x, self.prior.code_shape, "codes")
        most = self.prior.num_codes
        checks.check_integers(x, 0, most, f"hold integers from 0 to {most - 1}", "codes")
