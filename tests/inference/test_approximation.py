"""The approximate posterior in its coordinates: draws, densities and seeds, against SciPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfvae import elbo, posteriors
from tfvae.inference import newton
from tfvae.inference.approximation import Approximation

DIM = 3
LOC = np.array([5.0, -2.0, 0.1])
SCALE = np.array([[2.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.01, -0.02, 0.03]])
FAMILIES = {
    "DiagonalNormal": posteriors.DiagonalNormal,
    "FullCovarianceNormal": posteriors.FullCovarianceNormal,
    "LowRankNormal": lambda: posteriors.LowRankNormal(rank=2),
    "CouplingFlow": lambda: posteriors.CouplingFlow(num_couplings=2, hidden=4),
}
NORMALS = [name for name in FAMILIES if name != "CouplingFlow"]
SEED = tf.constant([3, 4])


@pytest.fixture(scope="module", params=FAMILIES)
def approximation(request):
    """A family with random weights, not the initial ones, in given coordinates."""
    return build(request.param)


def build(name, *, scale=SCALE, started=False):
    keras.utils.set_random_seed(0)
    approximation = Approximation(FAMILIES[name](), DIM)
    if not started:
        generator = np.random.default_rng(0)
        for weight in approximation.posterior.weights:
            weight.assign(generator.normal(scale=0.4, size=weight.shape))
    approximation.set_coordinates(newton.Gaussian(LOC, scale, np.nan))
    return approximation


def moments(approximation):
    """The mean and covariance of z, from those of u."""
    distribution = approximation._distribution()
    mean, root = distribution.mean()[0].numpy(), approximation.scale.numpy().astype(float)
    if isinstance(approximation.posterior, posteriors.DiagonalNormal):
        covariance, root = np.diag(distribution.variance()[0].numpy()), np.diag(root)
    else:
        covariance = distribution.covariance()[0].numpy()
    return LOC + root @ mean, root @ covariance.astype(float) @ root.T


@pytest.mark.slow
def test_the_density_of_a_draw_is_what_came_with_it(approximation):
    z, log_q = approximation.draw(50, SEED)
    assert z.shape == (50, DIM)
    assert np.std(log_q) > 0.5
    np.testing.assert_allclose(approximation.log_prob(z), log_q, atol=2e-3)
    u, log_u = approximation.sample_standard()
    np.testing.assert_allclose(approximation.log_prob_standard(u), log_u, atol=2e-3)
    followed, log_followed = approximation.draw(50, SEED, elbo.Path())
    np.testing.assert_array_equal(followed, z)
    np.testing.assert_allclose(log_followed, log_q, atol=2e-3)


@pytest.mark.parametrize("name", NORMALS)
def test_a_normal_family_is_the_normal_of_scipy(name):
    approximation = build(name)
    mean, covariance = moments(approximation)
    expected = stats.multivariate_normal(mean, covariance)
    z = expected.rvs(100, random_state=0)
    received = approximation.log_prob(tf.constant(z, tf.float32))
    np.testing.assert_allclose(received, expected.logpdf(z), atol=5e-3)
    draws = approximation.sample(20_000, SEED)[0].numpy()
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(white), np.eye(DIM), atol=5 * np.sqrt(2 / 20_000))


@pytest.mark.slow
def test_the_start_is_the_gaussian_of_the_coordinates():
    """Exactly, if the family can represent it; a mean-field family starts with the variances of the conditionals."""
    z = LOC + np.random.default_rng(1).normal(size=[20, DIM]) @ SCALE.T
    full = stats.multivariate_normal(LOC, SCALE @ SCALE.T)
    variances = 1 / np.diag(np.linalg.inv(SCALE @ SCALE.T))
    diagonal = stats.multivariate_normal(LOC, np.diag(variances))
    for name, expected in {"FullCovarianceNormal": full, "CouplingFlow": full, "DiagonalNormal": diagonal}.items():
        approximation = build(name, started=True)
        received = approximation.log_prob(tf.constant(z, tf.float32))
        np.testing.assert_allclose(received, expected.logpdf(z), rtol=1e-4, atol=5e-3, err_msg=name)


def test_coordinates_are_the_identity_until_they_are_set():
    approximation = Approximation(posteriors.FullCovarianceNormal(), DIM)
    assert float(approximation.standardized) == 0.0
    z = np.random.default_rng(0).normal(size=[20, DIM])
    received = approximation.log_prob(tf.constant(z, tf.float32))
    np.testing.assert_allclose(received, stats.multivariate_normal(np.zeros(DIM)).logpdf(z), atol=1e-4)
    approximation.set_coordinates(newton.Gaussian(LOC, SCALE, np.nan))
    assert float(approximation.standardized) == 1.0
    assert not [weight for weight in approximation.trainable_weights if weight is approximation.scale]


def test_many_dimensions_take_the_scales_alone():
    dim = newton.FULL_CURVATURE_DIM + 1
    approximation = Approximation(posteriors.LowRankNormal(rank=1), dim)
    scale = np.linspace(0.5, 2.0, dim)
    approximation.set_coordinates(newton.Gaussian(np.zeros(dim), scale, np.nan))
    z, log_q = approximation.draw(5, SEED)
    np.testing.assert_allclose(approximation.log_prob(z), log_q, rtol=1e-4)
    factor = approximation.posterior.factor_head.bias.numpy().astype(float).reshape(dim, 1)
    covariance = (np.eye(dim) + factor @ factor.T) * np.outer(scale, scale)
    np.testing.assert_allclose(log_q, stats.multivariate_normal(np.zeros(dim), covariance).logpdf(z), rtol=1e-4)


def test_a_seed_gives_the_same_first_draws_for_every_number(approximation):
    longest = approximation.sample(250, SEED)
    for number in (1, 100, 130):
        for part, whole in zip(approximation.sample(number, SEED), longest, strict=True):
            np.testing.assert_array_equal(part, whole[:number])
    # Chunks do not repeat each other, and another seed gives other draws.
    z = longest[0].numpy()
    assert len(np.unique(z, axis=0)) == 250
    assert not np.isin(approximation.sample(250, tf.constant([3, 5]))[0], z).any()


def test_noise_of_zero_is_the_middle(approximation):
    z = approximation.sample_from(tf.zeros([4, DIM])).numpy()
    np.testing.assert_array_equal(z, np.repeat(z[:1], 4, axis=0))
    if isinstance(approximation.posterior, posteriors.CouplingFlow):
        parameters = approximation.posterior(tf.zeros([1, 0]))
        expected = LOC + SCALE @ approximation.posterior.center(parameters)[0].numpy()
    else:
        expected = moments(approximation)[0]
    np.testing.assert_allclose(z[0], expected, rtol=1e-5)
    assert np.abs(z[0] - LOC).max() > 0.01


def test_the_coordinates_are_the_middle_of_a_family_at_its_start():
    for name in FAMILIES:
        z = build(name, started=True).sample_from(tf.zeros([1, DIM]))
        np.testing.assert_allclose(z[0], LOC, rtol=1e-6, err_msg=name)


def test_a_family_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"^`posterior` must have latent_dim=3.*Received: latent_dim=2$"):
        Approximation(posteriors.DiagonalNormal(2), DIM)


def test_weights_of_earlier_versions_are_loaded():
    first, second = build("DiagonalNormal"), build("DiagonalNormal", started=True)
    weights = {str(index): weight.numpy() for index, weight in enumerate((first.loc, first.scale, first.standardized))}
    second.load_own_variables({**weights, "0": weights["0"] + 1.0})
    np.testing.assert_array_equal(second.loc.numpy(), first.loc.numpy() + 1.0)
    assert not second.misses_modes
