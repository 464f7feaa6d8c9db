"""The bound and log p(x) of each held-out example, and their means with standard errors."""

import math
from typing import Any, NamedTuple

import numpy as np

from tfvae.evaluation.latent_space import rates_and_distortions
from tfvae.models.vae import VAE

# Draws of z for the two terms of the bound.
_NUM_SAMPLES = 64
_BATCH_SIZE = 128


class Measures(NamedTuple):
    """What is measured of each of N examples, in nats.

    Attributes:
        elbo: the bound [N].
        log_likelihood: log p(x) by importance sampling [N].
        kl: KL(q(z|x) || p(z)) [N].
        num_samples: K, the draws of z for log p(x).
    """

    elbo: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    num_samples: int

    def labelled(self) -> dict[str, np.ndarray]:
        """The three by the names under which they are shown."""
        return {
            "ELBO": self.elbo,
            f"log-likelihood (importance sampling, K = {self.num_samples})": self.log_likelihood,
            "KL": self.kl,
        }


def measure(model: VAE, x: Any, num_samples: int, seed: int) -> Measures:
    """Measures a model on data.

    Args:
        model: the model.
        x: the data [N, ...].
        num_samples: K, the draws of z for each example for log p(x).
        seed: the seed of the draws.
    """
    kl, distortion = rates_and_distortions(model, x, _NUM_SAMPLES, _BATCH_SIZE, seed)
    log_likelihood = np.asarray(model.log_likelihood(x, num_samples, seed=seed), float)
    return Measures(-(kl + distortion), log_likelihood, kl, num_samples)


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of values [N]; NaN for one value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
