"""Where a fit starts: points that are plausible, and a look at the density there before any step is taken."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfvae import laplace
from tfvae.latents import describe
from tfvae.targets import Target

# How many points, the origin among them.
_COUNT = 4
# Multiples of a scale at which a density that has a finite integral must have fallen; further out the rounding of
# float32 is as large as the scale of another direction.
_FAR = (1e2, 1e3)
_PROPER = "`model` must have a posterior that is proper: one whose density falls in every direction"


def standard_coordinates(
    target: Target, log_density: Callable[[tf.Tensor], tf.Tensor], seed: int, *, full: bool
) -> laplace.Gaussian:
    """Finds a Gaussian near the posterior: its mean and scale are the coordinates that a family is fitted in.

    Args:
        target: the joint density.
        log_density: maps z [S, L] to its log density [S] in the unconstrained space, in nats.
        seed: the same seed gives the same Gaussian.
        full: with all of the curvature; False takes its diagonal.

    Raises:
        ValueError: the density is NaN, infinite or nowhere finite where the fit starts, or improper.
    """
    log_density = tf.function(log_density, reduce_retracing=True, autograph=False)
    points = _points(target, seed)
    _check_finite(target, points, log_density(tf.constant(points, tf.float32)).numpy())
    if target.space.dim > laplace.FULL_CURVATURE_DIM:
        return laplace.approximate_diagonally(log_density, points)
    gaussian = laplace.approximate(log_density, points)
    _check_proper(target, gaussian, log_density)
    if full:
        return gaussian
    # The best diagonal Gaussian has the variances 1 / diag(precision), not those of the marginals.
    inverse = np.linalg.inv(gaussian.scale)
    return gaussian._replace(scale=1.0 / np.sqrt(np.sum(inverse**2, axis=0)))


def _points(target: Target, seed: int) -> np.ndarray:
    """Points [M, L] of the unconstrained space: the origin, and others that the model or nobody says are likely."""
    shape = (_COUNT - 1, target.space.dim)
    # As in Stan.
    points = np.random.default_rng(seed).uniform(-2.0, 2.0, shape)
    if target.starts is not None:
        plausible = target.space.unconstrain(target.starts(_COUNT - 1, tf.constant([seed, 0]))).numpy()
        points = np.where(np.isfinite(plausible).all(axis=1, keepdims=True), plausible, points)
    return np.concatenate([np.zeros((1, target.space.dim)), points])


def _check_finite(target: Target, points: np.ndarray, values: np.ndarray) -> None:
    """Raises ValueError where the density cannot be followed from any of the points, or is wrong at one."""
    wrong = np.isnan(values) | (values == np.inf)
    if not wrong.any() and np.isfinite(values).any():
        return
    row = int(np.argmax(wrong))
    latents = {
        name: value.numpy() for name, value in target.space.constrain(tf.constant(points, tf.float32))[0].items()
    }
    hint = "; a latent variable on a constrained space needs the bijector of that space" if wrong.any() else ""
    raise ValueError(
        "`model` must have a log joint density that is a number wherever its latent variables are in their spaces, and "
        f"finite where the fit starts{hint}. Received: {values[row]} at {describe(latents, row)}"
    )


def _check_proper(target: Target, gaussian: laplace.Gaussian, log_density: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Raises ValueError where the density has no finite integral along one of the axes of the Gaussian."""
    if not np.isfinite(gaussian.scale).all():
        raise ValueError(f"{_PROPER}. Received: one without any curvature")
    # A direction in which the density is flat is one of the principal ones.
    directions, lengths, _ = np.linalg.svd(gaussian.scale)
    axes = np.concatenate([lengths[:, None] * directions.T, -lengths[:, None] * directions.T])
    here = log_density(tf.constant(gaussian.loc[np.newaxis], tf.float32)).numpy()[0]
    flat = np.ones(len(axes), bool)
    for distance in _FAR:
        there = log_density(tf.constant(gaussian.loc + distance * axes, tf.float32)).numpy()
        # Along a line, a density that falls no faster than 1 / distance has no finite integral.
        flat &= there > here - 0.9 * np.log(distance)
    if flat.any():
        axis = np.abs(axes[int(np.argmax(flat))])
        parts = target.space.split(axis > 1e-3 * axis.max())
        names = ", ".join(name for name, part in parts.items() if part.any())
        raise ValueError(f"{_PROPER}; data or a prior must say more of {names}. Received: one that is flat along them")
