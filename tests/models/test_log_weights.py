"""Importance weights computed with XLA: estimates of the closed form, by draws that depend on the seed alone."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.linear_gaussian import Oracle, linear_vae, set_optimum, small_data
from tfvae import VAE, likelihoods, networks, numerics
from tfvae.evaluation import importance_sampling
from tfvae.models import log_weights

CALLS = []


class Watched(likelihoods.Bernoulli):
    """A likelihood that records whether each trace is for XLA."""

    def log_prob(self, x, parameters, training=False):
        CALLS.append(numerics.is_by_xla())
        return super().log_prob(x, parameters, training)


@pytest.fixture
def always(monkeypatch):
    """Uses XLA for models of any size, in rounds of three draws of five examples, with two rounds to a chunk."""
    monkeypatch.setattr(log_weights, "_OPERATIONS_BY_XLA", 0.0)
    monkeypatch.setattr(log_weights, "_ROUND_ROWS", 15)
    monkeypatch.setattr(log_weights, "_ROUNDS", 2)


@pytest.fixture
def bits():
    return np.random.default_rng(0).integers(0, 2, (12, 7)).astype(np.float32)


def binary_vae(likelihood=None):
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.dense_encoder((7,), hidden=(6,)), networks.dense_decoder(2, (7,), hidden=(6,))
    return VAE(encoder, decoder, 2, likelihood=likelihood or likelihoods.Bernoulli())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("num_samples", [*(pytest.param(few, marks=pytest.mark.slow) for few in (1, 3)), 10])
def test_under_the_true_posterior_every_weight_is_p_of_x(num_samples):
    vae, x = linear_vae(5, 2), small_data(13)
    set_optimum(vae, x)
    expected = Oracle.of(vae).log_prob(x)
    np.testing.assert_allclose(vae.log_likelihood(x, num_samples, batch_size=5), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_off_it_the_estimate_is_within_its_monte_carlo_error():
    vae, x = linear_vae(5, 2), small_data()
    set_optimum(vae, x, loc_shift=0.02, scale_factor=1.2)
    result = importance_sampling(vae, x, 1000, batch_size=5, seed=1)
    scores = (result.log_likelihood - Oracle.of(vae).log_prob(x)) / result.standard_error
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) < 5 / np.sqrt(len(scores))


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_the_draws_follow_from_the_seed_whatever_else_there_is_to_estimate(bits):
    vae = binary_vae()
    first = vae.log_likelihood(bits, 7, batch_size=5, seed=1)
    np.testing.assert_array_equal(vae.log_likelihood(bits, 7, batch_size=5, seed=1), first)
    np.testing.assert_array_equal(vae.log_likelihood(bits[:10], 7, batch_size=5, seed=1), first[:10])
    assert (vae.log_likelihood(bits, 7, batch_size=5, seed=2) != first).all()
    # Many draws all differ, except for a few weights that are rounded to the same number.
    vae, same = binary_vae(), np.repeat(bits[:1], 5, axis=0)
    (chunks,) = vae._log_weights(same, 100, 5, 0)
    weights = np.concatenate(list(chunks))
    assert weights.shape == (100, 5)
    assert len(np.unique(weights)) >= 495


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "expected"), [("auto", True), (False, False)])
def test_xla_takes_what_compile_left_open_and_is_large(jit_compile, expected, bits, monkeypatch):
    CALLS.clear()
    vae = binary_vae(Watched())
    vae.compile(keras.optimizers.Adam(), jit_compile=jit_compile)
    vae.log_likelihood(bits, 10)
    assert set(CALLS) == {False}
    # 10 draws, with two operations for each weight of the encoder, its two heads and the decoder.
    monkeypatch.setattr(log_weights, "_OPERATIONS_BY_XLA", 10 * 2 * (7 * 6 + 2 * 6 * 2 + 2 * 6 + 6 * 7))
    CALLS.clear()
    vae.log_likelihood(bits, 10)
    assert set(CALLS) == ({True} if expected else set())
    vae.log_likelihood(bits, 9)
    assert set(CALLS) == ({True, False} if expected else {False})


class OfNumPy(likelihoods.Bernoulli):
    """A likelihood that XLA cannot compile."""

    def log_prob(self, x, parameters, training=False):
        value = super().log_prob(x, parameters, training)
        return value + tf.reshape(tf.numpy_function(np.zeros_like, [value], tf.float32), tf.shape(value))


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_what_xla_cannot_compile_runs_without(bits):
    expected = binary_vae()
    expected.compile(jit_compile=False)
    with pytest.warns(UserWarning, match="XLA cannot compile the log-likelihood, so it runs without XLA"):
        found = binary_vae(OfNumPy()).log_likelihood(bits, 7, batch_size=5, seed=1)
    np.testing.assert_allclose(found, expected.log_likelihood(bits, 7, batch_size=5, seed=1), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_no_chunk_is_empty(bits):
    # Five rounds make three chunks, of two, two and one, not four.
    (chunks,) = binary_vae()._log_weights(bits[:5], 15, 5, 0)
    assert [len(chunk) for chunk in chunks] == [6, 6, 3]


def test_no_more_chunks_than_a_few_are_computed_before_they_are_read():
    made = []
    outputs = log_weights._side_by_side(lambda number: made.append(number) or number, range(20))
    assert next(outputs) == 0
    time.sleep(0.1)
    assert sorted(made) == [0, 1, 2]
    assert list(outputs) == list(range(1, 20))
    abandoned = log_weights._side_by_side(lambda number: number, range(20))
    next(abandoned)
    threads = threading.active_count()
    abandoned.close()
    assert threading.active_count() < threads


def test_an_error_of_a_later_chunk_is_raised():
    def fail(number):
        if number == 3:
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        return number

    outputs = log_weights._side_by_side(fail, range(20))
    assert [next(outputs) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(tf.errors.ResourceExhaustedError):
        next(outputs)
