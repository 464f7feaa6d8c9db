"""Finds a Gaussian near a posterior by Newton's method; its mean and scale are the coordinates in which q is fitted.

A posterior may lie anywhere and have any scale. In these coordinates its location is near 0 and its scale near 1.
Newton's method finds them whatever the scales are. Each iterate gives a Gaussian, from the gradient and curvature of
the log density there. The one with the highest ELBO is taken, because a mode may be far from most of the probability
mass. A few natural gradient steps then replace its curvature at one point by the mean curvature over its own draws.

Reference: Zhang et al. 2022, Pathfinder: Parallel Quasi-Newton Variational Inference, algorithm 1, with the curvature
itself in place of a quasi-Newton estimate of it; Khan & Lin 2017, Conjugate-Computation Variational Inference, and Khan
et al. 2018, Fast and Scalable Bayesian Deep Learning by Weight-Perturbation, equations 10 and 11, for the steps.
"""

import math
import warnings
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.sparse.linalg import LinearOperator, lobpcg

from tfvae import graphs
from tfvae.inference import precision
from tfvae.inference.density import Density, LogDensity

# With more dimensions the matrix of curvatures is too large, and only its diagonal is computed.
FULL_CURVATURE_DIM = 500
_MAX_ITERATIONS = 200
# Draws from which the ELBO of an iterate is estimated.
_ELBO_DRAWS = 256
_MAX_REFINEMENTS = 30
# Antithetic pairs of draws over which the curvature is averaged.
_CURVATURE_PAIRS = 4
# The share of draws whose density may be 0 or overflow because of rounding.
FEW = 0.02
# The expected gain of a Newton step, in nats, below which the iteration ends.
_SMALL_GAIN = 1e-3
# The most iterations by which the flattest direction of many dimensions is sought, and the lowest curvature along it,
# in coordinates scaled by the diagonal: further out, an error of the direction itself would make the density fall.
_FLAT_ITERATIONS = 100
_LOWEST_CURVATURE = 1e-2


class Gaussian(NamedTuple):
    """A Gaussian approximation N(z | loc, scale scale^T) of a density.

    Attributes:
        loc: [L].
        scale: lower triangular [L, L], or [L] for a diagonal.
        elbo: the ELBO of the density with this Gaussian as q, in nats; NaN if it was not computed, -inf if its draws
            cannot be represented or the density overflows at many of them.
    """

    loc: np.ndarray
    scale: np.ndarray
    elbo: float

    def draws(self, noise: np.ndarray) -> np.ndarray:
        """Maps noise u ~ N(0, I) [S, L] to draws z [S, L]."""
        return self.loc + (noise @ self.scale.T if self.scale.ndim == 2 else noise * self.scale)

    def standardized(self, z: np.ndarray) -> np.ndarray:
        """Maps points z [S, L] to the noise u [S, L] that they stand for."""
        u = z - self.loc
        return u @ np.linalg.inv(self.scale).T if self.scale.ndim == 2 else u / self.scale

    @property
    def deviations(self) -> np.ndarray:
        """The standard deviation of each coordinate [L]."""
        return np.linalg.norm(self.scale, axis=1) if self.scale.ndim == 2 else self.scale

    def diagonal(self) -> "Gaussian":
        """The diagonal q that minimises KL(q || self): its variances are 1 / diag(precision), not the marginal ones."""
        inverse = np.linalg.inv(self.scale)
        return self._replace(scale=1.0 / np.sqrt(np.sum(inverse**2, axis=0)))


class _Point(NamedTuple):
    """The log density and its derivatives at a point z, in coordinates v, where z + axes v is a point near it.

    Attributes:
        z: the point [L].
        axes: [L, L].
        value: the log density, in nats.
        gradient: its gradient [L] with respect to v.
        precision: its negative Hessian [L, L].
    """

    z: np.ndarray
    axes: np.ndarray
    value: float
    gradient: np.ndarray
    precision: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all() and np.isfinite(self.precision).all())


class _Step(NamedTuple):
    """The quadratic model of the log density at a point, in coordinates in which the precision has the diagonal 1.

    Attributes:
        scales: the scales of the coordinates [L], relative to those of the point.
        curvature: the eigenvalues of the precision in these coordinates [L].
        directions: the eigenvectors [L, L].
        slope: the gradient along the eigenvectors [L].
        smallest: the lowest curvature that can be computed, relative to the highest.
    """

    scales: np.ndarray
    curvature: np.ndarray
    directions: np.ndarray
    slope: np.ndarray
    smallest: float

    @property
    def floor(self) -> float:
        """The lower bound of the curvatures; 1 if they are all 0."""
        return self.smallest * float(np.abs(self.curvature).max()) or 1.0

    def newton(self, damping: float) -> tuple[np.ndarray, float]:
        """The damped Newton step [L], uphill even where the curvature is negative, and its expected gain in nats."""
        along = self.slope / (np.abs(self.curvature) + damping + self.floor)
        return self.scales * (self.directions @ along), 0.5 * float(along @ self.slope)


class Ascent(NamedTuple):
    """What Newton's method found from one start.

    Attributes:
        best: the Gaussian with the highest ELBO over the iterates, or None if none has a finite one.
        last: the last iterate.
        is_mode: whether the last iterate is at a local maximum.
    """

    best: Gaussian | None
    last: _Point
    is_mode: bool


def ascend(density: Density, starts: Sequence[np.ndarray] | np.ndarray) -> list[Ascent | None]:
    """Goes uphill from points [M, L] by Newton's method, from all at the same time.

    Args:
        density: the density.
        starts: the points.

    Returns:
        For each start, what was found; None if the density has no finite derivatives there.
    """
    found: list[Ascent | None] = [None] * len(starts)
    ascents = [_ascent(density, start) for start in starts]
    waiting = {index: next(each) for index, each in enumerate(ascents)}
    while waiting:
        points = _evaluate(density, np.stack(list(waiting.values())), np.eye(density.dim))
        for index, point in zip(list(waiting), points, strict=True):
            try:
                waiting[index] = ascents[index].send(point)
            except StopIteration as end:
                found[index] = end.value
                del waiting[index]
    return found


def _ascent(density: Density, start: np.ndarray) -> Generator[np.ndarray, _Point, Ascent | None]:
    """The steps from one start [L]: yields each point at which it needs the derivatives, and is sent them."""
    damping, best, is_mode = 1e-3, None, False
    point = yield start
    if not point.finite:
        return None
    for _ in range(_MAX_ITERATIONS):
        step = _step_at(point, density)
        move, gain = step.newton(damping)
        gaussian = _gaussian(point, step, density)
        if gaussian.elbo > (-math.inf if best is None else best.elbo):
            best = gaussian
        # A smaller gain would be lost in rounding.
        if gain < _SMALL_GAIN + density.epsilon * abs(point.value):
            is_mode = bool(step.curvature.min() > step.floor)
            break
        trial = yield point.z + move
        if trial.finite and trial.value > point.value:
            point, damping = trial, max(damping / 5.0, 1e-9)
        elif damping > 1e9:
            break
        else:
            damping *= 5.0
    return Ascent(best, point, is_mode)


def best(ascents: list[Ascent | None], density: Density) -> Gaussian:
    """The Gaussian with the highest ELBO, or else the one at the highest point.

    Args:
        ascents: the results of `ascend`.
        density: the density.

    Raises:
        ValueError: there are none.
    """
    found = [each for each in ascents if each is not None]
    if not found:
        raise ValueError(
            "`model` must have a density whose first and second derivatives are finite where the fit starts. Received: "
            "derivatives that are NaN or infinite"
        )
    gaussians = [each.best for each in found if each.best is not None]
    if gaussians:
        return max(gaussians, key=lambda each: each.elbo)
    highest = max((each.last for each in found), key=lambda point: point.value)
    return _gaussian(highest, _step_at(highest, density), density)


def approximate_diagonally(density: LogDensity, starts: np.ndarray) -> Gaussian:
    """Finds a diagonal Gaussian at a mode of a density of many dimensions, without its full Hessian.

    Args:
        density: the density.
        starts: points [M, L], of which the one of highest density is used.
    """
    values = density(starts)
    start = starts[np.nanargmax(np.where(np.isfinite(values), values, np.nan))]

    @graphs.graph
    def minimize(start: tf.Tensor) -> tf.Tensor:
        def loss_and_gradient(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tfp.math.value_and_gradient(lambda z: -density.function(z[tf.newaxis])[0], z)

        return tfp.optimizer.lbfgs_minimize(loss_and_gradient, start, max_iterations=_MAX_ITERATIONS).position

    loc = minimize(tf.constant(start, density.dtype)).numpy().astype(float)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=[64, len(start)])
    # The mean over random signs of s * (H s) is the diagonal of H (Hutchinson 1989).
    products = [-sign * density.derivatives(loc[np.newaxis], sign[np.newaxis])[2][0] for sign in signs]
    diagonal = np.mean(products, axis=0, dtype=float)
    typical = np.median(np.abs(diagonal))
    diagonal = np.maximum(np.abs(diagonal), precision.floor(density.epsilon) * typical if typical > 0 else 1.0)
    return Gaussian(loc, 1.0 / np.sqrt(diagonal), math.nan)


def principal_axes(gaussian: Gaussian, density: Density) -> np.ndarray:
    """The principal axes [M, L] of a Gaussian, each as long as one standard deviation.

    A diagonal Gaussian knows only its coordinates, so the direction in which the density is most flat, as far as ten
    standard deviations of a coordinate, is added.

    Args:
        gaussian: the Gaussian.
        density: the density that it approximates.
    """
    if gaussian.scale.ndim == 2:
        directions, lengths, _ = np.linalg.svd(gaussian.scale)
        return lengths[:, None] * directions.T
    scale = gaussian.scale

    def times_precision(u: np.ndarray) -> np.ndarray:
        return -scale * density.derivatives(gaussian.loc[np.newaxis], (scale * u.ravel())[np.newaxis])[2][0]

    operator = LinearOperator((len(scale), len(scale)), matvec=times_precision, dtype=float)
    start = np.random.default_rng(0).standard_normal([len(scale), 1])
    with warnings.catch_warnings():
        # It warns of a direction that it did not find to the tolerance, which is then not flat to it either.
        warnings.simplefilter("ignore", UserWarning)
        curvature, direction = lobpcg(operator, start, largest=False, tol=1e-6, maxiter=_FLAT_ITERATIONS)
    flattest = scale * direction[:, 0] / math.sqrt(max(curvature[0], _LOWEST_CURVATURE))
    return np.concatenate([flattest[np.newaxis], np.diag(scale)])


def _evaluate(density: Density, points: np.ndarray, axes: np.ndarray) -> list[_Point]:
    """The log density with its derivatives at some points [P, L]."""
    (count, dim), found = points.shape, []
    # One row for each column of the Hessian.
    parts = density.derivatives(np.repeat(points, dim, axis=0), np.tile(axes.T, [count, 1]))
    values, gradients, hessians = (each.reshape([count, dim, *each.shape[1:]]) for each in parts)
    for z, value, gradient, hessian in zip(points, values, gradients, hessians, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            slope, curvature = gradient[0] @ axes, hessian @ axes
        found.append(_Point(z, axes, float(value[0]), slope, -(curvature + curvature.T) / 2.0))
    return found


def refined(density: Density, gaussian: Gaussian, *, whiten: bool = False) -> Gaussian:
    """Takes natural gradient steps on the ELBO for as long as they raise it.

    Args:
        density: the density.
        gaussian: a Gaussian near it.
        whiten: whether the curvature is computed along the axes of the Gaussian, in place of the coordinates. Terms
            that cancel then leave rounding errors of a relative size of epsilon times the square root of the condition
            number, in place of epsilon times that number; but a flat direction becomes ever longer.
    """
    generator = np.random.default_rng(1)
    identity, rate = np.eye(len(gaussian.loc)), 0.5
    inverse = np.linalg.inv(gaussian.scale)
    inverse_covariance = inverse.T @ inverse
    for _ in range(_MAX_REFINEMENTS):
        axes, present = (gaussian.scale, identity) if whiten else (identity, inverse_covariance)
        half = generator.standard_normal([_CURVATURE_PAIRS, len(gaussian.loc)]) @ gaussian.scale.T
        points = _evaluate(density, gaussian.loc + np.concatenate([half, -half]), axes)
        gain = 0.0
        if all(point.finite for point in points):
            mean = np.mean([point.precision for point in points], axis=0)
            gradient = np.mean([point.gradient for point in points], axis=0)
            trial_precision = (1.0 - rate) * present + rate * mean
            point = _Point(gaussian.loc, axes, gaussian.elbo, rate * gradient, trial_precision)
            trial = _gaussian(point, _step_at(point, density), density)
            gain = trial.elbo - gaussian.elbo if math.isfinite(trial.elbo) else 0.0
        if gain > 0.0:
            gaussian, inverse_covariance, rate = trial, trial_precision, min(1.0, 1.5 * rate)
        else:
            rate /= 3.0
        if rate < 0.02 or 0.0 < gain < 0.01:
            break
    return gaussian


def _penalized(values: np.ndarray) -> np.ndarray:
    """The log densities, with a low value in place of those that are not finite; all -inf if these are not few."""
    finite = np.isfinite(values)
    if np.mean(finite) < 1.0 - FEW:
        return np.full_like(values, -np.inf)
    return np.where(finite, values, values[finite].min() - 100.0)


def _step_at(point: _Point, density: Density) -> _Step:
    diagonal = np.abs(np.diag(point.precision))
    # A coordinate without curvature is not scaled.
    scales = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    curvature, directions = np.linalg.eigh(point.precision * scales[:, None] * scales)
    slope = directions.T @ (scales * point.gradient)
    return _Step(scales, curvature, directions, slope, precision.floor(density.epsilon))


def _gaussian(point: _Point, step: _Step, density: Density) -> Gaussian:
    """The Gaussian whose log density is the quadratic model at a point, centred at the mode of that model."""
    curvature = np.maximum(np.abs(step.curvature), step.floor)
    root = point.axes @ (step.scales[:, None] * step.directions / np.sqrt(curvature))
    # The lower triangular matrix with scale scale^T = root root^T.
    scale = np.transpose(np.linalg.qr(root.T, mode="r"))
    scale *= np.sign(np.diag(scale))
    loc = point.z + point.axes @ step.newton(0.0)[0]
    draws = loc + np.random.default_rng(0).standard_normal([_ELBO_DRAWS, len(loc)]) @ scale.T
    # A density may grow without bound where it has little mass, as does that of groups whose scale goes to 0. Draws so
    # close together that they are rounded to the point of highest density would seem to have an ever higher ELBO.
    if precision.rounding(loc, scale, draws, density.dtype).max() > precision.MAX_ROUNDING:
        return Gaussian(loc, scale, -math.inf)
    log_density = _penalized(density(draws))
    entropy = np.log(np.diag(scale)).sum() + 0.5 * len(loc) * (1.0 + math.log(2.0 * math.pi))
    elbo = float(np.mean(log_density) + entropy)
    return Gaussian(loc, scale, elbo if math.isfinite(elbo) else -math.inf)
