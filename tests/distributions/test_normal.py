"""Draws from the normal distribution: TFP's own without XLA, and others of the same quality with XLA."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.distributions.normal import Normal

tfd = tfp.distributions


def draw(distribution, n, seed, jit_compile):
    return tf.function(lambda: distribution.sample(n, seed=seed), jit_compile=jit_compile)().numpy()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_draws_have_the_distribution(jit_compile):
    loc, scale = np.array([-1.0, 0.0, 3.0], np.float32), np.array([0.1, 1.0, 2.0], np.float32)
    draws = draw(Normal(loc, scale), 100_000, [1, 2], jit_compile)
    assert draws.shape == (100_000, 3)
    for index in range(3):
        assert scipy.stats.kstest((draws[:, index] - loc[index]) / scale[index], "norm").pvalue > 0.01
    correlations = np.corrcoef(np.concatenate([draws[1:], draws[:-1]], axis=1).T) - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(100_000)


def test_tails_of_xla_are_finite_and_right_to_one_in_a_million():
    draws = draw(Normal(0.0, 1.0), 20_000_000, [3, 4], True)
    assert np.isfinite(draws).all()
    for quantile in (1e-5, 1e-6):
        # The number of draws beyond the quantile is within 4 standard deviations of the expected one.
        expected = 20_000_000 * quantile
        for beyond in (draws < scipy.stats.norm.ppf(quantile), draws > scipy.stats.norm.isf(quantile)):
            assert abs(beyond.sum() - expected) < 4 * np.sqrt(expected)


def test_a_seed_says_what_is_drawn():
    normal = Normal(0.0, 1.0)
    first = draw(normal, 100, [1, 2], True)
    np.testing.assert_array_equal(first, draw(normal, 100, [1, 2], True))
    assert not np.isin(first, draw(normal, 100, [1, 3], True)).any()
    assert not np.isin(first, draw(normal, 100, [2, 2], True)).any()


def test_without_xla_the_draws_are_those_of_tfp():
    for jit_compile in (False, None):
        np.testing.assert_array_equal(
            draw(Normal(1.0, 2.0), 100, [1, 2], jit_compile), draw(tfd.Normal(1.0, 2.0), 100, [1, 2], jit_compile)
        )
    np.testing.assert_array_equal(Normal(1.0, 2.0).sample(9, [1, 2]), tfd.Normal(1.0, 2.0).sample(9, [1, 2]))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_draws_are_reparameterised(jit_compile):
    def gradients(loc, scale):
        with tf.GradientTape() as tape:
            tape.watch([loc, scale])
            z = Normal(loc, scale).sample(5, seed=[1, 2])
        return z, *tape.gradient(z, [loc, scale])

    z, of_loc, of_scale = tf.function(gradients, jit_compile=jit_compile)(tf.constant(3.0), tf.constant(2.0))
    assert float(of_loc) == 5
    np.testing.assert_allclose(of_scale, tf.reduce_sum((z - 3) / 2), rtol=1e-6)


def test_it_has_what_tfps_has():
    ours, theirs = (tfd.Independent(kind([1.0, 2.0], [0.5, 3.0]), 1) for kind in (Normal, tfd.Normal))
    assert ours.log_prob([0.0, 1.0]) == theirs.log_prob([0.0, 1.0])
    prior = tfd.Independent(tfd.Normal([0.0, 0.0], 1.0), 1)
    assert ours.kl_divergence(prior) == theirs.kl_divergence(prior)
    assert draw(Normal(np.float64(0), np.float64(1)), 3, [1, 2], True).dtype == np.float64
