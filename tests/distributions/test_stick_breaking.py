"""The bijector to a simplex."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.distributions.stick_breaking import StickBreaking

tfb, tfd = tfp.bijectors, tfp.distributions


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 4), (2, 3, 6)])
def test_it_is_the_map_of_tfp(shape):
    x = np.random.default_rng(0).normal(size=shape)
    ours, theirs = StickBreaking(), tfb.IteratedSigmoidCentered()
    y = theirs.forward(x)
    np.testing.assert_allclose(ours.forward(x), y, rtol=1e-12)
    np.testing.assert_allclose(ours.inverse(y), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.forward_log_det_jacobian(x), theirs.forward_log_det_jacobian(x), rtol=1e-10)
    np.testing.assert_allclose(ours.inverse_log_det_jacobian(y), theirs.inverse_log_det_jacobian(y), rtol=1e-10)


def test_small_proportions_are_kept_in_float32():
    x = tf.constant([[20.0, -3.0, 30.0], [-60.0, 40.0, 2.0]])
    y = StickBreaking().forward(x)
    assert (y.numpy() > 0).all()
    np.testing.assert_allclose(StickBreaking().inverse(y), x, rtol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(y, axis=-1), 1.0, rtol=1e-6)


def test_what_is_no_simplex_has_no_inverse():
    y = np.float32([[0.2, 0.3, 0.5], [0.2, 0.3, 0.6], [-0.1, 0.6, 0.5]])
    is_number = np.isfinite(StickBreaking().inverse(y)).all(axis=1)
    assert is_number.tolist() == [True, False, False]


@pytest.mark.parametrize("x", [[100.0, 0.0], [-100.0, -100.0], [200.0, -300.0]])
def test_the_jacobian_is_finite_where_proportions_round_to_0(x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = StickBreaking().forward_log_det_jacobian(x)
    # Its terms are log y_k, which TFP computes in float64 to about 700.
    log_z = -np.logaddexp(0, -(x.numpy().astype(float) - np.log([2.0, 1.0])))
    log_rest = -np.logaddexp(0, x.numpy().astype(float) - np.log([2.0, 1.0]))
    expected = log_z[0] + (log_rest[0] + log_z[1]) + log_rest.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # d/dx of log z_k is 1 - z_k, and of log (1 - z_k) it is -z_k.
    z = np.exp(log_z)
    np.testing.assert_allclose(tape.gradient(found, x), [1 - 3 * z[0], 1 - 2 * z[1]], atol=1e-6)
