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
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, lobpcg

LogDensity = Callable[[tf.Tensor], tf.Tensor]

# With more dimensions the matrix of curvatures is too large, and only its diagonal is computed.
FULL_CURVATURE_DIM = 500
_MAX_ITERATIONS = 200
# Draws from which the ELBO of an iterate is estimated.
_ELBO_DRAWS = 256
_MAX_REFINEMENTS = 30
# Antithetic pairs of draws over which the curvature is averaged.
_CURVATURE_PAIRS = 4
# The share of draws whose density may be 0 or overflow because of float32.
FEW = 0.02
# The expected gain of a Newton step, in nats, below which the iteration ends.
_SMALL_GAIN = 1e-3
# Lower bound of the curvatures, relative to the highest, in coordinates scaled by the diagonal.
_FLOOR = 1e-6
# How far rounding to float32 may move a draw, in standard deviations of the Gaussian.
_MAX_ROUNDING = 0.1
# The most iterations by which the flattest direction of many dimensions is sought, and the lowest curvature along it,
# in coordinates scaled by the diagonal: further out, an error of the direction itself would make the density fall.
_FLAT_ITERATIONS = 100
_LOWEST_CURVATURE = 1e-2


class Gaussian(NamedTuple):
    """A Gaussian approximation N(z | loc, scale scale^T) of a density.

    Attributes:
        loc: [L].
        scale: lower triangular [L, L], or [L] for a diagonal.
        elbo: the ELBO of the density with this Gaussian as q, in nats; NaN if it was not computed, -inf if float32
            cannot represent its draws or the density overflows at many of them.
    """

    loc: np.ndarray
    scale: np.ndarray
    elbo: float

    def draws(self, noise: np.ndarray) -> np.ndarray:
        """Maps noise u ~ N(0, I) [S, L] to draws z [S, L]."""
        return self.loc + (noise @ self.scale.T if self.scale.ndim == 2 else noise * self.scale)

    def diagonal(self) -> "Gaussian":
        """The diagonal q that minimises KL(q || self): its variances are 1 / diag(precision), not the marginal ones."""
        inverse = np.linalg.inv(self.scale)
        return self._replace(scale=1.0 / np.sqrt(np.sum(inverse**2, axis=0)))


class _Point(NamedTuple):
    """The log density and its derivatives at a point z.

    Attributes:
        z: the point [L].
        value: the log density, in nats.
        gradient: its gradient [L].
        precision: its negative Hessian [L, L].
    """

    z: np.ndarray
    value: float
    gradient: np.ndarray
    precision: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all() and np.isfinite(self.precision).all())


class _Step(NamedTuple):
    """The quadratic model of the log density at a point, in coordinates in which the precision has the diagonal 1.

    Attributes:
        scales: the scales of the coordinates [L].
        curvature: the eigenvalues of the precision in these coordinates [L].
        directions: the eigenvectors [L, L].
        slope: the gradient along the eigenvectors [L].
    """

    scales: np.ndarray
    curvature: np.ndarray
    directions: np.ndarray
    slope: np.ndarray

    @property
    def floor(self) -> float:
        """The lower bound of the curvatures; 1 if they are all 0."""
        return _FLOOR * float(np.abs(self.curvature).max()) or 1.0

    def newton(self, damping: float) -> tuple[np.ndarray, float]:
        """The damped Newton step [L], uphill even where the curvature is negative, and its expected gain in nats."""
        along = self.slope / (np.abs(self.curvature) + damping + self.floor)
        return self.scales * (self.directions @ along), 0.5 * float(along @ self.slope)


def approximate(log_density: LogDensity, starts: np.ndarray) -> Gaussian:
    """Finds a Gaussian near most of the mass of a density.

    Args:
        log_density: maps z [S, L] to the log density [S] in nats, up to a constant; twice differentiable.
        starts: points [M, L] to start from, of which at least one must have a finite density.

    Returns:
        The Gaussian with the highest ELBO over all iterates from all starts, refined.

    Raises:
        ValueError: the density has no finite gradient at any start.
    """
    evaluate, values = _functions(log_density, starts.shape[1])
    noise = np.random.default_rng(0).standard_normal([_ELBO_DRAWS, starts.shape[1]])
    best, highest = None, None
    for start in starts:
        point, damping = evaluate(start), 1e-3
        if not point.finite:
            continue
        for _ in range(_MAX_ITERATIONS):
            step = _step_at(point)
            move, gain = step.newton(damping)
            gaussian = _gaussian(point, step, values, noise)
            if gaussian.elbo > (-math.inf if best is None else best.elbo):
                best = gaussian
            # float32 has seven digits, so a smaller gain would be lost in rounding.
            if gain < _SMALL_GAIN + 1e-7 * abs(point.value):
                break
            trial = evaluate(point.z + move)
            if trial.finite and trial.value > point.value:
                point, damping = trial, max(damping / 5.0, 1e-9)
            elif damping > 1e9:
                break
            else:
                damping *= 5.0
        if highest is None or point.value > highest.value:
            highest = point
    if highest is None:
        raise ValueError(
            "`model` must have a density whose first and second derivatives are finite where the fit starts. Received: "
            "derivatives that are NaN or infinite"
        )
    return _refine(best or _gaussian(highest, _step_at(highest), values, noise), evaluate, values, noise)


def approximate_diagonally(log_density: LogDensity, starts: np.ndarray) -> Gaussian:
    """Finds a diagonal Gaussian at a mode of a density of many dimensions, without its full Hessian.

    Args:
        log_density: see `approximate`.
        starts: see `approximate`; the one of highest density is used.
    """
    values = log_density(tf.constant(starts, tf.float32)).numpy()
    start = starts[np.nanargmax(np.where(np.isfinite(values), values, np.nan))]

    @tf.function
    def minimize(start: tf.Tensor) -> tf.Tensor:
        def loss_and_gradient(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tfp.math.value_and_gradient(lambda z: -log_density(z[tf.newaxis])[0], z)

        return tfp.optimizer.lbfgs_minimize(loss_and_gradient, start, max_iterations=_MAX_ITERATIONS).position

    loc = minimize(tf.constant(start, tf.float32))

    times_hessian = _hessian_vector_product(log_density, loc)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=[64, len(start)])
    # The mean over random signs of s * (H s) is the diagonal of H (Hutchinson 1989).
    products = [-sign * times_hessian(tf.constant(sign, tf.float32)).numpy() for sign in signs]
    diagonal = np.mean(products, axis=0, dtype=float)
    typical = np.median(np.abs(diagonal))
    diagonal = np.maximum(np.abs(diagonal), _FLOOR * typical if typical > 0 else 1.0)
    return Gaussian(loc.numpy().astype(float), 1.0 / np.sqrt(diagonal), math.nan)


def rounding(loc: np.ndarray, scale: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """How far rounding to float32 moves draws of a Gaussian, in its standard deviations.

    Args:
        loc: the mean [L].
        scale: lower triangular [L, L].
        draws: draws z [S, L] of the Gaussian, in double precision.

    Returns:
        The root mean square [L] of the rounding errors of u, where z = loc + scale u.
    """
    errors = np.float32(draws).astype(float) - draws
    return np.sqrt(np.mean(linalg.solve_triangular(scale, errors.T, lower=True) ** 2, axis=1))


def unresolved(gaussian: Gaussian) -> np.ndarray | None:
    """Which coordinates [L] take part in a direction whose curvature is at the lower bound; None if there is none."""
    if gaussian.scale.ndim == 1:
        return None
    inverse = np.linalg.inv(gaussian.scale)
    precision = inverse.T @ inverse
    scales = np.sqrt(np.diag(precision))
    curvature, directions = np.linalg.eigh(precision / scales[:, None] / scales)
    return abs(directions[:, 0]) > 0.1 if curvature[0] < 3.0 * _FLOOR * curvature[-1] else None


def principal_axes(gaussian: Gaussian, log_density: LogDensity) -> np.ndarray:
    """The principal axes [M, L] of a Gaussian, each as long as one standard deviation.

    A diagonal Gaussian knows only its coordinates, so the direction in which the density is most flat, as far as ten
    standard deviations of a coordinate, is added.

    Args:
        gaussian: the Gaussian.
        log_density: the density that it approximates.
    """
    if gaussian.scale.ndim == 2:
        directions, lengths, _ = np.linalg.svd(gaussian.scale)
        return lengths[:, None] * directions.T
    loc, scale = tf.constant(gaussian.loc, tf.float32), gaussian.scale
    times_hessian = _hessian_vector_product(log_density, loc)

    def times_precision(u: np.ndarray) -> np.ndarray:
        return -scale * times_hessian(tf.constant(scale * u.ravel(), tf.float32)).numpy()

    operator = LinearOperator((len(scale), len(scale)), matvec=times_precision, dtype=float)
    start = np.random.default_rng(0).standard_normal([len(scale), 1])
    with warnings.catch_warnings():
        # It warns of a direction that it did not find to the tolerance, which is then not flat to it either.
        warnings.simplefilter("ignore", UserWarning)
        curvature, direction = lobpcg(operator, start, largest=False, tol=1e-6, maxiter=_FLAT_ITERATIONS)
    flattest = scale * direction[:, 0] / math.sqrt(max(curvature[0], _LOWEST_CURVATURE))
    return np.concatenate([flattest[np.newaxis], np.diag(scale)])


def _hessian_vector_product(log_density: LogDensity, loc: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function that multiplies the Hessian at loc [L] by a vector [L]."""

    @tf.function
    def product(direction: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as outer:
            outer.watch(loc)
            with tf.GradientTape() as inner:
                inner.watch(loc)
                value = log_density(loc[tf.newaxis])[0]
            slope = tf.reduce_sum(inner.gradient(value, loc) * direction)
        return outer.gradient(slope, loc, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return product


def _functions(log_density: LogDensity, dim: int) -> tuple[Callable[[np.ndarray], _Point], LogDensity]:
    """Makes two functions: the log density with its derivatives at one point [L], and its values alone at [S, L]."""
    directions = tf.eye(dim)

    @tf.function
    def derivatives(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # One row for each column of the Hessian. Reverse mode twice works for every op that has a gradient.
        rows = tf.repeat(z[tf.newaxis], dim, axis=0)
        with tf.GradientTape() as outer:
            outer.watch(rows)
            with tf.GradientTape() as inner:
                inner.watch(rows)
                values = log_density(rows)
            gradients = inner.gradient(values, rows)
            along = tf.reduce_sum(gradients * directions, axis=-1)
        hessian = outer.gradient(along, rows, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return values[0], gradients[0], hessian

    def evaluate(z: np.ndarray) -> _Point:
        value, gradient, hessian = (array.numpy().astype(float) for array in derivatives(tf.constant(z, tf.float32)))
        return _Point(z, float(value), gradient, -(hessian + hessian.T) / 2.0)

    # In double precision, because the sum of very low log densities would overflow.
    return evaluate, lambda z: log_density(tf.constant(z, tf.float32)).numpy().astype(float)


def _refine(
    gaussian: Gaussian,
    evaluate: Callable[[np.ndarray], _Point],
    values: Callable[[np.ndarray], np.ndarray],
    noise: np.ndarray,
) -> Gaussian:
    """Takes natural gradient steps on the ELBO for as long as they raise it."""
    generator = np.random.default_rng(1)
    inverse = np.linalg.inv(gaussian.scale)
    precision, rate = inverse.T @ inverse, 0.5
    for _ in range(_MAX_REFINEMENTS):
        half = generator.standard_normal([_CURVATURE_PAIRS, len(gaussian.loc)]) @ gaussian.scale.T
        points = [evaluate(gaussian.loc + move) for move in np.concatenate([half, -half])]
        gain = 0.0
        if all(point.finite for point in points):
            mean = np.mean([point.precision for point in points], axis=0)
            gradient = np.mean([point.gradient for point in points], axis=0)
            trial_precision = (1.0 - rate) * precision + rate * mean
            step = _step_at(_Point(gaussian.loc, gaussian.elbo, rate * gradient, trial_precision))
            trial = _gaussian(
                _Point(gaussian.loc, gaussian.elbo, rate * gradient, trial_precision), step, values, noise
            )
            gain = trial.elbo - gaussian.elbo if math.isfinite(trial.elbo) else 0.0
        if gain > 0.0:
            gaussian, precision, rate = trial, trial_precision, min(1.0, 1.5 * rate)
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


def _step_at(point: _Point) -> _Step:
    diagonal = np.abs(np.diag(point.precision))
    # A coordinate without curvature is not scaled.
    scales = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    curvature, directions = np.linalg.eigh(point.precision * scales[:, None] * scales)
    return _Step(scales, curvature, directions, directions.T @ (scales * point.gradient))


def _gaussian(point: _Point, step: _Step, values: Callable[[np.ndarray], np.ndarray], noise: np.ndarray) -> Gaussian:
    """The Gaussian whose log density is the quadratic model at a point, centred at the mode of that model."""
    curvature = np.maximum(np.abs(step.curvature), step.floor)
    root = step.scales[:, None] * step.directions / np.sqrt(curvature)
    # The lower triangular matrix with scale scale^T = root root^T.
    scale = np.transpose(np.linalg.qr(root.T, mode="r"))
    scale *= np.sign(np.diag(scale))
    loc = point.z + step.newton(0.0)[0]
    draws = loc + noise @ scale.T
    # A density may grow without bound where it has little mass, as does that of groups whose scale goes to 0. Draws so
    # close together that float32 rounds them to the point of highest density would seem to have an ever higher ELBO.
    if rounding(loc, scale, draws).max() > _MAX_ROUNDING:
        return Gaussian(loc, scale, -math.inf)
    log_density = _penalized(values(draws))
    entropy = np.log(np.diag(scale)).sum() + 0.5 * len(loc) * (1.0 + math.log(2.0 * math.pi))
    elbo = float(np.mean(log_density) + entropy)
    return Gaussian(loc, scale, elbo if math.isfinite(elbo) else -math.inf)
