"""The table of formats: a format that a test adds is written, opened, compared and verified like the built-in ones."""

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.exports import Scaled
from tfvae import export
from tfvae.export import formats, one_file, units
from tfvae.export.formats import saved_model
from tfvae.export.metadata import metadata
from tfvae.export.verification import check_agreement


def write(endpoints, path):
    """Writes a SavedModel as one zip file."""
    with tempfile.TemporaryDirectory() as folder:
        saved_model.FORMAT.write(endpoints, Path(folder) / "content")
        shutil.make_archive(str(path.with_suffix("")), "zip", Path(folder) / "content")


def open_(path, num_threads):
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(path, folder, "zip")
        return saved_model.FORMAT.open(Path(folder), num_threads)


ZIP = formats.Format(
    "Zip",
    write,
    lambda path: path if path.suffix == ".zip" and path.is_file() else None,
    open_,
    lambda path: path.with_suffix(".zip.json"),
)


@pytest.fixture
def with_zip(monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "zip", ZIP)


X = np.random.default_rng(0).normal(size=(9, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return Scaled()


@pytest.fixture
def file(model, with_zip, tmp_path):
    scaling = units.make(model, 1.0, 2.0)
    endpoints = export.Endpoints(model, scaling=scaling)
    return one_file.write("zip", model, endpoints, tmp_path / "model.zip", metadata(model, scaling))


def test_a_new_format_is_written_and_opened(model, file):
    exported = export.load(file)
    assert set(exported.signatures) == {"serving_default", "score", "score_normalized"}
    raw = 2 * X + 1
    np.testing.assert_allclose(exported.run("serving_default", x=raw)["y"], model.predict(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exported.score(raw, -X)["elbo"], X @ [1.0, 2.0], rtol=1e-5, atol=1e-6)
    assert exported.metadata["scaling"]["scale"] == 2.0
    assert {path.name for path in file.parent.iterdir()} == {"model.zip", "model.zip.json"}


@pytest.mark.slow
def test_a_new_format_is_verified_beside_the_others(model, file, tmp_path):
    tflite = export.tflite(model, tmp_path / "model.tflite")
    result = export.verify(model, zip=file, tflite=tflite, x=X, timed_calls=1)
    assert [cost.format for cost in result.costs] == ["Keras", "TFLite", "Zip"]
    assert result.costs[2].size == len(file.read_bytes())
    assert result.costs[2].elbo_difference == pytest.approx(0, abs=1e-5)
    outputs = {
        name: [(row.signature, row.output) for row in result.agreements if row.format == name]
        for name in ("Zip", "TFLite")
    }
    # The zip takes raw data, and the other file those of the model.
    assert outputs["TFLite"] == [("serving_default", "y"), ("score", "elbo")]
    assert outputs["Zip"] == [*outputs["TFLite"], ("score_normalized", "elbo")]
    assert max(row.max_difference for row in result.agreements) < 1e-5
    # Two outputs with differences of both formats, and one with that of the zip alone.
    lines = [line.split() for line in str(result).splitlines()]
    assert [len(words) for words in lines[2 : lines.index([])]] == [5, 5, 4]
    assert lines[-1][0] == "Zip"


def test_a_new_format_that_does_not_agree_is_not_published(model, with_zip, tmp_path):
    other = Scaled((2.0, 3.1))
    with pytest.raises(ValueError, match=r"^The Zip must agree with the Keras model to 0\.0001 before"):
        one_file.write("zip", model, export.Endpoints(other), tmp_path / "model.zip", metadata(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("tolerance", "accepted"), [(1e-2, True), (1e-4, False)])
def test_the_tolerance_is_that_of_the_format(model, with_zip, monkeypatch, tmp_path, tolerance, accepted):
    other = Scaled((2.0, 3.001))
    monkeypatch.setitem(formats.FORMATS, "zip", ZIP._replace(tolerance=tolerance))
    one_file.write("zip", other, export.Endpoints(other), tmp_path / "other.zip", metadata(other))
    if accepted:
        check_agreement(model, zip=tmp_path / "other.zip")
    else:
        with pytest.raises(ValueError, match=re.escape("The Zip must agree with the Keras model to 0.0001")):
            check_agreement(model, zip=tmp_path / "other.zip")


def test_a_format_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(TypeError, match=r"^The keyword arguments must be `saved_model`, .*`timed_calls`.* zip="):
        export.verify(model, zip=tmp_path / "model.zip", x=X)


def test_no_file_at_all_is_named_with_every_format(model, with_zip):
    message = (
        "`saved_model` or `tflite` or `onnx` or `zip` must be given. Received: saved_model=None, tflite=None, "
        "onnx=None, zip=None"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export.verify(model, x=X)
