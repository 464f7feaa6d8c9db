"""Exports of models of sequences: shorter ones, recurrent networks, and each runtime."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_streaming import C, T, series, series_vae, windows_of
from tfvae import export
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
