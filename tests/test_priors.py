"""Priors: densities and draws against SciPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfvae import VAE, priors
from tfvae.networks import dense_decoder, dense_encoder


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_standard_normal_log_prob_against_scipy(latent_dim):
    z = 3 * np.random.default_rng(0).normal(size=(4, 5, latent_dim)).astype("float32")
    distribution = priors.StandardNormal(latent_dim).distribution()
    assert distribution.batch_shape == ()
    assert distribution.event_shape == (latent_dim,)
    log_prob = distribution.log_prob(z)
    assert log_prob.shape == (4, 5)
    assert log_prob.dtype == tf.float32
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(z).sum(-1), rtol=1e-5, atol=1e-5)


def test_standard_normal_draws_follow_it():
    draws = priors.StandardNormal(2).distribution().sample(20000, seed=[1, 2]).numpy()
    for column in draws.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(draws, rowvar=False)[0, 1]) < 5 / np.sqrt(20000)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_standard_normal_is_float32_under_mixed_precision(policy):
    prior = priors.StandardNormal(2, dtype=policy)
    assert prior.compute_dtype == policy.removeprefix("mixed_")
    assert prior.distribution().dtype == tf.float32


def test_standard_normal_has_no_weights():
    assert priors.StandardNormal(2).weights == []


def test_the_latent_dim_is_taken_from_the_model():
    vae = VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2)
    assert vae.prior.latent_dim == 2
    assert vae.prior.distribution().event_shape == (2,)


def test_another_latent_dim_than_the_models_is_refused():
    with pytest.raises(
        ValueError, match=r"`prior` must have the model's latent_dim, 2, or None and .* Received: .*=3$"
    ):
        VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2, prior=priors.StandardNormal(3))


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        priors.Prior(2)
