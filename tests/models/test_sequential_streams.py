"""A sequential model step by step, with a state, decides as it does about whole sequences, in exports too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.models.test_streaming import stepped
from tfvae import export, likelihoods, networks
from tfvae.export import endpoints, units

T, C, LATENT_DIM, MEMORY = 6, 2, 3, 4
OFFSET, SCALE = np.float32([10, -5]), np.float32([2, 4])


def dense(sizes, outputs, name):
    inputs = [keras.Input((size,)) for size in sizes]
    joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    features = keras.layers.Dense(outputs)(keras.layers.Dense(8, "relu")(joined))
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], features, name=name)


def sequential(encoder="recurrent", has_combiner=False, has_memory=False, is_missing=True):
    """A calibrated model, and sequences [N, T, C] with gaps if it takes them."""
    keras.utils.set_random_seed(0)
    if encoder == "recurrent":
        encoder = networks.recurrent_encoder((C,), units=(5,), hidden=(6,), per_step=True)
    elif encoder == "dense":
        x = keras.Input((None, C))
        encoder = keras.Model(x, keras.layers.Dense(6)(networks.MissingMask()(x)))
    else:
        encoder = networks.temporal_encoder((C,), filters=4, dilations=(1, 2), hidden=(6,), per_step=True)
    read = [MEMORY] if has_memory else []
    likelihood = likelihoods.Normal(0.5)
    model = tfvae.SequentialVAE(
        encoder,
        dense([LATENT_DIM, *read], C, "decoder"),
        LATENT_DIM,
        transition=dense([LATENT_DIM, *read], 5, "transition"),
        combiner=dense([LATENT_DIM, 6, *read], 5, "combiner") if has_combiner else None,
        memory=keras.layers.GRUCell(MEMORY) if has_memory else None,
        likelihood=likelihoods.Missing(likelihood, fill=False) if is_missing else likelihood,
    )
    rng = np.random.default_rng(1)
    data, x = np.cumsum(rng.normal(size=(2, 12, T, C)), axis=2).astype(np.float32)
    model.calibrate(data, false_alarm_rate=0.3)
    if is_missing:
        x[rng.random(x.shape) < 0.2] = np.nan
        # So that no last step is padding, which a stream takes for a gap.
        x[:, -1, 0] = 0.0
    return model, x


def assert_stepped(stream, model, x, given=None):
    """Whether a stream gives for each step what `detect` gives for whole sequences."""
    received = stepped_by_row(stream, x if given is None else given)
    expected = model.detect(x)
    assert set(received) == set(expected)
    for name, value in expected.items():
        assert received[name].dtype == value.dtype
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


def stepped_by_row(stream, x):
    """The outputs for each step of n sequences [n, steps, C], by name: [n, steps, ...]."""
    return {name: value.swapaxes(0, 1) for name, value in stepped(stream, x.swapaxes(0, 1)).items()}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {"is_missing": False},
                {"encoder": "temporal", "has_combiner": True},
                {"has_combiner": True, "has_memory": True},
            )
        ),
    ],
)
def test_steps_decide_as_detect_does_about_whole_sequences(arguments):
    model, x = sequential(**arguments)
    assert 0 < model.detect(x)["is_anomaly"].sum() < x[..., 0].size
    assert_stepped(model.stream(len(x)), model, x)


def test_the_state_of_a_new_stream_is_nan_and_that_of_another_is_finite():
    model, x = sequential()
    state = model.initial_state(len(x))
    # The latent variables, and the features of the recurrent layer.
    assert state.shape == (len(x), LATENT_DIM + 5)
    assert np.isnan(state).all()
    assert np.isfinite(model.step(x[:, 0], state)["state"]).all()
    with pytest.raises(ValueError, match=r"^`x_t` must have the shape \[N, 2\]"):
        model.step(x[:, 0, :1], state)
    with pytest.raises(ValueError, match=r"^`state` must have the shape \[N, 8\]"):
        model.step(x[:, 0], state[:, 1:])
    state[1, 1:] = 0.0
    with pytest.raises(ValueError, match=r"^`state` must have rows that are finite, or all NaN .*at index 1$"):
        model.step(x[:, 0], state)


def test_an_encoder_that_reads_what_comes_later_has_no_steps():
    x = keras.Input((None, C))
    encoder = keras.Model(x, keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True))(x))
    model = tfvae.SequentialVAE(encoder, dense([LATENT_DIM], C, "decoder"), LATENT_DIM)
    x = np.zeros((3, T, C), np.float32)
    model.calibrate(x, threshold=1.0)
    with pytest.raises(ValueError, match="it reads the sequence backwards too"):
        model.stream()
    assert "detect" in model.export_signatures()
    assert "step" not in model.export_signatures()
    with pytest.warns(UserWarning, match="no signature `step`.*reads the sequence backwards too"):
        model.check_exportable()


@pytest.mark.slow
def test_networks_without_states_have_streams_and_exports():
    model, x = sequential("dense")
    assert_stepped(model.stream(len(x)), model, x)
    exported = in_memory(model)
    assert_stepped(exported.stream(len(x)), model, x)
    for name, value in exported._call("detect", {"x": x[:0]}).items():
        assert value.shape[:2] == (0, T), name


def in_memory(model, scaling=None, **arguments):
    """What `tfvae.export.load` would give for an export with the signatures `detect` and `step` alone."""
    own = units.signatures(model, scaling)
    functions = {
        name: endpoints._graph(own[name], None, model.export_description(), False, **arguments)
        for name in ("detect", "step")
    }

    def call(name, arrays):
        outputs = functions[name](**{key: tf.constant(array) for key, array in arrays.items()})
        return {key: output.numpy() for key, output in outputs.items()}

    shapes = {
        name: {spec.name: tuple(spec.shape) for spec in function.structured_input_signature[0]}
        for name, function in functions.items()
    }
    return export.ExportedModel(call, shapes, model.export_description())


def test_an_export_takes_any_length_and_steps():
    model, x = sequential()
    for client, given in (
        (in_memory(model), x),
        (in_memory(model, units.make(model, OFFSET, SCALE)), x * SCALE + OFFSET),
    ):
        assert_stepped(client.stream(len(x)), model, x, given)
        for steps in (T, T - 2):
            received, expected = client.detect(given[:, :steps]), model.detect(x[:, :steps])
            for name, value in expected.items():
                np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
    assert "detect(x [N, T, 2])" in repr(client)
    # One row that is wrong.
    given[1, 2] = np.inf
    answers = client._call("detect", {"x": given})
    assert all(np.isnan(value[1]).all() and np.isfinite(value[2:]).all() for value in answers.values())


def test_a_format_of_one_length_needs_data(tmp_path):
    model, _ = sequential()
    with pytest.raises(
        ValueError, match=r"^`x` must hold data of the length that the file will take, .*Received: x=None"
    ):
        export.tflite(model, tmp_path / "model.tflite")
    specs = [each.structured_input_signature[0][0].shape for each in _graphs(model)]
    assert specs == [(1, T, C)]


def _graphs(model):
    return [endpoints._graph(model.export_signatures()["encode"], 1, model.export_description(), False, num_steps=T)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{}, {"encoder": "temporal"}, {"has_combiner": True, "has_memory": True}, {"is_missing": False}]
)
def test_files_of_sequential_models_answer_as_they_do(tmp_path, arguments):
    model, x = sequential(**arguments)
    version = export.saved_model(model, tmp_path / "served", x=x)
    client = export.load(version)
    short, noise = x[:, : T - 2], np.random.default_rng(0).normal(size=(len(x), T - 2, LATENT_DIM))
    for name, value in model.score(short, noise).items():
        np.testing.assert_allclose(client.score(short, noise)[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
    assert client.generate(np.zeros((2, 3 * T, LATENT_DIM))).shape == (2, 3 * T, C)
    assert_stepped(client.stream(len(x)), model, x)
    one = export.tflite(model, tmp_path / "one.tflite", x=x, batch_size=1, offset=OFFSET, scale=SCALE)
    for runtime in ("interpreter", "compiled_model"):
        client = export.load(one, runtime=runtime)
        for row in x[:2, np.newaxis]:
            assert_stepped(client.stream(), model, row, row * SCALE + OFFSET)
        with pytest.raises(ValueError, match=r"^`x` must have the shape \[N, 6, 2\]"):
            client.encode(short)
