"""Whether ranks are uniform: a test, and bands for their empirical distribution function that hold at all points.

Reference: Saeilynoja et al. 2022, Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit
Evaluation and Multiple Sample Comparison, section 2, with the adjustment found by simulation as in algorithm 2.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

_SIMULATIONS = 4000
# The most points at which the distribution function is compared.
_POINTS = 100


class Bands(NamedTuple):
    """The empirical distribution function of ranks, less that of uniform ones.

    Attributes:
        points: where it is evaluated, in (0, 1) [K].
        difference: its difference from `points` [K].
        lower: the band between which and `upper` it lies everywhere with a given probability if ranks are uniform [K].
        upper: see `lower`.
    """

    points: np.ndarray
    difference: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def bands(ranks: np.ndarray, num_draws: int, probability: float = 0.95) -> Bands:
    """Compares the distribution of ranks with the uniform one.

    Args:
        ranks: numbers from 0 to `num_draws` [N].
        num_draws: S.
        probability: that uniform ranks stay within the band at all points.
    """
    size, points = len(ranks), _points(len(ranks), num_draws)
    probabilities = (points + 1) / (num_draws + 1)
    tail = np.quantile(_null(size, num_draws), 1.0 - probability) / 2.0
    lower, upper = (stats.binom.ppf(level, size, probabilities) / size for level in (tail, 1.0 - tail))
    found = np.searchsorted(np.sort(ranks), points, side="right") / size
    return Bands(probabilities, found - probabilities, lower - probabilities, upper - probabilities)


def p_value(ranks: np.ndarray, num_draws: int) -> float:
    """The p-value of the test whose bands are `bands`: small if the ranks are not uniform.

    Args:
        ranks: numbers from 0 to `num_draws` [N].
        num_draws: S.
    """
    null = _null(len(ranks), num_draws)
    found = _smallest_tail(ranks[np.newaxis], num_draws)[0]
    # Without the tolerance, rounding would decide between equal values.
    return float((1 + np.count_nonzero(null <= found * (1 + 1e-9))) / (1 + len(null)))


def symmetry_p_value(p: np.ndarray) -> float:
    """The p-value of a test that numbers are distributed symmetrically about 1/2.

    The statistic is that of Kolmogorov and Smirnov for the distributions of p and 1 - p. As these are not independent,
    it is compared with its values where the side of each number is random.

    Args:
        p: the numbers [N], in [0, 1].

    Reference: Butler 1969, A Test for Symmetry Using the Sample Distribution Function.
    """
    # From the outermost number inwards, the difference of the two distributions is a sum of signs.
    order = np.argsort(-np.abs(p - 0.5), kind="stable")
    found = np.abs(np.cumsum(np.sign(p - 0.5)[order])).max()
    signs = np.random.default_rng(0).choice([-1, 1], (_SIMULATIONS, len(p)))
    null = np.abs(np.cumsum(signs, axis=1)).max(axis=1)
    return float((1 + np.count_nonzero(null >= found)) / (1 + len(null)))


def _points(size: int, num_draws: int) -> np.ndarray:
    """Ranks at which the distribution function is compared, of which at most every second is not distinguished."""
    count = min(num_draws, size, _POINTS)
    return np.unique(np.round(np.arange(1, count + 1) * (num_draws + 1) / (count + 1)).astype(int) - 1)


def _smallest_tail(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """For samples of ranks [M, N] the smallest of the two-sided tail probabilities at all points [M]."""
    points = _points(ranks.shape[1], num_draws)
    smallest = np.ones(len(ranks))
    for row, point in zip(_tails(ranks.shape[1], num_draws), points, strict=True):
        smallest = np.minimum(smallest, row[np.count_nonzero(ranks <= point, axis=1)])
    return smallest


@functools.lru_cache(maxsize=16)
def _tails(size: int, num_draws: int) -> np.ndarray:
    """At each point, the two-sided tail probabilities [K, N + 1] of the number of uniform ranks up to it."""
    probabilities = ((_points(size, num_draws) + 1) / (num_draws + 1))[:, np.newaxis]
    counts = np.arange(size + 1)
    below = stats.binom.cdf(counts, size, probabilities)
    above = stats.binom.sf(counts - 1, size, probabilities)
    return np.minimum(1.0, 2.0 * np.minimum(below, above))


@functools.lru_cache(maxsize=16)
def _null(size: int, num_draws: int) -> np.ndarray:
    """The distribution of `_smallest_tail` for uniform ranks, by simulation."""
    generator = np.random.default_rng(0)
    # A few samples at a time, as they may be of many ranks.
    parts = [generator.integers(0, num_draws + 1, (200, size)) for _ in range(_SIMULATIONS // 200)]
    return np.concatenate([_smallest_tail(part, num_draws) for part in parts])
