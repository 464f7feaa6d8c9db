"""The recipes for variational inference find the posteriors of closed forms and of quadrature."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, gammaln, logsumexp

PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def python(text):
    """The code of a part of the page as it is: that of other pages is shortened where it is tested."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def moments(log_density, **values):
    """Means and standard deviations of functions of the parameters, from the log density at points of a grid."""
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    found = {}
    for name, value in values.items():
        mean = np.sum(weights * value)
        found[name] = mean, np.sqrt(np.sum(weights * (value - mean) ** 2))
    return found


def grid(*axes):
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def of_flat_priors(run):
    y = run["height"].astype(float)
    scale, df = y.std(ddof=1), len(y) - 1
    of_mu = stats.t(df, y.mean(), scale / np.sqrt(len(y)))
    precision = stats.gamma(df / 2, scale=2 / (df * scale**2))
    sigma = precision.expect(lambda t: t**-0.5)
    return {"mu": (of_mu.mean(), of_mu.std()), "sigma": (sigma, np.sqrt(precision.expect(lambda t: 1 / t) - sigma**2))}


def of_a_dirichlet(run):
    of_share = stats.dirichlet(run["counts"].astype(float) + 2.0)
    moments = zip(of_share.mean(), np.sqrt(of_share.var()), strict=True)
    return {f"share[{index}]": pair for index, pair in enumerate(moments)}


def of_cutpoints(run):
    slope, low, high = grid(np.linspace(-0.5, 3.5, 70), np.linspace(-3, 2, 70), np.linspace(-1, 4, 70))
    log_density = stats.norm.logpdf(slope, 0, 2) + stats.norm.logpdf(low, 0, 3) + stats.norm.logpdf(high, 0, 3)
    log_density = np.where(low < high, log_density, -np.inf)
    for x, answer in zip(run["x"].astype(float), run["answer"], strict=True):
        edges = [0.0, expit(low - slope * x), expit(high - slope * x), 1.0]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_density = log_density + np.where(low < high, np.log(edges[answer + 1] - edges[answer]), 0.0)
    return moments(log_density, **{"slope": slope, "cutpoints[0]": low, "cutpoints[1]": high})


def of_a_covariance(run):
    rho, first, second = grid(np.linspace(-0.3, 0.98, 90), np.linspace(0.4, 2.2, 80), np.linspace(0.8, 4.0, 80))
    y = run["pairs"].astype(float)
    squares = y.T @ y
    quadratic = squares[0, 0] / first**2 - 2 * rho * squares[0, 1] / (first * second) + squares[1, 1] / second**2
    log_density = np.log1p(-(rho**2)) + stats.halfnorm.logpdf(first, 0, 3) + stats.halfnorm.logpdf(second, 0, 3)
    log_density = log_density - quadratic / (2 * (1 - rho**2)) - 25 * np.log(first * second * np.sqrt(1 - rho**2))
    found = moments(log_density, **{"correlation[1, 0]": rho, "scale[0]": first, "scale[1]": second})
    assert run["rho"] == pytest.approx(found["correlation[1, 0]"][0], abs=0.1 * found["correlation[1, 0]"][1])
    return found


def of_a_mixture(run):
    weight, low, high = grid(np.linspace(0.01, 0.99, 80), np.linspace(-1.5, 2, 80), np.linspace(2, 6.5, 80))
    log_density = stats.beta.logpdf(weight, 2, 2) + stats.norm.logpdf(low, 0, 5) + stats.norm.logpdf(high, 0, 5)
    for y in run["size"]:
        density = (1 - weight) * stats.norm.pdf(y, low, 1) + weight * stats.norm.pdf(y, high, 1)
        log_density = log_density + np.log(density)
    return moments(log_density, **{"weight": weight, "mean[0]": low, "mean[1]": high})


def of_a_change(run):
    y = run["accidents"].astype(float)
    shapes, rates, log_weights = [], [], []
    for change in range(30):
        parts = (y[:change], y[change:])
        shape, rate = np.array([[2.0 + part.sum(), 1.0 + len(part)] for part in parts]).T
        shapes.append(shape)
        rates.append(rate)
        log_weights.append(np.sum(gammaln(shape) - shape * np.log(rate)))
    weights = np.exp(np.array(log_weights) - logsumexp(log_weights))[:, None]
    shapes, rates = np.array(shapes), np.array(rates)
    mean = np.sum(weights * shapes / rates, axis=0)
    square = np.sum(weights * shapes * (shapes + 1) / rates**2, axis=0)
    sd = np.sqrt(square - mean**2)
    return {"early": (mean[0], sd[0]), "late": (mean[1], sd[1])}


def of_gaps(run):
    y = run["level"][run["is_observed"]].astype(float)
    precision = 1 / 9 + len(y)
    return {"mu": (y.sum() / precision, precision**-0.5)}


REFERENCES = {
    "Flat priors": of_flat_priors,
    "Proportions: Dirichlet and other simplexes": of_a_dirichlet,
    "Ordered cutpoints: ordinal regression": of_cutpoints,
    "A covariance matrix: LKJ": of_a_covariance,
    "A mixture: discrete latent variables summed out": of_a_mixture,
    "A point of change": of_a_change,
    "Missing observations": of_gaps,
}


def test_every_recipe_has_a_reference():
    assert list(SECTIONS) == list(REFERENCES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", REFERENCES)
def test_a_recipe_finds_the_posterior(recipe):
    run = {}
    exec(python(PAGE.split("\n## ")[0]) + python(SECTIONS[recipe]), run)
    table = run["inference"].draw(20_000, seed=1).summary()
    assert run["inference"].draw(2000, seed=2).pareto_k < 0.7
    for name, (mean, sd) in REFERENCES[recipe](run).items():
        assert abs(table.loc[name, "mean"] - mean) < 0.06 * sd, name
        assert 0.94 < table.loc[name, "sd"] / sd < 1.06, name
