"""Imputation of missing values, by their mean under the model or by several draws.

Draws z ~ q(z|x_observed) are reweighted by w = p(x_observed|z) p(z) / q(z|x_observed), so that they represent
p(z|x_observed) even where q differs from it.

Reference: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks, chunks, elbo, seeds
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.vae import VAE
from tfvae.training.batch import batches

# The most elements of one tensor (16 MB), and the most rows that the decoder evaluates in one chunk of draws.
_CHUNK_ELEMENTS = 2**22
_CHUNK_ROWS = 2**16
# A warning is given if fewer effective draws than this remain, for more than this share of the examples.
_FEW_DRAWS = 10
_FEW_EXAMPLES = 0.1


def impute(
    model: VAE,
    x: ArrayLike,
    num_samples: int = 1000,
    batch_size: int = 64,
    seed: int | None = None,
    num_imputations: int | None = None,
) -> np.ndarray:
    """Fills in the missing values of x, which are marked by NaN.

    By default the imputation is E[x_missing|x_observed] = sum over S of v E[x_missing|z], where v are the importance
    weights divided by their sum; for a `Categorical` element it is the most probable code. With `num_imputations`, each
    imputation picks one of the z with the probabilities v, and draws x_missing ~ p(x_missing|z). If `num_samples` is
    at least 100, a warning is given when a few draws have almost all of the weight, 1 / (sum of v^2) < 10, for more
    than a tenth of the examples.

    Args:
        model: a trained model with the likelihood `Missing` and no condition.
        x: the data [N, ...].
        num_samples: S, the number of draws of z for each example.
        batch_size: how many examples are computed at a time; memory is bounded whatever S is.
        seed: the same seed gives the same draws; None draws anew at each call.
        num_imputations: M, how many times to draw x_missing; None returns its mean instead.

    Returns:
        x as floats, filled in: [N, ...], or [M, N, ...] for M draws. Observed values are unchanged.

    Raises:
        ValueError: an argument is out of its range, or x is not valid data for the model.

    Reference: Mattei & Frellsen 2019, MIWAE; for the draws Rubin 1987, sampling importance resampling.
    """
    if isinstance(model, ConditionalVAE):
        raise ValueError(f"`model` must be a VAE of x alone, without a condition. Received: a {type(model).__name__}")
    if not isinstance(model, VAE) or not model.likelihood.allows_missing:
        received = type(model.likelihood).__name__ if isinstance(model, VAE) else repr(model)
        raise ValueError(
            "`model` must be a VAE whose likelihood allows missing values, for example Missing(Normal()). Received: "
            f"{received}"
        )
    num_samples = checks.positive_integer("num_samples", num_samples)
    if num_imputations is not None:
        num_imputations = checks.positive_integer("num_imputations", num_imputations)
    x = checks.to_numpy(x)
    model.check_data(x)
    rows, sizes = [], []
    for batch, batch_seed in seeds.for_each(batches(x, batch_size), model._seed(seed)):
        weights = _Weights()
        if num_imputations is None:
            rows.append(model.likelihood.to_data(_mean(model, batch, num_samples, batch_seed, weights)))
        else:
            rows.append(_draws(model, batch, num_samples, num_imputations, batch_seed, weights))
        sizes.append(weights.effective_size)
    share = np.mean(np.concatenate(sizes) < _FEW_DRAWS)
    if share > _FEW_EXAMPLES and num_samples >= 10 * _FEW_DRAWS:
        warnings.warn(
            f"Fewer than {_FEW_DRAWS} draws of z have almost all the weight for {share:.0%} of the examples, so that "
            "their imputations are noisy: take more samples, or train with more draws (IWAE) or a richer posterior.",
            stacklevel=2,
        )
    filled = np.concatenate(rows, axis=0 if num_imputations is None else 1)
    dtype = np.result_type(x.dtype, np.float32)
    return np.where(np.isnan(x), filled.astype(dtype), x.astype(dtype))


class _Weights:
    """Running sums of importance weights w [S, B] that arrive in chunks.

    Attributes:
        total: log of the sum of w [B].
        total_of_squares: log of the sum of w^2 [B].
    """

    def __init__(self) -> None:
        self.total = self.total_of_squares = -np.inf

    def add(self, log_weights: tf.Tensor) -> np.ndarray:
        """Adds weights, given as logarithms [S', B], and returns the logarithm [B] of their sum."""
        log_weights = np.float64(log_weights)
        total = np.logaddexp.reduce(log_weights, axis=0)
        self.total = np.logaddexp(self.total, total)
        self.total_of_squares = np.logaddexp(self.total_of_squares, np.logaddexp.reduce(2 * log_weights, axis=0))
        return total

    @property
    def effective_size(self) -> np.ndarray:
        """The effective sample size [B], 1 / (sum of v^2): the number of equally weighted draws of the same worth."""
        return np.exp(2 * self.total - self.total_of_squares)


def _mean(model: VAE, batch: tf.Tensor, num_samples: int, seed: tf.Tensor, weights: _Weights) -> np.ndarray:
    """The mean of p(x|x_observed) [B, *mean_shape]."""

    def weighted_means(x: tf.Tensor, seed: tf.Tensor, num_samples: int) -> tuple[tf.Tensor, tf.Tensor]:
        terms = model.elbo_terms(x, elbo.Sampling(num_samples, seed))
        means = model.likelihood.mean(model.likelihood_parameters(terms.z))
        shares = tf.nn.softmax(terms.log_weights, axis=0)
        shares = tf.reshape(shares, tf.concat([tf.shape(shares), tf.ones(len(means.shape) - 2, tf.int32)], axis=0))
        return tf.reduce_sum(shares * means, axis=0), terms.log_weights

    mean: Any = 0.0
    for means, log_weights in _chunks(weighted_means, model, batch, num_samples, seed):
        means = np.float64(means)
        share = np.exp(weights.add(log_weights) - weights.total).reshape(-1, *[1] * (means.ndim - 1))
        mean += share * (means - mean)
    return mean


def _draws(
    model: VAE, batch: tf.Tensor, num_samples: int, num_imputations: int, seed: tf.Tensor, weights: _Weights
) -> np.ndarray:
    """Draws [M, B, *event_shape] of p(x|x_observed)."""

    def resampled(x: tf.Tensor, seed: tf.Tensor, num_samples: int, num_imputations: int) -> tuple[tf.Tensor, ...]:
        terms = model.elbo_terms(x, elbo.Sampling(num_samples, seed))
        # Gumbel-max trick: argmax of log w + Gumbel noise is a draw chosen with probability proportional to its weight.
        shape = tf.concat([[num_imputations], tf.shape(terms.log_weights)], axis=0)
        uniform = tf.random.stateless_uniform(shape, tf.random.experimental.stateless_fold_in(seed, -1), 1e-30)
        keys = terms.log_weights - tf.math.log(-tf.math.log(uniform))
        chosen = tf.transpose(tf.argmax(keys, axis=1, output_type=tf.int32))
        z = tf.gather(tf.transpose(terms.z, [1, 0, 2]), chosen, batch_dims=1)
        return tf.transpose(z, [1, 0, 2]), tf.reduce_max(keys, axis=1), terms.log_weights

    z = best = None
    parts = _chunks(resampled, model, batch, num_samples, seed, num_imputations=num_imputations)
    for points, keys, log_weights in parts:
        weights.add(log_weights)
        if best is None:
            z, best = points, keys
        else:
            z = tf.where((keys > best)[..., tf.newaxis], points, z)
            best = tf.maximum(keys, best)
    # Outside of the compiled function, because XLA cannot draw from every distribution.
    draw_seed = tf.random.experimental.stateless_fold_in(seed, -2)
    return model.likelihood.distribution(model.likelihood_parameters(z)).sample(seed=draw_seed).numpy()


def _chunks(
    function: Callable, model: VAE, batch: tf.Tensor, num_samples: int, seed: tf.Tensor, **constants: int
) -> Iterator[tuple[tf.Tensor, ...]]:
    """Calls a function of x, a seed and a number of draws repeatedly, with as many draws at a time as memory allows."""
    width = max(math.prod(model.likelihood.parameter_shape(model.event_shape)), *constants.values(), 1)
    chunk = min(chunks.rows_within(_CHUNK_ELEMENTS, width * len(batch)), chunks.rows_within(_CHUNK_ROWS, len(batch)))
    for draws, chunk_seed in seeds.for_draws(num_samples, chunk, seed):
        yield model._run(function, batch, chunk_seed, num_samples=draws, **constants)
