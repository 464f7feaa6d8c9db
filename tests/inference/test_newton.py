"""Gaussian approximations near a mode: against closed forms, and against the best Gaussian by quadrature."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize

from tfvae.inference import newton, precision
from tfvae.inference.density import LogDensity

tfd = tfp.distributions
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


def approximate(log_density, starts):
    density = LogDensity(log_density, starts.shape[1])
    return newton.refined(density, newton.best(newton.ascend(density, starts), density))


def correlated(dim, condition):
    """The mean and covariance of a Gaussian whose covariance has the given condition number."""
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=[dim, dim]))[0]
    covariance = rotation * np.geomspace(1.0, condition, dim) @ rotation.T
    return generator.normal(size=dim) * 10.0, covariance


@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_a_gaussian_is_found_exactly(condition):
    loc, covariance = correlated(5, condition)
    precision = np.linalg.inv(covariance)

    def log_density(z):
        deviation = z - tf.constant(loc, tf.float32)
        return 7.0 - 0.5 * tf.einsum("si,ij,sj->s", deviation, tf.constant(precision, tf.float32), deviation)

    found = approximate(log_density, np.zeros((1, 5)))
    assert np.array_equal(found.scale, np.tril(found.scale))
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found.loc / sd, loc / sd, atol=0.01)
    np.testing.assert_allclose(found.scale @ found.scale.T / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.01)
    log_constant = 7.0 + 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    # The difference of the densities would have no noise, but the sum of squares of the draws of z has, about 5 / 256.
    assert found.elbo == pytest.approx(log_constant, abs=0.5)


def gauss_hermite_elbo(log_density, loc, sd):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    values = log_density(tf.constant((loc + sd * nodes)[:, None], tf.float32)).numpy().astype(float)
    return weights @ values / weights.sum() + math.log(sd) + ENTROPY


DENSITIES = {
    "skewed": lambda z: 2.0 * z[:, 0] - tf.exp(z[:, 0]),
    "heavy tails": lambda z: tfd.StudentT(4.0, 3.0, 0.2).log_prob(z[:, 0]),
    "flat top": lambda z: -(z[:, 0] ** 4),
}


@pytest.mark.parametrize("name", ["skewed", "flat top", pytest.param("heavy tails", marks=pytest.mark.slow)])
def test_the_elbo_is_near_that_of_the_best_gaussian(name):
    log_density = DENSITIES[name]
    found = approximate(log_density, np.array([[1.0], [-1.0]]))
    best = -optimize.minimize(
        lambda p: -gauss_hermite_elbo(log_density, p[0], math.exp(p[1])), [0.5, -1.0], method="Nelder-Mead"
    ).fun
    elbo = gauss_hermite_elbo(log_density, found.loc[0], found.scale[0, 0])
    assert best - 0.05 < elbo <= best + 1e-4


def test_the_higher_mode_is_taken():
    mixture = tfd.MixtureSameFamily(tfd.Categorical(probs=[0.1, 0.9]), tfd.Normal([-5.0, 5.0], [1.0, 1.0]))
    found = approximate(lambda z: mixture.log_prob(z[:, 0]), np.array([[-6.0], [-4.0], [4.0]]))
    assert found.loc[0] == pytest.approx(5.0, abs=0.05)
    assert found.elbo == pytest.approx(math.log(0.9), abs=0.05)


def test_a_start_without_a_density_is_passed_over():
    def log_density(z):
        return tf.where(z[:, 0] > 0.0, tfd.Normal(20.0, 1.0).log_prob(z[:, 0]), -np.inf)

    found = approximate(log_density, np.array([[-1.0], [2.0]]))
    assert found.loc[0] == pytest.approx(20.0, abs=0.01)


def test_very_low_densities_do_not_overflow():
    # The largest numbers of float32, of which the sum of two is infinite.
    found = approximate(lambda z: tf.where(z[:, 0] < 1.0, -0.5 * z[:, 0] ** 2, -3e38), np.zeros((1, 1)))
    assert -3e38 < found.elbo < -1e37


def test_no_start_with_derivatives_is_refused():
    with pytest.raises(ValueError, match=r"^`model` must have a density whose first and second.*Received: "):
        approximate(lambda z: tf.sqrt(z[:, 0]), np.zeros((1, 1)))


def test_a_gaussian_that_float32_cannot_resolve_is_no_candidate():
    # At a large distance from 0, the draws of the narrow component would all be rounded to its mode.
    mixture = tfd.MixtureSameFamily(tfd.Categorical(probs=[0.9, 0.1]), tfd.Normal([1e3, -1.0], [1e-6, 1.0]))
    found = approximate(lambda z: mixture.log_prob(z[:, 0]), np.array([[1e3], [-2.0]]))
    assert found.loc[0] == pytest.approx(-1.0, abs=0.05)
    loc, scale, noise = np.array([1.0, 1e3]), np.array([[1.0, 0.0], [0.0, 1e-4]]), np.random.default_rng(0)
    rounding = precision.rounding(loc, scale, loc + noise.standard_normal([1000, 2]) @ scale.T)
    # The spacing of float32 at 1000, 6.1e-5, times the standard deviation of a uniform rounding error.
    assert rounding[1] == pytest.approx(6.1e-5 / 12**0.5 / 1e-4, rel=0.1)
    assert rounding[0] < 1e-6


@pytest.mark.parametrize(("power", "is_resolved"), [(1, True), (2, False), (3, False)])
def test_powers_of_a_covariate_far_from_0_are_not_resolved(power, is_resolved):
    # The upper triangular factor of x^T x gives the posterior of the coefficients on powers of the calendar year.
    year = np.arange(1950, 2021) / 2000.0
    factor = np.linalg.qr(np.vander(year, power + 1), mode="r")
    covariance = np.linalg.inv(factor.T @ factor)
    found = precision.unresolved(np.linalg.cholesky(covariance), float(np.finfo(np.float32).eps))
    assert found is None if is_resolved else found.all()
