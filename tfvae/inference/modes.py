"""Finds the separate modes of a posterior, and how much of its mass lies at each.

KL(q || p) prefers one of several modes, and importance weights see only what q covers. So Newton's method starts from
several points, among them some that are far from the modes known so far and where the density is much higher than these
explain. Two ends are separate modes if the density falls along every path that was tried between them.

Reference: Raftery & Bao 2010, Estimating and Projecting Trends in HIV/AIDS Generalized Epidemics Using Incremental
Mixture Importance Sampling, for the starts; Yao et al. 2022, Stacking for Non-mixing Bayesian Computations.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.inference import newton, valleys
from tfvae.inference.approximation import Approximation
from tfvae.inference.density import Density
from tfvae.inference.draws import Check, Draws
from tfvae.inference.latents import LatentSpace, describe
from tfvae.inference.nested_laplace import StructuredGaussian

_Gaussian = TypeVar("_Gaussian", newton.Gaussian, StructuredGaussian)

# With more dimensions, an ascent takes too long to begin one anywhere but beyond a valley.
MOST_DIM = 50
# Points far from the modes, in bands of distances in multiples of the radius of a Gaussian, of which each gives starts.
_FAR_POINTS, _BANDS, _STARTS = 128, (1.5, 4.0, 10.0, 25.0), 2
_ROUNDS, MOST_MODES = 3, 8
# The most starts beyond valleys, and the most images by other signs or labels that are starts, or ends of rays.
_MOST_BEYOND, _STARTED_IMAGES, MOST_IMAGES = 4, 2, 8
# Random points far out, and their distances in multiples of the radius of a Gaussian, that are moved uphill by so many
# steps to see where they lead.
_SENT, _SENT_BAND, _SENT_STEPS = 24, (10.0, 60.0), 8
# Two modes are this many standard deviations apart or more, and the density falls between them by so many nats.
APART, DIP = 3.0, 1.0
_PATH, _RELAXATIONS = 17, 40
# Draws by which the shares of the mass are found, and the lowest share that counts.
_DRAWS, LOWEST_SHARE = 512, 0.01
# By how many nats the typical log weight at a mode that q misses is above that of q's own draws.
_MISSED = 3.0


class Mode(NamedTuple, Generic[_Gaussian]):
    """One of the modes of a density.

    Attributes:
        gaussian: a Gaussian near it.
        share: the share of the mass that lies near it, of all that lies near the modes that were found.
    """

    gaussian: _Gaussian
    share: float


def separate(
    density: Density,
    ascents: Sequence[newton.Ascent | None],
    gaussian: newton.Gaussian,
    seed: int,
    shapes: Sequence[tuple[int, ...]],
) -> list[Mode[newton.Gaussian]]:
    """Finds the modes with at least 1% of the mass, the largest first.

    Args:
        density: the density.
        ascents: what Newton's method found from the first starts.
        gaussian: the best Gaussian among them, refined.
        seed: the seed of further starts.
        shapes: the unconstrained shapes of the latent variables, in their order in z.
    """
    generator = np.random.default_rng(seed)
    found, news = [gaussian], [gaussian]
    for _ in range(_ROUNDS):
        starts_from = _far_starts if density.dim <= MOST_DIM else _beyond
        try:
            far = [start for each in news for start in starts_from(density, each, generator, shapes)]
            ascents = [*ascents, *newton.ascend(density, far)]
        except tf.errors.InvalidArgumentError as error:
            # As `keras.ops.cholesky` does for a matrix that rounding has made indefinite.
            warnings.warn(
                "The density of `model` raises an error far from the mode that was found, so other modes were not "
                f"sought there. Received: {checks.brief(error)}",
                stacklevel=3,
            )
        news = []
        for ascent in ascents:
            if ascent is None or ascent.best is None or not ascent.is_mode or len(found) == MOST_MODES:
                continue
            if _is_apart(density, found, ascent.last.z, ascent.best):
                news.append(newton.refined(density, ascent.best))
                found.append(news[-1])
        if not news:
            break
        ascents = []
    if len(found) == 1:
        return [Mode(gaussian, 1.0)]
    shares = _shares(density, found).tolist()
    modes = [Mode(each, share) for each, share in zip(found, shares, strict=True) if share >= LOWEST_SHARE]
    return sorted(modes, key=lambda mode: -mode.share)


def missed(others: Sequence[Mode[Any]], density: Density, approximation: Approximation) -> list[Mode[Any]]:
    """Which of the modes q does not cover: there the density is far above what the draws of q say.

    Args:
        others: the modes other than the one at which q started.
        density: the density.
        approximation: q.
    """
    if not others:
        return []
    z, log_q = (each.numpy().astype(float) for each in approximation.sample(_DRAWS, tf.constant([0, 0])))
    log_evidence = _log_mean_exp(density(z) - log_q)
    found = []
    for mode in others:
        draws = mode.gaussian.draws(np.random.default_rng(0).standard_normal([_DRAWS, density.dim]))
        log_weights = density(draws) - approximation.log_prob(draws.astype(density.dtype.as_numpy_dtype)).numpy()
        if np.median(log_weights) > log_evidence + _MISSED:
            found.append(mode)
    return found


def warn_of_missed(
    modes: Sequence[Mode[Any]], density: Density, approximation: Approximation, space: LatentSpace
) -> None:
    """Finds the share of the mass that q misses, stores it with q, and warns of it.

    Args:
        modes: the modes, of which the first is the one at which q started; empty where none were sought.
        density: the density.
        approximation: q.
        space: the latent variables.
    """
    found = missed(modes[1:], density, approximation)
    approximation.missed.assign(sum(mode.share for mode in found))
    if found:
        warnings.warn(message(modes[0], found, space), stacklevel=3)


def flagged(latents: dict[str, np.ndarray], log_weights: np.ndarray, approximation: Approximation) -> Draws:
    """Marks draws of a q that misses modes, whose weights cannot tell, as not to be trusted, and warns of it.

    Args:
        latents: see `Draws`.
        log_weights: see `Draws`.
        approximation: q.
    """
    share = float(keras.ops.convert_to_numpy(approximation.missed))
    warnings.warn(
        f"q misses modes of the posterior that hold {_about(share)} of its mass, which `fit` named: "
        "neither the draws nor their importance weights are to be trusted for the whole posterior.",
        stacklevel=3,
    )
    return Draws(latents, log_weights, Check(log_weights, is_moved=True, is_wrong=True))


def message(at: Mode[Any], others: Sequence[Mode[Any]], space: LatentSpace) -> str:
    """Says where the modes are, in terms of the latent variables that differ between them.

    Args:
        at: the mode at which q is.
        others: the modes that q misses.
        space: the latent variables.
    """
    modes = [at, *others]
    locs = np.stack([mode.gaussian.loc for mode in modes])
    deviations = np.min([mode.gaussian.deviations for mode in modes], axis=0)
    is_part = space.split(np.ptp(locs, axis=0) > APART * deviations)
    values, _ = space.constrain(tf.constant(locs, tf.float32))
    shown = {name: value.numpy() for name, value in values.items() if is_part[name].any()}
    places = [f"{describe(shown, row)} ({_about(mode.share)} of the mass)" for row, mode in enumerate(modes)]
    return (
        f"The posterior of {', '.join(shown)} has several modes, and q is at one of them: it is at {places[0]}, "
        f"and not at {'; '.join(places[1:])}. Its draws are of that mode alone. Where the modes say "
        "the same with other labels or signs, constrain the order or a sign (tfb.Ascending(), tfb.Exp()); otherwise "
        "draw from the posterior by MCMC."
    )


def _about(share: float) -> str:
    """A share of the mass, as exactly as it is known: the logarithms of the masses are good to about half a nat."""
    return f"about {round(share, 1 if 0.1 <= share < 0.95 else 2):.0%}"


def _images(
    density: Density, gaussian: newton.Gaussian, shapes: Sequence[tuple[int, ...]], most: int
) -> list[np.ndarray]:
    """The images [L] of the mean of a Gaussian by other signs and labels where the density is highest."""
    candidates = valleys.relabelled(gaussian.loc, shapes)
    return valleys.images(density, gaussian.loc, gaussian.deviations, candidates, most, APART)


def _far_starts(
    density: Density, gaussian: newton.Gaussian, generator: np.random.Generator, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Points [L] far from a Gaussian where the density is most above it, and images by other signs and labels."""
    radius = math.sqrt(density.dim) + 1.0
    starts = _images(density, gaussian, shapes, _STARTED_IMAGES)
    for low, high in itertools.pairwise(_BANDS):
        noise = generator.standard_normal([_FAR_POINTS, density.dim])
        distances = radius * np.exp(generator.uniform(math.log(low), math.log(high), [_FAR_POINTS, 1]))
        points = gaussian.draws(noise / np.linalg.norm(noise, axis=1, keepdims=True) * distances)
        excess = density(points) + 0.5 * distances[:, 0] ** 2
        best = np.argsort(np.where(np.isfinite(excess), excess, -np.inf))[-_STARTS:]
        starts.extend(points[best[np.isfinite(excess[best])]])
    return starts


def _beyond(
    density: Density, gaussian: newton.Gaussian, generator: np.random.Generator, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Points [L] beyond a valley, along few rays from a Gaussian in comparison with all that lies far from it."""
    covariance = gaussian.scale @ gaussian.scale.T
    alone = np.diag(gaussian.diagonal().scale)
    ends = [*_images(density, gaussian, shapes, MOST_IMAGES), *_uphill(density, gaussian, generator)]
    rays = valleys.toward(gaussian.loc, ends)
    for axes in (valleys.axes(covariance, generator), alone):
        rays += valleys.outward(gaussian.loc, axes)
    return valleys.starts(density, gaussian.loc, rays, _MOST_BEYOND)


def _uphill(density: Density, gaussian: newton.Gaussian, generator: np.random.Generator) -> np.ndarray:
    """Where random points far from a Gaussian lead [P, L], by a few steps uphill in its standard coordinates.

    Another mode that no axis of the Gaussian points to is the nearer one of many of them.
    """
    noise = generator.standard_normal([_SENT, density.dim])
    low, high = _SENT_BAND
    distances = np.exp(generator.uniform(math.log(low), math.log(high), [_SENT, 1])) * math.sqrt(density.dim)
    points = gaussian.draws(noise / np.linalg.norm(noise, axis=1, keepdims=True) * distances)
    covariance, rates = gaussian.scale @ gaussian.scale.T, np.ones([_SENT, 1])
    values, slopes, _ = density.derivatives(points, np.zeros_like(points))
    for _ in range(_SENT_STEPS):
        trial = points + rates * (slopes @ covariance)
        trial_values, trial_slopes, _ = density.derivatives(trial, np.zeros_like(points))
        is_higher = (np.isfinite(trial_slopes).all(axis=1) & (trial_values > values))[:, np.newaxis]
        points, slopes = np.where(is_higher, trial, points), np.where(is_higher, trial_slopes, slopes)
        values = np.where(is_higher[:, 0], trial_values, values)
        rates = np.where(is_higher, rates, 0.25 * rates)
    return points[np.isfinite(values) & np.isfinite(points).all(axis=1)]


def _is_apart(density: Density, found: Sequence[newton.Gaussian], z: np.ndarray, near: newton.Gaussian) -> bool:
    """Whether a local maximum z [L], with a Gaussian near it, is a mode of its own beside those that were found."""
    pairs = [pair for each in found for pair in ((z, each), (each.loc, near))]
    if min(np.linalg.norm(gaussian.standardized(point[np.newaxis])) for point, gaussian in pairs) < APART:
        return False
    return all(dip(density, each, z) > DIP for each in found)


def dip(density: Density, gaussian: newton.Gaussian, end: np.ndarray) -> float:
    """By how many nats a density falls between the mean of a Gaussian and another point, along the best path found.

    The path is a line first. While the density falls along it, its points move uphill, but not along the path, as a
    ridge may be bent.

    Args:
        density: the density.
        gaussian: the Gaussian.
        end: the other point [L].
    """
    path = gaussian.loc + np.linspace(0.0, 1.0, _PATH)[:, np.newaxis] * (end - gaussian.loc)
    values = density(path)
    lowest, rates = _fall(values), np.full([_PATH - 2, 1], 0.5)
    for _ in range(_RELAXATIONS):
        # In one dimension there is no other path.
        if lowest < DIP or path.shape[1] == 1 or not np.isfinite(values).all():
            break
        # In units of each coordinate alone: what is correlated at one end of a bent ridge is not at the other.
        white = path / gaussian.deviations
        slopes = density.derivatives(path, np.zeros_like(path))[1] * gaussian.deviations
        tangents = white[2:] - white[:-2]
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        across = slopes[1:-1] - np.sum(slopes[1:-1] * tangents, axis=1, keepdims=True) * tangents
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1.0)
        moved = path.copy()
        moved[1:-1] += rates * across * gaussian.deviations
        is_higher = density(moved) > values
        rates = np.where(is_higher[1:-1, np.newaxis], rates, 0.5 * rates)
        path = np.where(is_higher[:, np.newaxis], moved, path)
        # The points are spread along the path again, so that none of its parts goes unseen.
        white = path / gaussian.deviations
        lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(white, axis=0), axis=1))])
        even = np.linspace(0.0, lengths[-1], _PATH)
        path = np.stack([np.interp(even, lengths, column) for column in path.T], axis=1)
        values = density(path)
        lowest = min(lowest, _fall(values))
    return lowest


def _fall(values: np.ndarray) -> float:
    """How far the values along a path fall below the lower of its ends; infinite where there is no density."""
    inner = np.where(np.isfinite(values[1:-1]), values[1:-1], -np.inf)
    return float(min(values[0], values[-1]) - inner.min())


def _shares(density: Density, gaussians: Sequence[newton.Gaussian]) -> np.ndarray:
    """The weights [M] of the mixture of Gaussians that is nearest to a density, by importance sampling and EM."""
    noise = np.random.default_rng(0).standard_normal([_DRAWS, density.dim])
    draws = np.concatenate([each.draws(noise) for each in gaussians])
    log_q = np.stack([_log_prob(each, draws) for each in gaussians])
    log_p = density(draws)
    log_weights = np.where(np.isfinite(log_p), log_p, -np.inf) - np.logaddexp.reduce(log_q, axis=0)
    weights = np.exp(log_weights - log_weights.max())
    shares = np.full(len(gaussians), 1.0 / len(gaussians))
    for _ in range(100):
        log_joint = log_q + np.log(np.maximum(shares, 1e-300))[:, np.newaxis]
        responsibilities = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=0))
        shares = responsibilities @ weights / weights.sum()
    return shares


def _log_prob(gaussian: newton.Gaussian, z: np.ndarray) -> np.ndarray:
    log_volume = np.log(np.diag(gaussian.scale)).sum() + 0.5 * z.shape[1] * math.log(2.0 * math.pi)
    return -0.5 * np.sum(gaussian.standardized(z) ** 2, axis=1) - log_volume


def _log_mean_exp(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values) - math.log(len(values)))
