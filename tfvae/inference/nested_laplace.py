"""Finds a Gaussian near a posterior of many local latent variables, which are integrated out at each step.

The joint density of groups and their scale has no useful mode: it grows without bound as the scale goes to 0. So the
global variables are moved uphill on the density in which the local ones are integrated out. Given the global variables,
the density of the local ones is approximated by a Gaussian at its mode, which Newton's method finds with a banded
Hessian. The gradient for the global variables is then the mean of that of the joint density over draws of the Gaussian
(Fisher's identity). These draws always come from the same noise, so that all is a smooth function of the global
variables; its differences along their principal axes give the curvature, and how the local Gaussian depends on them.

Reference: Rue et al. 2009, Approximate Bayesian Inference for Latent Gaussian Models, sections 3.1 and 3.2; Tan et al.
2020, Conditionally Structured Variational Gaussian Approximation with Importance Weights, section 3.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg

from tfvae.inference import newton
from tfvae.inference.structure import Pattern

# Evaluates the log density at points [R, L]: values [R] and gradients [R, L].
Gradients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# The same, and the products [R, L] of the Hessians there with vectors [R, L].
Products = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

_MAX_LOCAL_STEPS, _MAX_GLOBAL_STEPS = 50, 60
# The expected gain of a step, in nats, at which an iteration ends.
_SMALL_GAIN = 1e-2
# Pairs of draws of the local variables, as many as make so many numbers, within bounds.
_NUMBERS, _FEWEST_PAIRS, _MOST_PAIRS = 2**12, 4, 64
_LONGEST = 4.0  # standard deviations, of a step of the global variables
# Lower bound of the curvatures of the global variables, relative to the highest.
_FLOOR = 1e-6
# How far differences go along the principal axes, in standard deviations.
_REACH = 1.0


class StructuredGaussian(NamedTuple):
    """A Gaussian over the global variables, and one over the local variables that depends on them.

    Attributes:
        pattern: which local variables depend on each other.
        loc: [L].
        scale: the standard deviations [L] of single variables: for the local ones given all others, for the global ones
            given the other global ones.
        elbo: NaN, as it is not computed.
        start: the variables of `StructuredNormal` by name, in coordinates u = (z - loc) / scale.
    """

    pattern: Pattern
    loc: np.ndarray
    scale: np.ndarray
    elbo: float
    start: dict[str, np.ndarray]

    def draws(self, noise: np.ndarray) -> np.ndarray:
        """Maps noise u ~ N(0, I) [S, L] to draws z [S, L]."""
        size, start, order = self.pattern.num_globals, self.start, self.pattern.order
        v, noise = noise[:, :size], noise[:, size:]
        features = np.concatenate([v, np.sqrt(1.0 + v**2) - 1.0], axis=1)
        local = np.exp(-features @ start["log_precision_slope"].T) * noise
        band = start["band"] + np.einsum("wng,sg->swn", start["band_slope"], features)
        for place in range(local.shape[1] - 1, -1, -1) if band.shape[1] else ():
            for k in range(1, band.shape[1] + 1):
                if place + k < local.shape[1]:
                    local[:, place] -= band[:, k - 1, place + k] * local[:, place + k]
        local += _solve_unit(start["band"], start["slope"] @ features.T).T
        u = np.empty_like(np.concatenate([v, local], axis=1))
        u[:, order] = np.concatenate([v @ start["root"].T, local], axis=1)
        return self.loc + self.scale * u

    @property
    def deviations(self) -> np.ndarray:
        """The standard deviation of each variable [L], as `scale` has it."""
        return self.scale

    def global_axes(self) -> np.ndarray:
        """The principal axes [G, L] of the global variables, each of one standard deviation; the local ones follow."""
        size, start = self.pattern.num_globals, self.start
        u = np.zeros([size, len(self.loc)])
        local = _solve_unit(start["band"], start["slope"][:, :size]).T
        u[:, self.pattern.order] = np.concatenate([start["root"].T, local], axis=1)
        return self.scale * u


def without_structure(gaussian: newton.Gaussian) -> StructuredGaussian:
    """A Gaussian all of whose variables are global."""
    scale, dim = gaussian.scale, len(gaussian.loc)
    lengths = np.linalg.norm(scale, axis=1) if scale.ndim == 2 else scale
    root = scale / lengths[:, np.newaxis] if scale.ndim == 2 else np.eye(dim)
    return StructuredGaussian(Pattern((), 0, dim), gaussian.loc, lengths, gaussian.elbo, {"root": root})


class State(NamedTuple):
    """The local Gaussians at P values of the global variables, and what they give for these.

    Attributes:
        globals: [P, G].
        local: the modes of the local variables [P, N].
        root: lower triangular bands [P, W + 1, N], as in LAPACK, whose product with its transpose is the precision.
        value: an estimate of the log density of the global variables [P], in nats, up to a constant.
        slope: its gradient [P, G].
    """

    globals: np.ndarray
    local: np.ndarray
    root: np.ndarray
    value: np.ndarray
    slope: np.ndarray

    def at(self, index: int) -> "State":
        """One of them."""
        return State(*(part[index : index + 1] for part in self))


class End(NamedTuple):
    """Where a climb of the global variables ended.

    Attributes:
        evidence: an estimate of the logarithm of the mass near it, in nats, up to a constant.
        state: the local Gaussian there.
        metric: the covariance [G, G] of the global variables.
    """

    evidence: float
    state: State
    metric: np.ndarray


class Search:
    """Finds Gaussians near a density.

    Args:
        pattern: the pattern of its Hessian.
        gradients: see `Gradients`.
        products: see `Products`.

    Attributes:
        size: G, the number of global variables.
        count: N, the number of local variables.
    """

    def __init__(self, pattern: Pattern, gradients: Gradients, products: Products) -> None:
        self.pattern, self.gradients, self.products = pattern, gradients, products
        self.size, self.count = pattern.num_globals, len(pattern.node)
        pairs = int(np.clip(_NUMBERS // self.count, _FEWEST_PAIRS, _MOST_PAIRS))
        half = np.random.default_rng(0).standard_normal([pairs, self.count])
        self.noise = np.concatenate([half, -half])

    def ends(self, starts: np.ndarray) -> list[End]:
        """Where climbs from points [M, L] end, of which at least one must have a finite density."""
        starts = starts[:, self.pattern.order]
        state = self.state(starts[:, : self.size], starts[:, self.size :])
        order = [index for index in np.argsort(-state.value) if np.isfinite(state.value[index])]
        if not order:
            raise ValueError(
                "`model` must have a density whose first and second derivatives are finite where the fit starts. "
                "Received: derivatives that are NaN or infinite"
            )
        return [self.end(state.at(index)) for index in order]

    def end(self, state: State) -> End:
        """Where a climb ends that begins at a state."""
        state, metric = self.climb(state)
        # By the integral and not the height, so that a narrow peak counts little.
        return End(float(state.value[0]) + 0.5 * float(np.linalg.slogdet(metric)[1]), state, metric)

    def join(self, globals_: np.ndarray, local: np.ndarray) -> np.ndarray:
        """The points z [..., L] of global [..., G] and local [..., N] variables."""
        z = np.empty([*globals_.shape[:-1], self.pattern.dim])
        z[..., self.pattern.order] = np.concatenate([globals_, local], axis=-1)
        return z

    def curvature(self, globals_: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [P], the gradients [P, L] and the precisions [P, W + 1, N] of the local variables at P points."""
        probes = self.pattern.probes
        vectors = self.join(np.zeros([len(probes), self.size]), probes)
        points = np.repeat(self.join(globals_, local), len(probes), axis=0)
        values, gradients, products = self.products(points, np.tile(vectors, [len(local), 1]))
        products = products[:, self.pattern.order].reshape(len(local), len(probes), -1)[..., self.size :]
        gradients = gradients[:: len(probes), self.pattern.order]
        return values[:: len(probes)], gradients, -self.pattern.band(products)

    def modes(self, globals_: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The modes [P, N] of the local variables, given the global ones [P, G], and the roots [P, W + 1, N] there."""
        local, trial = local.copy(), local.copy()
        value = np.full(len(local), -np.inf)
        damping, moving = np.full(len(local), 1e-6), np.ones(len(local), bool)
        slope, precision = np.zeros_like(local), np.zeros([len(local), len(self.pattern.mask) + 1, self.count])
        for _ in range(_MAX_LOCAL_STEPS):
            at = np.flatnonzero(moving)
            values, gradients, precisions = self.curvature(globals_[at], trial[at])
            for row, index in enumerate(at):
                is_finite = np.isfinite(values[row]) and np.isfinite(gradients[row]).all()
                if (
                    is_finite
                    and np.isfinite(precisions[row]).all()
                    and values[row] > value[index] - _rounding(values[row])
                ):
                    local[index], value[index] = trial[index], values[row]
                    slope[index], precision[index] = gradients[row, self.size :], precisions[row]
                    damping[index] /= 10.0
                elif not np.isfinite(value[index]) or damping[index] > 1e6:
                    moving[index] = False
                    continue
                else:
                    damping[index] = max(10.0 * damping[index], 1e-2)
                root, damping[index] = _root(precision[index], damping[index])
                move = linalg.cho_solve_banded((root, True), slope[index])
                trial[index] = local[index] + move
                moving[index] = 0.5 * move @ slope[index] > _SMALL_GAIN * 0.1 + _rounding(value[index])
            if not moving.any():
                break
        local[~np.isfinite(value)] = np.nan
        # Where the density is not finite, any root will do.
        unit = np.zeros_like(precision[0])
        unit[0] = 1.0
        pairs = zip(precision, np.isfinite(value), strict=True)
        roots = np.stack([_root(each, 0.0)[0] if is_finite else unit for each, is_finite in pairs])
        return local, roots

    def state(self, globals_: np.ndarray, local: np.ndarray) -> State:
        """The local Gaussians at P values of the global variables [P, G], sought from local variables [P, N]."""
        local, root = self.modes(globals_, local)
        moves = np.stack([_solve_root(each, self.noise.T).T for each in root])
        points = self.join(
            np.repeat(globals_[:, np.newaxis], len(self.noise), axis=1), local[:, np.newaxis] + moves
        ).reshape(-1, self.pattern.dim)
        values, gradients = self.gradients(points)
        values = values.reshape(len(local), -1)
        slope = gradients[:, self.pattern.order[: self.size]].reshape(len(local), len(self.noise), -1).mean(axis=1)
        value = values.mean(axis=1) - np.log(root[:, 0]).sum(axis=1)
        is_finite = np.isfinite(value) & np.isfinite(slope).all(axis=1)
        return State(globals_, local, root, np.where(is_finite, value, -np.inf), slope)

    def dependence(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """The curvature [G, G] along the global variables if the local ones follow their mode, whose slopes [N, G]."""
        point = self.join(state.globals, state.local)
        vectors = self.join(np.eye(self.size), np.zeros([self.size, self.count]))
        hessian = self.products(np.repeat(point, self.size, axis=0), vectors)[2][:, self.pattern.order]
        cross = hessian[:, self.size :].T
        follow = linalg.cho_solve_banded((state.root[0], True), cross)
        curvature = -hessian[:, : self.size] - cross.T @ follow
        return 0.5 * (curvature + curvature.T), follow

    def climb(self, state: State) -> tuple[State, np.ndarray]:
        """Moves the global variables uphill by a quasi-Newton method; also gives a root [G, G] of their covariance."""
        if not self.size:
            return state, np.zeros([0, 0])
        curvature, follow = self.dependence(state)
        metric = _positive(curvature)
        for step in range(_MAX_GLOBAL_STEPS):
            slope = state.slope[0]
            move = metric @ slope
            gain = 0.5 * slope @ move
            if gain < _SMALL_GAIN:
                break
            move *= min(1.0, _LONGEST / np.sqrt(2.0 * gain))
            for _ in range(8):
                trial = self.state(state.globals + move, state.local + follow @ move)
                # Further on is better where the value says so, or where the slope does: rounding spoils the value.
                if np.isfinite(trial.value[0]) and trial.value[0] > state.value[0] - _rounding(state.value[0]):
                    break
                move = move / 4.0
            else:
                break
            change = slope - trial.slope[0]
            if change @ move > 1e-3 * (move @ np.linalg.solve(metric, move)):
                metric = _updated(metric, move, change)
            state = trial
            if step % 4 == 3:
                follow = self.dependence(state)[1]
        return state, metric

    def gaussian(self, state: State, metric: np.ndarray) -> StructuredGaussian:
        """The Gaussian at a state, given a covariance [G, G] of the global variables."""
        follow = self.dependence(state)[1] if self.size else np.zeros([self.count, 0])
        root = np.linalg.cholesky(metric)
        size = self.size
        slope, log_slope = np.zeros([self.count, 2 * size]), np.zeros([self.count, 2 * size])
        band_slope = np.zeros([len(self.pattern.mask), self.count, 2 * size])
        if size:
            for _ in range(2):
                away = self.differences(state, root, follow)
                if not np.isfinite(away.value).all():
                    break
                change = (away.slope[size:] - away.slope[:size]) @ root / (2.0 * _REACH)
                covariance = _positive(0.5 * (change + change.T))
                root = root @ np.linalg.cholesky(covariance)
                trial = self.state(state.globals + (root @ root.T @ state.slope[0]), state.local)
                if np.isfinite(trial.value[0]) and trial.value[0] > state.value[0] - 1.0:
                    state = trial
                follow = self.dependence(state)[1]
            away = self.differences(state, root, follow)
            if np.isfinite(away.value).all():
                diagonals, bands = _modified(np.concatenate([away.root, state.root]))
                log_slope = _halves(np.log(diagonals), size).T
                band_slope = np.moveaxis(_halves(bands, size), 0, 2)
                slope = _halves(np.concatenate([away.local, state.local]), size).T
            else:  # The density overflows one standard deviation away.
                slope[:, :size] = follow @ root
        diagonal, band = (part[0] for part in _modified(state.root))
        local_scale = 1.0 / diagonal
        global_scale = np.sqrt(np.sum(root**2, axis=1))
        scale = self.join(global_scale, local_scale)
        # Row k and column j of a band hold the element (j, j - k - 1): it multiplies variable j of the unit scale.
        ratio = np.ones([len(self.pattern.mask), self.count])
        for k in range(len(ratio)):
            ratio[k, k + 1 :] = local_scale[k + 1 :] / local_scale[: -k - 1]
        unit_band = band * ratio
        multiplied = slope / local_scale[:, np.newaxis]
        for k in range(len(ratio)):
            multiplied[: -k - 1] += unit_band[k, k + 1 :, np.newaxis] * (slope / local_scale[:, np.newaxis])[k + 1 :]
        start = {
            "root": root / global_scale[:, np.newaxis],
            "slope": multiplied,
            "log_precision_slope": log_slope,
            "band": unit_band,
            "band_slope": band_slope * ratio[..., np.newaxis],
            "start_band": unit_band,
        }
        return StructuredGaussian(self.pattern, self.join(state.globals, state.local)[0], scale, np.nan, start)

    def differences(self, state: State, root: np.ndarray, follow: np.ndarray) -> State:
        """The states at one standard deviation along each principal axis, [G] forward and then [G] backward."""
        moves = _REACH * np.concatenate([root.T, -root.T])
        return self.state(state.globals + moves, state.local + moves @ follow.T)


def _halves(values: np.ndarray, size: int) -> np.ndarray:
    """The coefficients [2G, ...] of the two features of each global variable, from values [2G + 1, ...].

    Args:
        values: those at one standard deviation along each axis, forward and then backward, and in the middle.
        size: G.
    """
    forward, backward = values[:size] - values[-1], values[size:-1] - values[-1]
    even = 0.5 * (forward + backward) / (math.sqrt(1.0 + _REACH**2) - 1.0)
    return np.concatenate([0.5 * (forward - backward) / _REACH, even])


def _rounding(value: float) -> float:
    """How far float32 may be off at a value, in nats."""
    return 1e-6 * abs(value)


def _root(precision: np.ndarray, damping: float) -> tuple[np.ndarray, float]:
    """The Cholesky root of a band [W + 1, N], damped as far as needed to be positive definite, and the damping."""
    diagonal = np.abs(precision[0])
    typical = np.median(diagonal) or 1.0
    diagonal = np.maximum(diagonal, 1e-6 * typical)
    while True:
        damped = precision.copy()
        damped[0] += damping * diagonal
        try:
            return linalg.cholesky_banded(damped, lower=True), damping
        except linalg.LinAlgError:
            damping = max(4.0 * damping, 1e-3)


def _solve_root(root: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Multiplies x [N, S] by the inverse transpose of a root [W + 1, N]."""
    # LAPACK would write beyond the end of an array without columns.
    return linalg.lapack.dtbtrs(root, x, uplo="L", trans="T")[0] if x.size else x


def _solve_unit(band: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Multiplies x [N, S] by (I + K)^-T: see `ConditionalChain`."""
    lapack = np.zeros([len(band) + 1, band.shape[1]])
    lapack[0] = 1.0
    for k, row in enumerate(band, 1):
        lapack[k, :-k] = row[k:]
    return _solve_root(lapack, x)


def _modified(root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The diagonals [P, N] of roots [P, W + 1, N], and K [P, W, N] with root = (I + K) diagonal: `ConditionalChain`."""
    band = np.zeros([len(root), root.shape[1] - 1, root.shape[2]])
    for k in range(band.shape[1]):
        band[:, k, k + 1 :] = (root[:, k + 1] / root[:, 0])[:, : -k - 1]
    return root[:, 0], band


def _positive(curvature: np.ndarray) -> np.ndarray:
    """The inverse of a curvature [G, G] whose eigenvalues are made positive."""
    diagonal = np.abs(np.diag(curvature))
    scales = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(curvature * scales[:, np.newaxis] * scales)
    values = np.maximum(np.abs(values), _FLOOR * (np.abs(values).max() or 1.0))
    vectors = scales[:, np.newaxis] * vectors
    return vectors / values @ vectors.T


def _updated(metric: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The BFGS update of an inverse curvature, by a move and the change of the negative gradient."""
    left = np.eye(len(move)) - np.outer(move, change) / (move @ change)
    return left @ metric @ left.T + np.outer(move, move) / (move @ change)
