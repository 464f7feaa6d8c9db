"""The verification of exports: differences computed by hand, errors, and the report."""

import json
import re

import numpy as np
import pytest

from tests.helpers.exports import Scaled, linear_vae
from tfvae import export
from tfvae.export import device, report, serving, verification
from tfvae.export.verification import check_agreement

SHIFT = 0.25
OUTPUTS = {
    "encode": ["loc", "scale"],
    "decode": ["mean"],
    "reconstruct": ["mean"],
    "generate": ["mean"],
    "score": ["elbo", "reconstruction_log_likelihood", "kl"],
    "serving_default": ["mean", "elbo", "reconstruction_log_likelihood", "kl"],
    "generate_sample": ["sample"],
    "reconstruct_sample": ["sample"],
}


def data(n):
    return np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)


def shifted(model):
    """A copy whose decoder adds SHIFT to every element."""
    copy = linear_vae()
    copy.set_weights(model.get_weights())
    copy.decoder.layers[-2].bias.assign_add(np.full(4, SHIFT))
    return copy


@pytest.fixture(scope="module")
def model(exported):
    return exported("linear").model


@pytest.fixture(scope="module")
def files(exported):
    return {"saved_model": exported("linear").version, "tflite": exported("linear").tflite}


@pytest.fixture(scope="module")
def verified(model, files):
    return export.verify(model, **files, x=data(9), timed_calls=5)


@pytest.fixture(scope="module")
def wrong(model, files):
    """Correct files, verified against a model whose decoder adds SHIFT to every element."""
    return export.verify(shifted(model), **files, x=data(9), timed_calls=1)


def rows_by_name(result):
    return {(row.format, row.signature, row.output): row for row in result.agreements}


def test_latency_can_be_left_out():
    assert verification._latency(None, None, calls=0) == {}
    cost = report.Cost("Keras", None, None, None, None, {})
    assert "us per example" not in str(report.Verification(1, [], [cost]))
    assert "us per example" in str(report.Verification(1, [], [cost._replace(latency={1: (1.0, 1.0, 1.0)})]))


def test_every_output_of_every_signature_of_every_format_is_compared(verified):
    names = [(row.format, row.signature, row.output) for row in verified.agreements]
    expected = [(name, s, output) for name in ("SavedModel", "TFLite") for s in OUTPUTS for output in OUTPUTS[s]]
    assert sorted(names) == sorted(expected)
    assert verified.num_examples == 9


def test_a_right_export_differs_by_float32_alone(verified):
    for row in verified.agreements:
        assert 0 <= row.mean_difference <= row.max_difference <= 5e-6 * max(row.max_value, 1)
    assert [cost.elbo_difference for cost in verified.costs] == pytest.approx([0, 0, 0], abs=1e-5)


def test_the_largest_value_is_that_of_the_keras_model(verified, model):
    rows = rows_by_name(verified)
    x = data(9)
    expected = {**model.encode(x), "mean": model.reconstruct(x)}
    for name, signature in (
        ("loc", "encode"),
        ("scale", "encode"),
        ("mean", "reconstruct"),
        ("mean", "serving_default"),
    ):
        for file_format in ("SavedModel", "TFLite"):
            assert rows[file_format, signature, name].max_value == np.abs(expected[name]).max()


@pytest.mark.parametrize("file_format", ["SavedModel", "TFLite"])
def test_differences_are_those_computed_by_hand(wrong, file_format):
    rows = rows_by_name(wrong)
    for signature in ("decode", "reconstruct", "generate", "serving_default"):
        row = rows[file_format, signature, "mean"]
        np.testing.assert_allclose([row.max_difference, row.mean_difference], SHIFT, rtol=1e-5)
    for signature, output in (("encode", "loc"), ("encode", "scale"), ("score", "kl"), ("serving_default", "kl")):
        assert rows[file_format, signature, output].max_difference < 1e-6


@pytest.mark.parametrize("file_format", ["SavedModel", "TFLite"])
def test_differences_of_the_scores_are_those_computed_by_hand(wrong, model, file_format):
    # log N(x | m, 1) - log N(x | m + s, 1) = s^2 / 2 - s (x - m), summed over the 4 elements, at z = loc.
    x = data(9)
    by_hand = np.abs(np.sum(SHIFT**2 / 2 - SHIFT * (x.astype(float) - model.reconstruct(x)), axis=1))
    for output in ("reconstruction_log_likelihood", "elbo"):
        row = rows_by_name(wrong)[file_format, "serving_default", output]
        np.testing.assert_allclose(row.max_difference, by_hand.max(), rtol=1e-4)
        np.testing.assert_allclose(row.mean_difference, by_hand.mean(), rtol=1e-4)


def test_the_cost_in_elbo_is_the_signed_mean_over_examples_in_nats(wrong, model, files):
    # With the noise that `verify` draws: the file's ELBO minus the Keras model's.
    epsilon = np.random.default_rng(1).standard_normal([9, 2], np.float32)
    encoded = model.encode(data(9))
    mean = model.decode(encoded["loc"] + encoded["scale"] * epsilon)
    by_hand = np.mean(np.sum(SHIFT**2 / 2 - SHIFT * (data(9).astype(float) - mean), axis=1))
    for cost in wrong.costs[1:]:
        np.testing.assert_allclose(cost.elbo_difference, by_hand, rtol=1e-4)
    assert wrong.costs[0].elbo_difference == 0


def test_sizes_are_the_bytes_on_disk(verified, files):
    sizes = {cost.format: cost.size for cost in verified.costs}
    assert sizes == {
        "Keras": None,
        "SavedModel": sum(len(path.read_bytes()) for path in files["saved_model"].rglob("*") if path.is_file()),
        "TFLite": len(files["tflite"].read_bytes()),
    }


@pytest.mark.slow
def test_of_a_folder_of_versions_the_size_is_that_of_the_newest(model, files):
    folder = files["saved_model"].parent
    result = export.verify(model, saved_model=folder, x=data(2), timed_calls=1)
    newest = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    assert result.costs[1].size == sum(len(path.read_bytes()) for path in newest.rglob("*") if path.is_file())


def test_latencies_are_positive_with_the_median_between_the_quartiles(verified):
    assert [cost.format for cost in verified.costs] == ["Keras", "SavedModel", "TFLite"]
    for cost in verified.costs:
        assert list(cost.latency) == [1, 64]
        for median, low, high in cost.latency.values():
            assert 0 < low <= median <= high < 10


def test_latencies_are_seconds_per_example_and_the_median_of_many_calls(monkeypatch):
    # Readings of the clock in pairs: calls at batch size 1 take 1, 2 and 9 seconds; at batch size 64, 64 seconds each.
    readings = iter([0, 1, 0, 2, 0, 9, 0, 64, 0, 64, 0, 64])
    monkeypatch.setattr(verification.time, "perf_counter", lambda: next(readings))
    shapes = []
    latency = verification._latency(lambda batch: shapes.append(batch.shape), data(3), 3)
    assert latency == {1: (2.0, 1.5, 5.5), 64: (1.0, 1.0, 1.0)}
    # Each size has one more call, which is not timed.
    assert shapes == [(1, 4)] * 4 + [(64, 4)] * 4


def test_the_dictionary_survives_json(verified):
    received = json.loads(json.dumps(verified.to_dict(), allow_nan=False))
    assert received["num_examples"] == 9
    assert received["agreements"] == [row._asdict() for row in verified.agreements]
    assert [cost["format"] for cost in received["costs"]] == ["Keras", "SavedModel", "TFLite"]
    for cost, written in zip(verified.costs, received["costs"], strict=True):
        assert written["size"] == cost.size
        assert written["elbo_difference"] == cost.elbo_difference
        names = ("median", "lower_quartile", "upper_quartile")
        assert written["latency"] == {
            str(size): dict(zip(names, times, strict=True)) for size, times in cost.latency.items()
        }
        assert (written["path"], written["quantize"]) == (cost.path, None)


def test_the_tables_have_a_row_for_each_output_with_each_format_and_one_for_its_cost(verified):
    lines = [line.split() for line in str(verified).splitlines()]
    formats = ("SavedModel", "TFLite")
    by_format = [[row for row in verified.agreements if row.format == name] for name in formats]
    assert lines[1][-2:] == list(formats)
    for words, *rows in zip(lines[2:], *by_format, strict=False):
        differences = [f"{row.max_difference:.2e}" for row in rows]
        assert words == [rows[0].signature, rows[0].output, f"{rows[0].max_value:.4g}", *differences]
    assert len(lines) == 2 + len(by_format[0]) + 2 + len(verified.costs)
    for cost, words in zip(verified.costs, lines[-3:], strict=True):
        assert words[0] == cost.format
        assert str(cost.size) in words or cost.size is None


# What is verified


def test_only_what_is_given_is_verified(model, files):
    result = export.verify(model, tflite=files["tflite"], x=data(2), timed_calls=1)
    assert {row.format for row in result.agreements} == {"TFLite"}
    assert [cost.format for cost in result.costs] == ["Keras", "TFLite"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"saved_model": None, "tflite": None}, "`saved_model` or `tflite` or `onnx` must be given"),
        ({"timed_calls": -1}, "`timed_calls` must be an integer of at least 0. Received: timed_calls=-1"),
        ({"x": data(2)[:, :3]}, "`x` must have the shape [N, 4]"),
        ({"x": data(2)[:0]}, "`x` must hold at least one example"),
        ({"x": np.full((2, 4), np.nan)}, "`x` must be finite"),
        ({"x": np.full((2, 4), 1e300)}, "`x` must be finite"),
    ],
    ids=["no file", "timed_calls", "shape", "no rows", "NaN", "beyond float32"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_wrong_argument_is_named(model, files, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export.verify(model, **{**files, "x": data(2), **arguments})


def test_a_missing_file_is_named(model, tmp_path):
    for name in ("saved_model", "tflite"):
        with pytest.raises(FileNotFoundError, match="missing"):
            export.verify(model, **{name: tmp_path / "missing"}, x=data(2))


# Errors


@pytest.mark.parametrize(
    "x", [None, pytest.param(data(1), marks=pytest.mark.slow), data(100)], ids=["generated", "one", "many"]
)
def test_a_right_export_is_accepted(model, files, x):
    check_agreement(model, **files, x=x)


@pytest.mark.parametrize(("name", "file_format"), [("saved_model", "SavedModel"), ("tflite", "TFLite")])
def test_a_wrong_export_is_refused_by_format_signature_and_output(model, files, name, file_format):
    message = rf"^The {file_format} must agree .*Received: `decode` gives `mean` with a difference of 2\.50e-01"
    with pytest.raises(ValueError, match=message):
        check_agreement(shifted(model), **{name: files[name]}, x=data(5))


@pytest.mark.parametrize("wrong_part", ["loc", "scale"])
def test_a_wrong_head_of_the_posterior_is_refused_as_encode(model, files, wrong_part):
    copy = linear_vae()
    copy.set_weights(model.get_weights())
    getattr(copy.posterior, f"{wrong_part}_head").bias.assign_add([0.001, 0])
    with pytest.raises(ValueError, match=f"`encode` gives `{wrong_part}`"):
        check_agreement(copy, tflite=files["tflite"], x=data(5))


@pytest.mark.parametrize("bias", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_what_is_not_finite_is_refused(files, bias):
    model = linear_vae()
    model.decoder.layers[-2].bias.assign(np.full(4, bias))
    with pytest.raises(ValueError, match=r"`decode` gives `mean` with a difference of (nan|inf)"):
        check_agreement(model, **files, x=data(5))


@pytest.mark.slow
@pytest.mark.parametrize(("relative", "accepted"), [(0.5e-4, True), (2e-4, False)])
def test_the_tolerance_is_1e_4_of_the_largest_value(model, files, relative, accepted):
    copy = linear_vae()
    copy.set_weights(model.get_weights())
    head = copy.posterior.loc_head
    head.set_weights([weight * np.float32(1 + relative) for weight in head.get_weights()])
    loc = export.verify(copy, tflite=files["tflite"], x=data(5), timed_calls=1).agreements[0]
    np.testing.assert_allclose(loc.max_difference / loc.max_value, relative, rtol=0.05)
    if accepted:
        check_agreement(copy, tflite=files["tflite"], x=data(5))
    else:
        with pytest.raises(ValueError, match="`encode` gives `loc`"):
            check_agreement(copy, tflite=files["tflite"], x=data(5))


# Columns of very different size


LARGE, SMALL = 1e5, 1e-3


@pytest.fixture(scope="module")
def of_two_sizes(tmp_path_factory):
    """A right export of a model whose columns, of one value each, are 1e5 and 1e-3."""
    model = Scaled((LARGE, SMALL))
    return model, export.saved_model(model, tmp_path_factory.mktemp("two") / "sizes")


def test_a_wrong_small_column_beside_a_large_one_is_refused_and_marked(of_two_sizes):
    right, version = of_two_sizes
    check_agreement(right, saved_model=version)
    wrong = Scaled((LARGE, 1.01 * SMALL))
    with pytest.raises(ValueError, match=r"`serving_default` gives `y` with a difference of 1\.00e-05 in column 1 wh"):
        check_agreement(wrong, saved_model=version)
    x = np.array([[1.0, 1.0], [2.0, -1.0]], np.float32)
    with pytest.raises(ValueError, match=r"in column 1 "):
        check_agreement(wrong, saved_model=version, x=x)
    rows = [export.verify(model, saved_model=version, x=x, timed_calls=1) for model in (right, wrong)]
    assert [each.agreements[0].max_relative for each in rows] == pytest.approx([0, 0.01], rel=0.02)
    assert ["*" in str(each) for each in rows] == [False, True]


@pytest.mark.parametrize(
    ("module", "function", "message", "shift"),
    [
        (serving, "saved_model", "The SavedModel must agree", SHIFT),
        pytest.param(serving, "saved_model", "The SavedModel must agree", np.nan, marks=pytest.mark.slow),
        pytest.param(device, "tflite", "The TFLite must agree", SHIFT, marks=pytest.mark.slow),
    ],
    ids=["SavedModel", "SavedModel with NaN", "TFLite"],
)
def test_a_wrong_export_is_not_published_and_what_was_there_stays(
    tmp_path, monkeypatch, module, function, message, shift
):
    model, path = Scaled(), tmp_path / "model.tflite"
    getattr(export, function)(model, path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    right = module.Endpoints
    shifted = Scaled((2.0 + shift, 3.0))
    monkeypatch.setattr(module, "Endpoints", lambda _, *rest, **more: right(shifted, *rest, **more))
    with pytest.raises(ValueError, match=message):
        getattr(export, function)(model, path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert not list(tmp_path.rglob(".tmp-*"))
