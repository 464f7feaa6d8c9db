"""The oracle: a VAE with linear networks and a Normal likelihood with a learned scale is probabilistic PCA.

For it, log p(x) = log N(x | b, W W^T + sigma^2 I) is known exactly, and so are the posterior
N(z | M^-1 W^T (x - b), sigma^2 M^-1), M = W^T W + sigma^2 I, and the maximum of the mean log p(x) over W, b and sigma.

Reference: Tipping & Bishop 1999, Probabilistic Principal Component Analysis; Lucas et al. 2019, Don't Blame the ELBO!
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from sklearn import datasets
from sklearn.decomposition import PCA

from tests.helpers.linear_gaussian import SHIFT, Oracle, linear_vae, set_optimum, small_data
from tfvae.elbo import Sampling


def elbo_with_standard_error(vae, x, num_samples):
    terms = vae.elbo_terms(tf.constant(x), Sampling(num_samples=num_samples, seed=tf.constant([1, 2])))
    error = np.std(terms.reconstruction_log_likelihood, axis=0, ddof=1) / np.sqrt(num_samples)
    return np.float64(terms.elbo), error


def diabetes():
    """442 examples, 10 columns of unit variance; 3 latents."""
    x = datasets.load_diabetes(scaled=False).data
    return ((x - x.mean(0)) / x.std(0, ddof=1)).astype("float32"), 3


def digits():
    """1797 examples, 64 pixels in [0, 1]; 8 latents."""
    return (datasets.load_digits().data / 16).astype("float32"), 8


# For each: the data, the number of steps, and scikit-learn's results, which would show a change of the data.
TRAININGS = {"diabetes": (diabetes, 1500, -12.512, 0.4682), "digits": (digits, 2000, 14.210, 0.02734)}
NAMES = ["diabetes", pytest.param("digits", marks=pytest.mark.slow)]


@functools.cache
def train(name):
    """A model trained by `fit` with all examples in each batch, and its data."""
    load, steps, _, _ = TRAININGS[name]
    x, latent_dim = load()
    vae = linear_vae(x.shape[1], latent_dim)
    learning_rate = keras.optimizers.schedules.CosineDecay(0.03, steps)
    vae.compile(keras.optimizers.Adam(learning_rate), jit_compile=True, steps_per_execution=100)
    vae.fit(tf.data.Dataset.from_tensors(x).repeat(), steps_per_epoch=steps, shuffle=False, verbose=0)
    return vae, x


@pytest.fixture(params=NAMES)
def trained(request):
    return train(request.param)


def assert_is_lower_bound(vae, x):
    exact = Oracle.of(vae).log_prob(x)
    elbo, error = elbo_with_standard_error(vae, x, num_samples=200)
    # 6 standard errors, because there are up to 1797 examples, plus 1e-5 of the value for float32.
    assert np.all(elbo <= exact + 6 * error + 1e-5 * np.abs(exact) + 1e-4)


def test_elbo_is_below_exact_log_likelihood_at_random_weights():
    for load in (diabetes, digits):
        x, latent_dim = load()
        vae = linear_vae(x.shape[1], latent_dim)
        assert_is_lower_bound(vae, x)
        exact = Oracle.of(vae).log_prob(x).mean()
        assert elbo_with_standard_error(vae, x, num_samples=200)[0].mean() < exact - 1


@pytest.mark.slow
def test_elbo_is_below_exact_log_likelihood_after_training(trained):
    assert_is_lower_bound(*trained)


def test_at_the_optimum_every_draw_gives_the_exact_log_likelihood():
    x = small_data()
    vae = linear_vae(5, 2)
    set_optimum(vae, x)
    exact = Oracle.of(vae).log_prob(x)
    terms = vae.elbo_terms(tf.constant(x), Sampling(num_samples=50, seed=tf.constant([1, 2])))
    np.testing.assert_allclose(terms.log_weights, np.broadcast_to(exact, (50, 40)), atol=2e-3)
    np.testing.assert_allclose(vae.log_likelihood(x, num_samples=3, seed=1), exact, atol=2e-3)


def test_elbo_falls_short_of_log_likelihood_by_the_kl_divergence_to_the_exact_posterior():
    x = small_data()
    vae = linear_vae(5, 2)
    set_optimum(vae, x, loc_shift=np.array([0.1, -0.3]), scale_factor=1.7)
    oracle = Oracle.of(vae)
    mean, covariance = oracle.posterior(x)
    q = vae.encode(x)
    variance = np.diag(covariance)
    ratio = np.float64(q["scale"]) ** 2 / variance
    gap = 0.5 * (ratio + (q["loc"] - mean) ** 2 / variance - 1 - np.log(ratio)).sum(-1)
    elbo, error = elbo_with_standard_error(vae, x, num_samples=5000)
    assert gap.min() > 0.5
    assert np.all(np.abs(oracle.log_prob(x) - gap - elbo) < 5 * error + 1e-3)


# With one chunk of draws for each batch, and with several, whose draws must differ.
@pytest.mark.parametrize(("num_samples", "batch_size"), [pytest.param(5000, 128, marks=pytest.mark.slow), (20000, 256)])
def test_importance_sampled_log_likelihood_has_the_error_that_its_weights_predict(num_samples, batch_size):
    x = small_data(200)
    vae = linear_vae(5, 2)
    # q is broader than the exact posterior and off by about half its scale: relative weights have a standard deviation
    # of 0.8.
    set_optimum(vae, x, loc_shift=0.02, scale_factor=1.5)
    terms = vae.elbo_terms(tf.constant(x), Sampling(num_samples=5000, seed=tf.constant([8, 9])))
    weights = special.softmax(np.float64(terms.log_weights), axis=0) * 5000
    # By the delta method the standard deviation of the log of a mean is the relative standard deviation of the mean.
    predicted = weights.std(0, ddof=1) / np.sqrt(num_samples)
    estimate = vae.log_likelihood(x, num_samples=num_samples, batch_size=batch_size, seed=1)
    scores = (estimate - Oracle.of(vae).log_prob(x)) / predicted
    # The error of float32 is below 1e-4 nats.
    assert predicted.min() > 0.003
    assert np.abs(scores).max() < 5
    # The root mean square of 200 independent scores is 1 with a standard deviation of 0.05.
    assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.2
    assert abs(scores.mean()) < 5 / np.sqrt(200)


@pytest.mark.slow
def test_importance_sampled_log_likelihood_is_exact_to_a_hundredth_nat_after_training(trained):
    vae, x = trained
    x = x[:256]
    estimate = vae.log_likelihood(x, num_samples=5000, seed=1)
    exact = Oracle.of(vae).log_prob(x)
    assert estimate.mean() == pytest.approx(exact.mean(), abs=0.01)
    np.testing.assert_allclose(estimate, exact, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_training_reaches_the_maximum_that_scikit_learn_knows(name):
    vae, x = train(name)
    x = np.float64(x)
    _, _, best, noise_variance = TRAININGS[name]
    oracle = Oracle.of(vae)
    pca = PCA(oracle.loadings.shape[1]).fit(x)
    assert pca.score(x) == pytest.approx(best, abs=1e-3)
    # scikit-learn divides by n - 1, maximum likelihood by n. This changes the variance in first order, but the score
    # only in second order, here by less than 1e-5 nats.
    maximum_likelihood_variance = pca.noise_variance_ * (len(x) - 1) / len(x)
    assert pca.noise_variance_ == pytest.approx(noise_variance, rel=1e-3)
    reached = oracle.log_prob(x).mean()
    assert pca.score(x) - 0.05 < reached < pca.score(x) + 1e-4
    assert oracle.variance == pytest.approx(maximum_likelihood_variance, rel=0.02)
    elbo, _ = elbo_with_standard_error(vae, np.float32(x), num_samples=200)
    assert reached - 0.05 < elbo.mean() < reached + 0.01


def test_training_finds_the_subspace_of_the_principal_components(trained):
    vae, x = trained
    oracle = Oracle.of(vae)
    basis, _ = np.linalg.qr(oracle.loadings)
    components = PCA(oracle.loadings.shape[1]).fit(np.float64(x)).components_
    # The singular values are the cosines of the angles between the two subspaces.
    assert np.linalg.svd(components @ basis, compute_uv=False).min() > 0.99
    np.testing.assert_allclose(oracle.loc, x.mean(0), atol=0.02)


def test_training_makes_the_encoder_the_exact_posterior(trained):
    # A diagonal q is exact if W^T W is diagonal. Rotating W leaves log p(x) unchanged; the ELBO selects this rotation.
    vae, x = trained
    mean, covariance = Oracle.of(vae).posterior(x)
    scale = np.sqrt(np.diag(covariance))
    q = vae.encode(x)
    differences = (q["loc"] - mean) / scale
    assert np.sqrt(np.mean(differences**2)) < 0.05
    np.testing.assert_allclose(q["scale"], np.broadcast_to(scale, q["scale"].shape), rtol=0.15)
    correlations = covariance / np.outer(scale, scale)
    assert np.abs(correlations - np.eye(len(scale))).max() < 0.2


def test_gradient_of_every_weight_is_unbiased():
    x = small_data(4)
    num_seeds = 4000
    vae = linear_vae(5, 2)

    def gradient_of(seed):
        with tf.GradientTape() as tape:
            elbo = tf.reduce_mean(vae.elbo_terms(tf.constant(x), Sampling(num_samples=1, seed=seed)).elbo)
        return tape.gradient(elbo, variables)

    variables = [
        *(head.kernel for head in (vae.posterior.loc_head, vae.posterior.scale_head)),
        *(head.bias for head in (vae.posterior.loc_head, vae.posterior.scale_head)),
        *vae.decoder.trainable_variables,
        *vae.likelihood.trainable_variables,
    ]
    seeds = tf.stack([tf.range(num_seeds), tf.zeros(num_seeds, tf.int32)], axis=1)
    estimates = tf.function(lambda: tf.vectorized_map(gradient_of, seeds))()

    kernel, bias = (np.float64(weight) for weight in vae.decoder.get_weights())
    variance = float(vae.likelihood.scale) ** 2
    loc_kernel, loc_bias = (np.float64(weight) for weight in vae.posterior.loc_head.get_weights())
    scale_kernel, scale_bias = (np.float64(weight) for weight in vae.posterior.scale_head.get_weights())
    loc = x @ loc_kernel + loc_bias
    raw = x @ scale_kernel + scale_bias + SHIFT
    scale = np.logaddexp(0, raw) + 1e-6
    residual = x - bias - loc @ kernel
    # With the expectation E under q: E|x - b - z W|^2 = |residual|^2 + sum over l of scale_l^2 |W_l|^2.
    rows = (kernel**2).sum(1)
    squares = (residual**2).sum(1) + scale**2 @ rows
    d_loc = residual @ kernel.T / variance - loc
    d_raw = (-scale * rows / variance - scale + 1 / scale) * special.expit(raw)
    expected = [
        x.T @ d_loc / 4,
        x.T @ d_raw / 4,
        d_loc.mean(0),
        d_raw.mean(0),
        (loc.T @ residual - np.diag((scale**2).sum(0)) @ kernel) / variance / 4,
        residual.mean(0) / variance,
        np.mean(squares / variance - 5),
    ]
    for variable, estimate, value in zip(variables, estimates, expected, strict=True):
        error = np.std(estimate, axis=0, ddof=1) / np.sqrt(num_seeds)
        difference = np.abs(np.mean(estimate, axis=0, dtype=np.float64) - value)
        assert np.all(difference < 4 * error + 1e-6), variable.path
