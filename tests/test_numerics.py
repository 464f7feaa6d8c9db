"""Functions in forms that every runtime evaluates right, against SciPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tfvae import numerics

# From 1e-6 to 1e6, and dense where a series is used.
X = np.float32(np.concatenate([np.geomspace(1e-6, 1e6, 400), np.linspace(0.01, 5, 400)]))

FUNCTIONS = {
    "softplus": (numerics.softplus, lambda x: np.logaddexp(0, x)),
    "scale_of": (numerics.scale_of, lambda x: np.logaddexp(0, x)),
    "log1p": (numerics.log1p, np.log1p),
    "log1mexp": (numerics.log1mexp, lambda x: np.log(-np.expm1(-x))),
    "log_gamma": (numerics.log_gamma, special.gammaln),
}
DERIVATIVES = {
    "softplus": special.expit,
    "scale_of": special.expit,
    "log1p": lambda x: 1 / (1 + x),
    "log1mexp": lambda x: np.exp(-x) / -np.expm1(-x),
    "log_gamma": special.digamma,
}


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
    # The difference of two functions in float32 has lost them.
    lost = np.float64(tf.math.lgamma(start + x) - tf.math.lgamma(start))
    assert np.max(np.abs(lost - exact) / (1 + np.abs(exact))) > 1e-3
