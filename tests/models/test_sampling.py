"""`sample=True`: draws of x with the spread of data, where the means have less."""

import numpy as np
import pytest
from scipy import stats

import tfvae
from tests.helpers.linear_gaussian import Oracle, correlated_vae, draws_of, set_optimum
from tfvae import likelihoods as lk
from tfvae import networks

N = 4000
LIKELIHOODS = {
    "Bernoulli": (lk.Bernoulli, 1),
    "ContinuousBernoulli": (lk.ContinuousBernoulli, 1),
    "Categorical": (lambda: lk.Categorical(4), 4),
    "Normal": (lambda: lk.Normal(0.5), 1),
    "Normal(predicted)": (lambda: lk.Normal("predicted"), 2),
    "Laplace": (lambda: lk.Laplace(0.5), 1),
    "StudentT(1)": (lambda: lk.StudentT(1.0, 0.5), 1),
    "StudentT(10000)": (lambda: lk.StudentT(1e4, 0.5), 1),
    "DiscretizedLogistic": (lk.DiscretizedLogistic, 2),
    "DiscretizedLogisticMixture": (lambda: lk.DiscretizedLogisticMixture(3), 9),
}


def assert_same_covariance(x, covariance):
    """Within 5 standard errors, which for a normal distribution are known."""
    diagonal = np.diag(covariance)
    errors = np.sqrt((covariance**2 + np.outer(diagonal, diagonal)) / len(x))
    assert np.all(np.abs(np.cov(x, rowvar=False) - covariance) < 5 * errors)


def test_generated_draws_have_the_covariance_of_the_data_and_means_do_not():
    vae = correlated_vae()
    oracle = Oracle.of(vae)
    of_means = oracle.loadings @ oracle.loadings.T
    assert_same_covariance(vae.generate(N, seed=1), of_means)
    draws = vae.generate(N, seed=1, sample=True)
    assert_same_covariance(draws, of_means + oracle.variance * np.eye(5))
    # The same z: what is left is the noise.
    assert_same_covariance(draws - vae.generate(N, seed=1), oracle.variance * np.eye(5))


def test_reconstructed_draws_of_data_have_the_covariance_of_the_data():
    """With the exact posterior, z ~ q(z|x) for x ~ p(x) has the distribution p(z)."""
    vae = correlated_vae()
    set_optimum(vae, draws_of(vae, N))
    oracle = Oracle.of(vae)
    x = draws_of(vae, N, seed=1)
    covariance = oracle.loadings @ oracle.loadings.T + oracle.variance * np.eye(5)
    assert_same_covariance(vae.reconstruct(x, sample=True, seed=2), covariance)
    assert np.trace(np.cov(vae.reconstruct(x), rowvar=False)) < 0.95 * np.trace(covariance)


def test_a_seed_gives_the_same_draws_in_any_method(tiny_vae, x):
    vae = tiny_vae()
    for draw in (
        lambda seed: vae.generate(5, seed, sample=True),
        lambda seed: vae.reconstruct(x, sample=True, seed=seed),
    ):
        np.testing.assert_array_equal(draw(1), draw(1))
        assert not np.array_equal(draw(1), draw(2))
        assert not np.array_equal(draw(None), draw(None))


def test_draws_are_values_of_the_data(tiny_vae, x):
    vae = tiny_vae(likelihood=lk.Bernoulli())
    for draws in (vae.generate(5, sample=True), vae.reconstruct(x > 0, sample=True)):
        assert set(np.unique(draws)) == {0, 1}


@pytest.mark.parametrize("sample", [1, "yes", None])
def test_sample_must_be_a_boolean(tiny_vae, x, sample):
    vae = tiny_vae()
    for call in (lambda: vae.generate(5, sample=sample), lambda: vae.reconstruct(x, sample=sample)):
        with pytest.raises(ValueError, match=r"`sample` must be True or False\. Received: sample="):
            call()


def test_the_other_models_draw(x):
    conditional = tfvae.ConditionalVAE(
        networks.dense_encoder((4,), (3,), condition_dim=2), networks.dense_decoder(2, (4,), (), condition_dim=2), 2, 2
    )
    condition = np.eye(2)[np.arange(20) % 2]
    assert conditional.generate(condition, sample=True).shape == (20, 4)
    assert conditional.reconstruct({"x": x, "condition": condition}, sample=True).shape == (20, 4)
    semi_supervised = tfvae.SemiSupervisedVAE(
        networks.dense_encoder((4,), (3,), condition_dim=2),
        networks.dense_decoder(2, (4,), (), condition_dim=2),
        networks.dense_decoder(4, (2,), ()),
        2,
        2,
    )
    label = np.arange(20) % 2
    assert semi_supervised.generate(label, sample=True).shape == (20, 4)
    assert semi_supervised.reconstruct({"x": x, "label": label - 1}, sample=True).shape == (20, 4)
    vq = tfvae.VQVAE(networks.dense_decoder(4, (2, 3), ()), networks.dense_encoder((2, 3), (4,), "linear"), 5)
    hierarchical = tfvae.HierarchicalVAE(
        [networks.dense_encoder((4,), (3,)), networks.dense_encoder((2,), (3,))],
        [networks.dense_decoder(2, (4,), ()), networks.dense_encoder((2,), (3,))],
        (2, 2),
    )
    for model in (vq, hierarchical):
        assert model.generate(7, sample=True).shape == (7, 4)
        noise = model.reconstruct(x, sample=True, seed=1) - model.reconstruct(x)
        # Normal(scale=1.0), and for the hierarchical one the spread of q(z|x).
        assert noise.std() > 0.8


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_from_uniform_noise_have_the_distribution_of_the_likelihood(name):
    make, number = LIKELIHOODS[name]
    likelihood, rng = make(), np.random.default_rng(0)
    likelihood.build((None, 3 * number))
    parameters = np.repeat(rng.normal(size=(1, 3 * number)).astype("float32"), N, axis=0)
    noise = rng.random((N, *likelihood.noise_shape((3,))), np.float32)
    found = likelihood.sample_from(parameters, noise).numpy()
    expected = likelihood.distribution(parameters).sample(seed=(0, 1)).numpy()
    for column in range(3):
        assert stats.ks_2samp(found[:, column], expected[:, column]).pvalue > 1e-3
    # The extreme numbers that a generator can give.
    edges = np.repeat([[0.0], [np.nextafter(np.float32(1), np.float32(0))]], noise.shape[1], axis=1).astype("float32")
    assert np.isfinite(likelihood.sample_from(parameters[:2], edges)).all()


@pytest.mark.parametrize("value", [-100.0, -0.02, -0.001, 0.0, 0.001, 0.02, 100.0])
def test_draws_of_a_continuous_bernoulli_follow_the_inverse_of_its_distribution_function(value):
    likelihood = lk.ContinuousBernoulli()
    likelihood.build((None, 9))
    u = np.linspace(0.1, 0.9, 9)
    found = likelihood.sample_from(np.full((1, 9), value, np.float32), np.repeat(u, 2)[np.newaxis].astype("float32"))
    expected = u if value == 0 else np.log1p(u * np.expm1(-abs(value))) / -abs(value)
    if value > 0:
        expected = 1 - expected[::-1]
    np.testing.assert_allclose(found[0], expected, rtol=2e-4, atol=2e-5)


def test_columns_and_missing_values_draw_each_column_from_its_own_likelihood():
    likelihood = lk.Missing(lk.Columns([(lk.Normal("predicted"), 1), (lk.Categorical(3), 2), (lk.Bernoulli(), 1)]))
    likelihood.build((None, 9))
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(N, 9)).astype("float32")
    draws = likelihood.sample_from(parameters, rng.random((N, 8), np.float32)).numpy()
    assert [len(np.unique(column)) for column in draws.T[1:]] == [3, 3, 2]
    expected = likelihood.distribution(parameters).sample(seed=(0, 1)).numpy()
    np.testing.assert_allclose(draws.mean(axis=0), expected.mean(axis=0), atol=0.12)
    assert not lk.Columns([(lk.Normal(), 1), (lk.Poisson(), 1)]).samples_from_noise
