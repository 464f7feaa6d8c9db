"""ONNX models: their numbers in ONNX Runtime against the Keras model's, what is refused, and how they are published."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from tests.export.test_likelihoods import LIKELIHOODS, assert_agrees, build
from tests.helpers.exports import Scaled, WithOp
from tests.models.test_streaming import series, series_vae, stepped
from tfvae import export
from tfvae.export.formats import onnx as onnx_format

NORMALIZED = tuple(f"{name}_normalized" for name in ("encode", "decode", "reconstruct", "generate", "score"))
DRAWS = ("generate_sample", "reconstruct_sample")
SIGNATURES = ("encode", "decode", "reconstruct", "generate", "score", *DRAWS, "serving_default")


def run_op(function, values, tmp_path):
    """What ONNX Runtime makes of a function of one tensor."""
    x = np.reshape(np.array(values, np.float32), [-1, 2])
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    onnx_format.FORMAT.write(export.Endpoints(WithOp(function), marks_wrong_rows=False), folder)
    session = onnxruntime.InferenceSession(folder / "serving_default.onnx")
    return session.run(None, {"x": x})[0].ravel()


def test_every_signature_agrees_with_keras_in_onnx_runtime(exported, tmp_path):
    vae = exported("linear").model
    folder = export.onnx(vae, tmp_path / "onnx", offset=[0.5], scale=2)
    assert {path.name for path in folder.iterdir()} == {
        "metadata.json",
        *(f"{name}.onnx" for name in SIGNATURES + NORMALIZED),
    }
    x, epsilon = (np.random.default_rng(0).normal(size=(5, n)).astype(np.float32) for n in (4, 2))
    for name, inputs in {"encode": {"x": x}, "decode": {"z": epsilon}, "score": {"x": x, "epsilon": epsilon}}.items():
        model = onnx.load(folder / f"{name}_normalized.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}
        # The name of the input and output axes tells a user which may have any size.
        axes = [value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)]
        assert set(axes) == {"batch"}
        session = onnxruntime.InferenceSession(folder / f"{name}_normalized.onnx")
        received = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
        expected = {"encode": vae.encode, "decode": lambda z: {"mean": vae.decode(z)}, "score": vae.score}[name]
        for output, value in expected(*inputs.values()).items():
            np.testing.assert_allclose(received[output], value, rtol=1e-5, atol=1e-5)
    client = export.load(folder, num_threads=1)
    assert client.metadata["scaling"]["scale"] == 2.0
    np.testing.assert_allclose(client.reconstruct(2 * x + 0.5), 2 * vae.reconstruct(x) + 0.5, rtol=1e-5, atol=1e-5)
    assert export.load(folder / "encode.onnx").signatures == client.signatures
    verified = export.verify(vae, onnx=folder, x=x, timed_calls=1)
    assert {row.signature for row in verified.agreements} == set(SIGNATURES + NORMALIZED)
    assert max(row.max_difference for row in verified.agreements) < 1e-5
    assert verified.costs[1].size == sum(path.stat().st_size for path in folder.iterdir())


def test_log1p_and_expm1_keep_the_digits_of_small_numbers(tmp_path):
    values = [0.0, 1e-30, 1e-8, -1e-8, 1e-4, -1e-3, 0.1, 0.49, 0.51, -0.49, -0.51, -0.9999, 2.0, 80.0, 1e30, np.inf]
    x = np.array(values, np.float32).astype(float)
    np.testing.assert_allclose(run_op(tf.math.log1p, values, tmp_path), np.log1p(x), rtol=1e-6)
    values = [0.0, 1e-30, 1e-8, -1e-8, 1e-4, -1e-3, 0.1, -0.5, 0.5, 1.0, 5.0, 80.0, -5.0, -1e30, np.inf, -np.inf]
    x = np.array(values, np.float32).astype(float)
    np.testing.assert_allclose(run_op(tf.math.expm1, values, tmp_path), np.expm1(x), rtol=2e-6)


def test_what_is_not_selected_has_no_effect(tmp_path):
    values = [np.nan, 1.0, -np.inf, 2.0]
    received = run_op(lambda x: tf.where(tf.equal(x, x), x, 7.0), values, tmp_path)
    np.testing.assert_array_equal(received, [7.0, 1.0, -np.inf, 2.0])
    received = run_op(lambda x: tf.where(x > 0.0, tf.math.log(x), x), values[2:], tmp_path)
    np.testing.assert_allclose(received, [-np.inf, np.log(2.0)], rtol=1e-6)
    received = run_op(lambda x: tf.cast(tf.where(x > 1.5, x > 3.0, x < 0.0), tf.float32), values[2:], tmp_path)
    np.testing.assert_array_equal(received, [1.0, 0.0])


def test_an_op_that_onnx_lacks_is_refused_in_two_lines(tmp_path):
    with pytest.raises(NotImplementedError, match=r"^ONNX cannot run `serving_default`, .* Digamma") as refused:
        export.onnx(WithOp(tf.math.digamma), tmp_path / "onnx")
    assert str(refused.value).count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_differ_are_refused(tmp_path, monkeypatch):
    from tfvae.export.formats import onnx_ops

    monkeypatch.setitem(onnx_ops._OPS, "Log1p", lambda op, x: op("Log", x))
    with pytest.raises(ValueError, match=r"^The ONNX must agree with the Keras model to 0\.0001 before"):
        export.onnx(WithOp(tf.math.log1p), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_one_and_a_second_export(tmp_path):
    folder = tmp_path / "onnx"
    for batch_size in (None, 1):
        export.onnx(Scaled(), folder, batch_size=batch_size)
        assert json.loads((folder / "metadata.json").read_text())["batch_size"] == batch_size
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    np.testing.assert_array_equal(export.load(folder).run("serving_default", x=[[1.0, 2.0]])["y"], [[2.0, 6.0]])
    np.testing.assert_array_equal(
        export.load(folder).score(np.eye(3)[:, :2], np.zeros((3, 2)))["elbo"], [2.0, 3.0, 0.0]
    )
    # Only those that are called, and without the description.
    for name in ("metadata.json", "score.onnx"):
        (folder / name).unlink()
    np.testing.assert_array_equal(export.load(folder).predict([[1.0, 2.0]])["y"], [[2.0, 6.0]])
    foreign = onnx.load(folder / "serving_default.onnx")
    foreign.domain = ""
    onnx.save(foreign, folder / "serving_default.onnx")
    with pytest.raises(ValueError, match="`path` must be a model that tfvae exported"):
        export.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.onnx"}, "`path` must be a folder, because ONNX has a file for each signature"),
        ({"batch_size": 2}, "`batch_size` must be 1 or None. Received: batch_size=2"),
        ({"offset": 1.0}, "`offset` and `scale` must be given together"),
    ],
)
def test_an_argument_out_of_its_range_is_named_before_anything_is_written(tmp_path, arguments, message):
    path = tmp_path / arguments.pop("path", "onnx")
    with pytest.raises(ValueError, match=re.escape(message)):
        export.onnx(Scaled(), path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_neither_replaced_nor_opened(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="`path` must be a new folder, or that of an earlier ONNX export"):
        export.onnx(Scaled(), tmp_path)
    (tmp_path / "foreign.onnx").write_bytes(b"foreign")
    with pytest.raises(ValueError, match="`path` must hold ONNX models that ONNX Runtime can run"):
        export.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_agrees_with_keras(tmp_path, name):
    model = build(*(part() if callable(part) else part for part in LIKELIHOODS[name]))
    # ONNX Runtime's sigmoid has an absolute error of 1e-7. This likelihood's mean has a sigmoid as a factor, which is
    # about 1e-4 where the other factor is large.
    rtol = 2e-3 if name == "ZeroInflatedNegativeBinomial" else 1e-4
    assert_agrees(export.load(export.onnx(model, tmp_path / "onnx")), model, rtol)


@pytest.mark.slow
def test_a_stream_goes_on_from_the_state_that_onnx_gives(tmp_path):
    model, data = series_vae(True), series()
    # Compared with the model before it is published.
    received = stepped(export.load(export.onnx(model, tmp_path / "onnx")).stream(), data)
    for name, value in stepped(model.stream(), data).items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
