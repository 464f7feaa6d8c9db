"""What is there when an export is killed: never a pair of two exports, never none at all, and nothing stays."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.exports import Scaled
from tfvae import export, files

ROOT = Path(__file__).parents[2]
X = [[1.0, 1.0]]
# A quantised file is not compared with the model, which saves a second.
OLD, NEW = {"offset": 0, "scale": 2, "quantize": "float16"}, {"offset": 0, "scale": 5}
# The output for X of the old and the new export, by their scale: 2 * 1 / 2 and 10 * 1 / 5.
OUTPUTS = {2: 1.0, 5: 2.0}

EXPORT = """
    import json, os, shutil, signal, sys, tempfile

    sys.path.insert(0, sys.argv[1])
    from tests.helpers.exports import Scaled
    from tfvae import export

    model, path, options, system = Scaled((10.0, 10.0)), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
    folder, os.environ["TMPDIR"], tempfile.tempdir = os.path.dirname(path), system, system
"""
SNAPSHOTS = """
    snapshots = []
    EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock"}
    busy = []

    def hook(event, arguments):
        if event in EVENTS and not busy:
            busy.append(event)
            # TensorFlow itself writes the code that its AutoGraph generates there.
            ours = [name for name in os.listdir(system) if not name.startswith("__autograph_generated_file")]
            assert ours == [], ours
            shutil.copytree(folder, f"{sys.argv[5]}/{len(snapshots)}", copy_function=shutil.copyfile)
            snapshots.append(event)
            busy.clear()

    sys.addaudithook(hook)
    {export}
    busy.append("done")
"""
KILLED = """
    replace = os.replace

    def kill_at_the_last(source, target):
        if str(target) == path:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = kill_at_the_last
    export.tflite(model, path, **options)
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """An export, which tests must not change."""
    return export.tflite(Scaled((2.0, 2.0)), tmp_path_factory.mktemp("old") / "model.tflite", **OLD)


@pytest.fixture
def path(old, tmp_path):
    """A copy of `old`, in a folder where another program has a temporary file too."""
    folder = Path(shutil.copytree(old.parent, tmp_path / "folder"))
    (folder / ".tmp-of-another-program").write_text("kept")
    return folder / old.name


@pytest.fixture
def system(tmp_path):
    """A new folder in place of the system's temporary folder."""
    (tmp_path / "system").mkdir()
    return tmp_path / "system"


def is_refused(path):
    """Whether the client refuses a file because of its description, which must then contain another digest."""
    description = json.loads(path.with_suffix(".json").read_text())
    if description.get("sha256") in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        return False
    with pytest.raises(ValueError, match="must be of the same export"):
        export.load(path)
    return True


def exported_by(path):
    """The scale of the export that a file and its description are both of."""
    model = export.load(path)
    scale = model.metadata["scaling"]["scale"]
    # float16 rounds weights to three digits.
    assert np.round(model.predict(X)["y"], 2).tolist() == [[OUTPUTS[scale]] * 2]
    return scale


def left_behind(folder):
    return [path for path in folder.iterdir() if path.name.startswith(files.TEMPORARY + "tfvae-")]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", pytest.param(None, marks=pytest.mark.slow)])
def test_a_kill_before_any_step_leaves_no_pair_of_two_exports(processes, path, tmp_path, system, quantize):
    (tmp_path / "moments").mkdir()
    options = json.dumps(NEW | {"quantize": quantize})
    script = EXPORT + SNAPSHOTS.replace("{export}", "export.tflite(model, path, **options)")
    processes.run(script, ROOT, path, options, system, tmp_path / "moments")
    pairs = {}
    for moment in (tmp_path / "moments").iterdir():
        pairs[(moment / "model.tflite").read_bytes(), (moment / "model.json").read_bytes()] = moment
    # The old pair, the one between the two moves, and the new pair.
    refused = [moment for moment in pairs.values() if is_refused(moment / "model.tflite")]
    assert len(refused) == 1
    assert {exported_by(moment / "model.tflite") for moment in pairs.values() if moment not in refused} == {2, 5}
    assert exported_by(path) == 5
    assert names(path.parent) == {"model.tflite", "model.json", ".tmp-of-another-program"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "has_digest",
    [pytest.param(True, marks=pytest.mark.slow, id="of this version"), pytest.param(False, id="of an earlier version")],
)
def test_an_export_that_is_killed_between_the_moves_is_refused_and_the_next_one_mends_it(
    processes, path, system, has_digest
):
    description = json.loads(path.with_suffix(".json").read_text())
    if not has_digest:
        del description["sha256"]
        path.with_suffix(".json").write_text(json.dumps(description))
    assert exported_by(path) == 2
    process = processes.start(EXPORT + KILLED, ROOT, path, json.dumps(NEW | {"quantize": "float16"}), system)
    assert process.wait() == -signal.SIGKILL, process.stderr
    assert is_refused(path)
    assert len(left_behind(path.parent)) == 1
    assert [name for name in os.listdir(system) if not name.startswith("__autograph_generated_file")] == []
    # Of any name in that folder.
    export.tflite(Scaled(), path.with_name("other.tflite"), **OLD)
    assert left_behind(path.parent) == []
    export.tflite(Scaled((2.0, 2.0)), path, **OLD)
    assert exported_by(path) == 2
    assert names(path.parent) == {f"{name}.{end}" for name in ("model", "other") for end in ("tflite", "json")} | {
        ".tmp-of-another-program"
    }


@pytest.mark.slow
def test_an_export_leaves_alone_what_another_one_is_writing(path):
    with files.temporary_folder(path.parent) as folder:
        (folder / "model.tflite").write_bytes(b"half")
        export.tflite(Scaled(), path, **OLD)
        assert os.listdir(folder) == ["model.tflite"]


@pytest.mark.slow
def test_a_kill_before_any_step_leaves_a_whole_folder_where_there_was_one(processes, tmp_path, system):
    path = tmp_path / "folder" / "model"
    Scaled((2.0, 2.0)).export(path, verbose=False, offset=0, scale=2)
    (tmp_path / "moments").mkdir()
    script = EXPORT + SNAPSHOTS.replace("{export}", "model.export(path, verbose=False, **options)")
    processes.run(script, ROOT, path, json.dumps({"offset": 0, "scale": 5}), system, tmp_path / "moments")
    moments = {}
    for moment in (tmp_path / "moments").iterdir():
        files_there = [file for file in moment.rglob("*") if file.is_file()]
        content = {file.relative_to(moment): file.read_bytes() for file in files_there}
        moments[frozenset(pair for pair in content.items() if not pair[0].parts[0].startswith(".tmp-"))] = moment
    # The old one, the old one aside, both, and the new one.
    assert sorted(exported_by(moment / "model") for moment in moments.values()) == [2, 2, 5, 5]
    assert sorted(".model.earlier" in names(moment) for moment in moments.values()) == [False, False, True, True]
    assert names(path.parent) == {"model"}
    for moment in moments.values():
        if ".model.earlier" in names(moment):
            Scaled((2.0, 2.0)).export(moment / "model", verbose=False, offset=0, scale=2)
            assert exported_by(moment / "model") == 2
            assert names(moment) == {"model"}


def test_a_folder_that_is_not_replaced_stays_and_one_left_aside_is_found_and_put_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    Scaled((2.0, 2.0)).export(path, verbose=False, offset=0, scale=2)

    def fail(*_):
        raise OSError("The disk is full")

    monkeypatch.setattr(files, "move_in", fail)
    for is_aside in (False, True):
        if is_aside:
            # As a kill between the two moves leaves it.
            path.rename(tmp_path / ".model.earlier")
            assert exported_by(path) == 2
        with pytest.raises(OSError, match="The disk is full"):
            Scaled().export(path, verbose=False)
        assert names(tmp_path) == {"model"}
    assert exported_by(path) == 2
