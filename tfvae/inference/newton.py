"""Where variational inference starts: a mode of the posterior, and the curvature of its density there.

A posterior may lie anywhere and have any scale; a family of distributions is fitted to it in coordinates in which both
are near 0 and 1. Newton's method finds them whatever the scales are. Of the Gaussians along its paths, one at each
iterate, the one with the highest ELBO is taken, because a mode alone may be far from where the mass is. A few natural
gradient steps then bring its curvature from that of a point to the mean over its own draws.

Reference: Zhang et al. 2022, Pathfinder: Parallel Quasi-Newton Variational Inference, algorithm 1, with the curvature
itself in place of a quasi-Newton estimate of it; Khan & Lin 2017, Conjugate-Computation Variational Inference, and Khan
et al. 2018, Fast and Scalable Bayesian Deep Learning by Weight-Perturbation, equations 10 and 11, for the steps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

LogDensity = Callable[[tf.Tensor], tf.Tensor]

# Above it the matrices of the curvature are large, and only their diagonals are computed.
FULL_CURVATURE_DIM = 500
_MAX_ITERATIONS = 200
# Draws that the ELBO of an iterate is estimated from.
_ELBO_DRAWS = 256
_MAX_REFINEMENTS = 30
# Pairs of draws that the curvature is a mean over.
_CURVATURE_PAIRS = 4
# The share of draws with a density of 0, or one that overflows, that a posterior may have in float32.
FEW = 0.02
# The expected gain of a Newton step, in nats, at which it is not worth a step.
_SMALL_GAIN = 1e-3
# The lowest curvature that is taken for one, as a part of the highest in coordinates scaled by the diagonal.
_FLOOR = 1e-6


class Gaussian(NamedTuple):
    """A Gaussian approximation N(z | loc, scale scale^T) of a density.

    Attributes:
        loc: [L].
        scale: lower triangular [L, L], or [L] for a diagonal.
        elbo: the ELBO of the density with this Gaussian, in nats; NaN where it is not known.
    """

    loc: np.ndarray
    scale: np.ndarray
    elbo: float

    def diagonal(self) -> "Gaussian":
        """The best diagonal Gaussian for this one, with variances 1 / diag(precision), not those of the marginals."""
        inverse = np.linalg.inv(self.scale)
        return self._replace(scale=1.0 / np.sqrt(np.sum(inverse**2, axis=0)))


class _Point(NamedTuple):
    """The density at a point z.

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
    """The quadratic model of the density at a point, in coordinates in which its diagonal is 1.

    Attributes:
        scales: of the coordinates [L].
        curvature: eigenvalues of the precision in these coordinates [L].
        directions: eigenvectors [L, L].
        slope: the gradient along them [L].
    """

    scales: np.ndarray
    curvature: np.ndarray
    directions: np.ndarray
    slope: np.ndarray

    @property
    def floor(self) -> float:
        """The lowest curvature that is taken for one; 1 where there is none at all."""
        return _FLOOR * float(np.abs(self.curvature).max()) or 1.0

    def newton(self, damping: float) -> tuple[np.ndarray, float]:
        """The step [L] uphill, whatever the sign of the curvature, and its expected gain in nats."""
        along = self.slope / (np.abs(self.curvature) + damping + self.floor)
        return self.scales * (self.directions @ along), 0.5 * float(along @ self.slope)


def approximate(log_density: LogDensity, starts: np.ndarray) -> Gaussian:
    """Finds a Gaussian near the mass of a density.

    Args:
        log_density: maps z [S, L] to the log density [S] in nats, up to a constant; differentiable twice.
        starts: points to start from [M, L], of which at least one has a finite density.

    Returns:
        The Gaussian with the highest ELBO among those at the iterates from all starts.

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
            if best is None or gaussian.elbo > best.elbo:
                best = gaussian
            # Sums in float32 hold seven digits.
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
    """Finds a diagonal Gaussian near a mode of a density of many dimensions, with gradients alone.

    Args:
        log_density: see `approximate`.
        starts: see `approximate`.
    """
    values = log_density(tf.constant(starts, tf.float32)).numpy()
    start = starts[np.nanargmax(np.where(np.isfinite(values), values, np.nan))]

    @tf.function
    def minimize(start: tf.Tensor) -> tf.Tensor:
        def loss_and_gradient(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tfp.math.value_and_gradient(lambda z: -log_density(z[tf.newaxis])[0], z)

        return tfp.optimizer.lbfgs_minimize(loss_and_gradient, start, max_iterations=_MAX_ITERATIONS).position

    loc = minimize(tf.constant(start, tf.float32))

    @tf.function
    def curvature_along(direction: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as outer:
            outer.watch(loc)
            with tf.GradientTape() as inner:
                inner.watch(loc)
                value = log_density(loc[tf.newaxis])[0]
            slope = tf.reduce_sum(inner.gradient(value, loc) * direction)
        return -direction * outer.gradient(slope, loc)

    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=[64, len(start)])
    # The mean over random signs of s * (H s) is the diagonal of H (Hutchinson 1989).
    diagonal = np.mean([curvature_along(tf.constant(sign, tf.float32)) for sign in signs], axis=0, dtype=float)
    typical = np.median(np.abs(diagonal))
    diagonal = np.maximum(np.abs(diagonal), _FLOOR * typical if typical > 0 else 1.0)
    return Gaussian(loc.numpy().astype(float), 1.0 / np.sqrt(diagonal), math.nan)


def _functions(log_density: LogDensity, dim: int) -> tuple[Callable[[np.ndarray], _Point], LogDensity]:
    """A function that evaluates a density and its derivatives at one point [L], and one for values alone [S, L]."""
    directions = tf.eye(dim)

    @tf.function
    def derivatives(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # One row for each column of the Hessian: reverse mode twice, which every op with a gradient has.
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

    return evaluate, lambda z: log_density(tf.constant(z, tf.float32)).numpy()


def _refine(
    gaussian: Gaussian,
    evaluate: Callable[[np.ndarray], _Point],
    values: Callable[[np.ndarray], np.ndarray],
    noise: np.ndarray,
) -> Gaussian:
    """Natural gradient steps on the ELBO, as long as they raise it."""
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
    """Log densities, with a low value for the few that overflow; where they are not few, -inf."""
    finite = np.isfinite(values)
    if np.mean(finite) < 1.0 - FEW:
        return np.full_like(values, -np.inf)
    return np.where(finite, values, values[finite].min() - 100.0)


def _step_at(point: _Point) -> _Step:
    diagonal = np.abs(np.diag(point.precision))
    # A coordinate without curvature is left as it is.
    scales = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    curvature, directions = np.linalg.eigh(point.precision * scales[:, None] * scales)
    return _Step(scales, curvature, directions, directions.T @ (scales * point.gradient))


def _gaussian(point: _Point, step: _Step, values: Callable[[np.ndarray], np.ndarray], noise: np.ndarray) -> Gaussian:
    """The Gaussian of the quadratic model at a point, centred where that has its mode."""
    curvature = np.maximum(np.abs(step.curvature), step.floor)
    root = step.scales[:, None] * step.directions / np.sqrt(curvature)
    # The triangle with the same product: root root^T = scale scale^T.
    scale = np.transpose(np.linalg.qr(root.T, mode="r"))
    scale *= np.sign(np.diag(scale))
    loc = point.z + step.newton(0.0)[0]
    log_density = _penalized(values(loc + noise @ scale.T))
    entropy = np.log(np.diag(scale)).sum() + 0.5 * len(loc) * (1.0 + math.log(2.0 * math.pi))
    elbo = float(np.mean(log_density) + entropy)
    return Gaussian(loc, scale, elbo if math.isfinite(elbo) else -math.inf)
