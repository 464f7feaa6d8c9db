"""The prior that is a second VAE: its density and draws against quadrature, its noise, and the models that take it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

import tfvae
from tfvae import evaluation, export, networks, priors
from tfvae.elbo import Sampling

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def second_stage(latent_dim=1):
    prior = priors.SecondStage(latent_dim, second_dim=1, hidden=6)
    prior.build((None, latent_dim))
    generator = np.random.default_rng(0)
    prior.set_weights([weight + generator.normal(scale=0.5, size=weight.shape) for weight in prior.get_weights()])
    return prior


def exact_density(prior, z):
    """p(z) [N] by quadrature over u, for z [N, 1]."""
    u = np.linspace(-9, 9, 4001, dtype="float32")[:, np.newaxis]
    loc, scale = (np.asarray(each)[:, 0] for each in prior._of_z(tf.constant(u)))
    return integrate.trapezoid(stats.norm.pdf(z, loc, scale) * stats.norm.pdf(u[:, 0]), u[:, 0], axis=1)


def test_the_density_is_right_on_average_and_its_logarithm_a_lower_bound():
    prior = second_stage()
    # A q(u|z) that is wider than the posterior of u, so that the weights have a bound and their mean a standard error.
    kernel, bias = prior.encoder.layers[-1].get_weights()
    prior.encoder.layers[-1].set_weights([0.1 * kernel, np.add(bias, [0.0, 1.0])])
    z = np.repeat(np.linspace(-2, 2, 5, dtype="float32"), 20_000)[:, np.newaxis]
    noise = tf.random.stateless_normal(z.shape, [1, 2])
    log_prob = prior.log_prob_at(tf.constant(z), noise).numpy().astype(float).reshape(5, -1)
    exact = exact_density(prior, z.reshape(5, -1)[:, :1])
    density = np.exp(log_prob)
    assert np.all(np.abs(density.mean(1) - exact) < 5 * density.std(1) / np.sqrt(20_000))
    assert np.all(log_prob.mean(1) < np.log(exact) - 0.001)


@pytest.mark.slow
def test_draws_follow_the_density():
    prior = second_stage()
    grid = np.linspace(-25, 25, 2001)
    cdf = integrate.cumulative_trapezoid(exact_density(prior, grid[:, np.newaxis]), grid, initial=0)
    assert cdf[-1] == pytest.approx(1, abs=1e-3)
    draws = prior.distribution().sample(5000, seed=[1, 2])
    assert draws.shape == (5000, 1)
    assert stats.kstest(draws[:, 0], lambda z: np.interp(z, grid, cdf)).pvalue > 1e-3
    noise = tf.random.stateless_normal([5000, 2], [3, 4])
    assert stats.kstest(prior.sample_from(noise)[:, 0], lambda z: np.interp(z, grid, cdf)).pvalue > 1e-3


def test_the_noise_is_that_of_z_unless_it_is_given():
    prior = second_stage(2)
    z = tf.random.stateless_normal([3, 40, 2], [1, 2])
    log_prob = prior.distribution().log_prob(z)
    assert log_prob.shape == (3, 40)
    np.testing.assert_array_equal(log_prob, prior.distribution().log_prob(tf.constant(z.numpy())))
    # Another first number has other noise, for all rows.
    moved = z.numpy()
    moved[0, 0, 0] += 1e-3
    assert np.all(prior.distribution().log_prob(moved).numpy()[1:] != log_prob.numpy()[1:])
    noise = tf.random.stateless_normal([40, 1], [3, 4])
    np.testing.assert_allclose(
        prior.distribution_from(noise).log_prob(z[:1])[0], prior.log_prob_at(z[0], noise), rtol=1e-5
    )


def vae_with(prior):
    vae = tfvae.VAE(networks.dense_encoder((4,), (8,)), networks.dense_decoder(2, (4,), (8,)), 2, prior=prior)
    generator = np.random.default_rng(1)
    vae.prior.set_weights([w + generator.normal(scale=0.3, size=w.shape) for w in vae.prior.get_weights()])
    vae.compile(keras.optimizers.Adam(0.01))
    return vae


def test_a_vae_scores_and_generates_by_the_noise_of_both():
    vae = vae_with(priors.SecondStage(second_dim=3, hidden=4))
    epsilon = np.random.default_rng(2).normal(size=(8, 5)).astype("float32")
    score = vae.score(X, epsilon)
    parameters = {name: tf.constant(value) for name, value in vae.encode(X).items()}
    z, log_q = vae.posterior.sample_and_log_prob_from(parameters, tf.constant(epsilon[:, :2]))
    kl = log_q - vae.prior.log_prob_at(z, tf.constant(epsilon[:, 2:]))
    np.testing.assert_allclose(score["kl"], kl, rtol=1e-4, atol=1e-4)
    signatures = vae.export_signatures()
    assert [spec.shape[1] for spec in signatures["generate"].inputs] == [5]
    np.testing.assert_allclose(
        signatures["generate"].of_model({"epsilon": epsilon})["mean"], vae.decode(vae.prior.sample_from(epsilon))
    )
    assert vae.generate(3, seed=1).shape == (3, 4)


def test_an_estimate_of_log_p_x_is_of_z_and_u_together():
    """With one draw it is the bound, and with many it is above it: the weights are those of both."""
    vae = vae_with(priors.SecondStage(hidden=4))
    terms = vae.elbo_terms(tf.constant(X), Sampling(num_samples=500, seed=tf.constant([0, 1])))
    estimate = vae.log_likelihood(X, num_samples=500, seed=1)
    error = np.std(terms.log_weights, axis=0) / np.sqrt(500)
    assert np.all(estimate > terms.elbo - 4 * error)
    assert np.mean(estimate - terms.elbo) > 0.01


def test_other_models_refuse_it():
    message = r"^`prior` must not have latent variables of its own.*Received: <SecondStage"
    with pytest.raises(ValueError, match=message):
        tfvae.ConditionalVAE(
            networks.dense_encoder((4,), (8,), condition_dim=3),
            networks.dense_decoder(2, (4,), (8,), condition_dim=3),
            *(2, 3),
            prior=priors.SecondStage(),
        )
    encoders = [networks.dense_encoder((4,), (8,)), networks.dense_encoder((3,), (8,))]
    decoders = [networks.dense_decoder(3, (4,), (8,)), networks.dense_encoder((2,), (8,))]
    with pytest.raises(ValueError, match=message):
        tfvae.HierarchicalVAE(encoders, decoders, (3, 2), prior=priors.SecondStage())
    with pytest.raises(ValueError, match=r"^`model` must have a prior whose density is exact.*Received: <SecondStage"):
        evaluation.annealed_importance_sampling(vae_with(priors.SecondStage(hidden=4)), X)


@pytest.mark.slow
def test_exports_and_files_agree(tmp_path):
    vae = vae_with(priors.SecondStage(second_dim=3, hidden=4))
    vae.train_on_batch(X)
    # Each export compares itself with the model.
    for path in (export.tflite(vae, tmp_path / "model.tflite", x=X), export.saved_model(vae, tmp_path / "model", x=X)):
        assert export.load(path).run("generate", epsilon=np.zeros((2, 5), "float32"))["mean"].shape == (2, 4)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.log_likelihood(X, 20, seed=1), vae.log_likelihood(X, 20, seed=1))
    for each in (loaded, vae):
        each.fit(X, batch_size=3, verbose=0)
    for weight, expected in zip(loaded.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
