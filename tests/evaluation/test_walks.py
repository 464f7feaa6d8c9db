"""Walks through the latent space of a linear VAE are known exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers.linear_gaussian import (
    Oracle,
    correlated_vae,
    draws_of,
    linear_vae,
    set_optimum,
    set_posterior,
    small_data,
)
from tfvae.evaluation import interpolations, kl_per_dimension, traversals
from tfvae.networks import dense_decoder, dense_encoder


@pytest.fixture(scope="module")
def data():
    return small_data(200)


@pytest.fixture(scope="module")
def vae(data):
    """A linear VAE at its optimum, with a third dimension that is collapsed."""
    best, model = linear_vae(5, 2), linear_vae(5, 3)
    for each in (best, model):
        each.build((None, 5))
    set_optimum(best, data)
    oracle = Oracle.of(best)
    oracle = Oracle(np.pad(oracle.loadings, ((0, 0), (0, 1))), oracle.loc, oracle.variance)
    model.decoder.set_weights([oracle.loadings.T, oracle.loc])
    model.likelihood.set_weights([0.5 * np.log(oracle.variance)])
    set_posterior(model, oracle, np.sqrt(np.diag(oracle.posterior(data)[1])), 0.0)
    return model


def test_a_traversal_moves_along_the_loadings_and_orders_the_active_dimensions_by_their_kl(vae, data):
    found = traversals(vae, data, seed=0)
    oracle = Oracle.of(vae)
    kl = kl_per_dimension(vae, data)
    np.testing.assert_array_equal(found.dimensions, np.argsort(-kl)[:2])
    np.testing.assert_allclose(found.kl, kl[found.dimensions])
    assert found.x.shape == (2, 7, 5)
    for walk, dimension in zip(found.x, found.dimensions, strict=True):
        step = np.diff(walk, axis=0)
        # The aggregated posterior at the optimum is the prior, so that its standard deviation is 1, but for the draws.
        expected = np.tile(oracle.loadings[:, dimension], (6, 1))
        np.testing.assert_allclose(step / np.linalg.norm(step[0]), expected / np.linalg.norm(expected[0]), atol=1e-5)
        assert np.linalg.norm(step[0]) == pytest.approx(np.linalg.norm(expected[0]), rel=5 / np.sqrt(2 * 200))


def test_chosen_dimensions_and_values_are_taken_as_they_are(vae, data):
    found = traversals(vae, data, [2, 0], [0.5], seed=0)
    np.testing.assert_array_equal(found.dimensions, [2, 0])
    assert found.x.shape == (2, 1, 5)
    assert found.labels[1] == f"z[0]\n{found.kl[1]:.2f} nats"


def test_without_independent_dimensions_the_order_is_that_of_the_variance(data):
    model = tfvae.VAE(
        dense_encoder((5,), ()), dense_decoder(2, (5,), ()), 2, posterior=tfvae.posteriors.FullCovarianceNormal()
    )
    found = traversals(model, 10 * data, seed=0)
    variances = tfvae.evaluation.active_units(model, 10 * data).variances
    np.testing.assert_array_equal(found.dimensions, np.argsort(-variances))
    assert found.labels == [f"z[{dimension}]" for dimension in found.dimensions]


def test_an_interpolation_is_a_straight_line_between_the_reconstructions():
    vae = correlated_vae()
    x = draws_of(vae, 6)
    ways = interpolations(vae, x[:3], x[3:], steps=5)
    ends = vae.reconstruct(x)
    share = np.linspace(0, 1, 5)[:, np.newaxis]
    expected = (1 - share) * ends[:3, np.newaxis] + share * ends[3:, np.newaxis]
    np.testing.assert_allclose(ways, expected, rtol=1e-4, atol=1e-5)


def test_an_interpolation_on_a_sphere_stays_on_it_at_even_angles(data):
    # The decoder is the identity, so that what is decoded is z.
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda z: z)])
    model = tfvae.VAE(
        dense_encoder((2,), ()),
        decoder,
        2,
        posterior=tfvae.posteriors.PowerSpherical(),
        prior=tfvae.priors.HypersphericalUniform(),
    )
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], "float32")
    ways = interpolations(model, x, x[[1, 2, 0]], steps=4)
    np.testing.assert_allclose(np.linalg.norm(ways, axis=-1), 1.0, atol=1e-5)
    cosines = np.sum(ways[:, 1:] * ways[:, :-1], axis=-1)
    np.testing.assert_allclose(cosines, np.repeat(cosines[:, :1], 3, axis=1), atol=1e-5)


def test_errors(vae, data):
    collapsed = linear_vae(5, 2)
    collapsed.build((None, 5))
    for weight in collapsed.posterior.trainable_variables:
        weight.assign(tf.zeros_like(weight))
    for call, message in (
        (lambda: traversals(vae, data, [3]), r"`dimensions` must be numbers from 0 to 2"),
        (lambda: traversals(vae, data, values=[np.nan]), r"`values` must be finite"),
        (lambda: traversals(collapsed, data), r"`model` must have an active latent dimension"),
        (lambda: interpolations(vae, data[:2], data[:3]), r"`first` and `last` must have one number"),
        (lambda: interpolations(vae, data[:2], data[:2], steps=1), r"`steps` must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message + r".*Received: "):
            call()
