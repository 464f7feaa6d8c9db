"""How a .tflite file is compared before it is published: for several numbers of rows, by both interfaces of LiteRT."""

import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.export.test_device import binary_images, small_model
from tests.helpers.exports import Scaled, WithOp
from tfvae import export, likelihoods, networks
from tfvae.export import endpoints
from tfvae.export.formats import compiled_model


def with_computed_shapes(monkeypatch):
    """Exports outputs as they come, most of them reshaped to a shape that the graph computes."""
    monkeypatch.setattr(endpoints, "_checked", lambda signature, *_: lambda *tensors: signature.function(*tensors))


@pytest.mark.slow
def test_a_computed_shape_has_a_batch_of_one_because_one_interface_does_not_write_it(tmp_path, monkeypatch):
    with_computed_shapes(monkeypatch)
    model = WithOp(lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 1, 2])))
    message = r"For any batch: The TFLite in CompiledModel must run .* the output 'y' is not written"
    with pytest.warns(UserWarning, match=message):
        file = export.tflite(model, tmp_path / "model.tflite")
    assert export.load(file).metadata["batch_size"] == 1


@pytest.mark.slow
def test_a_file_that_the_other_interface_cannot_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_model, "__file__", str(tmp_path / "missing.py"))
    with pytest.raises(ValueError, match=r"^The TFLite in CompiledModel must run before .* exit code 2"):
        export.tflite(Scaled(), tmp_path / "folder" / "model.tflite")
    assert list((tmp_path / "folder").iterdir()) == []


class OfSeveralRows(Scaled):
    """A model whose exported function is right for any batch but one of 7 rows."""

    def export_signatures(self, x=None):
        def of_rows(x):
            return {"y": self.weight.value * x + tf.cast(tf.equal(tf.shape(x)[0], 7), tf.float32)}

        def of_model(x):
            return {"y": self.predict(x)}

        return {"serving_default": export.Signature(of_rows, (tf.TensorSpec([None, 2], tf.float32, "x"),), of_model)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantize", "reference"),
    [(None, "the Keras model"), pytest.param("float16", "its own answers", marks=pytest.mark.slow)],
)
def test_a_file_that_is_wrong_for_one_number_of_rows_has_a_batch_of_one(tmp_path, quantize, reference):
    message = f"one example at a time. For any batch: The TFLite must agree with {reference} .* a difference of 1.00e"
    with pytest.warns(UserWarning, match=message):
        file = export.tflite(OfSeveralRows(), tmp_path / "model.tflite", quantize=quantize)
    assert export.load(file).metadata["batch_size"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "dynamic"])
def test_a_quantised_file_whose_outputs_one_interface_does_not_write_has_a_batch_of_one(
    tmp_path, monkeypatch, quantize
):
    with_computed_shapes(monkeypatch)
    with pytest.warns(UserWarning, match="The TFLite in CompiledModel must run before it is published"):
        file = export.tflite(small_model(), tmp_path / "model.tflite", quantize=quantize, x=binary_images(64))
    assert export.load(file).metadata["batch_size"] == 1


@pytest.mark.slow
def test_an_int8_file_that_divides_by_what_is_rounded_to_0_is_refused(tmp_path):
    decoder = networks.dense_decoder(2, (8,), hidden=())
    # Scales from e^-8 to 8: half a step of int8 is more than the smallest.
    decoder.set_weights([np.zeros((2, 8), np.float32), np.tile([-8.0, -8.0, 8.0, 8.0], 2)])
    encoder, likelihood = networks.dense_encoder((4,), hidden=(8,)), likelihoods.Normal("predicted")
    model = tfvae.VAE(encoder, decoder, 2, likelihood=likelihood)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    with pytest.raises(ValueError, match=r"^The TFLite must run before it is published\. Received: .*DIV"):
        export.tflite(model, tmp_path / "model.tflite", quantize="int8", x=x)
