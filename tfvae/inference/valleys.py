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
# Directions at random between the widest axes, so many.
_WIDEST, _RANDOM = 4, 6
# The most values of an axis whose order may be a matter of labels.
_MOST_LABELS = 6
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


def relabelled(loc: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Other points [L] that may say the same as one: its mirror image, and those with two labels exchanged.

    Args:
        loc: the point [L].
        shapes: the unconstrained shapes of the latent variables, in their order in z.
    """
    place = np.arange(len(loc))
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    blocks = [part.reshape(shape) for part, shape in zip(np.split(place, ends[:-1]), shapes, strict=True)]
    found = [-loc]
    for count in sorted({size for shape in shapes for size in shape if 2 <= size <= _MOST_LABELS}):
        for first, second in itertools.combinations(range(count), 2):
            order = np.arange(count)
            order[[first, second]] = second, first
            swapped = []
            for block in blocks:
                for axis, size in enumerate(block.shape):
                    block = np.take(block, order, axis=axis) if size == count else block
                swapped.append(block.ravel())
            found.append(loc[np.concatenate(swapped)])
    return found
