"""The likelihood of features: its density by hand, and the network, which nothing changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfvae
from tfvae import likelihoods
from tfvae.likelihoods import Missing, Normal, Perceptual
from tfvae.networks import dense_decoder, dense_encoder

SHAPE = (4, 3, 1)
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, *SHAPE)).astype("float32")
PARAMETERS = RNG.uniform(size=(2, 6, *SHAPE)).astype("float32")


def two_outputs():
    """A network of two tensors of features, which behaves in another way in training."""
    x = keras.Input(SHAPE)
    first = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 2, activation="relu")(x))
    second = keras.layers.Dense(5)(keras.layers.Dropout(0.5)(keras.layers.Flatten()(first)))
    network = keras.Model(x, [first, second])
    network.set_weights([weight + RNG.uniform(0.1, 0.5, weight.shape) for weight in network.get_weights()])
    return network


def of_features(network, x, mean, scales):
    found = 0.0
    for of_x, of_mean, scale in zip(network(x), network(mean), scales, strict=True):
        found += stats.norm.logpdf(of_x, of_mean, scale).reshape(len(x), -1).sum(axis=1)
    return found


@pytest.mark.parametrize(("scale", "training"), [(0.5, False), ([0.5, 2.0], True)])
def test_the_density_by_hand(scale, training):
    network = two_outputs()
    likelihood = Perceptual(network, scale)
    likelihood.build((None, *SHAPE))
    scales = scale if isinstance(scale, list) else [scale, scale]
    expected = [of_features(network, X, mean, scales) for mean in PARAMETERS]
    np.testing.assert_allclose(likelihood.log_prob(X, PARAMETERS, training=training), expected, rtol=1e-4)
    # Without an axis of samples, as in exports.
    np.testing.assert_allclose(likelihood.log_prob(X, PARAMETERS[0]), expected[0], rtol=1e-4)
    np.testing.assert_array_equal(likelihood.mean(PARAMETERS), PARAMETERS)
    np.testing.assert_array_equal(likelihood.distribution(PARAMETERS).sample(seed=1), PARAMETERS)


def test_a_likelihood_of_x_is_added_and_gives_the_mean():
    network, x = two_outputs(), np.round(X)
    likelihood = Perceptual(network, likelihood=likelihoods.Bernoulli())
    likelihood.build((None, *SHAPE))
    probability = 1 / (1 + np.exp(-np.float64(PARAMETERS[0])))
    expected = of_features(network, x, probability.astype("float32"), [1.0, 1.0])
    expected += stats.bernoulli.logpmf(x, probability).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(likelihood.log_prob(x, PARAMETERS[:1])[0], expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"`x` must hold .*under the Bernoulli likelihood"):
        likelihood.check(X)


def test_the_network_is_copied_and_never_changes():
    network = two_outputs()
    weights, flags = network.get_weights(), [variable.trainable for variable in network.variables]
    likelihood = Perceptual(network, likelihood=Normal("learned"))
    decoder = dense_decoder(2, SHAPE, hidden=(4,))
    vae = tfvae.VAE(dense_encoder(SHAPE, hidden=(4,)), decoder, 2, likelihood=likelihood)
    vae.compile(keras.optimizers.Adam(0.1), run_eagerly=True)
    before = decoder.get_weights()
    # The user may go on with the network, and freeze and thaw the model.
    network.set_weights([0 * weight for weight in network.get_weights()])
    vae.trainable = False
    vae.trainable = True
    trained = {id(variable) for variable in vae.trainable_variables}
    assert not trained & {id(variable) for variable in likelihood.network.variables}
    assert id(likelihood.likelihood.trainable_variables[0]) in trained
    vae.train_on_batch(X)
    for weight, expected in zip(likelihood.network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert [variable.trainable for variable in network.variables] == flags
    # The gradient passes through it.
    assert all(np.any(new != old) for new, old in zip(decoder.get_weights(), before, strict=True))


def test_without_a_term_of_pixels_the_gradient_comes_through_the_network_alone():
    likelihood = Perceptual(two_outputs())
    likelihood.build((None, *SHAPE))
    parameters = tf.constant(PARAMETERS)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        value = likelihood.log_prob(X, parameters)
    assert np.all(np.any(tape.gradient(value, parameters) != 0, axis=(2, 3, 4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perceptual("vgg"), r"^`network` must be a Keras model that was built.*Received: network='vgg'$"),
        (lambda: Perceptual(keras.layers.Dense(3)), r"^`network` must be a Keras model that was built.*Received: "),
        (lambda: Perceptual(two_outputs(), 0.0), r"^`scale` must be a finite number above 0.*Received: scale=0.0$"),
        (lambda: Perceptual(two_outputs(), [1.0, -1.0]), r"^`scale` must be a finite number above 0.*-1.0$"),
        (lambda: Perceptual(two_outputs(), likelihood="x"), r"^`likelihood` must be a Likelihood.*Received: "),
        (lambda: Perceptual(two_outputs(), likelihood=Missing(Normal())), r"^`likelihood` must be one of complete"),
        (lambda: Missing(Perceptual(two_outputs())), r"^`likelihood` must be a likelihood of x\. Received: "),
        (lambda: likelihoods.Columns([(Perceptual(two_outputs()), 1)]), r"^`columns` must be a likelihood of x\."),
        (lambda: Perceptual(two_outputs(), [1.0]).build((None, *SHAPE)), r"^`scale` must be one number, or one for"),
        (lambda: Perceptual(two_outputs()).build((None, 7)), r"^`network` must take x of shape \[None, 7\].*Received"),
        (
            lambda: Perceptual(two_outputs(), likelihood=likelihoods.Categorical(3)).build((None, 4, 3, 3)),
            r"^`likelihood` must have a mean of the shape of x.*Received: ",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_that_keras_cannot_load_is_refused():
    class Own(keras.layers.Layer):
        pass

    with pytest.raises(ValueError, match=r"(?s)^`network` must be a Keras model that Keras can save.*Received: "):
        Perceptual(keras.Sequential([keras.Input((3,)), Own()]))
