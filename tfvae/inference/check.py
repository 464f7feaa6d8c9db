"""Finds out whether q is near the posterior where the first draws do not tell: more draws, and wider ones."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import chunks
from tfvae.inference.approximation import Approximation
from tfvae.inference.draws import Check, Draws

# With so many draws, the tail that k-hat is fitted to lies far enough out to be one. Of fewer draws of a few dimensions
# it often begins at a local maximum of the weights, where many are nearly equal, and k-hat is then too high.
_DRAWS = 2**15
# Wider draws, which come where q does not.
_WIDE_DRAWS = 2**13
# The most numbers of which the draws consist, and how many are evaluated at a time.
_ELEMENTS, _CHUNK = 2**24, 4096
# By how many standard deviations a mean of the posterior may differ from that of q, and by what factor a standard
# deviation; and the same of q as its weights correct it, which should leave less.
_MOVED, _WRONG = 0.25, 0.15
# That of the draws of the check, of which the verdict on a q then depends alone: `fit` and each `draw` give the same.
_SEED = (22, 7)


def checked(draws: Draws, approximation: Approximation, log_joint: Callable[[tf.Tensor], np.ndarray]) -> Draws:
    """Adds a `Check` to draws of q, unless their k-hat is clearly below 0.7.

    Args:
        draws: the draws.
        approximation: q.
        log_joint: evaluates log p(data, z) [S] at z [S, L].
    """
    count = min(_DRAWS, _ELEMENTS // approximation.dim)
    if draws.log_weights is None or not draws.may_be_far or len(draws.log_weights) >= count:
        return draws

    def values(function: Callable[[tf.Tensor], Any], z: np.ndarray) -> np.ndarray:
        parts = [z[part] for part in chunks.slices(len(z), _CHUNK)]
        return np.concatenate([np.asarray(function(tf.constant(part, dtype)), float) for part in parts])

    z, log_q = approximation.sample(count, tf.constant(_SEED), _CHUNK)
    dtype, z, log_q = z.dtype, z.numpy().astype(float), log_q.numpy().astype(float)
    # As much wider as the two still overlap in any number of dimensions: the variance of their log ratio does not grow.
    factor = math.sqrt(1.0 + 3.0 / math.sqrt(approximation.dim))
    log_volume = approximation.dim * math.log(factor)
    centre, size = z.mean(axis=0), min(_WIDE_DRAWS, count)
    wide = centre + factor * (z[:size] - centre)
    log_p, log_p_wide = values(log_joint, z), values(log_joint, wide)
    # A wide draw whose density overflows has no weight.
    log_p_wide = np.where(np.isfinite(log_p_wide), log_p_wide, -np.inf)
    # Every draw is weighted against the mixture of q and its wider copy, in the shares in which they were drawn.
    log_q_narrow = values(approximation.log_prob, centre + (z - centre) / factor)
    log_densities = np.array(
        [
            [*log_q, *values(approximation.log_prob, wide)],
            [*(log_q_narrow - log_volume), *(log_q[:size] - log_volume)],
        ]
    )
    log_shares = np.log(np.array([[count], [size]]) / (count + size))
    log_weights = np.concatenate([log_p, log_p_wide]) - np.logaddexp.reduce(log_densities + log_shares, axis=0)
    posterior = _moments(np.concatenate([z, wide]), np.exp(log_weights - log_weights.max()))
    is_moved = _differ(posterior, _moments(z, np.ones(count)), _MOVED)
    log_weights = log_p - log_q
    corrected = Draws({}, log_weights)
    return dataclasses.replace(
        draws, check=Check(log_weights, is_moved, _differ(posterior, _moments(z, corrected.weights), _WRONG))
    )


def _moments(z: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means [L] and standard deviations [L] of weighted draws [S, L]."""
    weights = weights / weights.sum()
    mean = weights @ z
    return mean, np.sqrt(weights @ (z - mean) ** 2)


def _differ(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], most: float) -> bool:
    """Whether one of the means differs by more than so many standard deviations, or one of these by such a factor."""
    ratio = first[1] / second[1]
    is_shifted = abs(first[0] - second[0]) > most * second[1]
    return not np.all(~is_shifted & (abs(np.log(ratio)) < math.log1p(most)))
