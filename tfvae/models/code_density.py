"""The maximum-likelihood training of a prior of codes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.models.code_prior import CodePrior
from tfvae.training.batch import Batch
from tfvae.training.trainer import Trainer


class CodeDensity(Trainer):
    """A model of codes that trains a prior: its loss is the mean of -log p(z).

    Args:
        prior: the prior, which is built.
    """

    def __init__(self, prior: CodePrior) -> None:
        super().__init__(autocast=False)
        self.prior = prior
        self._log_prob = keras.metrics.Mean(name="log_prob")
        self.built = True

    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the loss of a batch of codes: see `Trainer.batch_losses`."""
        log_prob = self.prior.log_prob(batch.x, training=training)
        loss = -log_prob if batch.sample_weight is None else -log_prob * batch.sample_weight
        return [tf.reduce_sum(loss) / batch.global_size], {"loss": loss, "log_prob": log_prob}

    def check_data(self, x: np.ndarray, is_encoded_only: bool = False) -> None:
        """Raises ValueError unless x are codes of the prior.

        Args:
            x: the codes [N, ...].
            is_encoded_only: has no effect.
        """
        checks.check_shape(x, self.prior.code_shape, "codes")
        most = self.prior.num_codes
        checks.check_integers(x, 0, most, f"hold integers from 0 to {most - 1}", "codes")

    def call(self, x: Any, training: bool = False) -> tf.Tensor:
        """Log p(z) [B] of codes [B, ...], in nats."""
        return self.prior.log_prob(x, training=training)
