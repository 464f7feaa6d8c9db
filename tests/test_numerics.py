"""Functions for every runtime, against SciPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfvae import numerics


def test_the_log_survival_function_of_the_normal_is_scipys():
    x = np.concatenate([np.linspace(-9, 9, 2001), np.linspace(-100, 100, 401), [0.0, -1e-6, 1e-6]]).astype("float32")
    received = numerics.normal_log_survival(tf.constant(x)).numpy().astype(np.float64)
    expected = stats.norm.logsf(x.astype(np.float64))
    # Of the relative error of the probability itself, 1.2e-7, and of float32.
    assert np.abs(received - expected)[np.abs(x) < 2].max() < 8e-7
    np.testing.assert_allclose(received[x > 0], expected[x > 0], rtol=1e-6)
    # Where the probability is all but 1, its logarithm is minus the other tail, whose own logarithm has seven digits.
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
