"""Priors by flows: densities against Jacobians and integrals, and draws."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from tfvae import priors

MAKERS = {
    "Flow": lambda dim: priors.Flow(dim, num_couplings=3, hidden=4),
    "SplineFlow": lambda dim: priors.SplineFlow(dim, num_couplings=3, bins=4, hidden=4),
}


def flow(name, dim=3, scale=0.4):
    prior = MAKERS[name](dim)
    prior.build((None, dim))
    generator = np.random.default_rng(0)
    # So that no weight has a value, such as 0, that could hide a mistake.
    prior.set_weights([weight + generator.normal(scale=scale, size=weight.shape) for weight in prior.get_weights()])
    return prior


@pytest.mark.parametrize("name", MAKERS)
def test_a_flow_starts_as_the_standard_normal(name):
    prior = MAKERS[name](3)
    prior.build((None, 3))
    z = 2 * np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    log_prob = prior.distribution().log_prob(z)
    assert log_prob.shape == (2, 5)
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(prior.sample_from(tf.constant(z[0])), z[0], atol=1e-5)


@pytest.mark.parametrize("name", ["Flow", pytest.param("SplineFlow", marks=pytest.mark.slow)])
def test_the_density_is_that_of_the_change_of_variables(name):
    prior = flow(name)
    epsilon = tf.constant(np.random.default_rng(1).normal(size=(6, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(epsilon)
        z = prior.sample_from(epsilon)
    log_det = np.linalg.slogdet(tape.batch_jacobian(z, epsilon).numpy())[1]
    # By constants of their own: a bijector that is given its own output only looks the input up.
    log_prob = prior.distribution().log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(epsilon).sum(-1) - log_det, rtol=1e-4, atol=1e-4)


def test_a_spline_flow_of_one_dimension_integrates_to_one_and_draws_by_its_density():
    prior = flow("SplineFlow", 1)
    grid = np.linspace(-20, 20, 40_001, dtype="float32")
    density = np.exp(np.float64(prior.distribution().log_prob(grid[:, np.newaxis])))
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    cdf = integrate.cumulative_trapezoid(density, grid, initial=0)
    # Not a normal distribution by another name.
    mean = (density * grid).sum() / density.sum()
    deviation = np.sqrt((density * (grid - mean) ** 2).sum() / density.sum())
    assert np.abs(cdf - stats.norm.cdf(grid, mean, deviation)).max() > 0.01
    for draws in (
        prior.distribution().sample(5000, seed=[1, 2]),
        prior.sample_from(tf.random.stateless_normal([5000, 1], [3, 4])),
    ):
        assert stats.kstest(draws[:, 0], lambda z: np.interp(z, grid, cdf)).pvalue > 1e-3
