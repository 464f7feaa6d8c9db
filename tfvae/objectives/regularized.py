"""Objectives of autoencoders that are regularised without a divergence of distributions."""

import dataclasses

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.elbo import ElboTerms
from tfvae.objectives.aggregate import draws
from tfvae.objectives.objective import PACKAGE, Objective


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class RAE(Objective):
    """The log-likelihood, with a penalty on the length of z: the regularised autoencoder.

    mean over S of log p(x|z) - beta / 2 * |z|^2

    It is meant for `posteriors.Deterministic`, and is no bound on log p(x). The decoder is regularised too, so that it
    changes little where z does: by the `kernel_regularizer` of its layers, whose losses are added, or by wrapping them
    in `keras.layers.SpectralNormalization`. To generate, fit a prior to the encodings after the training.

    Args:
        beta: weight of the penalty, >= 0. With 1 it is -log N(z | 0, I), up to a constant.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, section 3.
    """

    beta: float = 1.0

    needs_density = False
    needs_draws = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", checks.number("beta", self.beta, 0))

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        length = tf.reduce_sum(draws(self, terms) ** 2, axis=-1)
        value = terms.reconstruction_log_likelihood - self.beta / 2 * terms.weight * length
        return tf.reduce_mean(value, axis=0)
