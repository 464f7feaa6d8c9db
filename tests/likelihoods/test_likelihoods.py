"""Likelihoods: densities against SciPy and quadrature, and the data that each rejects."""

import math
import re
import warnings

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import likelihoods

EVENT_SHAPES = [(3,), (2, 3, 1)]
LOGITS = [0.0, 1e-6, 1e-4, -0.0039, 0.0041, 0.02, -0.5, 1.0, -3.0, 7.0, 20.0, -20.0]


def built(likelihood, event_shape=(1,), learned_scale=None):
    likelihood.build((None, *event_shape))
    if learned_scale is not None:
        likelihood.trainable_variables[0].assign(math.log(learned_scale))
    return likelihood


def parameters_and_x(event_shape, draw_x):
    """Parameters [S, B, ...] and data [B, ...] with S = 4, B = 5."""
    generator = np.random.default_rng(0)
    parameters = 3 * generator.normal(size=(4, 5, *event_shape)).astype("float32")
    return parameters, draw_x(generator, (5, *event_shape))


def normals(generator, shape):
    return generator.normal(size=shape).astype("float32")


def bits(generator, shape):
    return (generator.uniform(size=shape) < 0.5).astype("float32")


def uniforms(generator, shape):
    return generator.uniform(size=shape).astype("float32")


def continuous_bernoulli_logpdf(x, logits):
    """logits * x - log of the integral of exp(logits * t) over t in [0, 1]; for logits away from 0."""
    positive = np.maximum(logits, 0) + np.log(-np.expm1(-np.abs(logits)) / np.abs(logits))
    return logits * x - positive


# For each: a constructor from the event's shape, how to draw x, and SciPy's log density and the mean of an element.
CASES = {
    "Normal": (
        lambda event_shape: built(likelihoods.Normal(), event_shape),
        normals,
        stats.norm.logpdf,
        lambda f: f,
    ),
    "Normal(0.3)": (
        lambda event_shape: built(likelihoods.Normal(scale=0.3), event_shape),
        normals,
        lambda x, f: stats.norm.logpdf(x, f, 0.3),
        lambda f: f,
    ),
    "Normal(learned)": (
        lambda event_shape: built(likelihoods.Normal(scale="learned"), event_shape, learned_scale=1.7),
        normals,
        lambda x, f: stats.norm.logpdf(x, f, 1.7),
        lambda f: f,
    ),
    "Bernoulli": (
        lambda event_shape: built(likelihoods.Bernoulli(), event_shape),
        bits,
        lambda x, f: stats.bernoulli.logpmf(x, special.expit(f)),
        special.expit,
    ),
    "ContinuousBernoulli": (
        lambda event_shape: built(likelihoods.ContinuousBernoulli(), event_shape),
        uniforms,
        continuous_bernoulli_logpdf,
        lambda f: -1 / np.expm1(-f) - 1 / f,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
def test_log_prob_is_the_sum_of_scipys_over_the_event(case, event_shape):
    make, draw_x, logpdf, _ = case
    parameters, x = parameters_and_x(event_shape, draw_x)
    log_prob = make(event_shape).log_prob(x, parameters)
    assert log_prob.shape == (4, 5)
    expected = logpdf(np.float64(x), np.float64(parameters)).reshape(4, 5, -1).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
@pytest.mark.parametrize("leading", [(5,), (4, 5)])
def test_mean_has_the_leading_dimensions_and_the_event(case, event_shape, leading):
    make, _, _, mean = case
    parameters = 3 * np.random.default_rng(0).normal(size=(*leading, *event_shape)).astype("float32")
    result = make(event_shape).mean(parameters)
    assert result.shape == (*leading, *event_shape)
    np.testing.assert_allclose(result, mean(np.float64(parameters)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_log_prob_and_mean_are_float32_for_half_precision_parameters(case, dtype):
    make, draw_x, _, _ = case
    parameters, x = parameters_and_x((3,), draw_x)
    half = tf.cast(parameters, dtype)
    likelihood = make((3,))
    assert likelihood.mean(half).dtype == tf.float32
    log_prob = likelihood.log_prob(x, half)
    assert log_prob.dtype == tf.float32
    np.testing.assert_array_equal(log_prob, likelihood.log_prob(x, tf.cast(half, tf.float32)))


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64", "float16"])
def test_log_prob_does_not_depend_on_the_dtype_of_x(case, dtype):
    parameters, x = parameters_and_x((3,), bits)
    likelihood = case[0]((3,))
    expected = likelihood.log_prob(x, parameters)
    np.testing.assert_array_equal(likelihood.log_prob(x.astype(dtype), parameters), expected)
    np.testing.assert_array_equal(likelihood.log_prob(tf.cast(x, dtype), parameters), expected)


def test_samples_have_the_shape_and_the_mean_of_the_distribution(case):
    likelihood = case[0]((2,))
    parameters = tf.constant([[0.5, -1.0], [2.0, 0.1], [0.0, 0.0]])
    samples = likelihood.distribution(parameters).sample(20000, seed=[1, 2]).numpy()
    assert samples.shape == (20000, 3, 2)
    standard_error = samples.std(0) / np.sqrt(20000)
    assert np.all(np.abs(samples.mean(0) - likelihood.mean(parameters)) < 5 * standard_error)


@pytest.mark.parametrize("name", ["Bernoulli", "ContinuousBernoulli"])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_gradient_for_the_logits_is_x_minus_the_mean(name, x):
    # This holds for every exponential family in its natural parameter, and also where TFP switches between formulas.
    likelihood = CASES[name][0]((1,))
    logits = tf.constant(LOGITS)[:, None, None]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        log_prob = likelihood.log_prob([[x]], logits)
    np.testing.assert_allclose(tape.gradient(log_prob, logits), x - likelihood.mean(logits), rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("name", ["Bernoulli", "ContinuousBernoulli"])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_keep_density_and_gradient_finite(name, logit):
    likelihood = CASES[name][0]((2,))
    logits = tf.fill([1, 1, 2], logit)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        log_prob = likelihood.log_prob([[0.0, 1.0]], logits)
    # One of the two elements is as likely as possible; the other costs the whole logit.
    assert float(log_prob[0, 0]) == pytest.approx(-1e4 + (0 if name == "Bernoulli" else 2 * np.log(1e4)), rel=1e-5)
    assert np.all(np.isfinite(tape.gradient(log_prob, logits)))


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_against_quadrature(logit):
    nodes, weights = np.polynomial.legendre.leggauss(100)
    nodes, weights = (nodes + 1) / 2, weights / 2
    likelihood = built(likelihoods.ContinuousBernoulli())
    density = np.exp(np.float64(likelihood.log_prob(nodes[:, None], np.full((1, 100, 1), logit, np.float32))))[0]
    assert density @ weights == pytest.approx(1, abs=1e-5)
    mean = likelihood.mean(np.full((1, 1), logit, np.float32))
    assert float(mean[0, 0]) == pytest.approx((density * nodes) @ weights, abs=1e-5)
    unnormalised = np.exp(logit * (nodes - 1))
    np.testing.assert_allclose(density, unnormalised / (unnormalised @ weights), rtol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.3, 2, "learned"])
def test_scale_of_the_normal(scale):
    likelihood = built(likelihoods.Normal(scale=scale))
    assert float(likelihood.scale) == pytest.approx(1.0 if scale == "learned" else scale)
    assert len(likelihood.trainable_variables) == (scale == "learned")


def test_gradient_for_a_learned_scale():
    parameters, x = parameters_and_x((2, 3, 1), normals)
    likelihood = built(likelihoods.Normal(scale="learned"), (2, 3, 1), learned_scale=0.7)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(likelihood.log_prob(x, parameters))
    (gradient,) = tape.gradient(total, likelihood.trainable_variables)
    # d/d log(scale) of log N(x | f, scale^2) = ((x - f) / scale)^2 - 1
    expected = np.sum(((np.float64(x) - parameters) / 0.7) ** 2 - 1)
    assert float(gradient) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0, 0.0, -1, float("nan"), float("inf"), "x", True, None])
def test_scale_must_be_a_finite_number_above_0_or_a_name(scale):
    names = '"learned", "per_channel", "per_dimension", "predicted", "optimal"'
    message = f"`scale` must be a finite number above 0, or one of {names}. Received: scale={scale!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        likelihoods.Normal(scale=scale)


def test_scale_may_be_a_numpy_number_and_becomes_pythons():
    # x.std() of a float32 array is a numpy.float32.
    likelihood = likelihoods.Normal(scale=np.float32(0.5))
    assert type(likelihood.get_config()["scale"]) is float


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_normal_refuses_integers(dtype):
    with pytest.raises(ValueError, match=rf"scale integer data first, .* Received: x of dtype {dtype}$"):
        likelihoods.Normal().check(np.ones((2, 3), dtype))


def test_normal_warns_of_whole_numbers_as_floats():
    with pytest.warns(UserWarning, match=r"All values of `x` are whole numbers.*Received: x with a maximum of 255$"):
        likelihoods.Normal().check(np.float32([[0, 255], [3, 7]]))


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        (likelihoods.Normal(), np.float32([[0, 1], [1, 0]])),
        (likelihoods.Normal(), np.float32([[0, 255], [3, 7.5]])),
        (likelihoods.Normal(), np.float64([[-2.5, 1e6]])),
        (likelihoods.Bernoulli(), np.float32([[0, 1], [1, 0]])),
        (likelihoods.Bernoulli(), np.array([[0, 1]], np.uint8)),
        (likelihoods.Bernoulli(), np.array([[False, True]])),
        (likelihoods.ContinuousBernoulli(), np.float32([[0, 0.25, 1]])),
        (likelihoods.ContinuousBernoulli(), np.array([[0, 1]], np.uint8)),
        (likelihoods.ContinuousBernoulli(), np.array([[False, True]])),
    ],
)
def test_data_that_fit_pass_the_check_in_silence(likelihood, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood.check(x)


def assert_shows_value(error, value):
    """The message ends with the value in short form, but with enough digits to identify the float32 number."""
    shown = re.search(r"Received: x with the value (\S+) at index \[.*\]$", str(error.value)).group(1)
    assert np.float32(shown) == np.float32(value)
    assert len(shown) < 12


# Resizing an image can give values such as 1.0000001, a float32 just above 1.
@pytest.mark.parametrize("value", [0.5, 0.1, 2.0, 1.0000001, -1.0])
def test_bernoulli_refuses_what_is_neither_0_nor_1_and_shows_it(value):
    with pytest.raises(ValueError, match=r"binarise it, .* ContinuousBernoulli ") as error:
        likelihoods.Bernoulli().check(np.float32([[0, 1, value]]))
    assert_shows_value(error, value)


@pytest.mark.parametrize(("value", "dtype"), [(-0.1, "float32"), (1.0000001, "float32"), (255, "uint8")])
def test_continuous_bernoulli_refuses_what_is_outside_0_and_1_and_shows_it(value, dtype):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] ") as error:
        likelihoods.ContinuousBernoulli().check(np.array([[0, 1, value]], dtype))
    assert_shows_value(error, value)


def test_the_parameters_have_the_shape_of_the_event_by_default():
    assert likelihoods.Bernoulli().parameter_shape((2, 3, 1)) == (2, 3, 1)


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        likelihoods.Likelihood()


def test_bernoulli_by_xla():
    generator = np.random.default_rng(0)
    for event_shape in EVENT_SHAPES:
        logits, x = (
            (20 * generator.normal(size=(4, 5, *event_shape))).astype("float32"),
            bits(generator, (5, *event_shape)),
        )
        likelihood = built(likelihoods.Bernoulli(), event_shape)
        found = tf.function(likelihood.log_prob, jit_compile=True)(x, logits)
        elements = special.log_expit((2 * x - 1) * logits.astype(float))
        expected = elements.sum(axis=tuple(range(2, elements.ndim)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_subclass_of_bernoulli_has_its_own_density_by_xla():
    class Half(likelihoods.Bernoulli):
        def element_log_prob(self, x, parameters):
            return super().element_log_prob(x, parameters) / 2

    x, logits = np.ones((1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    found = tf.function(built(Half(), (3,)).log_prob, jit_compile=True)(x, logits)
    np.testing.assert_allclose(found, [[-1.5 * np.log(2)]], rtol=1e-6)
