"""Likelihoods of 8-bit pixels: probabilities against differences of SciPy's logistic CDF, means against sums."""

import re

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import likelihoods as lk

LEVELS = np.float32(np.arange(256) / 255)
MAKE = {"logistic": lk.DiscretizedLogistic, "mixture": lambda: lk.DiscretizedLogisticMixture(3)}


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


def built(likelihood, event_shape):
    likelihood.build((None, *likelihood.parameter_shape(event_shape)))
    return likelihood


def parameters_of(likelihood, event_shape, leading, seed=0):
    """Parameters with scales from a hundredth of a bin to more than the whole range."""
    generator = np.random.default_rng(seed)
    shape = (*leading, *event_shape, likelihood.num_parameters)
    parameters = generator.normal(size=shape)
    count = getattr(likelihood, "num_components", 1)
    parameters[..., -count:] = generator.uniform(-9, 1, (*shape[:-1], count))
    return np.float32(parameters).reshape(*leading, *likelihood.parameter_shape(event_shape))


def components(likelihood, parameters, event_shape):
    """The shares, locs and scales, each [..., *event_shape, K], which are adjacent on the parameters' last axis."""
    leading = parameters.shape[: -len(event_shape)]
    each = np.float64(parameters).reshape(*leading, *event_shape, likelihood.num_parameters)
    count = getattr(likelihood, "num_components", 1)
    logits = each[..., :count] if likelihood.num_parameters > 2 else np.zeros((*each.shape[:-1], 1))
    loc, log_scale = each[..., -2 * count : -count], each[..., -count:]
    return special.softmax(logits, axis=-1), loc, np.exp(np.maximum(log_scale, -7))


def probability(x, shares, loc, scale):
    """The mass of the bin of x, as a difference of SciPy's CDF, or of the survival function where that is accurate."""
    u = 2 * np.float64(x)[..., None] - 1
    lower = np.where(u <= -1, -np.inf, u - 1 / 255)
    upper = np.where(u >= 1, np.inf, u + 1 / 255)
    cdf, sf = (getattr(stats.logistic(loc, scale), name) for name in ("cdf", "sf"))
    return (shares * np.where(lower > loc, sf(lower) - sf(upper), cdf(upper) - cdf(lower))).sum(-1)


@pytest.mark.parametrize("event_shape", [(3,), (2, 3, 2)])
def test_log_prob_is_that_of_differences_of_the_cdf(make, event_shape):
    likelihood = built(make(), event_shape)
    parameters = parameters_of(likelihood, event_shape, (4, 5))
    x = np.random.default_rng(1).choice(LEVELS[[0, 0, 1, 77, 128, 254, 255, 255]], size=(5, *event_shape))
    shares, loc, scale = components(likelihood, parameters, event_shape)
    expected = np.log(np.maximum(probability(x, shares, loc, scale), 1e-300))
    log_prob = likelihood.element_log_prob(tf.constant(x), tf.constant(parameters))
    assert log_prob.shape == (4, 5, *event_shape)
    # Below -600 SciPy's difference underflows. The tolerance is for distances in units of the scale, in float32.
    seen = expected > -600
    np.testing.assert_allclose(log_prob.numpy()[seen], expected[seen], rtol=2e-4, atol=2e-5)
    assert np.isfinite(log_prob).all()
    total = likelihood.log_prob(x, parameters)
    np.testing.assert_allclose(total, np.sum(log_prob.numpy().reshape(4, 5, -1), -1), rtol=1e-5)
    np.testing.assert_allclose(likelihood.distribution(parameters).log_prob(x), total, rtol=1e-5)


def test_probabilities_of_the_256_values_sum_to_1(make):
    likelihood = built(make(), (1,))
    parameters = np.repeat(parameters_of(likelihood, (1,), (50, 1)), 256, axis=1)
    log_prob = likelihood.log_prob(LEVELS[:, None], parameters)
    np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(1), 1, atol=1e-5)


def test_the_mean_is_that_of_the_256_values_to_half_a_level(make):
    likelihood = built(make(), (2, 3, 2))
    parameters = parameters_of(likelihood, (2, 3, 2), (5,))
    mean = likelihood.mean(parameters)
    assert mean.shape == (5, 2, 3, 2)
    each = (part[..., None, :] for part in components(likelihood, parameters, (2, 3, 2)))
    exact = (probability(LEVELS, *each) * LEVELS).sum(-1)
    assert np.abs(mean - exact).max() <= 1 / 510 + 1e-6
    np.testing.assert_allclose(likelihood.distribution(parameters).mean(), mean, atol=1e-6)


def test_samples_are_levels_and_have_the_mean(make):
    likelihood = built(make(), (2, 1))
    parameters = parameters_of(likelihood, (2, 1), (3,))
    samples = likelihood.distribution(parameters).sample(20000, seed=[1, 2]).numpy()
    assert samples.shape == (20000, 3, 2, 1)
    likelihood.check(samples)
    assert samples.min() >= 0
    assert samples.max() <= 1
    error = samples.std(0) / np.sqrt(20000)
    assert np.all(np.abs(samples.mean(0) - likelihood.mean(parameters)) < 5 * error + 1 / 510)


def test_gradients_are_finite_and_pull_a_mean_that_is_far_away(make):
    likelihood = built(make(), (1,))
    parameters = np.zeros((1, 3, likelihood.num_parameters), np.float32)
    count = getattr(likelihood, "num_components", 1)
    parameters[..., -2 * count : -count], parameters[..., -count:] = 50.0, -20.0
    parameters = tf.Variable(parameters)
    with tf.GradientTape() as tape:
        log_prob = likelihood.log_prob(np.float32([[0], [128 / 255], [1]]), parameters)
    gradient = tape.gradient(log_prob, parameters).numpy()[0]
    assert np.isfinite(gradient).all()
    assert np.all(gradient[:2, -2 * count : -count].sum(-1) < -100)


@pytest.mark.parametrize("log_scale", [8.0, 30.0, 100.0])
def test_a_scale_that_is_too_wide_gives_the_mean_and_finite_gradients(make, log_scale):
    likelihood = built(make(), (1,))
    parameters = np.zeros((1, 3, likelihood.num_parameters), np.float32)
    parameters[..., -getattr(likelihood, "num_components", 1) :] = log_scale
    parameters = tf.Variable(parameters)
    with tf.GradientTape() as tape:
        log_prob = likelihood.log_prob(np.float32([[0], [128 / 255], [1]]), parameters)
    assert np.isfinite(log_prob).all()
    assert np.isfinite(tape.gradient(log_prob, parameters)).all()
    np.testing.assert_allclose(likelihood.mean(parameters), 0.5, atol=1e-3)


@pytest.mark.parametrize("x", [0.3, -1 / 255, 256 / 255, 77.0, np.nan])
def test_what_is_no_level_is_refused(make, x):
    with pytest.raises(ValueError, match=re.escape("must hold 8-bit pixels divided by 255, the values 0, 1/255,")):
        make().check(np.float32([[0, 1], [100 / 255, x]]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_pass(make, dtype):
    make().check((np.arange(256)[None] / 255).astype(dtype))
    make().check(np.array([[0, 1]], np.uint8))


@pytest.mark.parametrize("num_components", [0, 1.0, None])
def test_a_mixture_has_components(num_components):
    with pytest.raises(ValueError, match="`num_components` must be an integer of at least 1"):
        lk.DiscretizedLogisticMixture(num_components)
