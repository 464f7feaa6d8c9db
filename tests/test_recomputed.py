"""Networks that are computed again in the backward pass: the same gradients, from less memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae.networks import Recomputed, residual_decoder, residual_encoder

SIZES = {"filters": (4, 4), "hidden": (6,), "num_blocks": 2}


NETWORKS = {
    "encoder": lambda **given: residual_encoder((8, 8, 1), **SIZES, **given),
    "decoder": lambda **given: residual_decoder(3, (8, 8, 1), **SIZES, **given),
}


def pairs(kind):
    """The same network twice: as it is, and recomputed."""
    make = {**NETWORKS, "two inputs": two_inputs}[kind]
    networks = make(), make(recompute=True)
    networks[1].set_weights(networks[0].get_weights())
    return networks


def two_inputs(recompute=False):
    inputs = keras.Input((3,)), keras.Input((2,))
    both = keras.layers.Dense(4, "tanh")(keras.layers.Concatenate()(inputs))
    network = keras.Model(inputs, keras.layers.Dense(2, "tanh")(both))
    return keras.Model(inputs, Recomputed(network)(list(inputs))) if recompute else network


def gradients(network, **options):
    """The gradients of weights and inputs, as a function whose graph can be looked at."""
    rng = np.random.default_rng(0)
    shapes = network.input_shape if isinstance(network.input_shape, list) else [network.input_shape]
    inputs = [tf.constant(rng.normal(size=(2, *shape[1:])), tf.float32) for shape in shapes]

    @tf.function(autograph=False, **options)
    def function():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            outputs = tf.cast(network(inputs if len(inputs) > 1 else inputs[0], training=True), tf.float32)
            loss = tf.reduce_sum(tf.square(outputs))
        return tape.gradient(loss, [*network.trainable_variables, *inputs])

    return function


@pytest.mark.parametrize(
    "kind", ["encoder", *(pytest.param(k, marks=pytest.mark.slow) for k in ("decoder", "two inputs"))]
)
@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_are_the_same(kind, policy, jit_compile, dtype_policy):
    dtype_policy(policy)
    functions = [gradients(network, jit_compile=jit_compile) for network in pairs(kind)]
    # XLA sums in another order in another program.
    tolerance = (1e-5 if policy == "float32" else 0.02) if jit_compile else 1e-6
    for found, expected in zip(*(function() for function in functions), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_each_block_is_computed_twice():
    counts = []
    for network in pairs("encoder"):
        graph = gradients(network).get_concrete_function().graph
        counts.append([operation.type for operation in graph.get_operations()].count("Conv2D"))
    # Two convolutions in each of four blocks.
    assert counts[1] - counts[0] == 8


@pytest.mark.parametrize(
    "layer", [keras.layers.Dropout(0.1), keras.layers.BatchNormalization()], ids=["noise", "state"]
)
def test_a_network_that_would_differ_is_refused(layer):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), layer])
    with pytest.raises(
        ValueError, match=r"^`network` must neither draw random numbers nor have state.*Received: a network"
    ):
        Recomputed(network)


class Penalised(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_sum(tf.square(x)))
        return x


def test_a_network_whose_losses_would_have_no_gradient_is_refused():
    expected = "`network` must not add losses.*Received: a network with the layers penalised"
    dense = keras.layers.Dense(2, activity_regularizer="l2", name="penalised")
    inner = keras.Sequential([keras.Input((3,)), dense])
    with pytest.raises(ValueError, match=expected):
        Recomputed(keras.Sequential([keras.Input((3,)), inner]))
    network = Recomputed(keras.Sequential([keras.Input((3,)), Penalised(name="penalised")]))
    with pytest.raises(ValueError, match=expected):
        network(tf.ones((1, 3)))


def test_regularisers_of_weights_keep_their_gradients():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_regularizer="l2")])
    found = []
    for each in (network, Recomputed(network)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(each(tf.ones((1, 3)))) + each.losses[0]
        found.append(tape.gradient(loss, network.trainable_variables[0]))
    np.testing.assert_array_equal(*found)


def test_a_network_that_is_not_built_is_refused():
    with pytest.raises(
        ValueError, match=r"^`network` must be a Keras model or layer that is built.*Received: network="
    ):
        Recomputed(keras.Sequential([keras.layers.Dense(3)]))


def test_a_frozen_network_may_be_recomputed():
    network = two_inputs()
    network.trainable = False
    assert Recomputed(network).get_config()["network"]["config"]["trainable"] is False


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_training_is_the_same(policy, dtype_policy):
    dtype_policy(policy)
    x = np.random.default_rng(0).integers(2, size=(20, 8, 8, 1)).astype("float32")
    losses = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        networks = [make(recompute=recompute) for make in NETWORKS.values()]
        vae = tfvae.VAE(*networks, 3, likelihood=tfvae.likelihoods.Bernoulli())
        vae.compile(keras.optimizers.Adam(0.01))
        losses.append([vae.train_on_batch(x, return_dict=True)["loss"] for _ in range(4)])
    assert losses[0][3] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=1e-5 if policy == "float32" else 1e-2)
