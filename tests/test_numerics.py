"""Functions in forms that every runtime evaluates accurately, against SciPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats
from tensorflow.lite.python import schema_py_generated as schema

from tfvae import numerics

# From 1e-6 to 1e6, and denser where a series is used.
X = np.float32(np.concatenate([np.geomspace(1e-6, 1e6, 400), np.linspace(0.01, 5, 400)]))

FUNCTIONS = {
    "softplus": (numerics.softplus, lambda x: np.logaddexp(0, x)),
    "scale_of": (numerics.scale_of, lambda x: np.logaddexp(0, x)),
    "log1p": (numerics.log1p, np.log1p),
    "log1mexp": (numerics.log1mexp, lambda x: np.log(-np.expm1(-x))),
}
DERIVATIVES = {
    "softplus": special.expit,
    "scale_of": special.expit,
    "log1p": lambda x: 1 / (1 + x),
    "log1mexp": lambda x: np.exp(-x) / -np.expm1(-x),
}


def test_what_is_far_out_is_compressed():
    x = tf.constant([-1e4, -3.0, -0.7, 0.0, 2.9, 3.0, 5.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = numerics.compressed(x)
    np.testing.assert_allclose(y, [-3 - np.log1p(1e4 - 3), -3.0, -0.7, 0.0, 2.9, 3.0, 3 + np.log1p(2.0)], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(y, x), [1 / (1e4 - 2), 1, 1, 1, 1, 1, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_are_those_of_scipy(name, jit_compile):
    function, expected = FUNCTIONS[name]

    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    value, derivative = both(tf.constant(X))
    exact, slope = expected(np.float64(X)), DERIVATIVES[name](np.float64(X))
    np.testing.assert_array_less(np.abs(value - exact), 1e-6 * (1 + np.abs(exact)))
    np.testing.assert_array_less(np.abs(derivative - slope), 2e-6 * (1 + np.abs(slope)))


def test_a_log_sum_of_exponentials_is_that_of_scipy_with_infinity_and_nan_too():
    x = np.float32([[1, 2, -3], [300, -300, 299], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, 0, 1]])
    expected = special.logsumexp(np.float64(x), axis=-1)
    np.testing.assert_allclose(numerics.logsumexp(tf.constant(x)), expected, rtol=1e-6)
    np.testing.assert_allclose(numerics.log_softmax(tf.constant(x[:2])), special.log_softmax(x[:2], -1), rtol=1e-6)


def test_the_cosine_of_turns_is_that_of_numpy():
    turns = np.linspace(0, 1, 1001, dtype=np.float32)
    np.testing.assert_allclose(numerics.cos_of_turns(turns), np.cos(2 * np.pi * np.float64(turns)), atol=3e-7)


@pytest.mark.parametrize("function", [numerics.log_softmax, numerics.logsumexp, numerics.is_number])
def test_no_op_is_one_that_gpus_refuse(function):
    graph = tf.function(function).get_concrete_function(tf.TensorSpec([2, 3])).graph
    for op in graph.get_operations():
        assert op.type not in {"LogSoftmax", "IsFinite", "IsNan"}
        assert len({tensor.ref() for tensor in op.inputs}) == len(op.inputs)


def test_the_converter_to_tflite_does_not_make_a_log_softmax_the_op_that_gpus_lack():
    function = tf.function(numerics.log_softmax).get_concrete_function(tf.TensorSpec([2, 3]))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    codes = schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes
    assert schema.BuiltinOperator.LOG_SOFTMAX not in {code.builtinCode for code in codes}


def test_nan_alone_is_no_number():
    x = tf.constant([np.nan, np.inf, -np.inf, 0, -1])
    assert numerics.is_number(x).numpy().tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("name", ["softplus", "scale_of", "log1p"])
def test_values_below_0_are_those_of_numpy(name):
    function, expected = FUNCTIONS[name]
    x = np.float32(np.linspace(-0.99, 0, 200) if name == "log1p" else np.linspace(-80, 0, 200))
    np.testing.assert_allclose(function(tf.constant(x)), expected(np.float64(x)), rtol=2e-6, atol=1e-37)


def test_the_logarithm_of_a_rising_factorial_keeps_its_digits_where_it_starts_high():
    x, start = np.float32([0, 1, 2, 5, 30, 1000, 1e5])[:, None], np.float32(np.geomspace(1e-4, 1e6, 11))
    value = np.float64(numerics.log_rising(tf.constant(x), tf.constant(start)))
    exact = special.gammaln(np.float64(start) + x) - special.gammaln(np.float64(start))
    np.testing.assert_array_less(np.abs(value - exact), 2e-6 * (1 + np.abs(exact)))
    np.testing.assert_array_equal(value[0], 0)
    # Computed as the difference of two lgammas in float32, the digits are lost.
    lost = np.float64(tf.math.lgamma(start + x) - tf.math.lgamma(start))
    assert np.max(np.abs(lost - exact) / (1 + np.abs(exact))) > 1e-3


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_logarithm_of_a_binomial_coefficient_keeps_its_digits(jit_compile):
    x, start = np.float32([0, 1, 2, 5, 30, 1000, 1e5, 1e6])[:, None], np.float32(np.geomspace(1e-4, 1e6, 11))
    value, slope = tfp.math.value_and_gradient(
        tf.function(lambda start: numerics.log_binomial(tf.constant(x), start), jit_compile=jit_compile),
        tf.constant(start + np.zeros_like(x)),
    )
    exact = -special.betaln(np.float64(start), x + 1) - np.log(np.float64(start) + x)
    # The error is relative to the largest term, about (start + x) log(1 + x / start), not to log Gamma(start + x).
    np.testing.assert_array_less(np.abs(value - exact), 2e-5 + 1e-6 * np.abs(exact))
    exact = special.digamma(np.float64(start) + x) - special.digamma(np.float64(start))
    np.testing.assert_array_less(np.abs(slope - exact), 2e-6 * (1 + np.abs(exact)))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_log_probability_of_a_poisson_variable_keeps_its_digits(jit_compile):
    x = np.float32([0, 1, 2, 5, 30, 1000, 1e5, 1e6])[:, None]
    log_rate = np.float32(np.concatenate([np.linspace(-20, 16, 50), np.log(np.maximum(x[:, 0], 1))])) + np.zeros_like(x)
    value, slope = tfp.math.value_and_gradient(
        tf.function(lambda log_rate: numerics.log_poisson(tf.constant(x), log_rate), jit_compile=jit_compile),
        tf.constant(log_rate),
    )
    rate = np.exp(np.float64(log_rate))
    exact = stats.poisson.logpmf(x, rate)
    # log_rate is rounded before it is given, and log_rate - log(x + 4) is rounded once more.
    np.testing.assert_array_less(np.abs(value - exact), 2e-5 + 1e-6 * (np.abs(exact) + np.abs(x - rate)))
    np.testing.assert_array_less(np.abs(slope - (x - rate)), 1e-5 + 2e-6 * (x + rate))


def test_the_log_survival_function_of_the_normal_is_scipys():
    x = np.concatenate([np.linspace(-9, 9, 2001), np.linspace(-100, 100, 401), [0.0, -1e-6, 1e-6]]).astype("float32")
    received = numerics.normal_log_survival(tf.constant(x)).numpy().astype(np.float64)
    expected = stats.norm.logsf(x.astype(np.float64))
    # From the relative error of the probability itself, 1.2e-7, and from rounding to float32.
    assert np.abs(received - expected)[np.abs(x) < 2].max() < 8e-7
    np.testing.assert_allclose(received[x > 0], expected[x > 0], rtol=1e-6)
    # Where the probability is almost 1, its logarithm is minus the probability of the other tail, which is the
    # exponential of a logarithm with seven digits.
    np.testing.assert_allclose(received[x < 0], expected[x < 0], rtol=1e-5, atol=1e-37)


def test_the_gradient_of_the_log_survival_function_is_finite_and_that_of_the_density():
    x = tf.constant(np.linspace(-12, 12, 401), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = numerics.normal_log_survival(x)
    expected = -np.exp(stats.norm.logpdf(x) - stats.norm.logsf(x))
    np.testing.assert_allclose(tape.gradient(y, x), expected, rtol=2e-5, atol=1e-37)


def test_gumbel_noise_is_the_quantile_of_its_distribution():
    epsilon = np.linspace(-5, 5, 201).astype("float32")
    expected = stats.gumbel_r.ppf(stats.norm.cdf(epsilon.astype(np.float64)))
    np.testing.assert_allclose(numerics.noise_to_gumbel(tf.constant(epsilon)), expected, rtol=2e-6, atol=2e-6)


def test_positive_is_softplus_with_a_floor_and_1_at_0():
    raw = np.linspace(-200, 200, 401).astype("float32")
    expected = np.logaddexp(0, raw + np.log(np.e - 1))
    scale = numerics.positive(tf.constant(raw)).numpy()
    np.testing.assert_allclose(scale, expected, rtol=1e-5, atol=1.1e-6)
    assert scale.min() > 0
    assert float(numerics.positive(tf.constant(0.0))) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("size", [1e-14, 1.0, 1e15])
def test_unit_vectors_have_length_1_and_that_of_0_is_the_first_axis(size):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32") * np.float32(size)
    received = numerics.unit(tf.constant(x)).numpy()
    double = x.astype(np.float64)
    np.testing.assert_allclose(received, double / np.linalg.norm(double, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    zero = tf.zeros([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(zero)
        axis = numerics.unit(zero)
    np.testing.assert_array_equal(axis, [[1, 0, 0]] * 2)
    assert np.all(np.isfinite(tape.gradient(axis, zero)))


def test_the_quantiles_of_the_normal_against_scipy():
    p = np.concatenate([np.logspace(-7, -3, 200), np.linspace(1e-3, 1 - 1e-7, 2001)]).astype("float32")
    quantiles = numerics.normal_quantile(tf.constant(p))
    np.testing.assert_allclose(quantiles, stats.norm.ppf(np.float64(p)), rtol=1e-5, atol=1e-6)


def test_normal_mass_has_all_digits_of_short_intervals_and_in_the_tails():
    generator = np.random.default_rng(0)
    low = np.float32(2 * generator.normal(size=5000))
    high = low + np.float32(np.exp(generator.uniform(-9, 1.5, 5000)))
    ends = np.float64(low), np.float64(high)
    sf, cdf = ([function(end) for end in ends] for function in (stats.norm.sf, stats.norm.cdf))
    expected = np.where(low > 0, sf[0] - sf[1], cdf[1] - cdf[0])
    seen = expected > 1e-12
    mass = numerics.normal_mass(tf.constant(low), tf.constant(high)).numpy()
    np.testing.assert_allclose(mass[seen], expected[seen], rtol=2e-5)


@pytest.mark.parametrize("size", [1, 7, 784, 797])
def test_sum_softplus_minus_relu_by_xla(size):
    x = np.random.default_rng(size).normal(0, 20, (3, size)).astype(np.float32)
    x[0], x[1] = 0, np.linspace(-100, 100, size)

    @tf.function(jit_compile=True)
    def function(x):
        assert numerics.is_by_xla()
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = numerics.sum_softplus_minus_relu(x)
            softplus = value + tf.reduce_sum(tf.nn.relu(x), axis=-1)
        return value, tape.gradient(softplus, x)

    value, gradient = function(tf.constant(x))
    assert not numerics.is_by_xla()
    # A term far below 1 has the absolute rounding error of 1 + exp(-|x|).
    np.testing.assert_allclose(value, np.logaddexp(0, -abs(x.astype(float))).sum(-1), rtol=1e-6, atol=size * 6e-8)
    np.testing.assert_allclose(gradient, special.expit(x.astype(float)), rtol=1e-5, atol=1e-7)


def test_numbers_are_told_from_nan_in_a_compiled_graph_too():
    x = np.float32([np.nan, 1.0, -2.0, 0.0, -0.0, np.inf, -np.inf])
    for function in (numerics.is_number, tf.function(numerics.is_number, jit_compile=True)):
        np.testing.assert_array_equal(function(tf.constant(x)), ~np.isnan(x))
