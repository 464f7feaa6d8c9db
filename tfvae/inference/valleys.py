"""Looks for parts of a density beyond a valley: along rays from a mode, where does it rise again?

A ray costs a few values, and an ascent many derivatives. So in many dimensions only those starts are far from a mode
from which there is something else to be found.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

# How far along a ray, in standard deviations: each step is so long that a mode is seen whose width is a quarter of its
# distance.
DISTANCES = 3.0 * 1.6 ** np.arange(11)
# How far the density must rise again, in nats, beside rounding errors of values so large.
_RISE, _ROUNDING = 1.0, 1e-5
# Random directions are drawn in the space of the widest axes: how many axes, and how many directions.
_WIDEST, _RANDOM = 4, 6
# The longest axis whose indices may be labels, and the most latent variables of which every subset is mirrored.
_MOST_LABELS, _MOST_MIRRORED = 6, 6
# The parts of the way to another point.
_PARTS = np.linspace(0.125, 1.25, 10)
# How many points are evaluated at a time.
_CHUNK = 256


def rises(height: float, values: np.ndarray) -> list[tuple[int, int]]:
    """The rays, and the places on them where a density is highest beyond a valley, of which the highest comes first.

    Args:
        height: the log density where the rays begin.
        values: the log density at places along each ray [R, K]; NaN where it overflows.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    with_start = np.concatenate([np.full([len(values), 1], height), values], axis=1)
    lowest = np.fmin.accumulate(with_start, axis=1)[:, :-1]
    beyond = np.where(values - lowest > _RISE + _ROUNDING * np.abs(lowest), values, -np.inf)
    best = beyond.argmax(axis=1) if len(beyond) else np.zeros(0, int)
    found = [(ray, int(place)) for ray, place in enumerate(best) if np.isfinite(beyond[ray, place])]
    return sorted(found, key=lambda each: -beyond[each])


def starts(
    density: Callable[[np.ndarray], np.ndarray], loc: np.ndarray, rays: Sequence[np.ndarray], most: int
) -> list[np.ndarray]:
    """The points [L] beyond valleys where a density is highest.

    Args:
        density: evaluates the log density [S] at points [S, L].
        loc: where the rays begin [L].
        rays: points [K, L] along each ray.
        most: the most starts.
    """
    points = np.concatenate([loc[np.newaxis], *rays])
    values = np.concatenate([density(points[at : at + _CHUNK]) for at in range(0, len(points), _CHUNK)])
    found: list[tuple[float, np.ndarray]] = []
    first = 1
    for ray in rays:
        of_ray = values[first : first + len(ray)]
        first += len(ray)
        found.extend((of_ray[place], ray[place]) for _, place in rises(values[0], of_ray[np.newaxis]))
    return [point for _, point in sorted(found, key=lambda each: -each[0])[:most]]


def outward(loc: np.ndarray, axes: np.ndarray, distances: np.ndarray = DISTANCES) -> list[np.ndarray]:
    """Points [K, L] along both directions of each of some axes [M, L], each of one standard deviation."""
    return [loc + sign * distances[:, np.newaxis] * axis for axis in axes for sign in (1.0, -1.0)]


def toward(loc: np.ndarray, ends: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Points [K, L] on the way to other points [L], and somewhat beyond."""
    return [loc + _PARTS[:, np.newaxis] * (end - loc) for end in ends]


def axes(covariance: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Axes [M, L], each of one standard deviation of a Gaussian: a coordinate that the others follow, and mixtures.

    Args:
        covariance: that of the Gaussian [L, L].
        generator: of the mixtures of its widest axes.
    """
    deviations = np.sqrt(np.diag(covariance))
    follow = covariance / deviations
    values, directions = np.linalg.eigh(covariance / deviations[:, np.newaxis] / deviations)
    widest = deviations[:, np.newaxis] * directions[:, -_WIDEST:] * np.sqrt(np.maximum(values[-_WIDEST:], 0.0))
    mixtures = generator.standard_normal([_RANDOM if len(values) > 1 else 0, widest.shape[1]])
    mixtures /= np.linalg.norm(mixtures, axis=1, keepdims=True)
    return np.concatenate([follow.T, mixtures @ widest.T])


def images(
    density: Callable[[np.ndarray], np.ndarray],
    loc: np.ndarray,
    deviations: np.ndarray,
    candidates: np.ndarray,
    most: int,
    apart: float,
) -> list[np.ndarray]:
    """Those of some points [P, L] where a density is highest, far from the first one and from each other.

    Args:
        density: evaluates the log density [S] at points [S, L].
        loc: the point [L] from which they must be far.
        deviations: the standard deviation of each coordinate [L]; infinite for one that does not count.
        candidates: the points.
        most: the most points.
        apart: how far they must be in one of the coordinates, in standard deviations.
    """
    values = np.concatenate([density(candidates[at : at + _CHUNK]) for at in range(0, len(candidates), _CHUNK)])
    found = [loc]
    for index in np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable"):
        if len(found) > most or not np.isfinite(values[index]):
            break
        if all(np.max(np.abs(candidates[index] - each) / deviations) > apart for each in found):
            found.append(candidates[index])
    return found[1:]


def relabelled(loc: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Other points [P, L] that may say the same as one: with other signs, or with two labels exchanged.

    A sign is shared by some latent variables, as loadings and factors, and not by others, as intercepts and logarithms
    of scales. So every subset of the variables is mirrored, if they are many, of the largest ones; and each index of a
    short axis by itself, in all that have an axis of that length.

    Args:
        loc: the point [L].
        shapes: the unconstrained shapes of the latent variables, in their order in z.
    """
    place = np.arange(len(loc))
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    blocks = [part.reshape(shape) for part, shape in zip(np.split(place, ends[:-1]), shapes, strict=True)]
    largest = sorted(blocks, key=lambda block: -block.size)[:_MOST_MIRRORED]
    subsets = [
        [block.ravel() for block in subset]
        for count in range(1, len(largest) + 1)
        for subset in itertools.combinations(largest, count)
    ]
    swapped = []
    for count in sorted({size for shape in shapes for size in shape if 2 <= size <= _MOST_LABELS}):
        with_axis = [(block, axis) for block in blocks for axis, size in enumerate(block.shape) if size == count]
        subsets += [[np.take(block, label, axis=axis).ravel() for block, axis in with_axis] for label in range(count)]
        for first, second in itertools.combinations(range(count), 2):
            order = np.arange(count)
            order[[first, second]] = second, first
            moved = []
            for block in blocks:
                for axis, size in enumerate(block.shape):
                    block = np.take(block, order, axis=axis) if size == count else block
                moved.append(block.ravel())
            swapped.append(loc[np.concatenate(moved)])
    mirrored = np.repeat(loc[np.newaxis], len(subsets), axis=0)
    for row, subset in enumerate(subsets):
        mirrored[row, np.concatenate(subset)] *= -1.0
    return np.concatenate([-loc[np.newaxis], mirrored, np.reshape(swapped, [-1, len(loc)])])
