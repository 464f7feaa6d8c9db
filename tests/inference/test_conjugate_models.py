"""Models whose posterior and evidence are known: fits against closed forms and the best member of a family."""

import functools
import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize, stats
from scipy.special import betaln, expit, gammaln

from tfvae import Latent, VariationalInference, posteriors

tfb = tfp.bijectors
tfd = tfp.distributions

# The rows of a regression with known noise and correlated columns.
SIGMA, PRIOR_SD = 0.7, 3.0
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(30, 3)) @ [[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]
Y = X @ [1.0, -2.0, 0.5] + SIGMA * GENERATOR.normal(size=30)
PRECISION = np.eye(3) / PRIOR_SD**2 + X.T @ X / SIGMA**2
MEAN = np.linalg.solve(PRECISION, X.T @ Y) / SIGMA**2
LOG_EVIDENCE = stats.multivariate_normal(cov=PRIOR_SD**2 * X @ X.T + SIGMA**2 * np.eye(30)).logpdf(Y)


def regression(latents, data):
    x, y = data
    log_prior = tf.reduce_sum(tfd.Normal(0.0, PRIOR_SD).log_prob(latents["b"]), axis=-1)
    return log_prior, tfd.Normal(tf.einsum("sk,nk->sn", latents["b"], x), SIGMA).log_prob(y)


def fitted_regression(posterior, standardize=True, epochs=None):
    model = VariationalInference(regression, {"b": (3,)}, posterior=posterior)
    if not standardize:
        # Marked as standardised already, so that the fit starts at N(0, I) and only gradients move it.
        model.approximation.standardized.assign(1.0)
    model.fit(X, Y, epochs=epochs, verbose=0)
    return model


def gaussian_of(model):
    """The mean and the covariance of a Gaussian q, fitted to its log density: exact up to rounding."""
    z, log_q = (array.numpy().astype(float) for array in model.approximation.sample(400, tf.constant([0, 0])))
    centre, scale = z.mean(axis=0), z.std(axis=0)
    u = (z - centre) / scale
    rows, columns = np.triu_indices(z.shape[1])
    products = u[:, rows] * u[:, columns]
    solution, residuals, _, _ = np.linalg.lstsq(np.column_stack([np.ones(len(u)), u, products]), log_q)
    assert math.sqrt(residuals[0] / len(u)) < 1e-4
    linear, quadratic = np.split(solution[1:], [z.shape[1]])
    precision = np.zeros([z.shape[1]] * 2)
    precision[rows, columns] = -quadratic
    precision += precision.T
    return centre + scale * np.linalg.solve(precision, linear), np.linalg.inv(precision) * np.outer(scale, scale)


def gaussian_elbo(loc, covariance):
    """The ELBO of a Gaussian q for the regression: log p(data) - KL(q || posterior), where both are Gaussian."""
    deviation = loc - MEAN
    product = PRECISION @ covariance
    divergence = 0.5 * (np.trace(product) + deviation @ PRECISION @ deviation - 3 - np.linalg.slogdet(product)[1])
    return LOG_EVIDENCE - divergence


def assert_close(loc, covariance, expected_loc, expected_covariance):
    sd = np.sqrt(np.diag(expected_covariance))
    np.testing.assert_allclose(loc / sd, expected_loc / sd, atol=0.01)
    np.testing.assert_allclose(
        covariance / np.outer(sd, sd), expected_covariance / np.outer(sd, sd), rtol=0.01, atol=0.01
    )


# By default, test_draws.py has a fit of a normal mean without a warning.
@pytest.mark.slow
def test_normal_mean_with_known_variance():
    x = np.random.default_rng(0).normal(4.0, 0.5, size=10)
    joint = tfd.JointDistributionNamed(
        {"mu": tfd.Normal(1.0, 2.0), "x": lambda mu: tfd.Sample(tfd.Normal(mu, 0.5), 10)}
    )
    model = VariationalInference(joint.experimental_pin(x=x.astype("float32")))
    with warnings.catch_warnings():
        # There must be no warning of k-hat or of convergence.
        warnings.simplefilter("error", UserWarning)
        model.fit(verbose=0)
    precision = 1 / 2.0**2 + 10 / 0.5**2
    mean = (1.0 / 2.0**2 + x.sum() / 0.5**2) / precision
    assert_close(*gaussian_of(model), np.array([mean]), np.array([[1 / precision]]))
    log_evidence = stats.multivariate_normal(np.full(10, 1.0), 4.0 + 0.25 * np.eye(10)).logpdf(x)
    draws = model.draw(seed=0)
    assert draws.elbo == pytest.approx(log_evidence, abs=0.01)
    assert draws.log_evidence == pytest.approx(log_evidence, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("standardize", [True, False])
def test_regression_by_a_full_covariance(standardize):
    model = fitted_regression(posteriors.FullCovarianceNormal(), standardize)
    loc, covariance = gaussian_of(model)
    assert_close(loc, covariance, MEAN, np.linalg.inv(PRECISION))
    assert gaussian_elbo(loc, covariance) == pytest.approx(LOG_EVIDENCE, abs=0.001)
    assert model.draw(seed=0).elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)


# k-hat is near 0.7, the threshold of the warning.
@pytest.mark.filterwarnings("ignore:(q is far from the posterior|k-hat is)")
# A default test in test_start.py has the variances of the conditionals too.
@pytest.mark.slow
@pytest.mark.parametrize("standardize", [True, False])
def test_regression_by_mean_field_has_the_variances_of_the_conditionals(standardize):
    model = fitted_regression(posteriors.DiagonalNormal(), standardize)
    loc, covariance = gaussian_of(model)
    best, marginals = np.diag(1 / np.diag(PRECISION)), np.diag(np.linalg.inv(PRECISION))
    assert (marginals / np.diag(best)).max() > 3
    # q is not the posterior even at the optimum, so its gradient is noisy there too.
    sd = np.sqrt(marginals)
    np.testing.assert_allclose(loc / sd, MEAN / sd, atol=0.05)
    np.testing.assert_allclose(np.diag(covariance), np.diag(best), rtol=0.05)
    optimum = gaussian_elbo(MEAN, best)
    assert optimum < LOG_EVIDENCE - 0.5
    assert gaussian_elbo(loc, covariance) == pytest.approx(optimum, abs=0.01)
    draws = model.draw(seed=0, num_samples=4000)
    assert abs(draws.elbo - gaussian_elbo(loc, covariance)) < 4 * draws.elbo_standard_error


@pytest.mark.slow
@pytest.mark.parametrize("posterior", [posteriors.LowRankNormal(rank=2), posteriors.CouplingFlow(num_couplings=4)])
def test_regression_by_other_families(posterior):
    model = fitted_regression(posterior, epochs=3)
    draws = model.draw(4000, seed=0)
    assert draws.elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)
    assert draws.pareto_k < 0.5
    b = draws["b"].astype(float)
    sd = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    # The standard errors of 4000 draws are 0.016 for means, and 0.022 for the elements of the covariance.
    np.testing.assert_allclose(b.mean(axis=0) / sd, MEAN / sd, atol=0.065)
    np.testing.assert_allclose(np.cov(b.T) / np.outer(sd, sd), np.linalg.inv(PRECISION) / np.outer(sd, sd), atol=0.09)


# Posteriors that are not Gaussian in the unconstrained space


def proportion(latents, k):
    log_prior = tfd.Beta(2.0, 3.0).log_prob(latents["theta"])
    return log_prior, tfd.Binomial(10.0, probs=latents["theta"][:, tf.newaxis]).log_prob(tf.cast(k, tf.float32))


def rate(latents, k):
    log_prior = tfd.Gamma(2.0, 0.5).log_prob(latents["rate"])
    return log_prior, tfd.Poisson(latents["rate"][:, tf.newaxis]).log_prob(tf.cast(k, tf.float32))


K = np.array([1, 0, 2])
FACTORIALS = gammaln(K + 1).sum()
CHOICES = (gammaln(11) - gammaln(K + 1) - gammaln(11 - K)).sum()
# For each: the model, the bijector, log p(data, z) in the unconstrained space, log p(data), and the posterior.
CASES = {
    "Beta-Binomial": (
        proportion,
        Latent((), tfb.Sigmoid()),
        lambda z: (
            stats.beta.logpdf(expit(z), 2, 3)
            + stats.binom.logpmf(K[:, None], 10, expit(z)).sum(axis=0)
            + np.log(expit(z) * expit(-z))
        ),
        betaln(2 + K.sum(), 3 + 30 - K.sum()) - betaln(2, 3) + CHOICES,
        stats.beta(2 + K.sum(), 3 + 30 - K.sum()),
    ),
    "Gamma-Poisson": (
        rate,
        Latent((), tfb.Exp()),
        lambda z: (
            stats.gamma.logpdf(np.exp(z), 2, scale=2) + stats.poisson.logpmf(K[:, None], np.exp(z)).sum(axis=0) + z
        ),
        gammaln(2 + K.sum()) - (2 + K.sum()) * math.log(3.5) + 2 * math.log(0.5) - FACTORIALS,
        stats.gamma(2 + K.sum(), scale=1 / 3.5),
    ),
}
SOME_CASES = ["Gamma-Poisson", pytest.param("Beta-Binomial", marks=pytest.mark.slow)]
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def quadrature_elbo(log_joint, loc, sd):
    """E_q[log p(data, z)] by Gauss-Hermite quadrature, plus the entropy of q = N(loc, sd^2)."""
    return WEIGHTS @ log_joint(loc + sd * NODES) / WEIGHTS.sum() + math.log(sd) + 0.5 * math.log(2 * math.pi * math.e)


@functools.cache
def fitted(case):
    log_joint, latent, *_ = CASES[case]
    name = {"Beta-Binomial": "theta", "Gamma-Poisson": "rate"}[case]
    model = VariationalInference(log_joint, {name: latent})
    model.fit(K, verbose=0)
    return model, model.draw(20000, seed=0), name


@pytest.mark.parametrize("case", SOME_CASES)
@pytest.mark.filterwarnings("ignore:(q is far from the posterior|k-hat is)")
def test_a_fit_reaches_the_best_of_its_family(case):
    model, draws, _ = fitted(case)
    _, _, log_joint, log_evidence, _ = CASES[case]
    best = optimize.minimize(lambda p: -quadrature_elbo(log_joint, p[0], math.exp(p[1])), [0.0, 0.0])
    loc, covariance = gaussian_of(model)
    elbo = quadrature_elbo(log_joint, loc[0], math.sqrt(covariance[0, 0]))
    assert -best.fun - 0.01 < elbo <= -best.fun + 1e-6
    assert elbo < log_evidence
    assert abs(draws.elbo - elbo) < 4 * draws.elbo_standard_error
    assert draws.elbo < log_evidence


@pytest.mark.parametrize("case", SOME_CASES)
@pytest.mark.filterwarnings("ignore:(q is far from the posterior|k-hat is)")
def test_importance_weights_bring_the_mean_to_the_exact_one(case):
    _, draws, name = fitted(case)
    _, _, _, log_evidence, posterior = CASES[case]
    assert draws.pareto_k < 0.7
    summary = draws.summary().loc[name]
    assert summary["mean"] == pytest.approx(posterior.mean(), rel=0.01)
    assert abs(summary["mean"] - posterior.mean()) < 5 * summary["mcse_mean"]
    assert summary["sd"] == pytest.approx(posterior.std(), rel=0.03)
    np.testing.assert_allclose(summary[["5%", "50%", "95%"]], posterior.ppf([0.05, 0.5, 0.95]), rtol=0.03)
    assert draws.log_evidence == pytest.approx(log_evidence, abs=0.005)
