"""A linear-Gaussian `SequentialVAE` is the model of a Kalman filter, whose answers are exact."""

import keras
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tests.helpers import kalman
from tfvae.elbo import Sampling
from tfvae.objectives import IWAE
from tfvae.posteriors import FullCovarianceNormal

T = 8


@pytest.fixture(scope="module")
def two():
    """A model with the best proposal of a filter, data with gaps and an end, and the answers of the Kalman filter."""
    model = kalman.model_of(kalman.TWO, missing=True)
    kalman.propose_one_step(model, kalman.TWO)
    x = kalman.TWO.draw(4, T)
    x[1, 3:5] = np.nan
    x[2, 0] = np.nan
    x[3, 6:] = np.nan
    return model, x, kalman.TWO.filtered(x)


def test_the_log_likelihood_is_that_of_the_kalman_filter(two):
    model, x, (log_likelihoods, _, _) = two
    # Per step, of which there are 8.
    found = model.log_likelihood(x, 4000, seed=1)
    np.testing.assert_allclose(found / T, log_likelihoods.sum(axis=1) / T, atol=0.01)


def test_the_filter_gives_the_means_and_deviations_of_the_kalman_filter(two):
    model, x, (_, means, stddevs) = two
    filtered = model.filter(x, 4000, seed=2)
    real = ~np.isnan(filtered.mean)
    assert real[:3].all()
    assert not real[3, 6:].any()
    # Five times the error of a mean of as many draws as the particles are worth.
    error = 5 * stddevs / np.sqrt(filtered.effective_size)[..., np.newaxis]
    assert (np.abs(filtered.mean - means) < error)[real].all()
    assert (np.abs(filtered.stddev - stddevs) < error)[real].all()


def exact():
    """A model whose q(z_t|z_{t-1}, x) are the exact conditional distributions, for sequences of T steps."""
    linear, dim, channels = kalman.TWO, 2, 3
    mean, covariance = linear.joint(T)
    weights, biases = np.zeros((T * channels, T, 9)), np.zeros((T, 9))
    for t in range(T):
        at = np.arange(t * dim, (t + 1) * dim)
        given = np.concatenate([at - dim if t else at[:0], np.arange(T * dim, T * (dim + channels))])
        gain = covariance[np.ix_(at, given)] @ np.linalg.inv(covariance[np.ix_(given, given)])
        root = np.linalg.cholesky(covariance[np.ix_(at, at)] - gain @ covariance[np.ix_(given, at)])
        root[np.diag_indices(dim)] = kalman.raw_of(np.diag(root))
        weights[:, t, :dim] = gain[:, len(given) - T * channels :].T
        transition = gain[:, :dim] if t else np.zeros((dim, dim))
        biases[t] = np.concatenate(
            [mean[at] - gain @ mean[given], transition.ravel(), tfp.math.fill_triangular_inverse(root)]
        )
    x = keras.Input((T, channels))
    encoder = keras.layers.Reshape((T, 9))(keras.layers.Dense(T * 9)(keras.layers.Flatten()(x)))
    encoder = keras.Model(x, encoder)
    encoder.layers[-2].set_weights([weights.reshape(T * channels, T * 9), biases.ravel()])
    z, features = keras.Input((dim,)), keras.Input((9,))
    moved = keras.layers.Dot((2, 1))([keras.layers.Reshape((dim, dim))(features[:, 2:6]), z])
    combined = keras.layers.Concatenate()([moved + features[:, :2], features[:, 6:]])
    combiner = keras.Model([z, features], combined)
    model = kalman.model_of(linear, encoder=encoder, combiner=combiner, posterior=FullCovarianceNormal())
    model.posterior.loc_head.set_weights([np.eye(5)[:, :2], np.zeros(2)])
    model.posterior.scale_tril_head.set_weights([np.eye(5)[:, 2:], np.zeros(3)])
    return model


def test_the_bound_with_the_exact_posterior_is_log_p():
    model, x = exact(), kalman.TWO.draw(3, T, seed=5)
    mean, covariance = kalman.TWO.joint(T)
    of_x = slice(2 * T, None)
    expected = scipy.stats.multivariate_normal(mean[of_x], covariance[of_x, of_x]).logpdf(x.reshape(3, -1))
    terms = model.elbo_terms(tf.constant(x), Sampling(64, tf.constant([0, 1])))
    # Every draw has the weight p(x): there is no noise but rounding.
    np.testing.assert_allclose(terms.log_weights, np.tile(expected, (64, 1)), atol=2e-4)
    np.testing.assert_allclose(IWAE(64)(terms), expected, atol=2e-4)
    np.testing.assert_allclose(model.log_likelihood(x, 2, seed=0), expected, atol=2e-4)
    # The KL divergence in closed form varies with z_{t-1}, so that the bound has an error of a mean of 64 draws.
    np.testing.assert_allclose(terms.elbo, expected, atol=0.6)
    monte_carlo = model.elbo_terms(tf.constant(x), Sampling(64, tf.constant([0, 1]), analytic_kl=False))
    np.testing.assert_allclose(monte_carlo.elbo, expected, atol=2e-4)


def test_steps_that_are_generated_have_the_moments_of_the_model():
    model = kalman.model_of(kalman.TWO)
    drawn = model.generate(4000, T, seed=3, sample=True).reshape(4000, -1)
    mean, covariance = kalman.TWO.joint(T)
    mean, covariance = mean[2 * T :], covariance[2 * T :, 2 * T :]
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * scale / np.sqrt(4000)).all()
    # The error of a covariance is at most sqrt(2) that of the product of the scales.
    assert (np.abs(np.cov(drawn.T) - covariance) < 5 * np.sqrt(2 / 4000) * np.outer(scale, scale)).all()


@pytest.mark.slow
def test_the_quantiles_of_a_forecast_are_those_of_an_autoregressive_process():
    coefficient, scale, noise, count, steps = 0.8, 0.6, 0.05, 4000, 5
    linear = kalman.ar1(coefficient, scale, noise)
    model = kalman.model_of(linear, missing=True)
    kalman.propose_one_step(model, linear)
    x = linear.draw(3, 6)
    # A sequence that has ended is forecast from its own end.
    x[2, 4:] = np.nan
    last = np.array([x[0, 5, 0], x[1, 5, 0], x[2, 3, 0]])
    levels = (0.05, 0.5, 0.9)
    found = tfvae.forecast(model, x, steps, levels, num_samples=count, seed=0, return_samples=True)
    assert found.samples.shape == (count, 3, steps, 1)
    ahead = np.arange(1, steps + 1)
    mean = last[:, np.newaxis] * coefficient**ahead
    stddev = np.sqrt(scale**2 * (1 - coefficient ** (2 * ahead)) / (1 - coefficient**2) + noise**2)
    # z_T is near x_T, by the noise.
    slack = 3 * noise
    np.testing.assert_allclose(found.mean[..., 0], mean, atol=slack + 5 * stddev.max() / np.sqrt(count))
    for level in levels:
        normal = scipy.stats.norm.ppf(level)
        error = np.sqrt(level * (1 - level) / count) / scipy.stats.norm.pdf(normal) * stddev
        assert (np.abs(found.quantiles[level][..., 0] - mean - normal * stddev) < slack + 5 * error).all()
    assert found.quantiles.keys() == set(levels)
    # One future is one path: the next step follows from the one before it.
    path = found.samples[:, 0, :2, 0]
    assert np.corrcoef(path.T)[0, 1] == pytest.approx(coefficient * stddev[0] / stddev[1], abs=0.03)


def test_gaps_are_filled_by_what_all_of_the_sequence_says(two):
    model, x, _ = two
    row, gap = x[1], np.isnan(x[1]).ravel()
    mean, covariance = kalman.TWO.joint(T)
    mean, covariance = mean[2 * T :], covariance[2 * T :, 2 * T :]
    gain = covariance[np.ix_(gap, ~gap)] @ np.linalg.inv(covariance[np.ix_(~gap, ~gap)])
    expected = mean[gap] + gain @ (row.ravel()[~gap] - mean[~gap])
    spread = np.sqrt(np.diag(covariance[np.ix_(gap, gap)] - gain @ covariance[np.ix_(~gap, gap)]))
    found = tfvae.impute(model, x, num_samples=4000, seed=0)
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(found[1].ravel()[~gap], row.ravel()[~gap])
    # The particles of the gap are worth some hundred draws.
    assert (np.abs(found[1].ravel()[gap] - expected) < 5 * spread / np.sqrt(200)).all()
    assert not np.isnan(found[:3]).any()
    np.testing.assert_array_equal(found[3], x[3])
    drawn = tfvae.impute(model, x, num_samples=4000, seed=1, num_imputations=400)[:, 1].reshape(400, -1)[:, gap]
    assert (np.abs(drawn.mean(axis=0) - expected) < 5 * spread / np.sqrt(100)).all()
    np.testing.assert_allclose(drawn.std(axis=0), spread, rtol=0.25)


def linear_in_all(number, channels):
    """An encoder and a combiner of one z_t, with q(z_t|z_{t-1}, x) = N(G_t z_{t-1} + linear in all of x, scale_t^2)."""
    x, z, features = keras.Input((number, channels)), keras.Input((1,)), keras.Input((3,))
    encoded = keras.layers.Dense(number * 3, kernel_initializer="zeros")(keras.layers.Flatten()(x))
    combined = keras.layers.Concatenate()([features[:, :1] * z + features[:, 1:2], features[:, 2:]])
    return keras.Model(x, keras.layers.Reshape((number, 3))(encoded)), keras.Model([z, features], combined)


def greatest_likelihood(x):
    """The greatest log p(x) of all linear models with one latent dimension, of which the scale of z is 1."""
    x = tf.constant(x, tf.float64)

    def of(parameters):
        a, loc, first, raw_first, c1, c2, d1, d2, log_noise = tf.unstack(parameters)
        kalman_filter = tfp.distributions.LinearGaussianStateSpaceModel(
            num_timesteps=x.shape[1],
            transition_matrix=a[tf.newaxis, tf.newaxis],
            transition_noise=tfp.distributions.MultivariateNormalDiag(loc[tf.newaxis], tf.ones(1, tf.float64)),
            observation_matrix=tf.stack([c1, c2])[:, tf.newaxis],
            observation_noise=tfp.distributions.MultivariateNormalDiag(
                tf.stack([d1, d2]), tf.exp(log_noise) * tf.ones(2, tf.float64)
            ),
            initial_state_prior=tfp.distributions.MultivariateNormalDiag(
                first[tf.newaxis], tf.exp(raw_first)[tf.newaxis]
            ),
        )
        return tf.reduce_sum(kalman_filter.log_prob(x))

    @tf.function
    def loss(parameters):
        return tfp.math.value_and_gradient(lambda value: -of(value), parameters)

    start = np.array([0.5, 0, 0, 0, 0.5, 0.1, 0, 0, 0], np.float64)
    found = scipy.optimize.minimize(
        lambda value: [each.numpy() for each in loss(tf.constant(value))], start, jac=True, method="L-BFGS-B"
    )
    assert found.success, found.message
    return -found.fun, lambda parameters: float(of(tf.constant(parameters, tf.float64)))


@pytest.mark.slow
def test_training_reaches_the_greatest_likelihood():
    number, rows = 10, 200
    truth = kalman.Linear(
        np.array([[0.8]]), np.array([0.2]), np.array([0.7]), np.array([[1.0], [-0.5]]), np.array([0.3, -0.2]), 0.5
    )
    x = truth.draw(rows, number, seed=3)
    greatest, likelihood_of = greatest_likelihood(x)
    keras.utils.set_random_seed(0)
    encoder, combiner = linear_in_all(number, 2)
    model = kalman.model_of(
        kalman.Linear(np.array([[0.5]]), np.zeros(1), np.ones(1), np.array([[0.5], [0.1]]), np.zeros(2), 1.0),
        encoder=encoder,
        combiner=combiner,
    )
    # Without loss of generality the scale of the transition is 1: the decoder scales z.
    model.conditional.scale_head.trainable = False
    steps = 2500
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.03, steps)))
    model.fit(x, epochs=steps, batch_size=rows, verbose=0)
    learned = kalman.Linear.of(model)
    first, raw_first = (each.item() for each in model.prior.get_weights())
    parameters = [
        *(learned.transition.item(), learned.loc.item(), first, np.log(np.log1p(np.exp(raw_first + kalman.SHIFT)))),
        *(*learned.loadings.ravel(), *learned.offset, np.log(learned.noise)),
    ]
    gap = greatest - likelihood_of(parameters)
    print(f"{gap:.4f} nats below in all, {gap / rows:.6f} a sequence, {gap / rows / number:.7f} a step")
    # Of all sequences together; the search for the greatest is not exact either.
    assert -0.01 < gap < 0.05
