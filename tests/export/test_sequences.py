"""Exports of models of sequences: shorter ones, recurrent networks, and each runtime."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.models.test_streaming import C, T, series, series_vae, windows_of
from tfvae import export, likelihoods, networks
from tfvae.export import endpoints, units

OFFSET, SCALE = np.arange(T * C, dtype=np.float32).reshape(T, C), np.float32([2, 4])
SHORT = T - 2


@pytest.fixture(scope="module")
def model():
    return series_vae(True)


def padded(x):
    """Windows of T steps, the last of which are missing."""
    return np.pad(x, [(0, 0), (0, T - x.shape[1]), (0, 0)], constant_values=np.nan)


def of_any_length(model, name, scaling=None):
    signature = units.signatures(model, scaling)[name]
    return endpoints._graph(signature, None, model.export_description(), False, takes_shorter=True)


def assert_as_padded(received, expected):
    """Whether outputs are those for padded sequences, without the steps after the end."""
    assert set(received) == set(expected)
    for name, value in expected.items():
        value = value[:, :SHORT] if value.ndim == 3 else value
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["serving_default", "detect"])
def test_a_shorter_sequence_is_one_whose_last_steps_are_missing(model, name):
    x = windows_of(series())[:, :SHORT]
    expected = model.detect(padded(x))
    if name == "serving_default":
        expected = {"mean": model.reconstruct(padded(x)), **model.score(padded(x))}
    assert_as_padded(of_any_length(model, name)(x=tf.constant(x)), expected)
    raw = x * SCALE + OFFSET[:SHORT]
    if "mean" in expected:
        expected["mean"] = expected["mean"] * SCALE + OFFSET
    assert_as_padded(of_any_length(model, name, units.make(model, OFFSET, SCALE))(x=tf.constant(raw)), expected)


def test_a_longer_sequence_is_refused(model):
    function = of_any_length(model, "encode")
    with pytest.raises(tf.errors.InvalidArgumentError, match="x has more than 6 steps"):
        function(x=tf.zeros((2, T + 1, C)))
    shapes = {"encode": {"x": (None, None, C)}}
    client = export.ExportedModel(lambda name, arrays: arrays, shapes, model.export_description())
    assert "encode(x [N, T, 2])" in repr(client)
    with pytest.raises(ValueError, match=r"^`x` must have at most 6 steps. Received: x of shape \[2, 7, 2\]$"):
        client.encode(np.zeros((2, T + 1, C)))
    with pytest.raises(ValueError, match=r"^`x` must have the shape \[N, T, 2\]. Received: x of shape \[2, 7, 3\]$"):
        client.encode(np.zeros((2, T + 1, C + 1)))


def test_a_model_that_takes_no_missing_values_takes_its_own_length_only():
    model = series_vae(False)
    assert not any(signature.of_steps for signature in model.export_signatures().values())
    assert of_any_length(model, "encode").structured_input_signature[0][0].shape == (None, T, C)


@pytest.mark.slow
def test_a_saved_model_takes_shorter_sequences(model, tmp_path):
    version = export.saved_model(model, tmp_path / "served")
    client, x = export.load(version), windows_of(series())[:, :SHORT]
    assert_as_padded(client.detect(x), model.detect(padded(x)))
    assert_as_padded({"mean": client.reconstruct(x)}, {"mean": model.reconstruct(padded(x))})
    noise = client.noise("reconstruct_sample", len(x), seed=0)
    np.testing.assert_allclose(
        client.reconstruct_sample(x, **noise), client.reconstruct_sample(padded(x), **noise)[:, :SHORT], atol=1e-5
    )
    assert client.generate(noise["epsilon"]).shape == (len(x), T, C)
    readme = (version.parent / "README.md").read_text()
    assert "x may have any number of steps T up to 6." in readme
    assert "| reconstruct | x [B, T, 2] | mean [B, T, 2] |" in readme


STEPS = 12


def network_vae(kind):
    """A calibrated VAE of windows [STEPS, C] with ready-made networks of a kind, and windows with gaps."""
    keras.utils.set_random_seed(0)
    arguments = {
        "recurrent": {"units": (8,)},
        "temporal": {"filters": 8, "dilations": (1, 2)},
        "transformer": {"width": 8, "num_heads": 2, "num_blocks": 1},
    }[kind]
    encoder = getattr(networks, f"{kind}_encoder")((C,), STEPS, hidden=(8,), **arguments)
    decoder = getattr(networks, f"{kind}_decoder")(3, STEPS, (C,), hidden=(8,), **arguments)
    model = tfvae.VAE(encoder, decoder, 3, likelihood=likelihoods.Missing(likelihoods.Normal(0.5), fill=False))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, STEPS, C)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[1, STEPS // 2 :] = np.nan
    model.calibrate(x[6:], false_alarm_rate=0.2)
    return model, x


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recurrent", "temporal", "transformer"])
def test_files_of_each_network_answer_in_each_runtime(kind, tmp_path):
    model, x = network_vae(kind)
    # Both are compared with the model before they are published, by `Interpreter` and by `CompiledModel`.
    file = export.tflite(model, tmp_path / "one.tflite", x=x, batch_size=1)
    version = export.saved_model(model, tmp_path / "served", x=x)
    expected = model.detect(x[:6])
    for path, runtime in ((version, None), (file, "interpreter"), (file, "compiled_model")):
        received = export.load(path, runtime=runtime).detect(x[:6])
        for name, value in expected.items():
            np.testing.assert_allclose(received[name], value, rtol=1e-4, atol=1e-4, err_msg=f"{path} {name}")
    if kind == "recurrent":
        with pytest.warns(UserWarning, match="For any batch: TFLite runs the loop of a recurrent layer"):
            export.tflite(model, tmp_path / "any.tflite", x=x)
    else:
        assert export.load(export.tflite(model, tmp_path / "any.tflite", x=x)).metadata["batch_size"] is None


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["recurrent", "temporal", "transformer"])
def test_a_browser_decides_about_sequences_as_the_model_does(kind, tmp_path):
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    import browser

    model, x = network_vae(kind)
    file = export.tflite(model, tmp_path / "one.tflite", x=x, batch_size=1)
    examples = {
        name: {key: value[:3] for key, value in model.export_examples(x)[name].items()} for name in ("detect", "step")
    }
    answers, _ = browser.ask(file, examples, "wasm")
    for name, inputs in examples.items():
        expected = model.export_signatures()[name].of_model(inputs)
        for output, value in expected.items():
            np.testing.assert_allclose(
                answers[name][output].reshape(value.shape), value, rtol=1e-4, atol=1e-4, err_msg=f"{name} {output}"
            )
