"""Networks of sequences one step at a time: the features are those of the whole sequence."""

import keras
import numpy as np
import pytest

from tfvae import networks

NUM_STEPS, CHANNELS, LATENT_DIM, NUM_CODES = 12, 3, 2, 5


def by_steps(network, x, *constants):
    """The features of each step, one after the other."""
    step = networks.stepwise(network)
    states, features = step.initial_state(len(x), *constants), []
    for number in range(x.shape[1]):
        output, states = step(x[:, number], states, *constants)
        features.append(output)
    return np.stack(features, axis=1)


def series(shape=(CHANNELS,)):
    x = np.random.default_rng(0).normal(size=(3, NUM_STEPS, *shape)).astype("float32")
    x[0, 4:7] = x[2, 8:] = np.nan
    x[1].flat[5] = np.nan
    return x


def of_layers(*layers, shape=(NUM_STEPS, CHANNELS)):
    return keras.Sequential([keras.Input(shape), networks.MissingMask(), *layers])


def nested():
    x = keras.Input((None, CHANNELS))
    inner = of_layers(keras.layers.GRU(4, return_sequences=True), shape=(None, CHANNELS))
    return keras.Model(x, keras.layers.Dense(2)(inner(x)))


def twice():
    """One GRU applied to two things has two states."""
    x = keras.Input((None, CHANNELS))
    filled = networks.MissingMask()(x)
    layer = keras.layers.GRU(2 * CHANNELS, return_sequences=True)
    return keras.Model(x, keras.layers.Concatenate()([layer(filled), layer(layer(filled))]))


STEPS = {"per_step": True, "hidden": (8,), "causal": True}
NETWORKS = {
    "GRU": lambda: networks.recurrent_encoder((CHANNELS,), units=(8,), **STEPS),
    "GRU of fixed length": lambda: networks.recurrent_encoder((CHANNELS,), NUM_STEPS, units=(8,), **STEPS),
    "numbers": lambda: networks.recurrent_encoder((), NUM_STEPS, units=(8,), **STEPS),
    "stacked GRU": lambda: networks.recurrent_encoder((CHANNELS,), units=(8, 4), **STEPS),
    "LSTM": lambda: networks.recurrent_encoder((CHANNELS,), units=(8, 4), layer=keras.layers.LSTM, **STEPS),
    "SimpleRNN": lambda: networks.recurrent_encoder((CHANNELS,), layer=keras.layers.SimpleRNN, **STEPS),
    "temporal": lambda: networks.temporal_encoder((CHANNELS,), filters=8, **STEPS),
    "temporal of fixed length": lambda: networks.temporal_encoder((CHANNELS,), NUM_STEPS, filters=8, **STEPS),
    "stacked cells": lambda: of_layers(
        keras.layers.RNN([keras.layers.LSTMCell(4), keras.layers.GRUCell(3)], return_sequences=True)
    ),
    "other layers": lambda: of_layers(
        keras.layers.Conv1D(4, 1),
        keras.layers.Conv1D(4, 2, padding="causal", activation="tanh", use_bias=False),
        keras.layers.LayerNormalization(),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.TimeDistributed(keras.layers.Dense(4)),
        keras.layers.Reshape((NUM_STEPS, 2, 2)),
        keras.layers.Reshape((-1, 4)),
        keras.layers.Softmax(),
    ),
    "no state": lambda: of_layers(keras.layers.Dense(4)),
    "nested": nested,
    "twice": twice,
}


@pytest.mark.parametrize("case", NETWORKS)
def test_steps_have_the_features_of_the_whole_sequence(case):
    keras.utils.set_random_seed(0)
    network = NETWORKS[case]()
    x = series(network.input_shape[2:])
    expected = network(x).numpy()
    assert np.abs(np.diff(expected, axis=1)).max() > 1e-3
    np.testing.assert_allclose(by_steps(network, x), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [keras.layers.GRU, keras.layers.LSTM, None])
def test_steps_of_a_decoder_have_the_parameters_of_the_whole_sequence(layer):
    keras.utils.set_random_seed(0)
    shape = {"step_shape": (1,), "num_classes": NUM_CODES}
    if layer is None:
        network = networks.temporal_decoder(LATENT_DIM, None, (NUM_CODES,), **shape)
    else:
        network = networks.recurrent_decoder(LATENT_DIM, None, (NUM_CODES, 1), units=(8, 4), layer=layer, **shape)
    previous = np.random.default_rng(0).integers(NUM_CODES, size=(3, NUM_STEPS, 1)).astype("float32")
    previous[:, 0] = previous[1, 5:7] = np.nan
    z = np.random.default_rng(1).normal(size=(3, LATENT_DIM)).astype("float32")
    np.testing.assert_allclose(by_steps(network, previous, z), network([z, previous]), atol=1e-5)


def test_steps_share_the_weights_of_the_network():
    network = NETWORKS["GRU"]()
    step = networks.stepwise(network)
    network.set_weights([weight + 0.1 for weight in network.get_weights()])
    x = series()
    features, _ = step(x[:, 0], step.initial_state(3))
    np.testing.assert_allclose(features, network(x)[:, 0], atol=1e-5)
    assert {id(weight) for weight in step.model.weights} == {id(weight) for weight in network.weights}


@pytest.mark.parametrize("name", ["GRU", "temporal"])
def test_keras_file_of_one_step(name, tmp_path):
    step = networks.stepwise(NETWORKS[name]())
    inputs = [keras.ops.convert_to_tensor(series()[:, 0]), *step.initial_state(3)]
    step.model.save(tmp_path / "step.keras")
    loaded = keras.saving.load_model(tmp_path / "step.keras", safe_mode=True)
    for actual, expected in zip(loaded(inputs), step.model(inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_half_precision_has_states_in_half_precision():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        network = networks.temporal_encoder((CHANNELS,), filters=8, **STEPS)
        assert {state.dtype.name for state in networks.stepwise(network).initial_state(1)} == {"bfloat16"}
        x = series()
        np.testing.assert_allclose(by_steps(network, x), network(x).numpy().astype("float32"), atol=0.05)
    finally:
        keras.config.set_dtype_policy(before)


def constant_of_all_steps():
    z, x = keras.Input((2,)), keras.Input((4, 2))
    return keras.Model([z, x], keras.layers.Add()([x, keras.layers.RepeatVector(4)(z)]))


def masked(layer, shape):
    return keras.Sequential([keras.Input(shape), layer, keras.layers.GRU(2, return_sequences=True)])


def several_outputs():
    x, inner = keras.Input((None, 2)), keras.Input((None, 2))
    first, _ = keras.Model(inner, [keras.layers.Dense(2)(inner), keras.layers.Dense(2)(inner)])(x)
    return keras.Model(x, first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.recurrent_encoder((2,), causal=False, per_step=True), "StepMask.*use `causal=True`"),
        (lambda: networks.recurrent_encoder((2,)), "StepMask.*`per_step=True`"),
        (lambda: masked(keras.layers.Masking(), (None, 2)), "Masking.*makes a mask"),
        (lambda: masked(keras.layers.Embedding(3, 2, mask_zero=True), (None,)), "Embedding.*makes a mask"),
        (several_outputs, "Functional.*several outputs"),
        (lambda: networks.transformer_encoder((2,), causal=True, per_step=True), "RotaryAttention.*`temporal_encoder`"),
        (lambda: of_layers(keras.layers.Bidirectional(keras.layers.GRU(2))), "Bidirectional.*`causal=True`"),
        (lambda: of_layers(keras.layers.GRU(2)), "GRU.*return_sequences=True"),
        (lambda: of_layers(keras.layers.GRU(2, return_sequences=True, go_backwards=True)), "GRU.*read forwards"),
        (lambda: of_layers(keras.layers.GlobalAveragePooling1D()), "GlobalAveragePooling1D.*`per_step=True`"),
        (lambda: of_layers(keras.layers.Conv1D(2, 3, padding="same")), 'Conv1D.*padding="causal"'),
        (lambda: of_layers(keras.layers.Conv1D(2, 3, 2, padding="causal")), "Conv1D.*strides"),
        (lambda: of_layers(keras.layers.LayerNormalization(axis=1)), "LayerNormalization.*axis|axes"),
        (lambda: of_layers(keras.layers.Permute((2, 1))), "Permute.*not known"),
        (lambda: of_layers(keras.layers.Reshape((2 * NUM_STEPS, CHANNELS))), "Reshape.*axis of time"),
        (constant_of_all_steps, "Add.*from that step alone"),
    ],
)
def test_networks_whose_steps_are_not_alone_are_refused(make, message):
    with pytest.raises(ValueError, match=rf"^`network` must .*Received: layer '.*' of kind {message}"):
        networks.stepwise(make())


def test_other_refusals():
    with pytest.raises(ValueError, match=r"^`network` must be a functional or .*Received: network="):
        networks.stepwise(keras.layers.GRU(2))
    z, x = keras.Input((2,)), keras.Input((4, 2))
    with pytest.raises(ValueError, match=r"^`network` must compute its output from the last of its inputs"):
        networks.stepwise(keras.Model([z, x], keras.layers.Dense(2)(z)))
    step = networks.stepwise(NETWORKS["GRU"]())
    with pytest.raises(ValueError, match=r"^`n` must be .*Received: n=0$"):
        step.initial_state(0)
    with pytest.raises(ValueError, match=r"^`constants` must be the 0 inputs .*Received: 1 arrays$"):
        step.initial_state(3, np.zeros((3, 2)))
