"""`model.export(path)`, Keras's own method, for every kind of model."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.exports import Scaled, linear_vae
from tests.helpers.grouped_regression import DATA, LATENTS_OF, Y, log_joint, new_data, predictive
from tfvae import VariationalInference, export

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def test_its_arguments_are_those_of_keras():
    expected = inspect.signature(keras.Model.export).parameters
    received = inspect.signature(Scaled.export).parameters
    assert list(received) == list(expected)
    assert [p.default for p in received.values()] == [p.default for p in expected.values()]


@pytest.mark.slow
def test_a_saved_model_right_after_fit(tmp_path, capsys):
    vae = linear_vae()
    vae.compile(keras.optimizers.Adam(), jit_compile=False)
    vae.fit(X, batch_size=4, epochs=1, verbose=0)
    path = tmp_path / "model"
    vae.export(path, offset=1.0, scale=2.0)
    assert capsys.readouterr().out == f"Exported to {path}; tfvae.export.load({str(path)!r}) opens it\n"
    assert set(tf.saved_model.load(path).signatures) >= set(vae.export_signatures())
    client = export.load(path)
    np.testing.assert_allclose(client.reconstruct(2 * X + 1), 2 * vae.reconstruct(X) + 1, rtol=1e-5, atol=1e-5)
    assert client.metadata["scaling"]["scale"] == 2.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_posterior_right_after_fit(tmp_path):
    model = VariationalInference(log_joint, LATENTS_OF["array"], predictive=predictive)
    model.fit(DATA["array"], Y, epochs=1, verbose=0)
    model.export(tmp_path / "model", verbose=False, x=new_data("array"))
    assert set(export.load(tmp_path / "model").signatures) == {"sample", "predict", "serving_default"}
    with pytest.raises(ValueError, match="a VariationalInference can only be exported as a SavedModel"):
        model.export(tmp_path / "model.tflite", format="litert", x=new_data("array"))


def test_litert_is_the_tflite_of_tfvae(tmp_path):
    model = Scaled()
    model.export(tmp_path / "model.tflite", format="litert", verbose=False, batch_size=1)
    assert export.load(tmp_path / "model.tflite").metadata["batch_size"] == 1


def test_an_earlier_export_is_replaced_and_nothing_else_is(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    for weight in ((2.0, 3.0), (4.0, 5.0)):
        Scaled(weight).export(path, verbose=False)
        received = export.load(path).run("serving_default", x=[[1.0, 1.0]])["y"]
        np.testing.assert_array_equal(received, [weight])
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ValueError, match="`path` must be a new folder, or that of an earlier SavedModel"):
            Scaled().export(taken, verbose=False)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("format", ["tf_saved_model", "litert", "onnx"])
def test_an_argument_that_a_format_does_not_have_is_named(tmp_path, format):
    message = rf"^The other arguments of `export` must be among \['.*\] for format='{format}'\. Received: jit=1$"
    with pytest.raises(TypeError, match=message):
        Scaled().export(tmp_path / "model", format=format, jit=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "openvino"}, "openvino.convert_model(path)"),
        ({"format": "torch"}, "PyTorch has no way to read a model of TensorFlow"),
        (
            {"format": "pickle"},
            "one of ['tf_saved_model', 'litert', 'onnx']. Received: format='pickle'",
        ),
        ({"input_signature": [1]}, "`input_signature` must be None, because the signatures of this model are its own"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Scaled().export(tmp_path / "model", **arguments)
    assert list(tmp_path.iterdir()) == []
