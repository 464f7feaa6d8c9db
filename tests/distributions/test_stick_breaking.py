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
