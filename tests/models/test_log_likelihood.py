"""The importance-sampled log-likelihood of a VAE, against the closed form of a linear Gaussian model."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfvae.models.log_weights
from tfvae import VAE
from tfvae.likelihoods import Normal
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import ELBO

# The importance-sampled log-likelihood of p(x) = N(b, A^T A + s^2 I). The rows of A are orthogonal, so the true
# posterior is a diagonal normal, and with it a single draw gives log p(x) exactly.

A = np.array([[1.0, 1.0, 0.0, 0.5], [1.0, -1.0, 2.0, 0.0]])
B = np.array([0.5, 0.0, -0.5, 1.0])
S = 0.7


def dataset(data, batch_size):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


def linear_gaussian(exact, **arguments):
    """A VAE whose q(z|x) is the true posterior, or is shifted and too wide."""
    vae = VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2, likelihood=Normal(S), **arguments)
    vae.decoder.set_weights([A, B])
    variance = 1 / (1 + (A**2).sum(axis=1) / S**2)
    kernel = A.T * variance / S**2
    loc_bias = -B @ kernel + (0 if exact else 0.3)
    raw_scale = np.log(np.expm1(np.sqrt(variance) * (1 if exact else 1.6))) - np.log(np.e - 1)
    vae.posterior.set_weights([kernel, loc_bias, np.zeros((4, 2)), raw_scale])
    return vae


def draw_x(n):
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, 2)) @ A + B + S * rng.normal(size=(n, 4))).astype("float32")


def log_p(x):
    return stats.multivariate_normal(B, A.T @ A + S**2 * np.eye(4)).logpdf(x)


@pytest.mark.parametrize(("num_samples", "chunk_elements"), [(1, 2**22), (10, 2**22), (10, 12 * 3), (10, 1)])
def test_log_likelihood_is_exact_under_the_true_posterior(num_samples, chunk_elements, monkeypatch):
    # Chunks of 10 draws; of 3, 3, 3 and 1; and of 1.
    monkeypatch.setattr(tfvae.models.log_weights, "_CHUNK_ELEMENTS", chunk_elements)
    vae, x = linear_gaussian(exact=True), draw_x(8)
    expected = log_p(x)
    for batch_size in (3, 8):
        found = vae.log_likelihood(x, num_samples, batch_size=batch_size)
        assert found.shape == (8,)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(vae.log_likelihood(dataset((x, x), 3), num_samples), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_elements", [2**22, 20 * 4 * 150])
def test_log_likelihood_agrees_with_the_closed_form_within_monte_carlo_error(chunk_elements, monkeypatch):
    monkeypatch.setattr(tfvae.models.log_weights, "_CHUNK_ELEMENTS", chunk_elements)
    x = draw_x(20)
    error = linear_gaussian(exact=False).log_likelihood(x, num_samples=4000, seed=0) - log_p(x)
    assert np.abs(error).max() < 0.15
    assert np.abs(error).mean() < 0.04


def test_log_likelihood_grows_with_the_number_of_samples_towards_log_p():
    vae, x = linear_gaussian(exact=False), draw_x(500)
    means = [vae.log_likelihood(x, k, batch_size=500, seed=0).mean() for k in (1, 4, 32, 1000)]
    assert means == sorted(means)
    assert means[1] - means[0] > 0.1
    assert means[-1] == pytest.approx(log_p(x).mean(), abs=0.01)


def test_log_likelihood_is_reproducible_by_its_seed_and_new_without(monkeypatch):
    monkeypatch.setattr(tfvae.models.log_weights, "_CHUNK_ELEMENTS", 5 * 4)
    vae, x = linear_gaussian(exact=False), draw_x(20)
    x[5:] = x[:5].repeat(3, axis=0)
    first = vae.log_likelihood(x, 2, batch_size=5, seed=1)
    np.testing.assert_array_equal(vae.log_likelihood(x, 2, batch_size=5, seed=1), first)
    np.testing.assert_array_equal(vae.log_likelihood(dataset(x, 5), 2, seed=1), first)
    others = [vae.log_likelihood(x, 2, batch_size=5, seed=seed) for seed in (2, None, None)]
    # The same example gets different draws in each batch and each chunk.
    one_draw = vae.log_likelihood(x, 1, batch_size=5, seed=1)
    assert len({values.tobytes() for values in [first, one_draw, *others]}) == 5
    assert len(set(first)) == 20


def test_the_monte_carlo_bound_is_tight_under_the_true_posterior():
    vae, x = linear_gaussian(exact=True, objective=ELBO(analytic_kl=False)), draw_x(8)
    vae.compile()
    assert vae.evaluate(x, verbose=0, return_dict=True)["elbo"] == pytest.approx(log_p(x).mean(), rel=1e-4)
