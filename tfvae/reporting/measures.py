"""The bound and log p(x) of each held-out example, if the model has them, and their means with standard errors."""

import math
from typing import Any, NamedTuple

import numpy as np

from tfvae.evaluation.latent_space import rates_and_distortions
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE

# Draws of z for the two terms of the bound.
_NUM_SAMPLES = 64
_BATCH_SIZE = 128
# Fewer of sequences, whose terms at all steps of all draws would not fit in memory.
_OF_SEQUENCES = 16


class Measures(NamedTuple):
    """What is measured of each of N examples, in nats.

    Attributes:
        elbo: the bound [N]; None for a model without one.
        log_likelihood: log p(x) by importance sampling [N]; None for a model without a bound.
        kl: KL(q(z|x) || p(z)) [N]; None for a model whose q(z|x) has no density.
        num_samples: K, the draws of z for log p(x).
        method: how log p(x) was estimated.
        reconstruction_log_likelihood: E_q[log p(x|z)] [N], for a model without a bound, which is judged by it; or None.
    """

    elbo: np.ndarray | None
    log_likelihood: np.ndarray | None
    kl: np.ndarray | None
    num_samples: int
    method: str = "importance sampling"
    reconstruction_log_likelihood: np.ndarray | None = None

    def named(self) -> dict[str, np.ndarray]:
        """Those that the model has, by their names here."""
        names = ("elbo", "log_likelihood", "reconstruction_log_likelihood", "kl")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def labelled(self) -> dict[str, np.ndarray]:
        """Those that the model has, by the names under which they are shown."""
        labels = {
            "elbo": "ELBO",
            "log_likelihood": f"log-likelihood ({self.method}, K = {self.num_samples})",
            "reconstruction_log_likelihood": "reconstruction log-likelihood",
            "kl": "KL",
        }
        return {labels[name]: values for name, values in self.named().items()}


def measure(model: VAE | SequentialVAE, x: Any, num_samples: int, seed: int) -> Measures:
    """Measures a model on data.

    Args:
        model: the model.
        x: the data [N, ...].
        num_samples: K, the draws of z for each example for log p(x).
        seed: the seed of the draws.
    """
    are_sequences = isinstance(model, SequentialVAE | AutoregressiveVAE)
    sizes = (_OF_SEQUENCES, _OF_SEQUENCES) if are_sequences else (_NUM_SAMPLES, _BATCH_SIZE)
    kl, distortion = rates_and_distortions(model, x, *sizes, seed)
    if not model.has_bound:
        return Measures(None, None, kl, num_samples, reconstruction_log_likelihood=-distortion)
    assert kl is not None
    log_likelihood = np.asarray(model.log_likelihood(x, num_samples, seed=seed), float)
    method = "sequential Monte Carlo" if isinstance(model, SequentialVAE) else "importance sampling"
    return Measures(-(kl + distortion), log_likelihood, kl, num_samples, method)


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of values [N]; NaN for one value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def ratio(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The mean of what N examples have several of, the sum of values [N] by that of counts [N], and its standard error.

    se = sqrt(sum_n (v_n - r c_n)^2 N / (N - 1)) / sum_n c_n, with r the ratio;  NaN for one example

    Reference: Cochran 1977, Sampling Techniques, equation 2.46.
    """
    values, counts = np.asarray(values, float), np.asarray(counts, float)
    if not counts.sum():
        return math.nan, math.nan
    found, number = float(values.sum() / counts.sum()), len(values)
    if number < 2:
        return found, math.nan
    spread = np.sum((values - found * counts) ** 2) * number / (number - 1)
    return found, float(math.sqrt(spread) / counts.sum())
