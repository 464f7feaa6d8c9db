"""The VQ-VAE against its equations in NumPy: codes, bound, gradients, perplexity; and data made from a codebook."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import VQVAE, networks
from tfvae.elbo import Sampling
from tfvae.likelihoods import Normal
from tfvae.objectives import ELBO, IWAE

D, PLACES, E, K, SCALE = 5, 3, 2, 7, 0.5
SEED = tf.constant([0, 1])


def data(n=12):
    return np.random.default_rng(0).normal(size=(n, D)).astype("float32")


def build(hidden=(), **arguments):
    arguments.setdefault("likelihood", Normal(SCALE))
    encoder = networks.dense_decoder(D, (PLACES, E), hidden, name="encoder")
    flat = keras.Input((PLACES, E))
    decoder = networks.dense_decoder(PLACES * E, (D,), hidden)
    decoder = keras.Model(flat, decoder(keras.layers.Flatten()(flat)))
    model = VQVAE(encoder, decoder, K, **arguments)
    # Far enough apart that rounding does not change which code is nearest.
    model.codebook.assign(np.random.default_rng(1).normal(size=(K, E)))
    return model


def in_numpy(model, x):
    """The vectors [N, PLACES, E], the codes, their codebook vectors and the means of p(x|z)."""
    vectors = model.encoder(x).numpy()
    codebook = model.codebook.numpy()
    codes = np.linalg.norm(vectors[:, :, None] - codebook, axis=-1).argmin(axis=-1)
    return vectors, codes, codebook[codes], model.decoder(codebook[codes]).numpy()


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_bound_is_that_of_the_nearest_codes_under_the_uniform_prior(num_samples):
    model, x = build(), data()
    _, codes, _, mean = in_numpy(model, x)
    np.testing.assert_array_equal(model.encode(x), codes)
    assert np.issubdtype(model.encode(x).dtype, np.integer)
    expected = stats.norm.logpdf(x, mean, SCALE).sum(axis=1) - PLACES * np.log(K)
    terms = model.elbo_terms(tf.constant(x), Sampling(num_samples=num_samples, seed=SEED))
    np.testing.assert_allclose(terms.elbo, expected, rtol=1e-5)
    np.testing.assert_allclose(IWAE(num_samples)(terms), expected, rtol=1e-5)
    np.testing.assert_allclose(terms.kl, np.full(12, PLACES * np.log(K)), rtol=1e-6)
    np.testing.assert_allclose(model.log_likelihood(x), expected, rtol=1e-5)


def test_it_is_a_bound_of_the_sum_over_all_codes():
    model, x = build(), data()
    every = np.stack(np.meshgrid(*[np.arange(K)] * PLACES), axis=-1).reshape(-1, PLACES)
    means = model.decode(every)
    log_p = special.logsumexp(stats.norm.logpdf(x[:, None], means, SCALE).sum(axis=-1), axis=1) - PLACES * np.log(K)
    bound = model.log_likelihood(x)
    assert np.all(bound < log_p)
    # And it is one term of that sum, so at most the largest.
    best = (stats.norm.logpdf(x[:, None], means, SCALE).sum(axis=-1) - PLACES * np.log(K)).max(axis=1)
    assert np.all(bound < best + 1e-4)


def test_gradients_are_those_of_equation_3():
    commitment = 0.3
    model, x = build(commitment=commitment, decay=None), data()
    vectors, codes, quantized, mean = in_numpy(model, x)
    with tf.GradientTape() as tape:
        terms = model.elbo_terms(tf.constant(x), Sampling(num_samples=1, seed=SEED, training=True))
        loss = tf.reduce_sum(-ELBO()(terms) - terms.auxiliary)
    kernel, bias = model.encoder.trainable_weights
    decoder_kernel, decoder_bias = model.decoder.trainable_weights
    gradients = tape.gradient(loss, [model.codebook, kernel, bias, decoder_kernel, decoder_bias])
    # The codebook's only gradient moves it towards the vectors.
    of_codebook = np.zeros((K, E))
    np.add.at(of_codebook, codes, 2 * (quantized - vectors))
    np.testing.assert_allclose(gradients[0], of_codebook, rtol=1e-4, atol=1e-4)
    # The vectors get the gradient at the decoder's input, straight through, and that of the commitment.
    at_mean = (mean - x) / SCALE**2
    at_vectors = at_mean @ decoder_kernel.numpy().T + (2 * commitment * (vectors - quantized)).reshape(12, -1)
    np.testing.assert_allclose(gradients[1], x.T @ at_vectors, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradients[2], at_vectors.sum(axis=0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradients[3], quantized.reshape(12, -1).T @ at_mean, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradients[4], at_mean.sum(axis=0), rtol=1e-4, atol=1e-3)


def test_the_metrics_of_an_epoch():
    commitment = 0.3
    model, x = build(commitment=commitment), data()
    model.compile("sgd")
    vectors, codes, quantized, mean = in_numpy(model, x)
    metrics = model.evaluate(x, batch_size=5, verbose=0, return_dict=True)
    frequencies = np.bincount(codes.ravel(), minlength=K) / codes.size
    np.testing.assert_allclose(metrics["perplexity"], np.exp(stats.entropy(frequencies)), rtol=1e-5)
    bound = stats.norm.logpdf(x, mean, SCALE).sum(axis=1) - PLACES * np.log(K)
    np.testing.assert_allclose(metrics["elbo"], bound.mean(), rtol=1e-5)
    distances = np.sum((vectors - quantized) ** 2, axis=(1, 2))
    np.testing.assert_allclose(metrics["loss"], np.mean(-bound + commitment * distances), rtol=1e-5)
    # The perplexity weights codes by the weights of their examples.
    weight = np.arange(12) % 2
    metrics = model.evaluate(x, sample_weight=weight, batch_size=5, verbose=0, return_dict=True)
    frequencies = np.bincount(codes[1::2].ravel(), minlength=K) / codes[1::2].size
    np.testing.assert_allclose(metrics["perplexity"], np.exp(stats.entropy(frequencies)), rtol=1e-5)
    metrics = model.evaluate(x, sample_weight=0 * weight, batch_size=5, verbose=0, return_dict=True)
    assert metrics["perplexity"] == 1


def test_it_learns_data_that_are_combinations_of_codes():
    generator = np.random.default_rng(0)
    levels = np.array([-2.0, 0.0, 2.0])
    numbers = generator.integers(0, 3, size=(600, 4))
    x = (levels[numbers] + 0.1 * generator.normal(size=(600, 4))).astype("float32")[:, :, None]
    place = keras.Input((4, 1))
    hidden = keras.layers.Dense(16, activation="relu")(place)
    encoder = keras.Model(place, keras.layers.Dense(2)(hidden))
    vectors = keras.Input((4, 2))
    decoder = keras.Model(vectors, keras.layers.Dense(1)(keras.layers.Dense(16, activation="relu")(vectors)))
    model = VQVAE(encoder, decoder, 8, likelihood=Normal(0.1))
    model.compile(keras.optimizers.Adam(0.01), steps_per_execution=10)
    history = model.fit(x, epochs=30, batch_size=60, verbose=0).history
    assert 2.5 < history["perplexity"][-1] <= 8
    # Each level has its own codes, so the error of the reconstruction is the noise.
    assert np.sqrt(np.mean((model.reconstruct(x) - x) ** 2)) < 0.15
    codes = model.encode(x)
    assert codes.shape == (600, 4)
    levels_of_codes = [set(numbers[codes == code]) for code in np.unique(codes)]
    assert all(len(levels) == 1 for levels in levels_of_codes)


def test_methods_agree_with_each_other():
    model, x = build(hidden=(4,)), data(9)
    reconstruction = model.reconstruct(x)
    np.testing.assert_allclose(model.decode(model.encode(x)), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.reconstruct(x, batch_size=4), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict(x, verbose=0), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.generate(5, seed=1), model.generate(5, seed=1))
    assert np.abs(model.generate(5, seed=1) - model.generate(5, seed=2)).max() > 1e-3


def test_images_keep_a_map_of_codes():
    x = (np.random.default_rng(0).uniform(size=(6, 8, 8, 1)) < 0.5).astype("float32")
    encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(E, 4, strides=4)])
    decoder = keras.Sequential([keras.Input((2, 2, E)), keras.layers.Conv2DTranspose(1, 4, strides=4)])
    model = VQVAE(encoder, decoder, K)
    model.compile("adam")
    model.fit(x, verbose=0)
    assert model.encode(x).shape == (6, 2, 2)
    assert model.decode(model.encode(x)).shape == x.shape
    assert model.generate(3, seed=0).shape == (3, 8, 8, 1)


def test_what_are_no_codes_is_refused():
    model = build()
    with pytest.raises(ValueError, match=r"`codes` must hold integers from 0 to 6\. Received: codes of dtype float64"):
        model.decode(np.zeros((4, PLACES)))
    with pytest.raises(ValueError, match=r"`codes` must hold integers from 0 to 6\. Received: codes with the value 7"):
        model.decode(np.full((4, PLACES), 7))
    with pytest.raises(ValueError, match=r"`codes` must have the shape \[N, 3\]"):
        model.decode(np.zeros((4, 2), int))
    with pytest.raises(ValueError, match="`x` must be finite"):
        model.encode(np.full((4, D), np.nan))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_codes": 1}, "`num_codes` must be an integer of at least 2"),
        ({"commitment": -1.0}, "`commitment` must be a finite number of at least 0"),
        ({"encoder": networks.dense_encoder((D,), (4,))}, "`encoder` must give one tensor of vectors [B, ..., E]"),
        (
            {"decoder": networks.dense_encoder((3, 4), (D,))},
            "`decoder` must take vectors of the encoder's output shape, [None, 3, 2]",
        ),
        ({"decoder": networks.dense_encoder((3, 2), (4,))}, "`decoder` must give one tensor of shape [None, 5]"),
        ({"likelihood": ELBO()}, "`likelihood` must be a Likelihood"),
        ({"objective": ELBO(sticking_the_landing=True)}, "which a VQVAE does not have"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_refused(other, message):
    arguments = {
        "encoder": networks.dense_decoder(D, (PLACES, E), name="encoder"),
        "decoder": networks.dense_encoder((PLACES, E), (D,), "linear", name="decoder"),
        "num_codes": K,
        **other,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        VQVAE(**arguments)


def test_score_is_the_bound():
    model, x = build(), data()
    score = model.score(x)
    np.testing.assert_allclose(score["elbo"], model.log_likelihood(x), rtol=1e-5)
    np.testing.assert_allclose(score["elbo"], score["reconstruction_log_likelihood"] - score["kl"], rtol=1e-6)


def test_a_configuration_of_version_0_2_trains_its_codes_by_the_gradient():
    model = build(decay=None)
    since = ("num_levels", "num_groups", "shared_codebook", "decay", "restart_below", "prior")
    old = {name: value for name, value in model.get_config().items() if name not in since}
    loaded = VQVAE.from_config(old)
    assert loaded.decay is None
    # A file has the weights in this order.
    assert [weight.path.split("/")[-1] for weight in loaded.weights[:1]] == ["codebook"]
    loaded.set_weights(model.get_weights())
    np.testing.assert_array_equal(loaded.score(data())["elbo"], model.score(data())["elbo"])
    assert build().codebook.trainable is False
