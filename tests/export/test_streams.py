"""The signature `step` of models of windows: in each format, in raw units, and its comparison."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.models.test_streaming import C, T, series, series_vae, stepped, windows_of
from tfvae import export
from tfvae.export import documents, endpoints, metadata, units, verification
from tfvae.exportable import Signature

OFFSET, SCALE = np.float32([10, -5]), np.float32([2, 4])
OUTPUTS = {"score", "is_anomaly", "contributions", "kl"}


@pytest.fixture(scope="module")
def models():
    return {is_missing: series_vae(is_missing) for is_missing in (False, True)}


def in_memory(model, scaling=None):
    """What `tfvae.export.load` would give for an export with the signature `step` alone."""
    signature = units.signatures(model, scaling)["step"]
    function = endpoints._graph(signature, None, model.export_description(), False)

    def call(name, arrays):
        outputs = function(**{name: tf.constant(array) for name, array in arrays.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    shapes = {"step": {spec.name: tuple(spec.shape) for spec in signature.inputs}}
    return export.ExportedModel(call, shapes, {**model.export_description(), "units": "raw" if scaling else "model"})


def assert_same(received, expected):
    assert set(received) == OUTPUTS
    for name, value in expected.items():
        assert received[name].dtype == value.dtype
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_exported_stream_answers_as_the_model_does(models, is_missing):
    model, data = models[is_missing], series(2 * T)
    if is_missing:
        data[2, 0] = np.nan
    expected = stepped(model.stream(), data)
    scaling = units.make(model, OFFSET, SCALE)
    for client, given in ((in_memory(model), data), (in_memory(model, scaling), data * SCALE + OFFSET)):
        assert_same(stepped(client.stream(), given), expected)


def test_a_wrong_value_leaves_the_state_of_its_row_as_it_was(models):
    client = in_memory(models[True])
    x_t = np.zeros((2, C), np.float32)
    x_t[1] = np.inf
    state = np.random.default_rng(0).normal(size=(2, T - 1, C)).astype(np.float32)
    state[:, 0] = np.nan
    outputs = client._call("step", {"x_t": x_t, "state": state})
    after = outputs.pop("state")
    np.testing.assert_array_equal(after, [np.concatenate([state[0, 1:], x_t[:1]]), state[1]])
    assert all(np.isfinite(value[0]).all() and np.isnan(value[1]).all() for value in outputs.values())
    stream = client.stream(2)
    stream(x_t[:1].repeat(2, axis=0))
    before = stream.state
    with pytest.raises(ValueError, match=r"^`x_t` must be finite or NaN"):
        stream(x_t)
    assert stream.state is before
    with pytest.raises(ValueError, match=r"^`x_t` must be finite\. Received"):
        in_memory(models[False]).stream()([[np.nan, 0]])


def test_a_readme_names_the_channels_of_a_series(models):
    known = models[False]
    series_of = tfvae.data.Series(["heat", "load*"], [0.0, 0.0], [1.0, 1.0], T)
    model = tfvae.VAE(known.encoder, known.decoder, known.latent_dim, series=series_of)
    ((template, fields),) = model.export_readme({})
    assert template == "autoencoder.md"
    assert "with the channels heat, load\\*, in this order" in fields["channels"]
    assert model.export_tags == (*known.export_tags, "time-series")
    axes = metadata._axes(known.export_signatures(), False, known.export_axes)
    assert axes["x"] == axes["state"] == "example, step, channel"


def test_the_prose_of_a_readme_is_broken_into_lines_and_nothing_else_is():
    other = f"# {'long ' * 30}\n\n    code {'long ' * 30}\n\n| {'cell ' * 30} |\n| --- |\n\n- {'item ' * 30}\n"
    assert documents._wrapped(other) == other
    words = [f"word{index}" for index in range(60)]
    text = documents._wrapped(f"{other}\n{' '.join(words[:50])}\n{' '.join(words[50:])}\n\nLast.\n")
    assert text.startswith(other)
    assert text.endswith("\n\nLast.\n")
    lines = text[len(other) :].split("\n")[1:-3]
    assert all(100 < len(line) <= 120 for line in lines[:-1])
    assert " ".join(lines).split() == words


def test_an_offset_for_each_step_leaves_only_the_units_of_the_model(models):
    model = models[False]
    assert {"step", "step_normalized"} <= set(units.signatures(model, units.make(model, np.ones((T, 1)), 2.0)))
    scaling = units.make(model, np.arange(T * C).reshape(T, C), 2.0)
    signatures = units.signatures(model, scaling)
    assert "step" not in signatures
    assert {"detect", "step_normalized"} <= set(signatures)
    assert set(units.examples(model, scaling, windows_of(series()))) == set(signatures)


def test_what_is_not_of_windows_or_not_calibrated_has_no_step(models, exported):
    client = exported("dense-Normal").clients["tflite"]
    with pytest.raises(AttributeError, match="no `stream`, because it was exported without the signature 'step'"):
        client.stream()
    model = models[False]
    calibrated, model.decision = model.decision, None
    assert not {"detect", "step"} & set(model.export_signatures())
    model.decision = calibrated
    assert {"detect", "step"} <= set(model.export_signatures())


def test_nan_must_be_where_the_model_has_it():
    signature = Signature(None, (), with_nan=("score",))
    outputs = {"score": np.float32([1.0, np.nan, 3.0])}
    sizes = {name: verification.tolerances.sizes(name, array, None, {}) for name, array in outputs.items()}
    question = verification._Question(signature, {}, outputs, sizes)

    def check(*score):
        answers = {"step": {"score": np.float32(score)}}
        verification._check("file", {"step": question}, answers, 1e-4, "the Keras model", True)

    check(1, np.nan, 3)
    assert verification.agreement("file", "step", "score", {"score": outputs["score"]}, question).max_difference == 0
    for wrong in ((1, 0, 3), (np.nan, np.nan, 3), (1, np.nan, 4)):
        with pytest.raises(verification.DisagreementError, match="`step` gives `score`"):
            check(*wrong)
    other = question._replace(signature=Signature(None, ()))
    with pytest.raises(verification.DisagreementError):
        verification._check("file", {"step": other}, {"step": outputs}, 1e-4, "the Keras model", True)


@pytest.mark.slow
@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("scaled", [{}, {"offset": OFFSET, "scale": SCALE}])
def test_files_answer_as_the_model_does(models, tmp_path, is_missing, scaled):
    model, data = models[is_missing], series(2 * T)
    expected = stepped(model.stream(), data)
    given = data * SCALE + OFFSET if scaled else data
    version = export.saved_model(model, tmp_path / "served", **scaled)
    any_batch = export.tflite(model, tmp_path / "any.tflite", **scaled)
    one = export.tflite(model, tmp_path / "one.tflite", batch_size=1, **scaled)
    for path, runtime in ((version, None), (any_batch, "interpreter"), (one, "interpreter"), (one, "compiled_model")):
        client = export.load(path, runtime=runtime)
        assert client.metadata["state_shape"] == [T - 1, C]
        assert_same(stepped(client.stream(), given), expected)
    both = stepped(export.load(version).stream(2), np.stack([given, given], axis=1))
    assert_same({name: value[:, :1] for name, value in both.items()}, expected)
    readme = (version.parent / "README.md").read_text()
    assert "The first `state` [B, 5, 2] is NaN" in readme
    assert (f"Until {T} steps were given" in readme) != is_missing
    request = json.loads((version.parent / "requests" / "step.json").read_text())["instances"][0]
    assert np.isnan(request["state"]).all()
    assert np.shape(request["state"]) == (T - 1, C)
    np.testing.assert_allclose(request["x_t"], OFFSET if scaled else [0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_quantised_files_step_unless_they_have_no_nan(models, tmp_path, quantize):
    model, data = models[False], series(2 * T)
    file = export.tflite(model, tmp_path / "model.tflite", quantize=quantize, x=windows_of(series(60)))
    client = export.load(file)
    if quantize == "int8":
        assert "step" not in client.signatures
        return
    score = stepped(client.stream(), data)["score"]
    expected = stepped(model.stream(), data)["score"]
    np.testing.assert_allclose(score, expected, atol=0.05 * np.nanmax(np.abs(expected)))


@pytest.mark.slow
def test_a_saved_model_runs_by_the_code_of_its_readme(models, run_with_tensorflow, tmp_path):
    model, data = models[True], series(2 * T)
    version = export.saved_model(model, tmp_path / "served")
    (code,) = [
        part for part in (version.parent / "README.md").read_text().split("\n\n") if part.startswith("    model = tf")
    ]
    np.savez(tmp_path / "expected.npz", series=data, score=stepped(model.stream(), data)["score"][-1])
    run_with_tensorflow(
        """
        import sys, numpy as np, tensorflow as tf

        expected = np.load(sys.argv[2])
        series = expected["series"]
        exec(sys.argv[3].replace("    ", "", 1).replace("\\n    ", "\\n").replace("<version>", sys.argv[1]))
        np.testing.assert_allclose(outputs["score"], expected["score"], rtol=1e-5, atol=1e-4)
        """,
        version,
        tmp_path / "expected.npz",
        code,
    )
