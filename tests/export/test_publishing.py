"""Publishing a version in a folder that TF Serving reads: its number, its content, pruning, errors."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.helpers.exports import Scaled
from tfvae import export
from tfvae.export import one_file

CONTENT = {
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets.extra/metadata.json",
    "assets.extra/tf_serving_warmup_requests",
}
DOCUMENTS = {"README.md", "requests", "models.config"}


@pytest.fixture(scope="module")
def model():
    return Scaled()


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    """A folder with version 1, which tests must not change."""
    folder = tmp_path_factory.mktemp("published") / "model"
    export.saved_model(model, folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy of `published` that a test may change."""
    return Path(shutil.copytree(published, tmp_path / "model"))


def listing(folder):
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def contents(folder):
    """Every file below the folder, with its bytes and modification time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_version_is_one_above_the_highest_and_complete(model, folder):
    # A file counts as a number that is taken too.
    (folder / "12").write_text("a file")
    (folder / ".tmp-killed/model").mkdir(parents=True)
    (folder / ".tmp-killed/model/saved_model.pb").write_bytes(b"half")
    (folder / "notes").mkdir()
    version = export.saved_model(model, folder)
    assert version == folder / "13"
    assert {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()} == CONTENT
    assert listing(folder) == {"1", "12", "13", "notes", *DOCUMENTS}
    assert (folder / "12").read_text() == "a file"
    # A server that runs as another user can read it.
    assert all(path.stat().st_mode & (0o005 if path.is_dir() else 0o004) for path in folder.rglob("*"))
    assert version.stat().st_mode & 0o005 == 0o005


def test_keep_prunes_the_oldest_and_nothing_that_is_not_a_version(model, folder):
    before = contents(folder / "1")
    for name in ("2", "0007", "notes", "3.bak"):
        (folder / name).mkdir()
    assert export.saved_model(model, folder, keep=4).name == "8"
    assert listing(folder) == {"1", "2", "0007", "8", "notes", "3.bak", *DOCUMENTS}
    assert contents(folder / "1") == before
    export.saved_model(model, folder, keep=2)
    assert listing(folder) == {"8", "9", "notes", "3.bak", *DOCUMENTS}


def damage(version, what):
    if what == "graph":
        (version / "saved_model.pb").write_bytes((version / "saved_model.pb").read_bytes()[:-50])
    elif what == "weights":
        path = version / "variables/variables.data-00000-of-00001"
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path = version / "assets.extra/tf_serving_warmup_requests"
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("what", ["graph", "weights", "requests"])
def test_a_version_that_does_not_load_is_named_and_not_counted(model, folder, what):
    for number in (2, 3):
        shutil.copytree(folder / "1", folder / str(number))
    damage(folder / "3", what)
    with pytest.warns(
        UserWarning, match=rf"^{re.escape(str(folder / '3'))} does not load: remove it\. .*Received: \w+"
    ):
        export.saved_model(model, folder, keep=2)
    assert listing(folder) == {"2", "3", "4", *DOCUMENTS}


def test_no_version_is_opened_where_nothing_depends_on_it(model, folder):
    shutil.copytree(folder / "1", folder / "2")
    damage(folder / "2", "graph")
    export.saved_model(model, folder, keep=3)
    assert listing(folder) == {"1", "2", "3", *DOCUMENTS}
    export.saved_model(model, folder, keep=1)
    assert listing(folder) == {"4", *DOCUMENTS}


def test_the_oldest_goes_only_after_the_new_one_is_in(model, folder, monkeypatch):
    listings = []

    def watch(name):
        move = getattr(os, name)

        def watched(source, target):
            move(source, target)
            listings.append(sorted(int(path.name) for path in folder.glob("[0-9]*")))

        monkeypatch.setattr(os, name, watched)

    watch("replace")
    watch("rename")
    export.saved_model(model, folder, keep=1)
    assert [listed for listed in listings if listed != [1]] == [[1, 2], [2]]


def test_links_among_the_documents_are_replaced_and_that_of_the_lock_is_refused(model, folder, tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").symlink_to(other)
    export.saved_model(model, folder)
    assert not (folder / "README.md").is_symlink()
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(other)
    with pytest.raises(OSError, match=r"\.lock"):
        export.saved_model(model, folder)
    assert other.read_text() == "kept"


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "2"])
def test_keep_must_be_a_positive_integer(model, folder, keep):
    before = contents(folder)
    with pytest.raises(ValueError, match=r"`keep` must be .*Received: keep="):
        export.saved_model(model, folder, keep=keep)
    assert contents(folder) == before


def test_a_version_that_does_not_agree_is_not_published(model, folder, monkeypatch):
    before = contents(folder / "1")
    save = tf.saved_model.save

    def save_other_weights(endpoints, *arguments, **options):
        endpoints.parameters[-1].assign_add(tf.ones_like(endpoints.parameters[-1]))
        save(endpoints, *arguments, **options)
        endpoints.parameters[-1].assign_sub(tf.ones_like(endpoints.parameters[-1]))

    monkeypatch.setattr(tf.saved_model, "save", save_other_weights)
    with pytest.raises(ValueError, match="The SavedModel must agree with the Keras model"):
        export.saved_model(model, folder)
    assert listing(folder) == {"1", *DOCUMENTS}
    assert contents(folder / "1") == before


@pytest.mark.slow
def test_an_export_to_a_file_in_the_same_folder_survives_one_to_the_folder(model, folder, monkeypatch):
    def export_meanwhile(*_, **__):
        export.saved_model(model, folder)

    monkeypatch.setattr(one_file, "check_agreement", export_meanwhile)
    assert export.tflite(model, folder / "model.tflite").is_file()
    assert listing(folder) == {"1", "2", "model.tflite", "model.json", *DOCUMENTS}


def test_a_file_where_a_folder_should_be_is_named(model, tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file/model"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            export.saved_model(model, path)
    assert (tmp_path / "file").read_text() == "kept"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "given", ["link", *(pytest.param(given, marks=pytest.mark.slow) for given in (".", "../digits"))]
)
def test_every_file_has_the_name_of_the_folder_however_it_is_given(tmp_path, model, monkeypatch, given):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/link").symlink_to(tmp_path / "digits")
    monkeypatch.chdir(tmp_path / "digits")
    version = export.saved_model(model, given)
    config = (version.parent / "models.config").read_text()
    assert re.findall('name: "(.*)"', config) == ["digits"]
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    assert {log.predict_log.request.model_spec.name for log in logs} == {"digits"}


@pytest.mark.parametrize("name", ['the "best" {model}', "my model's", "a b"])
def test_a_name_that_is_none_in_a_url_is_refused(tmp_path, model, name):
    with pytest.raises(ValueError, match=r"`path` must end in a name of letters.*Received: path="):
        export.saved_model(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_shape_or_a_model_of_nan_is_refused(tiny_vae, folder):
    before = contents(folder / "1")
    with pytest.raises(ValueError, match=r"`x` must have the shape \[N, 4\]"):
        export.saved_model(tiny_vae(), folder, x=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"The SavedModel must agree .* with a difference of nan"):
        export.saved_model(Scaled((np.nan, 1.0)), folder)
    assert listing(folder) == {"1", *DOCUMENTS}
    assert contents(folder / "1") == before


@pytest.mark.slow
def test_the_state_of_training_stays_behind(tmp_path, tiny_vae):
    model = tiny_vae()
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    assert sum(np.size(weight.numpy()) for weight in model.optimizer.variables) > model.count_params()
    version = export.saved_model(model, tmp_path / "model")
    stored = (version / "variables/variables.data-00000-of-00001").stat().st_size
    # Adam's state would triple this size; the 4096 bytes are for TensorFlow's graph of the objects.
    assert stored < 4 * model.count_params() + 4096
    names = [name for name, _ in tf.train.list_variables(str(version / "variables/variables"))]
    assert not [name for name in names if "optimizer" in name or "noise" in name or "iteration" in name]
