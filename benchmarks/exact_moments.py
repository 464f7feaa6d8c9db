"""Exact posterior means and standard deviations, in double precision, for the models of hard_models.py."""

import math
from collections.abc import Callable

import numpy as np

Moments = dict[str, tuple[np.ndarray | float, np.ndarray | float]]
LogPrior = Callable[[np.ndarray], np.ndarray]


def mixture(weights: tuple[float, ...], locs: tuple[float, ...], scales: tuple[float, ...]) -> tuple[float, float]:
    """The mean and the standard deviation of a mixture of normal distributions."""
    mean = float(np.dot(weights, locs))
    second = np.dot(weights, np.square(locs) + np.square(scales))
    return mean, math.sqrt(second - mean**2)


def on_grid(
    log_density: Callable[[np.ndarray, np.ndarray], np.ndarray], first: np.ndarray, second: np.ndarray
) -> list[tuple[float, float]]:
    """The mean and the standard deviation of each of two variables, by quadrature on a grid of equal steps.

    Args:
        log_density: maps values of both variables, each [M, N], to the log density [M, N].
        first: the values of the first variable [M].
        second: those of the second [N].
    """
    values = np.meshgrid(first, second, indexing="ij")
    # In rows, because the log density may need an axis of data.
    log = np.concatenate([log_density(a[None], b[None]) for a, b in zip(*values, strict=True)])
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    means = [float(np.sum(weights * each)) for each in values]
    return [(mean, math.sqrt(np.sum(weights * (each - mean) ** 2))) for mean, each in zip(means, values, strict=True)]


def _mixed(log_weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation [...] of a mixture over K points with log weights [K], from [K, ...]."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = np.tensordot(weights, means, axes=1)
    return mean, np.sqrt(np.tensordot(weights, variances + (means - mean) ** 2, axes=1))


def cubic(year: np.ndarray, y: np.ndarray, centre: float, scale: float) -> Moments:
    """Regression on 1, year, year^2 and year^3 with a flat prior, and a HalfNormal(10) prior of sigma.

    It is solved in t = (year - centre) / scale, for which double precision suffices.
    """
    t = (year - centre) / scale
    x = np.stack([t**power for power in range(4)], axis=1)
    estimate, covariance = np.linalg.solve(x.T @ x, x.T @ y), np.linalg.inv(x.T @ x)
    rest = float(np.sum((y - x @ estimate) ** 2))
    # The coefficients of the powers of the year that the powers of t consist of.
    expand = np.zeros((4, 4))
    for power in range(4):
        for part in range(power + 1):
            expand[part, power] = math.comb(power, part) * (-centre) ** (power - part) / scale**power
    sigma = np.exp(np.linspace(-6.0, 5.0, 20_001))
    # The last term is for a grid of equal steps of log sigma.
    log_weights = -0.5 * rest / sigma**2 - (len(y) - 4) * np.log(sigma) - 0.5 * (sigma / 10.0) ** 2 + np.log(sigma)
    moments = _mixed(log_weights, sigma, np.zeros_like(sigma))
    mean_square = float(moments[0] ** 2 + moments[1] ** 2)
    sds = np.sqrt(mean_square * np.einsum("ij,jk,ik->i", expand, covariance, expand))
    return {"beta": (expand @ estimate, sds), "sigma": moments}


def hierarchy(estimates: np.ndarray, variances: np.ndarray, mu_sd: float, log_prior: LogPrior) -> Moments:
    """Groups with estimates ~ N(theta, variances), theta ~ N(mu, tau^2), mu ~ N(0, mu_sd^2), by quadrature over tau.

    Args:
        estimates: [G].
        variances: [G].
        mu_sd: the standard deviation of the prior of mu.
        log_prior: the log prior density of tau.
    """
    tau = np.exp(np.linspace(-14.0, 7.0, 2001))
    total = variances + tau[:, None] ** 2
    precision = np.sum(1.0 / total, axis=1) + mu_sd**-2
    mu, spread = np.sum(estimates / total, axis=1) / precision, 1.0 / precision
    log_weights = log_prior(tau) + np.log(tau) + 0.5 * np.log(spread) + 0.5 * mu**2 * precision
    log_weights += -0.5 * np.sum(np.log(total) + estimates**2 / total, axis=1)
    share = tau[:, None] ** 2 / total
    means = share * estimates + (1.0 - share) * mu[:, None]
    within = share * variances + (1.0 - share) ** 2 * spread[:, None]
    return {
        "mu": _mixed(log_weights, mu, spread),
        "tau": _mixed(log_weights, tau, np.zeros_like(tau)),
        "theta": _mixed(log_weights, means, within),
    }


def random_walk(y: np.ndarray, noise: float, log_prior: LogPrior) -> Moments:
    """The walk x_t = x_(t-1) + tau e_t from x_0 = 0, observed as y ~ N(x, noise^2), by quadrature over tau."""
    size = len(y)
    differences = np.eye(size) - np.eye(size, k=-1)
    # The precision of x is K / tau^2: one eigendecomposition of K serves all values of tau.
    values, vectors = np.linalg.eigh(differences.T @ differences)
    rotated = vectors.T @ y / noise**2
    tau = np.exp(np.linspace(-5.0, 2.0, 401))
    inverse = 1.0 / (values / tau[:, None] ** 2 + noise**-2)
    log_weights = log_prior(tau) + np.log(tau) - size * np.log(tau)
    log_weights += 0.5 * np.sum(np.log(inverse) + rotated**2 * inverse, axis=1)
    means, variances = (inverse * rotated) @ vectors.T, inverse @ (vectors**2).T
    return {"tau": _mixed(log_weights, tau, np.zeros_like(tau)), "x": _mixed(log_weights, means, variances)}


def funnel(dim: int) -> Moments:
    """Neal's funnel of v ~ N(0, 3^2) and x ~ N(0, e^v): the moments of v, and those of asinh(x) by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    squares = np.arcsinh(np.exp(1.5 * nodes)[:, None] * nodes) ** 2
    return {"v": (0.0, 3.0), "asinh x": (np.zeros(dim - 1), np.full(dim - 1, math.sqrt(weights @ squares @ weights)))}
