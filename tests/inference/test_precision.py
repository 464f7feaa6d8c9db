"""Posteriors that float32 cannot resolve: computed where it can, refused by name where it cannot, right in float64."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import Latent, VariationalInference
from tfvae.inference import newton, observations, precision
from tfvae.inference.density import LogDensity

tfb, tfd = tfp.bijectors, tfp.distributions
YEAR = np.arange(1950.0, 2021.0)
X = np.random.default_rng(0).normal(size=[100, 2])


def columns(kind):
    """The columns of a regression, with an intercept."""
    if kind.startswith("year"):
        return np.stack([YEAR**power for power in range(int(kind[-1]) + 1)], axis=1)
    varying = {
        "1e4": 1e4 + X[:, 0],
        "1e6": 1e6 + X[:, 0],
        "seconds": 1.7e9 + 1e4 * X[:, 0],
        "ordinary": 50 + 5 * X[:, 0],
    }
    if kind.startswith("collinear"):
        return np.stack([np.ones(100), X[:, 0], X[:, 0] + float(kind.split()[1]) * X[:, 1]], axis=1)
    return np.stack([np.ones(100), varying[kind]], axis=1)


def least_squares(x, y):
    """The posterior mean and covariance of the coefficients for unit noise and a flat prior, in double precision."""
    size = abs(x).max(axis=0)
    q, r = np.linalg.qr(x / size)
    inverse = np.linalg.inv(r) / size[:, None]
    return np.linalg.solve(r, q.T @ y) / size, inverse @ inverse.T


def found(kind, dtype):
    """The refined Gaussian for a regression with unit noise and a flat prior, and what its precision lacks."""
    x = columns(kind)
    y = x[:, -1] / x[:, -1].std() + np.random.default_rng(1).normal(size=len(x))
    x_cast, y_cast = tf.constant(x, dtype), tf.constant(y - y.mean(), dtype)

    def log_density(z):
        return -0.5 * tf.reduce_sum((y_cast - tf.matmul(z, x_cast, transpose_b=True)) ** 2, axis=1)

    density = LogDensity(log_density, x.shape[1], dtype)
    gaussian = newton.refined(density, newton.best(newton.ascend(density, np.zeros([1, x.shape[1]])), density))
    if precision.unresolved(gaussian.scale, density.epsilon) is not None:
        gaussian = newton.refined(density, gaussian, whiten=True)
    return gaussian, precision.insufficient(density, gaussian.loc, gaussian.scale), least_squares(x, y - y.mean())


@pytest.mark.parametrize("kind", ["year1", "year2", "collinear 1e-2", "collinear 1e-4", "1e4", "ordinary"])
def test_float32_resolves_curvatures_that_differ(kind):
    gaussian, lacks, (mean, covariance) = found(kind, tf.float32)
    assert lacks is None
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(gaussian.loc / sd, mean / sd, atol=0.15)
    np.testing.assert_allclose(np.linalg.norm(gaussian.scale, axis=1) / sd, 1.0, atol=0.1)


@pytest.mark.parametrize("kind", ["year3", "year4"])
def test_powers_that_float32_cannot_resolve_are_found(kind):
    _, lacks, _ = found(kind, tf.float32)
    assert lacks is not None
    assert lacks[0].any()
    assert "rounding" in lacks[1]


@pytest.mark.parametrize("kind", ["year3", "collinear 1e-6", "1e6"])
def test_float64_resolves_them(kind):
    gaussian, lacks, (mean, covariance) = found(kind, tf.float64)
    assert lacks is None
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(gaussian.loc / sd, mean / sd, atol=0.15)
    np.testing.assert_allclose(np.linalg.norm(gaussian.scale, axis=1) / sd, 1.0, atol=0.1)


@pytest.mark.parametrize(("offset", "is_enough"), [(1e4, True), (1e7, False)])
def test_a_location_between_float32_numbers_is_found(offset, is_enough):
    density = LogDensity(lambda z: tfd.Normal(offset, 0.1).log_prob(z[:, 0]), 1)
    lacks = precision.insufficient(density, np.array([offset]), np.array([[0.1]]))
    assert (lacks is None) == is_enough
    assert is_enough or "rounding moves draws by" in lacks[1]


def test_a_sum_whose_rounding_is_nats_is_found():
    # 100,000 terms of -1000 nats each: float32 numbers near their sum are 8 apart.
    density = LogDensity(lambda z: tf.reduce_sum(-0.5 * z**2, axis=1) - 1e8, 3)
    lacks = precision.insufficient(density, np.zeros(3), np.eye(3))
    assert "nats" in lacks[1]
    double = LogDensity(density.function, 3, tf.float64)
    assert precision.insufficient(double, np.zeros(3), np.eye(3)) is None


@pytest.mark.parametrize("scale", [np.eye(3), np.ones(3)], ids=["full", "diagonal"])
def test_the_noise_of_a_smooth_density_is_small(scale):
    of_value, of_gradient = precision.noise(LogDensity(lambda z: -tf.reduce_sum(z**2, axis=1), 3), np.ones(3), scale)
    assert of_value < 0.02
    assert of_gradient.max() < 1e-3


def test_float64_has_a_spacing_too():
    scale = np.array([[1e-3]])
    draws = np.full([10, 1], 1e12)
    # The spacing of float64 at 1e12 is 1.2e-4.
    assert precision.rounding(np.array([1e12]), scale, draws, tf.float64)[0] == pytest.approx(0.12 / 12**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("x", "is_kept"),
    [
        (1.7e9 + np.arange(10.0), False),
        (1e7 + 0.1 * np.arange(10.0), False),
        (1e6 + np.arange(10.0), True),
        (np.full(10, 0.1), True),
        (np.stack([np.ones(10), 1e9 + np.arange(10.0)], axis=1), False),
        (YEAR, True),
    ],
)
def test_data_that_float32_rounds_away_are_refused(x, is_kept):
    def read(x, dtype):
        return observations.read(x, num_data=None, replicas=1, seed=lambda: 0, dtype=dtype)

    if is_kept:
        read(x, tf.float32)
    else:
        with pytest.raises(
            ValueError, match=r"^`x` must keep in float32 what differs.*dtype=\"float64\".*Received: val"
        ):
            read(x, tf.float32)
    assert next(iter(read(x, tf.float64).dataset))[0].dtype == tf.float64


def regression(latents, data):
    x, y = data
    log_prior = -tf.math.log(latents["sigma"])
    return log_prior, tfd.Normal(tf.matmul(latents["b"], x, transpose_b=True), latents["sigma"][:, None]).log_prob(y)


def predictive(latents, x):
    return tfd.Normal(tf.matmul(latents["b"], x, transpose_b=True), latents["sigma"][:, None])


def test_a_function_that_computes_in_float32_is_refused_in_float64():
    def model(latents, _):
        return -0.5 * tf.cast(latents["x"], tf.float32) ** 2

    with pytest.raises(ValueError, match=r"^`model` must compute in float64.*Received: a log density in float32"):
        VariationalInference(model, {"x": ()}, dtype="float64").fit(verbose=0)
    with pytest.raises(ValueError, match=r"^`model` must take float64 latent variables.*Received: "):
        VariationalInference(lambda latents, _: latents["x"] * tf.constant(1.0), {"x": ()}, dtype="float64").fit()


@pytest.mark.slow
def test_a_cubic_in_the_calendar_year_is_refused_in_float32_and_right_in_float64(tmp_path):
    x = columns("year3")
    centred = (YEAR - 1985.0) / 20.0
    y = 5.0 + 1.5 * centred - 0.8 * centred**2 + np.random.default_rng(1).normal(size=len(x))
    latents = {"b": (4,), "sigma": Latent((), tfb.Exp())}
    with pytest.raises(ValueError, match=r"^`model` must have a posterior that float32 can resolve.*of b.*float64"):
        VariationalInference(regression, latents).fit(x, y, verbose=0)
    model = VariationalInference(regression, latents, predictive=predictive, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, y, verbose=0)
        draws = model.draw(4000, seed=0)
    mean, covariance = least_squares(x, y)
    residual = y - x @ mean
    sd = np.sqrt(residual @ residual / (len(y) - 6) * np.diag(covariance))
    assert draws["b"].dtype == np.float64
    np.testing.assert_allclose(draws["b"].mean(axis=0) / sd, mean / sd, atol=0.1)
    np.testing.assert_allclose(draws["b"].std(axis=0) / sd, 1.0, atol=0.1)
    np.testing.assert_allclose(model.posterior_predictive(x, 1000, seed=0).mean(axis=0), x @ mean, atol=0.6)
    np.testing.assert_allclose(model.predict(x, verbose=0), model.predict_moments(x)["mean"], rtol=1e-9)
    model.save(tmp_path / "cubic.keras")
    own = {"model": regression, "latents": latents, "predictive": predictive}
    again = keras.saving.load_model(tmp_path / "cubic.keras", custom_objects=own)
    np.testing.assert_allclose(again.draw(100, x, y, seed=1)["b"], model.draw(100, seed=1)["b"], rtol=1e-12)


@pytest.mark.slow
def test_a_joint_distribution_in_float64():
    y = 1e7 + np.random.default_rng(0).normal(size=50)
    joint = tfd.JointDistributionNamedAutoBatched(
        {
            "mean": tfd.Normal(np.float64(1e7), np.float64(100.0)),
            "y": lambda mean: tfd.Sample(tfd.Normal(mean, np.float64(1.0)), 50),
        }
    )
    model = VariationalInference(joint.experimental_pin(y=y), dtype="float64")
    model.fit(verbose=0)
    draws = model.draw(4000, seed=0)
    assert draws["mean"].mean() == pytest.approx(y.mean(), abs=0.02)
    assert draws["mean"].std() == pytest.approx(50**-0.5, rel=0.05)


@pytest.mark.slow
def test_groups_in_batches_in_float64():
    group = np.repeat(np.arange(60), 5).astype("int32")
    y = np.random.default_rng(0).normal(np.random.default_rng(1).normal(1.0, 0.5, 60)[group], 1.0)

    def log_joint(latents, data):
        group, y = data
        mu, tau, theta = latents["mu"], latents["tau"], latents["theta"]
        one = tf.constant(1.0, tf.float64)
        log_prior = tfd.Normal(0 * one, 5 * one).log_prob(mu) + tfd.HalfNormal(2 * one).log_prob(tau)
        log_prior += tf.reduce_sum(tfd.Normal(mu[:, None], tau[:, None]).log_prob(theta), axis=1)
        return log_prior, tfd.Normal(tf.gather(theta, group, axis=1), one).log_prob(y)

    latents = {"mu": (), "tau": Latent((), tfb.Exp()), "theta": (60,)}
    found = []
    for batch_size in (100, None):
        model = VariationalInference(log_joint, latents, dtype="float64")
        model.fit(group, y, batch_size=batch_size, verbose=0)
        found.append(model.draw(2000, seed=0)["mu"])
    np.testing.assert_allclose(found[0].mean(), found[1].mean(), atol=0.2 * found[1].std())


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match=r'^`dtype` must be "float32" or "float64"\. Received: dtype=\'float16\'$'):
        VariationalInference(lambda latents, _: latents["m"], {"m": ()}, dtype="float16")
