"""Groups and series of many latent variables, from the start to draws, against exact posteriors."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import linalg, stats

from tfvae import Latent, StructuredNormal, VariationalInference
from tfvae.inference import observations
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.start import standard_coordinates
from tfvae.inference.structured_start import Derivatives
from tfvae.inference.targets import target

tfb = tfp.bijectors
tfd = tfp.distributions

EXP = Latent((), tfb.Exp())


def groups(count, *, rows=10, centered=True):
    """Normal data in groups, their model, and the exact mean and standard deviation of each latent variable."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(count), rows)
    y = generator.normal(generator.normal(1.0, 0.5, count)[group], 1.0)

    def log_joint(latents, data):
        group, y = data
        mu, tau, theta = latents["mu"], latents["tau"], latents["theta"]
        effects = tfd.Normal(mu[:, None], tau[:, None]) if centered else tfd.Normal(0.0, 1.0)
        log_prior = tfd.Normal(0.0, 5.0).log_prob(mu) + tfd.HalfNormal(2.0).log_prob(tau)
        log_prior += tf.reduce_sum(effects.log_prob(theta), axis=1)
        effects = theta if centered else mu[:, None] + tau[:, None] * theta
        return log_prior, tfd.Normal(tf.gather(effects, group, axis=1), 1.0).log_prob(y)

    data = group.astype("int32"), y.astype("float32")
    latents = {"mu": (), "tau": EXP, "theta": (count,)}
    return log_joint, latents, data, exact_groups(y.reshape(count, rows).mean(axis=1), rows, centered)


def exact_groups(means, rows, centered):
    """By quadrature over mu and log tau, given which each theta is normal."""
    spread = 8.0 / np.sqrt(len(means))
    mu, log_tau = np.meshgrid(np.linspace(1 - spread, 1 + spread, 101), np.linspace(-4.0, 1.0, 501), indexing="ij")
    tau = np.exp(log_tau)
    log_density = stats.norm.logpdf(mu, 0, 5) + stats.norm.logpdf(tau, 0, 2) + log_tau
    variance = tau**2 + 1 / rows
    squares = np.sum((means - means.mean()) ** 2) + len(means) * (mu - means.mean()) ** 2
    log_density -= 0.5 * (len(means) * np.log(variance) + squares / variance)
    weights = np.exp(log_density - log_density.max())
    kept = weights > 1e-10
    weights, mu, tau = weights[kept] / weights[kept].sum(), mu[kept], tau[kept]
    precision = rows + 1 / tau**2
    moments = []
    for mean in means:
        center, sd = (rows * mean + mu / tau**2) / precision, precision**-0.5
        center, sd = (center, sd) if centered else ((center - mu) / tau, sd / tau)
        moments.append([weights @ center, np.sqrt(weights @ (center**2 + sd**2) - (weights @ center) ** 2)])
    exact = {
        name: [weights @ x, np.sqrt(weights @ x**2 - (weights @ x) ** 2)] for name, x in (("mu", mu), ("tau", tau))
    }
    return {**exact, "theta": np.transpose(moments)}


def walk(count):
    """A local level model, of which the scales are known, and the exact mean and standard deviation of each level."""
    generator = np.random.default_rng(0)
    y = generator.normal(np.cumsum(generator.normal(0.0, 0.3, count)), 1.0)

    def log_joint(latents, y):
        x = latents["x"]
        log_prior = tfd.Normal(0.0, 5.0).log_prob(x[:, 0])
        log_prior += tf.reduce_sum(tfd.Normal(x[:, :-1], 0.3).log_prob(x[:, 1:]), axis=1)
        return log_prior, tfd.Normal(x, 1.0).log_prob(y)

    bands = np.zeros([2, count])
    bands[0, 0], bands[0, 1:], bands[0, :-1] = 1 / 25, 1 / 0.09, bands[0, :-1]
    bands[0, :-1] += 1 / 0.09
    bands[0] += 1.0
    bands[1, :-1] = -1 / 0.09
    covariance = linalg.solveh_banded(bands, np.eye(count), lower=True)
    return log_joint, {"x": (count,)}, y.astype("float32"), {"x": [covariance @ y, np.sqrt(np.diag(covariance))]}


def start(log_joint, latents, data):
    """The Gaussian from which a fit starts, and draws of it by name."""
    joint = JointDensity(target(log_joint, latents), None)
    read = observations.read(data, num_data=None, replicas=1, seed=lambda: 0)
    derivatives = Derivatives(joint, read)
    posterior = StructuredNormal(joint.target.space.dim)
    gaussian = standard_coordinates(joint, read, joint.of_all_rows(read), 0, posterior, derivatives).gaussian
    noise = np.random.default_rng(0).standard_normal([2000, joint.target.space.dim])
    z = tf.constant(gaussian.draws(np.concatenate([noise, -noise])), tf.float32)
    return gaussian, {name: value.numpy() for name, value in joint.target.space.constrain(z)[0].items()}


def errors(draws, exact):
    """The largest error of a mean, in standard deviations, and the largest log ratio of standard deviations."""
    draws = {name: np.asarray(draws[name], float) for name in exact}
    means = [np.max(abs(draws[name].mean(axis=0) - mean) / sd) for name, (mean, sd) in exact.items()]
    ratios = [np.max(abs(np.log(draws[name].std(axis=0) / sd))) for name, (_, sd) in exact.items()]
    return max(means), max(ratios)


@pytest.mark.slow
@pytest.mark.parametrize("centered", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_start_of_groups_is_near_the_posterior(centered):
    log_joint, latents, data, exact = groups(40, centered=centered)
    gaussian, draws = start(log_joint, latents, data)
    assert gaussian.pattern.num_globals == 2
    error, ratio = errors(draws, exact)
    assert error < 0.15
    assert ratio < np.log(1.15)
    # The family starts as this Gaussian.
    model = VariationalInference(log_joint, latents)
    model.approximation.set_coordinates(gaussian)
    noise = np.random.default_rng(1).standard_normal([3, 42])
    received = model.approximation.sample_from(tf.constant(noise, tf.float32))
    np.testing.assert_allclose(received, gaussian.draws(noise), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_start_of_a_gaussian_series_is_its_posterior():
    log_joint, latents, data, exact = walk(60)
    gaussian, draws = start(log_joint, latents, data)
    assert (gaussian.pattern.num_globals, gaussian.pattern.width) == (0, 1)
    np.testing.assert_allclose(gaussian.loc, exact["x"][0], atol=1e-3)
    assert errors(draws, exact)[1] < np.log(1.08)


@pytest.mark.slow
def test_a_group_without_data_and_prior_is_named():
    def log_joint(latents, y):
        log_prior = tfd.Normal(0.0, 1.0).log_prob(latents["mu"])
        return log_prior, tfd.Normal(latents["mu"][:, None] + latents["effect"][:, :30], 1.0).log_prob(y)

    y = np.zeros(30, "float32")
    with pytest.raises(ValueError, match=r"proper.* must constrain .*effect.*Received: one that is flat"):
        VariationalInference(log_joint, {"mu": (), "effect": (31,)}).fit(y, epochs=1, verbose=0)


def test_local_variables_of_rows_take_another_family():
    with pytest.raises(ValueError, match=r"^`posterior` must be another family than StructuredNormal.*Received: a Str"):
        VariationalInference(lambda *_: None, {"x": (30,)}, posterior=StructuredNormal(), local=object())


def fit(log_joint, latents, data, **arguments):
    keras.utils.set_random_seed(0)
    model = VariationalInference(log_joint, latents)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(data, verbose=0, **arguments)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("centered", [True, False])
def test_five_hundred_groups_are_exact(centered):
    log_joint, latents, data, exact = groups(500, centered=centered)
    # All rows in each step, so that `fit` checks k-hat.
    model = fit(log_joint, latents, data, batch_size=5000)
    draws = model.draw(10_000, seed=0)
    error, ratio = errors(draws, exact)
    assert error < 0.1
    assert ratio < np.log(1.1)
    assert draws.pareto_k < 0.7


@pytest.mark.slow
def test_batches_that_hold_few_of_the_groups_are_enough():
    log_joint, latents, data, exact = groups(2000)
    model = fit(log_joint, latents, data, batch_size=512)
    error, ratio = errors(model.draw(10_000, seed=0), exact)
    assert error < 0.1
    assert ratio < np.log(1.1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 1000])
def test_a_random_walk_is_that_of_the_exact_smoother(count):
    log_joint, latents, data, exact = walk(count)
    model = fit(log_joint, latents, data)
    draws = model.draw(10_000, seed=0)
    error, ratio = errors(draws, exact)
    assert error < 0.1
    assert ratio < np.log(1.1)
    assert draws.pareto_k < 0.7
