"""Priors: densities and draws against SciPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfvae import VAE, posteriors, priors
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
        ValueError, match=r"`prior` must have the model's latent_dim, 2, or None, and .* Received: .*=3$"
    ):
        VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2, prior=priors.StandardNormal(3))


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        priors.Prior(2)


def learned_normal():
    """A learned normal prior with changed weights, and its loc and scale."""
    prior = priors.Normal(3)
    prior.build((None, 3))
    loc, raw = np.float32([1.0, -2.0, 0.5]), np.float32([-1.0, 0.3, 2.0])
    prior.set_weights([loc, raw])
    return prior, loc, np.logaddexp(0, raw + np.log(np.e - 1))


def test_a_learned_normal_starts_as_the_standard_one():
    prior = priors.Normal(3)
    prior.build((None, 3))
    z = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(prior.distribution().log_prob(z), stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(prior.sample_from(z), z, rtol=3e-6)


def test_a_learned_normal_is_that_of_scipy():
    prior, loc, scale = learned_normal()
    z = 2 * np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    distribution = prior.distribution()
    assert distribution.batch_shape == ()
    np.testing.assert_allclose(distribution.log_prob(z), stats.norm.logpdf(z, loc, scale).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(prior.sample_from(z[0]), loc + scale * z[0], rtol=1e-5, atol=1e-5)
    draws = distribution.sample(5000, seed=[1, 2]).numpy()
    for i, column in enumerate(draws.T):
        assert stats.kstest((column - loc[i]) / scale[i], "norm").pvalue > 1e-4


def test_the_kl_divergence_from_a_learned_normal_has_a_closed_form():
    prior, loc, scale = learned_normal()
    generator = np.random.default_rng(0)
    mean, deviation = generator.normal(size=(2, 3)), generator.uniform(0.3, 2.0, size=(2, 3))
    posterior = posteriors.DiagonalNormal(3).distribution({"loc": np.float32(mean), "scale": np.float32(deviation)})
    terms = ((deviation / scale) ** 2 + ((mean - loc) / scale) ** 2 - 1) / 2 - np.log(deviation / scale)
    np.testing.assert_allclose(posterior.kl_divergence(prior.distribution()), terms.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    "make",
    [
        priors.Normal,
        priors.Flow,
        priors.SplineFlow,
        priors.HypersphericalUniform,
        lambda **policy: priors.RelaxedOneHotCategorical(num_categories=2, probabilities="learned", **policy),
    ],
    ids=["Normal", "Flow", "SplineFlow", "HypersphericalUniform", "RelaxedOneHotCategorical"],
)
def test_priors_are_float32_under_mixed_precision(make, policy):
    prior = make(dtype=policy)
    prior.latent_dim = 2
    prior.build((None, 2))
    distribution = prior.distribution()
    assert distribution.dtype == tf.float32
    z = prior.sample_from(tf.ones([4, 2]))
    assert z.dtype == distribution.log_prob(z).dtype == tf.float32
