"""What TFLite cannot run: refused in two lines that name the layer and the way out, or written for a batch of 1."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.exports import Scaled, WithOp
from tfvae import VAE, export, networks
from tfvae.export.endpoints import Endpoints
from tfvae.export.formats import tflite_refusals

# What the converter says of an LSTM, without its notes.
OF_LSTM = (
    '<unknown>:0: error: loc(callsite(fused["TensorListReserve:", "encoder_1/lstm_1/TensorArrayV2_1@__inference_1"] at'
    ' callsite(fused["StatefulPartitionedCall:", "StatefulPartitionedCall@__inference_signature_wrapper_1329"] at '
    'fused["StatefulPartitionedCall:", "StatefulPartitionedCall_1"]))): '
    "'tf.TensorListReserve' op requires element_shape\n"
    "<unknown>:0: error: Lowering tensor list ops is failed. Please consider using Select TF ops and disabling "
    "`_experimental_lower_tensor_list_ops` flag in the TFLite converter object."
)


def of_python(x):
    return tf.ensure_shape(tf.numpy_function(np.sin, [x], tf.float32), x.shape)


def of_strings(x):
    return tf.strings.to_number(tf.strings.as_string(x))


def cholesky(x):
    return tf.linalg.diag_part(tf.linalg.cholesky(tf.linalg.diag(tf.square(x) + 1.0)))


# Of any batch and of 1, and with the comparison and without.
@pytest.mark.parametrize(
    "arguments",
    [{}, *(pytest.param(slow, marks=pytest.mark.slow) for slow in ({"batch_size": 1}, {"quantize": "dynamic"}))],
)
@pytest.mark.parametrize(
    ("function", "op"),
    [
        (tf.math.erf, "Erf"),
        pytest.param(tf.math.digamma, "Digamma", marks=pytest.mark.slow),
        pytest.param(cholesky, "Cholesky", marks=pytest.mark.slow),
        pytest.param(of_strings, "AsString", marks=pytest.mark.slow),
    ],
)
def test_an_op_that_a_device_lacks_is_named_with_its_layer(tmp_path, function, op, arguments):
    def in_layer(x):
        with tf.name_scope("mine"):
            return function(x)

    with pytest.raises(NotImplementedError) as refused:
        export.tflite(WithOp(in_layer), tmp_path / "model.tflite", **arguments)
    lines = str(refused.value).split("\n")
    begin = f"TFLite cannot run this model with its built-in ops, among which is no {op} (in the layer 'mine')"
    assert lines[0].startswith(begin)
    assert lines[1].startswith("Use layers and parts whose ops TFLite has")
    assert len(lines) == 2
    # A traceback would show the converter's own text in full.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []


def test_a_function_in_python_is_refused_by_every_format(tmp_path):
    for write in (export.saved_model, export.tflite):
        with pytest.raises(NotImplementedError, match=r"`tf\.numpy_function` and `tf\.py_function` call Python"):
            write(WithOp(of_python), tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").is_file()


@pytest.mark.slow
def test_what_fails_for_any_batch_alone_is_written_for_a_batch_of_one(tmp_path):
    # Converts, but LiteRT gives no rows or, in other graphs, refuses to run it.
    model = WithOp(lambda x: tf.math.lgamma(tf.square(x) + 1.0))
    with pytest.warns(
        UserWarning, match=r"^`batch_size` is 1 in .*model\.tflite, .* For any batch: The TFLite must run"
    ):
        file = export.tflite(model, tmp_path / "model.tflite")
    opened = export.load(file)
    assert opened.metadata["batch_size"] == 1
    received = opened.run("serving_default", x=[[0.0, 1.0], [2.0, 3.0]])["y"]
    np.testing.assert_allclose(received, [[0.0, 0.0], [np.log(24.0), np.log(362880.0)]], rtol=1e-5, atol=1e-6)


def test_the_words_of_the_converter_are_shortened():
    error = tflite_refusals.of_converter(OF_LSTM)
    assert isinstance(error, tflite_refusals.BatchSizeError)
    assert str(error).split("\n")[0] == (
        "TFLite runs the loop of a recurrent layer (in the layer 'encoder_1/lstm_1') only for a batch of 1 and a fixed "
        "number of steps."
    )
    assert "TensorList" not in str(error)
    assert "batch_size=1" in str(error).split("\n")[1]
    other = tflite_refusals.of_converter(OF_LSTM.replace("TensorList", "Other"))
    assert isinstance(other, tflite_refusals.BatchSizeError)
    assert str(other).split("\n")[0] == (
        "TFLite cannot run this model with its built-in ops: OtherReserve (in the layer 'encoder_1/lstm_1'): "
        "'tf.OtherReserve' op requires element_shape"
    )
    assert len(str(tflite_refusals.of_converter("x" * 20_000)).split("\n")[0]) < 400


def test_a_loop_that_needs_a_batch_of_one_is_known_before_the_conversion():
    def in_steps(x):
        with tf.name_scope("mine"):
            return tf.scan(lambda before, x_t: before + x_t, tf.transpose(x)[..., tf.newaxis])[-1]

    named = {batch_size: Endpoints(WithOp(in_steps), batch_size).list_of_open_shape() for batch_size in (None, 1)}
    assert named[1] is None
    assert str(tflite_refusals.of_list(named[None])).startswith(
        "TFLite runs the loop of a recurrent layer (in the layer 'mine/scan') only for a batch of 1 and a fixed number"
    )
    assert str(tflite_refusals.of_list("TensorArrayV2")).startswith(
        "TFLite runs a loop over the steps only for a batch"
    )
    assert Endpoints(WithOp(tf.math.erf)).list_of_open_shape() is None


def test_what_the_interpreter_cannot_calibrate_is_refused_in_two_lines(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("Node number 4 (SUB) failed to prepare.\n" + 50 * "and so on\n")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda *_, **__: Failing(fail))
    with pytest.raises(NotImplementedError, match=r"built-in ops: Node number 4 \(SUB\) failed") as refused:
        export.tflite(Scaled(), tmp_path / "model.tflite", quantize="int8", x=np.ones((4, 2)))
    assert str(refused.value).count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Failing:
    """A converter whose calibration fails."""

    def __init__(self, convert):
        self.convert = convert


RECURRENT = {
    "LSTM": lambda: keras.layers.LSTM(4),
    "GRU": lambda: keras.layers.GRU(4),
    "SimpleRNN": lambda: keras.layers.SimpleRNN(4),
    "Bidirectional": lambda: keras.layers.Bidirectional(keras.layers.LSTM(4)),
}


def recurrent_vae(layer):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((6, 2)), layer, keras.layers.Dense(8)])
    return VAE(encoder, networks.dense_decoder(2, (6, 2), hidden=(8,)), 2)


SEQUENCES = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_encoder_is_written_for_a_batch_of_one(tmp_path, name):
    vae = recurrent_vae(RECURRENT[name]())
    with pytest.warns(UserWarning, match=r"`batch_size` is 1 in .*the loop of a recurrent layer \(in the layer "):
        file = export.tflite(vae, tmp_path / "model.tflite")
    received = export.load(file).encode(SEQUENCES)["loc"]
    np.testing.assert_allclose(received, vae.encode(SEQUENCES)["loc"], rtol=0, atol=1e-5)


def test_int8_of_a_loop_is_refused_before_the_converter_crashes(tmp_path):
    vae = recurrent_vae(keras.layers.SimpleRNN(4))
    with pytest.raises(NotImplementedError, match=r'^quantize="int8" cannot calibrate a loop'):
        export.tflite(vae, tmp_path / "model.tflite", quantize="int8", x=SEQUENCES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_of_an_unrolled_loop(tmp_path):
    vae = recurrent_vae(keras.layers.LSTM(4, unroll=True))
    file = export.tflite(vae, tmp_path / "model.tflite", quantize="int8", x=SEQUENCES)
    received = export.load(file).encode(SEQUENCES)["loc"]
    np.testing.assert_allclose(received, vae.encode(SEQUENCES)["loc"], rtol=0, atol=0.1)
