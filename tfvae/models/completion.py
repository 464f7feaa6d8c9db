"""Means and draws of p(x|x_observed), by weighted draws of z.

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

from tfvae import chunks, elbo, seeds

# The most elements of one tensor (16 MB), and the most rows that the decoder evaluates in one chunk of draws.
_CHUNK_ELEMENTS = 2**22
_CHUNK_ROWS = 2**16
# A warning is given if fewer effective draws than this remain, for more than this share of the examples.
_FEW_DRAWS = 10
_FEW_EXAMPLES = 0.1


class Weights:
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


def warn_where_few(sizes: np.ndarray, num_samples: int, results: str) -> None:
    """Warns, the caller of the public function that calls this, if few draws of z have almost all of the weight.

    Args:
        sizes: the effective sample size of each example.
        num_samples: the number of draws; there is no warning where they are few from the start.
        results: what is noisy therefore.
    """
    share = np.mean(sizes < _FEW_DRAWS)
    if share > _FEW_EXAMPLES and num_samples >= 10 * _FEW_DRAWS:
        warnings.warn(
            f"Fewer than {_FEW_DRAWS} draws of z have almost all the weight for {share:.0%} of the examples, so that "
            f"their {results} are noisy: take more samples, or train with more draws (IWAE) or a richer posterior.",
            stacklevel=3,
        )


def mean(model: Any, batch: tf.Tensor, num_samples: int, seed: tf.Tensor, weights: Weights) -> np.ndarray:
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


def draws(
    model: Any, batch: tf.Tensor, num_samples: int, num_imputations: int, seed: tf.Tensor, weights: Weights
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
    function: Callable, model: Any, batch: tf.Tensor, num_samples: int, seed: tf.Tensor, **constants: int
) -> Iterator[tuple[tf.Tensor, ...]]:
    """Calls a function of x, a seed and a number of draws repeatedly, with as many draws at a time as memory allows."""
    width = max(math.prod(model.likelihood.parameter_shape(model.event_shape)), *constants.values(), 1)
    chunk = min(chunks.rows_within(_CHUNK_ELEMENTS, width * len(batch)), chunks.rows_within(_CHUNK_ROWS, len(batch)))
    for draws, chunk_seed in seeds.for_draws(num_samples, chunk, seed):
        yield model._run(function, batch, chunk_seed, num_samples=draws, **constants)
