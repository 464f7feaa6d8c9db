"""Opening an export: its runtime, its description, what the client says it is, and the methods that it has."""

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.exports import EVENT_SHAPE, LATENT_DIM, Scaled
from tfvae import export
from tfvae.export import opening
from tfvae.export.formats import compiled_model

X = np.random.default_rng(0).integers(0, 2, (3, *EVENT_SHAPE)).astype(np.float32)
EPSILON = np.random.default_rng(1).standard_normal((3, LATENT_DIM), np.float32)
ROOT = Path(__file__).parents[2]
OF_A_VAE = ("encode", "decode", "reconstruct", "generate", "score", "predict")


@pytest.fixture(scope="module")
def shared(exported):
    return exported("convolutional-Bernoulli")


@pytest.fixture
def pair(shared, tmp_path):
    """A copy of a .tflite file and its description."""
    shutil.copy(shared.tflite.with_suffix(".json"), tmp_path)
    return Path(shutil.copy(shared.tflite, tmp_path))


def described(pair, **entries):
    """The file, whose description now has other entries."""
    description = pair.with_suffix(".json")
    description.write_text(json.dumps(json.loads(description.read_text()) | entries))
    return pair


# The runtime


def test_compiled_model_answers_as_the_interpreter_does_for_any_number_of_rows_and_in_threads(shared):
    compiled = export.load(shared.tflite, runtime="compiled_model", num_threads=2)
    expected = shared.clients["tflite"].score(X, EPSILON)

    def check():
        for _ in range(5):
            for rows in (1, 3):
                received = compiled.score(X[:rows], EPSILON[:rows])
                for name, value in expected.items():
                    np.testing.assert_allclose(received[name], value[:rows], rtol=1e-5, atol=1e-5)
            correct.append(True)

    correct = []
    started = [threading.Thread(target=check) for _ in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(correct) == 20
    # As data of an export's comparison may be, which does not pass the client.
    functions = compiled_model.functions(shared.tflite.read_bytes())[0]
    np.testing.assert_array_equal(functions["encode"](x=X[:1].astype(float))["loc"], compiled.encode(X[:1])["loc"])
    kept = compiled.decode(EPSILON[:1])
    before = kept.copy()
    compiled.decode(EPSILON[1:2])
    np.testing.assert_array_equal(kept, before)
    assert kept.shape == (1, *EVENT_SHAPE)


def test_the_interpreter_can_be_chosen_by_name(shared):
    chosen = export.load(shared.tflite, runtime="interpreter")
    np.testing.assert_array_equal(chosen.decode(EPSILON), shared.clients["tflite"].decode(EPSILON))


@pytest.mark.parametrize(
    ("path", "runtime", "expected"),
    [
        ("tflite", "CompiledModel", "'interpreter' or 'compiled_model' or None for the format TFLite"),
        ("version", "interpreter", "None for the format SavedModel"),
    ],
)
def test_a_runtime_of_another_format_or_name_is_refused(shared, path, runtime, expected):
    with pytest.raises(ValueError, match=f"`runtime` must be {expected}. Received: runtime='{runtime}'"):
        export.load(getattr(shared, path), runtime=runtime)


def test_what_is_no_model_is_refused_by_compiled_model_too(pair):
    pair.write_bytes(pair.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^`path` must be a \.tflite file\. Received: .*$") as error:
        export.load(pair, runtime="compiled_model")
    assert str(pair) in str(error.value)


def test_an_output_that_compiled_model_does_not_write_is_an_error(shared, monkeypatch):
    from ai_edge_litert.compiled_model import CompiledModel

    compiled = export.load(shared.tflite, runtime="compiled_model")
    monkeypatch.setattr(CompiledModel, "run_by_index", lambda *_: None)
    with pytest.raises(RuntimeError, match="signature 'decode' of this file: the output 'mean' is not written"):
        compiled.decode(EPSILON)

    def fails(*_):
        raise RuntimeError("code=3\nand more")

    monkeypatch.setattr(CompiledModel, "run_by_index", fails)
    with pytest.raises(RuntimeError, match=r"'decode' of this file: code=3. Export the model again, or use the Inter"):
        compiled.decode(EPSILON)


# What it is


@pytest.mark.parametrize("name", ["version", "tflite"])
def test_the_repr_says_format_path_signatures_and_units_in_one_line(shared, name):
    said = repr(shared.clients[name])
    file_format = {"version": "SavedModel", "tflite": "TFLite"}[name]
    assert said.startswith(f"<ExportedModel: {file_format} {str(getattr(shared, name))!r}; signatures: ")
    assert f"decode(z [N, {LATENT_DIM}])" in said
    assert "score(epsilon [N, 3], x [N, 8, 8, 1])" in said or "score(x [N, 8, 8, 1], epsilon [N, 3])" in said
    assert said.endswith("; units of x: model>")
    assert "\n" not in said


def test_the_repr_is_short_and_says_the_runtime_and_a_fixed_batch(pair):
    described(pair, normalization={"formula": "f", "offset": [1.0] * 1000, "scale": 1})
    said = repr(export.load(pair, runtime="compiled_model"))
    assert said.startswith(f"<ExportedModel: TFLite {str(pair)!r} in compiled_model; ")
    assert "decode(z [1, 3])" in said
    assert len(said) < 500 + len(str(pair))
    pair.with_suffix(".json").unlink()
    assert repr(export.load(pair)).endswith("; units of x: unknown>")


@pytest.mark.parametrize("name", ["version", "tflite"])
def test_a_vae_has_no_method_of_other_models(shared, name):
    client = shared.clients[name]
    assert set(OF_A_VAE) <= set(dir(client))
    assert {"classify", "sample"}.isdisjoint(dir(client))
    assert not hasattr(client, "classify")
    with pytest.raises(AttributeError, match=r"no `sample`.*signature 'sample'. It has the signatures \[.*'encode'"):
        client.sample(EPSILON)
    # The class has all of them, for help() and type checkers.
    assert set(OF_A_VAE) | {"classify", "sample"} <= set(dir(export.ExportedModel))
    assert "q(y|x)" in export.ExportedModel.classify.__doc__
    assert "q(z|x)" in client.encode.__doc__


@pytest.mark.slow
def test_predict_is_the_signature_that_every_model_has(shared, tmp_path):
    client = shared.clients["tflite"]
    expected = client.run("serving_default", x=X)
    for received in (client.predict(X), client.predict(x=X)):
        assert set(received) == set(expected)
        np.testing.assert_array_equal(received["mean"], expected["mean"])
    with pytest.raises(ValueError, match=r"The inputs of serving_default must be `x`. Received: \[\]"):
        client.predict()
    small = export.load(export.tflite(Scaled(), tmp_path / "scaled.tflite"))
    assert {"predict", "score", "run"} <= set(dir(small))
    assert {"encode", "decode", "sample"}.isdisjoint(dir(small))
    np.testing.assert_array_equal(small.predict([[1, 1]])["y"], [[2, 3]])


# The description

WRONG = {
    "a list": b"[]",
    "null": b"null",
    "text": b'"text"',
    "a number": b"12",
    "nothing": b"",
    "half": b'{"event_shape": [8,',
    "no text": b"\xff\xfe\x00\xd8",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep in an object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a long number": b'{"a": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["version", "tflite"])
def test_what_is_no_json_object_is_refused_in_one_line(shared, pair, tmp_path, name, wrong):
    path, description = pair, pair.with_suffix(".json")
    if name == "version":
        path = shutil.copytree(shared.version, tmp_path / "1")
        description = path / "assets.extra" / "metadata.json"
    description.write_bytes(WRONG[wrong])
    with pytest.raises(ValueError, match=r"^The description of an export must be .*Received: .*$") as error:
        export.load(path)
    assert str(description) in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("tfvae_version", 3),
        ("missing_values", "false"),
        ("num_classes", 2.5),
        ("num_classes", True),
        ("num_classes", 0),
        ("sha256", None),
        ("quantize", 8),
        ("batch_size", "1"),
        ("normalization", []),
        ("normalization", {"formula": "f", "offset": None, "scale": 1}),
        ("normalization", {"formula": "f", "offset": ["1"], "scale": 1}),
        ("normalization", {"formula": "f", "offset": [[1], [2, 3]], "scale": 1}),
        ("normalization", {"offset": 1, "scale": 1}),
        ("units", 5),
        ("scaling", 5),
        ("scaling", {"offset": 0, "scale": 0}),
        ("expected_range", "x"),
        ("expected_range", {"low": [1, 2], "high": 3}),
        ("expected_range", {"low": float("nan"), "high": 3}),
    ],
)
def test_an_entry_of_a_wrong_type_is_named(pair, entry, value):
    with pytest.raises(ValueError, match=rf"^`{entry}` in the description .* must be .*Received: '{pair.parent}.*$"):
        export.load(described(pair, **{entry: value}))


def test_a_description_contains_the_digest_of_its_file(pair):
    digest = hashlib.sha256(pair.read_bytes()).hexdigest()
    assert export.load(pair).metadata["sha256"] == digest
    # Those of earlier versions have none.
    description = json.loads(pair.with_suffix(".json").read_text())
    del description["sha256"]
    pair.with_suffix(".json").write_text(json.dumps(description))
    assert export.load(pair).metadata["likelihood"] == "Bernoulli"


@pytest.mark.parametrize("runtime", ["interpreter", "compiled_model"])
def test_a_description_of_another_export_is_refused_and_the_error_says_what_to_do(pair, runtime):
    described(pair, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"must be of the same export .*: export the model again") as error:
        export.load(pair, runtime=runtime)
    for part in (f"remove {str(pair.with_suffix('.json'))!r}", f"Received: path={str(pair)!r}", "0" * 64):
        assert part in str(error.value)
    pair.with_suffix(".json").unlink()
    assert export.load(pair, runtime=runtime).metadata == {}


def test_a_pair_that_is_published_while_it_is_opened_is_read_again(pair, monkeypatch):
    description = pair.with_suffix(".json")
    right = description.read_text()
    described(pair, sha256="0" * 64)
    waited = []

    def publish(seconds):
        waited.append(seconds)
        description.write_text(right)

    monkeypatch.setattr(time, "sleep", publish)
    assert export.load(pair).metadata == json.loads(right)
    assert waited == [opening._PUBLISHING_SECONDS]


# Damage


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("variables/variables.data-00000-of-00001", b""),
        ("saved_model.pb", b""),
        pytest.param("variables/variables.index", b"", marks=pytest.mark.slow),
        *(
            pytest.param(name, b"no export", marks=pytest.mark.slow)
            for name in ("variables/variables.data-00000-of-00001", "variables/variables.index", "saved_model.pb")
        ),
    ],
)
def test_a_saved_model_that_is_damaged_is_named(name, content, tmp_path):
    version = Path(shutil.copytree(ROOT / "saved_models" / "digits_example" / "1", tmp_path / "1"))
    (version / name).write_bytes(content)
    with pytest.raises((ValueError, OSError)) as raised:
        export.load(version)
    assert str(version) in str(raised.value)


@pytest.mark.parametrize("name", ["variables/variables.index", "assets.extra/metadata.json"])
def test_a_pipe_in_a_saved_model_is_named_and_not_waited_for(name, tmp_path):
    version = Path(shutil.copytree(ROOT / "saved_models" / "digits_example" / "1", tmp_path / "1"))
    (version / name).unlink()
    os.mkfifo(version / name)
    with pytest.raises((ValueError, OSError), match=f"Received: .*{name}'?, which is not a regular file"):
        export.load(version)
