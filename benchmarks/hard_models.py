"""Bayesian models whose posteriors are hard: badly scaled, of several modes, funnels, of many dimensions, or serial.

Each model is made from a seed. Its log joint density, in nats up to a constant, is written once by `keras.ops`, so that
TensorFlow evaluates it for `tfvae` and JAX for NumPyro, in the precision of the latents that it gets. Its exact moments
are given where there is a closed form or a quadrature: see `exact_moments.py`.
"""

from collections.abc import Callable
from typing import Any

import exact_moments
import keras
import numpy as np
from keras import ops
from log_densities import Model, Values, half_cauchy, half_normal, normal, scan, times, total
from scipy import special

if keras.backend.backend() == "jax":
    from jax.scipy.special import gammaln as lgamma
else:
    from tensorflow.math import lgamma


def cubic(seed: int) -> Model:
    """A regression on the calendar year, its square and its cube, as they are, with flat priors."""
    year = np.arange(1950.0, 2021.0)
    t = (year - 1985.0) / 35.0
    y = 1.0 + 0.8 * t - 0.5 * t**2 + 0.7 * t**3 + 0.3 * np.random.default_rng(seed).standard_normal(len(t))
    x = np.stack([year**power for power in range(4)], axis=1)

    def log_joint(latents: Values) -> Any:
        beta, sigma = latents["beta"], latents["sigma"]
        return total(normal(y, times(x, beta), sigma[:, None])) + half_normal(sigma, 10.0)

    latents = {"beta": ((4,), None), "sigma": ((), "positive")}
    return Model(latents, log_joint, exact=exact_moments.cubic(year, y, 1985.0, 35.0))


def modes(weights: tuple[float, ...], locs: tuple[float, ...], scales: tuple[float, ...]) -> Model:
    """A mixture of normal distributions in one dimension."""

    def log_joint(latents: Values) -> Any:
        x = latents["x"][:, None]
        return ops.logsumexp(normal(x, np.array(locs), np.array(scales)) + np.log(weights), axis=-1)

    return Model({"x": ((), None)}, log_joint, exact={"x": exact_moments.mixture(weights, locs, scales)})


def label_switching(seed: int) -> Model:
    """The two means, in either order, of a mixture in equal parts."""
    numbers = np.random.default_rng(seed)
    y = numbers.standard_normal(60) + np.where(numbers.random(60) < 0.5, -2.0, 2.0)

    def log_joint(latents: Values) -> Any:
        mu = latents["mu"]
        rows = [normal(y, mu[:, index, None], 1.0) for index in (0, 1)]
        return total(normal(mu, 0.0, 5.0)) + total(ops.logaddexp(*rows))

    def density(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        rows = np.logaddexp(*(-0.5 * (y - each[..., None]) ** 2 for each in (first, second)))
        return -(first**2 + second**2) / 50.0 + rows.sum(axis=-1)

    axis = np.linspace(-4.0, 4.0, 401)
    mean, sd = exact_moments.on_grid(density, axis, axis)[0]
    moments = {"mu": (np.full(2, mean), np.full(2, sd))}
    return Model({"mu": ((2,), None)}, log_joint, exact=moments)


def hierarchy(seed: int, groups: int, *, centred: bool, size: int = 4, batches: bool = False) -> Model:
    """Groups whose means have a common normal distribution, of which the mean and the scale are unknown."""
    numbers = np.random.default_rng(seed)
    y = 1.0 + 1.5 * numbers.standard_normal((groups, 1)) + numbers.standard_normal((groups, size))
    group, rows = np.repeat(np.arange(groups, dtype=np.int32), size), y.ravel()

    def split(latents: Values, data: Any) -> tuple[Any, Any]:
        mu, tau, effect = latents["mu"], latents["tau"], latents["theta" if centred else "z"]
        prior = normal(mu, 0.0, 5.0) + half_normal(tau, 2.0)
        if centred:
            theta, prior = effect, prior + total(normal(effect, mu[:, None], tau[:, None]))
        else:
            theta, prior = mu[:, None] + tau[:, None] * effect, prior + total(normal(effect, 0.0, 1.0))
        return prior, normal(data[1], ops.take(theta, data[0], axis=1), 1.0)

    def log_joint(latents: Values) -> Any:
        prior, likelihood = split(latents, (group, rows))
        return prior + total(likelihood)

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mu, tau = latents["mu"], latents["tau"]
        theta = latents["theta"] if centred else mu[:, None] + tau[:, None] * latents["z"]
        return {"mu": mu, "tau": tau, "theta": theta}

    known = y.mean(axis=1), np.full(groups, 1.0 / size)
    moments = exact_moments.hierarchy(*known, 5.0, lambda tau: -0.5 * (tau / 2.0) ** 2)
    latents = {"mu": ((), None), "tau": ((), "positive"), "theta" if centred else "z": ((groups,), None)}
    data = ((group, rows.astype("float32")), split) if batches else None
    return Model(latents, log_joint, quantities, moments, data)


def eight_schools() -> Model:
    """The effects of coaching in eight schools, centred: a funnel."""
    effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def log_joint(latents: Values) -> Any:
        mu, tau, theta = latents["mu"], latents["tau"], latents["theta"]
        prior = normal(mu, 0.0, 5.0) + half_cauchy(tau, 5.0)
        return prior + total(normal(theta, mu[:, None], tau[:, None]) + normal(theta, effect, error))

    moments = exact_moments.hierarchy(effect, error**2, 5.0, lambda tau: -np.log1p((tau / 5.0) ** 2))
    return Model({"mu": ((), None), "tau": ((), "positive"), "theta": ((8,), None)}, log_joint, exact=moments)


def poisson_rate(seed: int) -> Model:
    """The rate of thirty counts."""
    y = np.random.default_rng(seed).poisson(3.0, 30)

    def log_joint(latents: Values) -> Any:
        rate = latents["rate"]
        return float(y.sum()) * ops.log(rate) - 30.0 * rate + ops.log(rate) - 0.5 * rate

    shape, rate = y.sum() + 2.0, 30.5
    moments = {"rate": (shape / rate, np.sqrt(shape) / rate)}
    return Model({"rate": ((), "positive")}, log_joint, exact=moments)


def mean_and_sd(seed: int) -> Model:
    """The mean and the standard deviation of thirty normal values."""
    y = np.random.default_rng(seed).normal(2.0, 1.5, 30)

    def log_joint(latents: Values) -> Any:
        mu, sigma = latents["mu"], latents["sigma"]
        return normal(mu, 0.0, 10.0) + half_normal(sigma, 10.0) + total(normal(y, mu[:, None], sigma[:, None]))

    def density(mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        squares = ((y - mu[..., None]) ** 2).sum(axis=-1)
        return -(mu**2 + sigma**2) / 200.0 - 0.5 * squares / sigma**2 - len(y) * np.log(sigma)

    grid = exact_moments.on_grid(density, np.linspace(-2.0, 6.0, 801), np.linspace(0.4, 6.0, 1601))
    return Model(
        {"mu": ((), None), "sigma": ((), "positive")},
        log_joint,
        exact=dict(zip(("mu", "sigma"), grid, strict=True)),
    )


def logistic(seed: int) -> Model:
    """A logistic regression with four coefficients."""
    numbers = np.random.default_rng(seed)
    x = np.concatenate([np.ones((200, 1)), numbers.standard_normal((200, 3))], axis=1)
    y = (numbers.random(200) < special.expit(x @ [0.5, 1.0, -1.0, 0.3])).astype(float)

    def log_joint(latents: Values) -> Any:
        logits = times(x, latents["beta"])
        return total(normal(latents["beta"], 0.0, 2.0)) + total(y * logits - ops.softplus(logits))

    return Model({"beta": ((4,), None)}, log_joint)


def random_walk(seed: int, steps: int) -> Model:
    """A random walk with steps of unknown scale, observed with noise."""
    numbers = np.random.default_rng(seed)
    y = np.cumsum(0.3 * numbers.standard_normal(steps)) + 0.5 * numbers.standard_normal(steps)

    def log_joint(latents: Values) -> Any:
        x, tau = latents["x"], latents["tau"]
        before = ops.pad(x[:, :-1], [[0, 0], [1, 0]])
        return half_normal(tau, 1.0) + total(normal(x, before, tau[:, None]) + normal(y, x, 0.5))

    moments = exact_moments.random_walk(y, 0.5, lambda tau: -0.5 * tau**2)
    return Model({"tau": ((), "positive"), "x": ((steps,), None)}, log_joint, exact=moments)


def epidemic(seed: int) -> Model:
    """The rates of an epidemic, of which the share of the infected is an ODE, solved by 100 steps of Runge-Kutta."""
    length = 0.4

    def slopes(state: tuple[Any, Any], rates: tuple[Any, Any]) -> tuple[Any, Any]:
        new = rates[0] * state[0] * state[1]
        return -new, new - rates[1] * state[1]

    def infected(first: Any, rates: tuple[Any, Any]) -> Any:
        def step(state: tuple[Any, Any], _: Any) -> tuple[Any, Any]:
            k1 = slopes(state, rates)
            k2 = slopes(tuple(s + 0.5 * length * k for s, k in zip(state, k1, strict=True)), rates)
            k3 = slopes(tuple(s + 0.5 * length * k for s, k in zip(state, k2, strict=True)), rates)
            k4 = slopes(tuple(s + length * k for s, k in zip(state, k3, strict=True)), rates)
            parts = zip(state, k1, k2, k3, k4, strict=True)
            return tuple(s + length / 6.0 * (a + 2.0 * b + 2.0 * c + d) for s, a, b, c, d in parts)

        return scan(step, (1.0 - first, first), np.arange(100.0))[1][4::5]

    noise = np.random.default_rng(seed).standard_normal(20)
    y = np.asarray(infected(np.full(1, 0.01), (0.8, 0.3)))[:, 0].astype(float) + 0.02 * noise

    def log_joint(latents: Values) -> Any:
        beta, gamma, first, sigma = (latents[name] for name in ("beta", "gamma", "first", "sigma"))
        shares = ops.transpose(infected(first, (beta, gamma)))
        prior = half_normal(beta, 2.0) + half_normal(gamma, 2.0) + half_normal(sigma, 0.5) + 19.0 * ops.log1p(-first)
        return prior + total(normal(y, shares, sigma[:, None]))

    positive = ((), "positive")
    return Model({"beta": positive, "gamma": positive, "first": ((), "unit"), "sigma": positive}, log_joint)


def arma(seed: int) -> Model:
    """An autoregressive moving average, whose 200 errors follow from each other in a loop."""
    noise = 0.5 * np.random.default_rng(seed).standard_normal(200)
    y = np.zeros(200)
    for t in range(200):
        y[t] = 0.2 + noise[t] + (0.7 * y[t - 1] + 0.4 * noise[t - 1] if t else 0.0)

    def log_joint(latents: Values) -> Any:
        mu, phi, theta, sigma = (latents[name] for name in ("mu", "phi", "theta", "sigma"))

        def step(error: tuple[Any], now: Any) -> tuple[Any]:
            return (now[1] - (mu + phi * now[0] + theta * error[0]),)

        first = y[0] - mu - phi * mu
        later = scan(step, (first,), np.stack([y[:-1], y[1:]], axis=1))[0]
        errors = ops.transpose(ops.concatenate([first[None], later]))
        prior = normal(mu, 0.0, 10.0) + normal(phi, 0.0, 2.0) + normal(theta, 0.0, 2.0) + half_cauchy(sigma, 2.5)
        return prior + total(normal(errors, 0.0, sigma[:, None]))

    return Model({"mu": ((), None), "phi": ((), None), "theta": ((), None), "sigma": ((), "positive")}, log_joint)


def _gaussian_process(distances: np.ndarray, alpha: Any, rho: Any, z: Any, *, smooth: bool) -> Any:
    """The values [S, N] of a Gaussian process from noise z [S, N], with a kernel of the distances [N, N]."""
    scaled = distances / rho[:, None, None]
    far = 3.0**0.5 * scaled
    kernel = ops.exp(-0.5 * scaled**2) if smooth else (1.0 + far) * ops.exp(-far)
    root = ops.cholesky(kernel + 1e-5 * np.eye(len(distances)))
    return alpha[:, None] * ops.matmul(root, z[:, :, None])[..., 0]


def poisson_process(seed: int) -> Model:
    """A Poisson regression whose log rate is a Gaussian process at eleven points."""
    x = np.linspace(-10.0, 10.0, 11)
    y = np.random.default_rng(seed).poisson(np.exp(1.5 + 1.5 * np.sin(x / 3.0)))
    distances = np.abs(x[:, None] - x)

    def log_joint(latents: Values) -> Any:
        alpha, rho, z = latents["alpha"], latents["rho"], latents["z"]
        f = _gaussian_process(distances, alpha, rho, z, smooth=True)
        prior = half_normal(alpha, 2.0) + 24.0 * ops.log(rho) - 4.0 * rho + total(normal(z, 0.0, 1.0))
        return prior + total(y.astype(float) * f - ops.exp(f))

    return Model({"alpha": ((), "positive"), "rho": ((), "positive"), "z": ((11,), None)}, log_joint)


def process_classification(seed: int) -> Model:
    """The classes of a hundred points, whose logits are a Gaussian process in two dimensions."""
    numbers = np.random.default_rng(seed)
    x = numbers.uniform(-2.0, 2.0, (100, 2))
    logits = 3.0 * np.sin(1.5 * x[:, 0]) * np.cos(x[:, 1])
    y = (numbers.random(100) < special.expit(logits)).astype(float)
    distances = np.sqrt(((x[:, None] - x) ** 2).sum(axis=-1))

    def log_joint(latents: Values) -> Any:
        alpha, rho, z = latents["alpha"], latents["rho"], latents["z"]
        f = _gaussian_process(distances, alpha, rho, z, smooth=False)
        prior = half_normal(alpha, 3.0) + normal(ops.log(rho), 0.0, 1.0) - ops.log(rho) + total(normal(z, 0.0, 1.0))
        return prior + total(y * f - ops.softplus(f))

    return Model({"alpha": ((), "positive"), "rho": ((), "positive"), "z": ((100,), None)}, log_joint)


def funnel(dim: int = 10) -> Model:
    """Neal's funnel: v ~ N(0, 3^2), and x ~ N(0, e^v I). The standard deviation of x is too heavy-tailed to compare."""

    def log_joint(latents: Values) -> Any:
        v, x = latents["v"], latents["x"]
        return normal(v, 0.0, 3.0) + total(normal(x, 0.0, ops.exp(0.5 * v)[:, None]))

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"v": latents["v"], "asinh x": np.arcsinh(latents["x"])}

    return Model({"v": ((), None), "x": ((dim - 1,), None)}, log_joint, quantities, exact_moments.funnel(dim))


def banana() -> Model:
    """A normal distribution in two dimensions, bent (Haario et al. 1999)."""

    def log_joint(latents: Values) -> Any:
        x, y = latents["x"], latents["y"]
        return normal(x, 0.0, 10.0) + normal(y + 0.03 * (x**2 - 100.0), 0.0, 1.0)

    moments = {"x": (0.0, 10.0), "y": (0.0, np.sqrt(1.0 + 2.0 * (0.03 * 100.0) ** 2))}
    return Model({"x": ((), None), "y": ((), None)}, log_joint, exact=moments)


def horseshoe(seed: int) -> Model:
    """A regression on fifty covariates, of which five matter, with the horseshoe prior, non-centred."""
    numbers = np.random.default_rng(seed)
    x = numbers.standard_normal((100, 50))
    y = x[:, :5] @ [2.0, -1.5, 1.0, 0.7, -0.5] + numbers.standard_normal(100)

    def log_joint(latents: Values) -> Any:
        z, local, tau, sigma = (latents[name] for name in ("z", "local", "tau", "sigma"))
        prior = total(normal(z, 0.0, 1.0) + half_cauchy(local, 1.0)) + half_cauchy(tau, 0.1) + half_normal(sigma, 3.0)
        return prior + total(normal(y, times(x, z * local * tau[:, None]), sigma[:, None]))

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        beta = latents["z"] * latents["local"] * latents["tau"][:, None]
        return {"beta": beta, "log tau": np.log(latents["tau"]), "sigma": latents["sigma"]}

    many, positive = ((50,), None), ((), "positive")
    return Model({"z": many, "local": ((50,), "positive"), "tau": positive, "sigma": positive}, log_joint, quantities)


def dirichlet_multinomial(seed: int) -> Model:
    """The mean and the concentration of the shares of four kinds, from the counts of twenty groups."""
    numbers = np.random.default_rng(seed)
    counts = numbers.multinomial(30, numbers.dirichlet([4.0, 3.0, 2.0, 1.0], 20)).astype(float)

    def log_joint(latents: Values) -> Any:
        alpha = (latents["concentration"][:, None] * latents["share"])[:, None, :]
        alphas = latents["concentration"][:, None]
        rows = lgamma(alphas) - lgamma(alphas + 30.0) + total(lgamma(alpha + counts) - lgamma(alpha))
        return half_normal(latents["concentration"], 20.0) + total(rows)

    return Model({"concentration": ((), "positive"), "share": ((4,), "simplex")}, log_joint)


def ordinal(seed: int) -> Model:
    """Answers on a scale of five, with three covariates and four ordered cutpoints."""
    numbers = np.random.default_rng(seed)
    x = numbers.standard_normal((200, 3))
    score = x @ [1.0, -0.7, 0.2] + numbers.logistic(size=200)
    level = np.digitize(score, [-2.0, -0.5, 0.7, 2.5])

    def log_joint(latents: Values) -> Any:
        cuts = latents["cuts"]
        eta = times(x, latents["beta"])
        # log(sigmoid(b) - sigmoid(a)) is log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)).
        upper = ops.take(cuts, np.minimum(level, 3), axis=1) - eta
        lower = ops.take(cuts, np.maximum(level - 1, 0), axis=1) - eta
        inner = (level > 0) & (level < 4)
        gap = ops.where(inner, lower - upper, -1.0)
        rows = ops.where(level < 4, ops.log_sigmoid(upper), 0.0) + ops.where(level > 0, ops.log_sigmoid(-lower), 0.0)
        rows = rows + ops.where(inner, ops.log1p(-ops.exp(gap)), 0.0)
        return total(normal(latents["beta"], 0.0, 2.0)) + total(normal(cuts, 0.0, 3.0)) + total(rows)

    return Model({"beta": ((3,), None), "cuts": ((4,), "ordered")}, log_joint)


MODELS: dict[str, Callable[[int], Model]] = {
    "cubic": cubic,
    "unequal modes": lambda _: modes((0.9, 0.1), (6.0, 0.0), (1.0, 0.2)),
    "equal modes": lambda _: modes((0.5, 0.5), (-4.0, 4.0), (1.0, 1.0)),
    "label switching": label_switching,
    "centred 10": lambda seed: hierarchy(seed, 10, centred=True),
    "centred 60": lambda seed: hierarchy(seed, 60, centred=True),
    "centred 500": lambda seed: hierarchy(seed, 500, centred=True),
    "non-centred 500": lambda seed: hierarchy(seed, 500, centred=False),
    "Poisson rate": poisson_rate,
    "mean and sd": mean_and_sd,
    "logistic": logistic,
    "random walk 300": lambda seed: random_walk(seed, 300),
    "random walk 1000": lambda seed: random_walk(seed, 1000),
    "ODE": epidemic,
    "ARMA": arma,
    "Poisson GP": poisson_process,
    "funnel": lambda _: funnel(),
    "banana": lambda _: banana(),
    "eight schools centred": lambda _: eight_schools(),
    "horseshoe": horseshoe,
    "GP classification": process_classification,
    "Dirichlet-multinomial": dirichlet_multinomial,
    "ordinal": ordinal,
    "5000 groups": lambda seed: hierarchy(seed, 5000, centred=True, size=10, batches=True),
}
