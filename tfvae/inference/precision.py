"""Finds out whether the precision in which a log density is computed is enough for a posterior.

Numbers of a precision epsilon far from 0 may lie further apart than the posterior is wide; terms that cancel leave
rounding errors in the log density, its gradient and its curvature. Each of these is measured where the mass is.
"""

import numpy as np
import tensorflow as tf

from tfvae.inference.density import Density

# How far rounding may move a draw of the posterior, or the point where the gradient is 0, in standard deviations.
MAX_ROUNDING = 0.2
# How far rounding may move the log density, in nats: further, the importance weights would be noise.
_MAX_NOISE = 0.3
# Pairs of points by which the noise is measured, and their distance from the middle, in standard deviations: far enough
# that rounding differs between them, and so near that the density is quadratic between them.
_PAIRS, _RADIUS = 16, 0.1
# Pairs of draws over which the curvature is averaged, and the factor by which it may differ from the Gaussian's.
_CURVATURE_PAIRS, _MAX_CURVATURE = 8, 1.5


def floor(epsilon: float) -> float:
    """The lowest curvature that can be computed, relative to the highest, in coordinates scaled by the diagonal.

    Args:
        epsilon: see `LogDensity`.
    """
    return 8.0 * epsilon


def rounding(loc: np.ndarray, scale: np.ndarray, draws: np.ndarray, dtype: tf.DType = tf.float32) -> np.ndarray:
    """How far rounding moves draws of a Gaussian, in its standard deviations.

    Args:
        loc: the mean [L].
        scale: lower triangular [L, L], or [L] for a diagonal.
        draws: draws z [S, L] of the Gaussian, in double precision.
        dtype: the precision to which they are rounded.

    Returns:
        The root mean square [L] of the rounding errors of u, where z = loc + scale u.
    """
    if dtype == tf.float64:
        # The draws themselves are rounded to it already: the spacing at the mean, with a uniform error.
        errors = np.broadcast_to(np.spacing(np.abs(loc)) / np.sqrt(12.0), draws.shape)
    else:
        errors = draws.astype(dtype.as_numpy_dtype).astype(float) - draws
    # The inverse, because SciPy's solver starts threads, which take longer than these small products.
    moved = errors / scale if scale.ndim == 1 else errors @ np.linalg.inv(scale).T
    return np.sqrt(np.mean(moved**2, axis=0))


def unresolved(scale: np.ndarray, epsilon: float) -> np.ndarray | None:
    """Which coordinates [L] take part in a direction whose curvature is at the lower bound; None if there is none.

    Args:
        scale: that of a Gaussian, lower triangular [L, L], or [L] for a diagonal.
        epsilon: see `LogDensity`.
    """
    if scale.ndim == 1:
        return None
    inverse = np.linalg.inv(scale)
    precision = inverse.T @ inverse
    scales = np.sqrt(np.diag(precision))
    curvature, directions = np.linalg.eigh(precision / scales[:, None] / scales)
    return abs(directions[:, 0]) > 0.1 if curvature[0] < 3.0 * floor(epsilon) * curvature[-1] else None


def noise(density: Density, loc: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray]:
    """The rounding errors of a log density and its gradient near the mean of a Gaussian.

    The second difference f(u) + f(-u) - 2 f(0) of a smooth function vanishes with the distance of the points; that of
    its rounding errors does not.

    Args:
        density: the density.
        loc: the mean [L].
        scale: lower triangular [L, L], or [L] for a diagonal.

    Returns:
        The standard deviation of the error of the log density, in nats, and that of the gradient with respect to u [L],
        where z = loc + scale u. For a Gaussian posterior that is an error of the mean in standard deviations.
    """
    steps = np.random.default_rng(3).standard_normal([_PAIRS, len(loc)])
    steps *= _RADIUS / np.linalg.norm(steps, axis=1, keepdims=True)
    steps = steps * scale if scale.ndim == 1 else steps @ scale.T
    points = np.concatenate([loc + steps, loc - steps, loc[np.newaxis]])
    values, gradients, _ = density.derivatives(points, np.zeros_like(points))
    gradients = gradients * scale if scale.ndim == 1 else gradients @ scale
    found = []
    for each in (values[:, np.newaxis], gradients):
        differences = each[:_PAIRS] + each[_PAIRS:-1] - 2.0 * each[-1]
        found.append(np.sqrt(np.mean(differences**2, axis=0) / 6.0))
    # A sum of many terms may be so large that all of the points have the same value.
    spacing = float(abs(values[-1])) * density.epsilon / np.sqrt(12.0)
    return max(float(found[0][0]), spacing), found[1]


def insufficient(density: Density, loc: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Which coordinates [L] cannot be computed in the precision of a density, and how that shows; None if all can.

    Args:
        density: the density.
        loc: the mean [L] of a Gaussian near it.
        scale: that of the Gaussian, lower triangular [L, L], or [L] for a diagonal.
    """
    draws = np.random.default_rng(4).standard_normal([256, len(loc)])
    draws = loc + (draws * scale if scale.ndim == 1 else draws @ scale.T)
    moved = rounding(loc, scale, draws, density.dtype)
    if moved.max() > MAX_ROUNDING:
        return _parts(moved, scale), f"rounding moves draws by {moved.max():.2g} standard deviations"
    of_value, of_gradient = noise(density, loc, scale)
    if of_gradient.max() > MAX_ROUNDING:
        at = f"{of_gradient.max():.2g} standard deviations"
        return _parts(of_gradient, scale), f"rounding moves the point where the gradient is 0 by {at}"
    flattest = unresolved(scale, density.epsilon)
    if flattest is not None:
        curvature = _mean_curvature(density, loc, scale)
        if not (curvature.min() * _MAX_CURVATURE > 1.0 and curvature.max() < _MAX_CURVATURE):
            at = f"between {curvature.min():.2g} and {curvature.max():.2g} times what it is"
            return flattest, f"rounding makes the curvature {at}"
    if of_value > _MAX_NOISE:
        return np.ones(len(loc), bool), f"rounding changes the log density by {of_value:.2g} nats"
    return None


def _mean_curvature(density: Density, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The eigenvalues [L] of the mean negative Hessian of u, z = loc + scale u, over draws: 1 at the best Gaussian."""
    half = np.random.default_rng(5).standard_normal([_CURVATURE_PAIRS, len(loc)]) @ scale.T
    total = np.zeros_like(scale)
    for step in np.concatenate([half, -half]):
        points = np.repeat((loc + step)[np.newaxis], len(loc), axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            total -= density.derivatives(points, scale.T)[2] @ scale
    mean = (total + total.T) / (4.0 * _CURVATURE_PAIRS)
    return np.linalg.eigvalsh(mean) if np.isfinite(mean).all() else np.full(len(loc), np.nan)


def _parts(errors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which coordinates [L] of z follow those coordinates of u whose errors [L] are too large."""
    wrong = errors > MAX_ROUNDING
    if scale.ndim == 1:
        return wrong
    share = np.abs(scale[:, wrong]).max(axis=1) / np.linalg.norm(scale, axis=1)
    return share > 0.3 * share.max()
