"""The control variate for batches: its mean is zero, it removes noise, and it fits a large data set."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize

from tfvae import VariationalInference
from tfvae.elbo import Sampling
from tfvae.inference import newton
from tfvae.inference.control_variate import AtPoint, ControlVariate, of_all_rows, recentre

tfd = tfp.distributions

# A logistic regression with the prior N(0, PRIOR_SD^2).
DIM = 3
PRIOR_SD = 2.0
WEIGHTS = np.array([0.8, -1.2, 0.5])


def simulated(rows, seed=0, weights=WEIGHTS):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=[rows, DIM]) * [1.0, 0.7, 1.5]
    x[:, 1] += 0.5 * x[:, 0]
    y = generator.random(rows) < 1.0 / (1.0 + np.exp(-x @ weights))
    return x.astype("float32"), y.astype("float32")


def log_joint(latents, data):
    x, y = data
    logits = tf.linalg.matmul(latents["w"], x, transpose_b=True)
    return (
        tf.reduce_sum(tfd.Normal(0.0, PRIOR_SD).log_prob(latents["w"]), axis=1),
        tfd.Bernoulli(logits=logits).log_prob(y),
    )


def log_prior(z):
    return tf.reduce_sum(tfd.Normal(0.0, PRIOR_SD).log_prob(z), axis=1)


def log_likelihood(z, data):
    return tf.reduce_sum(log_joint({"w": z}, data)[1], axis=1)


def in_numpy(w, x, y):
    """The log-likelihood and its gradient in double precision."""
    x, logits = x.astype(float), x.astype(float) @ w
    return np.sum(y * logits - np.logaddexp(0.0, logits)), x.T @ (y - 1.0 / (1.0 + np.exp(-logits)))


def laplace_of(x, y, scale=1.0):
    """The exact mode of the posterior and the covariance by its curvature; `scale` multiplies the likelihood."""

    def loss_and_gradient(w):
        value, gradient = in_numpy(w, x, y)
        return -scale * value + 0.5 * w @ w / PRIOR_SD**2, -scale * gradient + w / PRIOR_SD**2

    mode = optimize.minimize(loss_and_gradient, np.zeros(DIM), jac=True, method="BFGS", options={"gtol": 1e-6}).x
    p = 1.0 / (1.0 + np.exp(-x.astype(float) @ mode))
    precision = scale * (x.T.astype(float) * (p * (1 - p))) @ x.astype(float) + np.eye(DIM) / PRIOR_SD**2
    return mode, np.linalg.inv(precision)


def batches_of(data, size):
    return [tuple(array[start : start + size] for array in data) for start in range(0, len(data[0]), size)]


def at_point(point, x, y):
    return AtPoint(point, *in_numpy(point, x, y))


@pytest.fixture(scope="module")
def large():
    """20,000 rows, the mode of their posterior and the covariance there."""
    data = simulated(20_000)
    return data, *laplace_of(*data)


# The correction


def test_the_mean_of_the_correction_over_batches_is_zero():
    data = simulated(60)
    control = ControlVariate(DIM)
    control.set(at_point(np.array([0.5, -1.0, 0.2]), *data))
    z = tf.constant(np.random.default_rng(1).normal(size=[4, DIM]), tf.float32)
    values, gradients, plain = [], [], []
    # The last batch has a different number of rows, and is weighted by it.
    for batch in batches_of(data, 14):
        share = len(batch[0]) / 60

        def scaled(point, batch=batch, share=share):
            return log_likelihood(point, batch) / share

        with tf.GradientTape() as tape:
            tape.watch(z)
            value = control.correction(z, scaled)
        values.append(share * value.numpy())
        gradients.append(share * tape.gradient(value, z).numpy())
        plain.append(share * scaled(z).numpy())
    whole = log_likelihood(z, data).numpy()
    np.testing.assert_allclose(sum(plain), whole, rtol=1e-5)
    assert np.abs(values).max() > 0.1
    assert np.abs(gradients).max() > 0.1
    np.testing.assert_allclose(sum(values), 0.0, atol=1e-4)
    np.testing.assert_allclose(sum(gradients), 0.0, atol=1e-4)


def test_at_the_point_a_batch_says_what_all_of_the_data_do():
    data = simulated(60)
    point = np.array([0.5, -1.0, 0.2])
    control = ControlVariate(DIM)
    control.set(at_point(point, *data))
    for batch in batches_of(data, 20):
        z = tf.constant(point[np.newaxis], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(z)
            plain = 3.0 * log_likelihood(z, batch)
            value = plain + control.correction(z, lambda point, batch=batch: 3.0 * log_likelihood(point, batch))
        expected, gradient = in_numpy(point, *data)
        assert value.numpy()[0] == pytest.approx(expected, rel=1e-5)
        assert abs(plain.numpy()[0] - expected) > 0.1
        np.testing.assert_allclose(tape.gradient(value, z)[0], gradient, rtol=1e-4, atol=1e-4)


def test_the_sums_over_all_rows_are_those_of_numpy():
    data = simulated(1000)
    point = np.array([0.5, -1.0, 0.2])
    found = of_all_rows(log_likelihood, lambda: batches_of(data, 300))(point)
    value, gradient = in_numpy(point, *data)
    assert found.value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found.point, point)


@pytest.mark.slow
def test_the_noise_of_a_batch_all_but_vanishes_near_the_mode(large):
    """The noise of the gradient that trains q, with the same draws for each batch."""
    data, mode, covariance = large
    model = VariationalInference(log_joint, {"w": (DIM,)}, num_data=len(data[0]))
    # The point is near the mode, as at the start of a fit, and q is as wide as the posterior.
    point = mode + 0.5 * np.linalg.cholesky(covariance)[:, 0]
    model.approximation.set_coordinates(newton.Gaussian(point, np.linalg.cholesky(covariance), np.nan))
    model.control_variate.set(at_point(point, *data))

    @tf.function
    def gradients(x, y):
        with tf.GradientTape() as tape:
            terms = model.elbo_terms((x, y), Sampling(num_samples=8, seed=tf.constant([1, 2]), training=True))
            value = tf.reduce_mean(terms.log_weights)
        return tf.concat([tf.reshape(part, [-1]) for part in tape.gradient(value, model.trainable_variables)], axis=0)

    found = {}
    for controlled in (False, True):
        model.__dict__["_controlled"] = controlled
        step = tf.function(gradients.python_function)
        found[controlled] = np.array([step(*batch) for batch in batches_of(data, 250)])
    # No bias: the means are equal.
    error = found[False].std(axis=0) / np.sqrt(len(found[False]))
    assert (np.abs(found[True].mean(axis=0) - found[False].mean(axis=0)) < 0.01 * error + 1e-2).all()
    variances = {key: rows.var(axis=0).sum() for key, rows in found.items()}
    assert variances[True] < 0.01 * variances[False]
    assert variances[True] > 0


# The point


@pytest.mark.parametrize(("diagonal", "width"), [(False, 1.0), (True, 1.0), (False, 4.0)])
def test_the_mode_of_a_subset_is_moved_to_that_of_all_rows(large, diagonal, width):
    """Even with scales that are too wide, for which a full step overshoots."""
    data, mode, covariance = large
    subset = tuple(array[:400] for array in data)
    start, root = laplace_of(*subset, scale=50.0)
    gaussian = newton.Gaussian(start, width * np.linalg.cholesky(root), 0.0)
    if diagonal:
        gaussian = gaussian.diagonal()
    passes = []

    def evaluate(point):
        passes.append(point)
        return at_point(point, *data)

    found = recentre(gaussian, evaluate, log_prior)

    def distance(point):
        return np.sqrt((point - mode) @ np.linalg.solve(covariance, point - mode))

    assert distance(start) > 3.0
    # At most about 0.1 nats are left to gain; the gain is half of the squared distance.
    assert distance(found.loc) < 0.6
    assert len(passes) <= 7
    np.testing.assert_array_equal(found.scale, gaussian.scale)


def test_a_point_at_the_mode_is_left_there(large):
    data, mode, covariance = large
    passes = []

    def evaluate(point):
        passes.append(point)
        return at_point(point, *data)

    found = recentre(newton.Gaussian(mode, np.linalg.cholesky(covariance), 0.0), evaluate, log_prior)
    np.testing.assert_array_equal(found.loc, mode)
    assert len(passes) == 1


def test_a_point_without_a_gradient_is_left_there():
    start = newton.Gaussian(np.ones(DIM), np.eye(DIM), 0.0)
    found = recentre(start, lambda point: AtPoint(point, 0.0, np.full(DIM, np.nan)), log_prior)
    np.testing.assert_array_equal(found.loc, start.loc)


# A fit


@pytest.mark.slow
def test_a_fit_in_batches_is_the_posterior_of_a_large_data_set(large):
    """With so many rows the posterior is the Gaussian at its mode, by the Bernstein-von Mises theorem.

    Its skewness is of the order of 1 / sqrt(N), here less than 0.02 standard deviations in the mean.
    """
    data, mode, covariance = large
    model = VariationalInference(log_joint, {"w": (DIM,)})
    # q starts off the posterior, so that the coordinates alone are not enough: the steps must find it.
    model.posterior.loc_head.bias.assign([0.7, -0.7, 0.7])
    model.posterior.scale_tril_head.bias.assign(np.full(6, 0.5))
    model.fit(*data, batch_size=256, epochs=3, verbose=0)
    z = model.approximation.sample(20_000, tf.constant([0, 0]))[0].numpy()
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(z.mean(axis=0) - mode) / sd < 0.1).all()
    assert (np.abs(z.std(axis=0) / sd - 1.0) < 0.1).all()
    np.testing.assert_allclose(np.corrcoef(z.T), covariance / np.outer(sd, sd), atol=0.1)


@pytest.mark.slow
def test_a_fit_takes_the_sums_of_its_own_data():
    """One step shows it: without a correction, or with that of other data, a batch of 100 is tens of nats off."""
    model = VariationalInference(log_joint, {"w": (DIM,)})
    model.compile(keras.optimizers.SGD(0.0))
    first, second = simulated(1000), simulated(1000, seed=1, weights=0.8 * WEIGHTS)
    assert not model._controlled
    values = []
    for data in (first, second):
        history = model.fit(*data, batch_size=100, epochs=1, steps_per_epoch=1, verbose=0).history
        assert model._controlled
        point = model.control_variate.point.numpy()
        np.testing.assert_array_equal(point, model.approximation.loc.numpy())
        value, gradient = in_numpy(point.astype(float), *data)
        assert model.control_variate.value.numpy() == pytest.approx(value, rel=1e-5)
        np.testing.assert_allclose(model.control_variate.gradient, gradient, rtol=1e-3, atol=1e-2)
        # The noise of 32 draws of z.
        assert history["reconstruction_log_likelihood"][0] == pytest.approx(value, abs=8)
        values.append(value)
    assert abs(values[1] - values[0]) > 20
    # All rows at once need no correction, least of all with the sums of other data.
    history = model.fit(*first, epochs=1, steps_per_epoch=1, verbose=0).history
    assert not model._controlled
    assert history["reconstruction_log_likelihood"][0] == pytest.approx(values[0], abs=8)
