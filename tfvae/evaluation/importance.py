"""The log-likelihood by importance sampling, with its standard error and k-hat, which says whether to trust it."""

import math
import warnings
from typing import Any, NamedTuple, Self

import numpy as np

from tfvae import checks
from tfvae.evaluation.batches import HIERARCHIES, check_model
from tfvae.inference.draws import HARDLY_VARIES, PARETO_K_LIMIT, Draws
from tfvae.models.deep_hierarchy import DeepHierarchicalVAE
from tfvae.models.hierarchical import HierarchicalVAE
from tfvae.models.vae import VAE

# The share of examples whose k-hat may be above its limit without a warning.
_FEW = 0.1


class LogLikelihood(NamedTuple):
    """Estimates of log p(x), each from importance weights w whose mean estimates p(x).

    Attributes:
        log_likelihood: log mean w [N], in nats per example; in expectation below log p(x).
        standard_error: its standard error [N], in nats, by the delta method: the standard error of the mean of w,
            divided by that mean. It is too small where k-hat is above 0.7.
        pareto_k: k-hat [N], the shape of the tail of w: below 0.5 good, above 0.7 not to be trusted; -inf where all w
            are equal, NaN where there are fewer than 25 of them.
    """

    log_likelihood: np.ndarray
    standard_error: np.ndarray
    pareto_k: np.ndarray

    @classmethod
    def of_log_weights(cls, log_weights: np.ndarray) -> Self:
        """The estimates from log w [K, N], in nats."""
        log_weights = log_weights.astype(float)
        size = len(log_weights)
        weights = np.exp(log_weights - log_weights.max(axis=0))
        return cls(
            np.logaddexp.reduce(log_weights, axis=0) - math.log(size),
            weights.std(axis=0, ddof=1) / weights.mean(axis=0) / math.sqrt(size),
            np.array([Draws({}, column).pareto_k for column in log_weights.T]),
        )

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The estimates of several batches, one after the other."""
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def warn_where_far(self, num_weights: int, advice: str) -> None:
        """Warns where k-hat is above 0.7 for more than a tenth of the examples.

        Args:
            num_weights: the number of importance weights of each example.
            advice: what the user may try instead.
        """
        uncertain = self.pareto_k > PARETO_K_LIMIT
        far = uncertain & (self.standard_error * math.sqrt(num_weights) >= HARDLY_VARIES)
        if np.mean(far) > _FEW:
            warnings.warn(
                f"k-hat is above {PARETO_K_LIMIT} for {np.mean(far):.0%} of the examples, whose log p(x) is probably "
                f"too low and whose standard error is too small: {advice}.",
                stacklevel=3,
            )
        elif np.mean(uncertain) > _FEW:
            warnings.warn(
                f"k-hat is above {PARETO_K_LIMIT} for {np.mean(uncertain):.0%} of the examples, but their importance "
                "weights hardly vary, so that log p(x) is right; only the tail of the weights is uncertain.",
                stacklevel=3,
            )


def importance_sampling(
    model: VAE | HierarchicalVAE | DeepHierarchicalVAE,
    x: Any,
    num_samples: int = 5000,
    *,
    batch_size: int = 128,
    seed: int | None = None,
) -> LogLikelihood:
    """Estimates log p(x) as `VAE.log_likelihood` does, with its standard error and k-hat.

    log p(x) ~ log 1/K sum_k w_k,  w_k = p(x|z_k) p(z_k) / q(z_k|x),  z_k ~ q(z|x)

    Warns if k-hat is above 0.7 for more than a tenth of the examples.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        num_samples: K, the number of draws for each example, at least 2; k-hat needs 25.
        batch_size: how many examples are computed at a time; K * batch_size log weights are kept in memory.
        seed: the same seed gives the draws of `VAE.log_likelihood`; None draws anew at each call.

    Returns:
        The estimates [N], in nats per example.

    Raises:
        ValueError: an argument is invalid.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8; Vehtari et al. 2024, Pareto Smoothed
    Importance Sampling.
    """
    check_model(model, *HIERARCHIES)
    check_weights("num_samples", num_samples)
    batches = model._log_weights(x, num_samples, batch_size, seed)
    result = LogLikelihood.joined([LogLikelihood.of_log_weights(np.concatenate(list(chunks))) for chunks in batches])
    result.warn_where_far(num_samples, "take more samples, a richer posterior, or annealed_importance_sampling")
    return result


def check_weights(argument: str, value: int) -> None:
    """Raises ValueError unless the number of weights of each example is at least 2, as a standard error needs."""
    if checks.positive_integer(argument, value) < 2:
        raise ValueError(
            f"`{argument}` must be at least 2, for a standard error. Received: {argument}={checks.shown(value)}"
        )
