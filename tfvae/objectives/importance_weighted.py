"""Bounds made of importance weights, which are tighter than the evidence lower bound."""

import dataclasses
import math

import keras
import tensorflow as tf

from tfvae.elbo import ElboTerms
from tfvae.objectives.objective import PACKAGE, Objective


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class IWAE(Objective):
    """The importance weighted bound.

    log 1/S sum over S of w,  w = p(x|z) p(z) / q(z|x)

    It is at least the ELBO, and tends to log p(x) as S grows; with S = 1 it is the ELBO.

    Args:
        num_samples: S, the number of draws of z for each example.
        doubly_reparameterized: take the gradient of q(z|x) through z alone, with the squares of the normalised weights:
            unbiased too, and its signal does not drown in noise as S grows.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8; Tucker et al. 2019, Doubly
    Reparameterized Gradient Estimators for Monte Carlo Objectives, equation 8.
    """

    num_samples: int = 5
    doubly_reparameterized: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def path_gradient(self) -> bool:
        """Whether the gradient reaches q(z|x) through z alone."""
        return self.doubly_reparameterized

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        if terms.path is not None:
            # The share v of the gradient that is left out comes back as -weight * v (1 - v) of that through z.
            normalized = tf.nn.softmax(terms.log_weights, axis=0)
            terms.path.weights = tf.stop_gradient(1 - terms.weight * (1 - normalized))
        return tf.reduce_logsumexp(terms.log_weights, axis=0) - math.log(self.num_samples)
