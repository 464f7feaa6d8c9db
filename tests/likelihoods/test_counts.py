"""Likelihoods of counts and codes: probabilities and means against SciPy, and the data that each rejects."""

import re

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import likelihoods as lk

EVENT_SHAPES = [(3,), (2, 3, 2)]
# The inverse dispersion of each of the negative binomials.
INVERSE_DISPERSION = 1.7


def built(likelihood, event_shape):
    likelihood.build((None, *likelihood.parameter_shape(event_shape)))
    for weight in likelihood.weights:
        weight.assign(np.full(weight.shape, np.log(INVERSE_DISPERSION), np.float32))
    return likelihood


def nbinom(x, log_mean):
    return stats.nbinom.logpmf(x, INVERSE_DISPERSION, INVERSE_DISPERSION / (INVERSE_DISPERSION + np.exp(log_mean)))


def inflated(x, log_mean, logit):
    p = special.expit(logit)
    return np.log((1 - p) * np.exp(nbinom(x, log_mean)) + p * (x == 0))


# For each: the likelihood, SciPy's log probability of an element, and its mean, both as functions of the parameters.
CASES = {
    "Poisson": (lk.Poisson, lambda x, f: stats.poisson.logpmf(x, np.exp(f)), np.exp),
    "NegativeBinomial": (lk.NegativeBinomial, nbinom, np.exp),
    "ZeroInflated": (lk.ZeroInflatedNegativeBinomial, inflated, lambda f, g: special.expit(-g) * np.exp(f)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def elements(likelihood, parameters, event_shape):
    """The parameters of each element, which are adjacent on the last axis, as documented."""
    split = parameters.reshape(*parameters.shape[: -len(event_shape)], *event_shape, likelihood.num_parameters)
    return np.moveaxis(np.float64(split), -1, 0)


def parameters_of(likelihood, event_shape, leading):
    shape = (*leading, *likelihood.parameter_shape(event_shape))
    return 1.5 * np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
def test_log_prob_and_mean_are_scipys(case, event_shape):
    make, logpmf, mean = case
    likelihood = built(make(), event_shape)
    parameters = parameters_of(likelihood, event_shape, (4, 5))
    x = np.random.default_rng(1).choice([0, 0, 1, 2, 7, 40], size=(5, *event_shape)).astype("float32")
    each = elements(likelihood, parameters, event_shape)
    expected = logpmf(np.float64(x), *each).reshape(4, 5, -1).sum(-1)
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(likelihood.mean(parameters), mean(*each), rtol=1e-5)
    # TFP's own formula, as another check.
    np.testing.assert_allclose(likelihood.distribution(parameters).log_prob(x), expected, rtol=1e-4, atol=1e-4)


def test_probabilities_sum_to_1(case):
    likelihood = built(case[0](), (1,))
    parameters = parameters_of(likelihood, (1,), (4, 1))
    log_probs = likelihood.log_prob(np.arange(1000, dtype=np.float32)[:, None], np.tile(parameters, (1, 1000, 1)))
    np.testing.assert_allclose(np.exp(np.float64(log_probs)).sum(1), 1, atol=2e-5)


def test_samples_have_the_mean(case):
    likelihood = built(case[0](), (2,))
    parameters = parameters_of(likelihood, (2,), (3,)) / 2
    samples = likelihood.distribution(parameters).sample(20000, seed=[1, 2]).numpy()
    assert samples.shape == (20000, 3, 2)
    error = samples.std(0) / np.sqrt(20000)
    assert np.all(np.abs(samples.mean(0) - likelihood.mean(parameters)) < 5 * error)


def test_nearly_poisson_counts_keep_their_digits():
    # With an inverse dispersion of 1e5, differences of lgamma are off by 0.1.
    likelihood = built(lk.NegativeBinomial(), (1,))
    likelihood.weights[0].assign([np.log(1e5)])
    x = np.float32([[0], [3], [50], [1000]])
    log_mean = np.log(np.float32([[[1.0]], [[40.0]]])) + np.zeros((2, 4, 1), np.float32)
    d = np.exp(np.float64(likelihood.weights[0]))[0]
    expected = stats.nbinom.logpmf(x[:, 0], d, d / (d + np.exp(np.float64(log_mean[..., 0]))))
    np.testing.assert_allclose(likelihood.log_prob(x, log_mean), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("offset", [-0.3, 1e-3, 0.4])
def test_large_counts_keep_their_digits(case, offset):
    # The logarithm of the factorial of 1e6 is about 1e7, where float32 has no digits after the decimal point.
    make, logpmf, _ = case
    likelihood = built(make(), (1,))
    x = np.float32([[0], [1e2], [1e4], [1e5], [1e6]])
    log_mean = np.log(np.maximum(x, 1)) + (offset / np.sqrt(np.maximum(x, 1)) if "Poisson" in str(make) else offset)
    parameters = np.stack([log_mean, np.full_like(x, -2)][: likelihood.num_parameters], -1).reshape(1, 5, -1)
    expected = logpmf(np.float64(x), *elements(likelihood, parameters.astype("float32"), (1,)))[..., 0]
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), expected, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("x", [-1, 0.5, 1e-3])
def test_what_is_no_count_is_refused(case, x):
    message = f"whole numbers of at least 0, under the {case[0].__name__} likelihood: pass the counts as they were .*"
    with pytest.raises(ValueError, match=message + r"Received: x with the value \S+ at index \[1, 0\]$"):
        case[0]().check(np.float32([[0], [x]]))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "bool"])
def test_counts_of_any_dtype_pass(case, dtype):
    case[0]().check(np.array([[0, 1], [1, 7]]).astype(dtype))


# Codes


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
def test_categorical_is_a_softmax_over_classes(event_shape):
    likelihood = built(lk.Categorical(4), event_shape)
    assert likelihood.parameter_shape(event_shape) == (*event_shape[:-1], 4 * event_shape[-1])
    logits = parameters_of(likelihood, event_shape, (4, 5))
    x = np.random.default_rng(1).integers(0, 4, size=(5, *event_shape))
    log_probs = special.log_softmax(np.float64(logits).reshape(4, 5, *event_shape, 4), axis=-1)
    chosen = np.take_along_axis(log_probs, np.broadcast_to(x[None, ..., None], (4, *x.shape, 1)), axis=-1)
    np.testing.assert_allclose(likelihood.log_prob(x, logits), chosen.reshape(4, 5, -1).sum(-1), rtol=1e-5)
    mean = likelihood.mean(logits)
    assert mean.shape == (4, 5, *likelihood.mean_shape(event_shape))
    np.testing.assert_allclose(mean, np.exp(log_probs), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(likelihood.to_data(mean.numpy()), log_probs.argmax(-1))
    samples = likelihood.distribution(logits[0]).sample(5000, seed=[1, 2]).numpy()
    shares = (samples[..., None] == np.arange(4)).mean(0)
    assert np.all(np.abs(shares - mean[0]) < 5 * np.sqrt(0.25 / 5000))


def test_a_value_that_is_no_code_has_probability_0():
    likelihood = built(lk.Categorical(3), (1,))
    log_prob = likelihood.log_prob(np.float32([[-1], [3], [0.5]]), np.zeros((1, 3, 3), np.float32))
    np.testing.assert_array_equal(log_prob, [[-np.inf] * 3])


@pytest.mark.parametrize("x", [-1, 3, 0.5, np.nan])
def test_categorical_refuses_what_is_no_code(x):
    message = "`x` must hold the codes 0 to 2 under the Categorical likelihood with num_classes=3. Received: "
    with pytest.raises(ValueError, match=re.escape(message)):
        lk.Categorical(3).check(np.float32([[0, 1], [2, x]]))
    lk.Categorical(3).check(np.array([[0, 2]], np.uint8))


@pytest.mark.parametrize("num_classes", [1, 0, 2.0, True, None])
def test_categorical_has_two_classes_or_more(num_classes):
    with pytest.raises(ValueError, match=f"Received: num_classes={num_classes!r}$"):
        lk.Categorical(num_classes)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_for_large_counts_and_rates(name):
    likelihood = built(CASES[name][0](), (1,))
    parameters = tf.Variable(np.full((1, 4, likelihood.num_parameters), 8.0, np.float32))
    with tf.GradientTape() as tape:
        log_prob = likelihood.log_prob(np.float32([[0], [1], [3000], [1e6]]), parameters)
    gradients = tape.gradient(log_prob, [parameters, *likelihood.trainable_variables])
    assert all(np.isfinite(gradient).all() for gradient in gradients)
