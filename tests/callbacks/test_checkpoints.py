"""Checkpoints as files: when they are written, which are kept, and what a kill or damage leaves."""

import hashlib
import os
import re
import shutil

import numpy as np
import pytest

from tfvae import files
from tfvae.callbacks import Checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(known_model, tmp_path_factory):
    """A folder with the checkpoints of three epochs of 5 steps, for `trained` to copy."""
    folder = tmp_path_factory.mktemp("written")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    known_model().fit(x, batch_size=4, epochs=3, callbacks=Checkpoints(folder, keep=3), verbose=0)
    return folder


@pytest.fixture
def trained(written, tmp_path):
    """A folder with the checkpoints of three epochs of 5 steps."""
    return shutil.copytree(written, tmp_path / "trained")


def resumed(x, known_model, folder, **arguments):
    """The epochs that a training still runs when it resumes from the checkpoints of a folder."""
    model = known_model()
    return model.fit(x, batch_size=4, callbacks=Checkpoints(folder, **arguments), epochs=4, verbose=0).epoch


# Checkpoints


def test_a_checkpoint_is_named_by_its_epoch_step_and_digest(trained):
    assert [name[:16] for name in names(trained)] == [f"{epoch:06d}-{0:09d}" for epoch in (1, 2, 3)]
    for path in trained.iterdir():
        assert path.name[17:33] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("save_freq", "steps_per_execution", "expected"),
    [
        ("epoch", 1, [(0, 0), (1, 0), (2, 0)]),
        (2, 1, [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]),
        (4, 3, [(0, 0), (0, 6), (1, 0), (1, 6), (2, 0)]),
        (100, 1, [(0, 0), (1, 0), (2, 0)]),
    ],
)
def test_checkpoints_are_written_as_often_as_asked(save_freq, steps_per_execution, expected, x, known_model, tmp_path):
    model = known_model(steps_per_execution=steps_per_execution)
    model.fit(x, batch_size=4, epochs=2, callbacks=Checkpoints(tmp_path, save_freq, keep=99), verbose=0)
    found = [tuple(map(int, name.split("-")[:2])) for name in names(tmp_path)]
    assert found == expected


@pytest.mark.slow
def test_only_as_many_are_kept_as_asked(x, known_model, tmp_path):
    model = known_model()
    model.fit(x, batch_size=4, epochs=3, callbacks=Checkpoints(tmp_path, save_freq=1, keep=2), verbose=0)
    assert [name[:16] for name in names(tmp_path)] == ["000002-000000005", "000003-000000000"]


DAMAGES = {
    "a flipped bit": lambda content: content[:3000] + bytes([content[3000] ^ 1]) + content[3001:],
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


# Another default test empties all files.
@pytest.mark.parametrize(
    "damage", ["a flipped bit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cut short", "empty"))]
)
def test_of_a_damaged_checkpoint_the_one_before_is_used(damage, trained, x, known_model):
    newest = max(trained.iterdir())
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    with pytest.warns(UserWarning, match=f"checkpoint is damaged.*Received: .*{re.escape(newest.name)}"):
        assert resumed(x, known_model, trained) == [2, 3]
    assert f"damaged-{newest.name}" in names(trained)


@pytest.mark.filterwarnings("ignore:A checkpoint is damaged")
def test_nothing_is_trained_when_no_checkpoint_is_whole(trained, x, known_model):
    for path in trained.iterdir():
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ValueError, match="`folder` must hold a checkpoint that is whole, or none"):
            resumed(x, known_model, trained)


def test_what_a_kill_leaves_is_removed_and_never_taken_for_a_checkpoint(trained, x, known_model):
    (trained / f"{files.TEMPORARY}.weights.h5").write_bytes(b"half")
    (trained / f"{files.TEMPORARY}ab12-{files.TEMPORARY}.weights.h5").write_bytes(b"half")
    assert resumed(x, known_model, trained) == [3]
    assert not [name for name in names(trained) if name.startswith(files.TEMPORARY)]


def test_a_write_that_fails_leaves_the_checkpoints_from_before(trained, x, known_model, monkeypatch):
    before = names(trained)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        resumed(x, known_model, trained)
    monkeypatch.undo()
    assert names(trained) == before
    assert resumed(x, known_model, trained) == [3]


@pytest.mark.filterwarnings("ignore:Skipping")
def test_checkpoints_of_another_model_are_refused(trained, x, tiny_vae):
    vae = tiny_vae()
    vae.compile("adam")
    with pytest.raises(
        ValueError, match=r"^`folder` must hold checkpoints of this model\. Received: .*000003-.*h5: A total"
    ):
        vae.fit(x, callbacks=Checkpoints(trained), verbose=0)


@pytest.mark.parametrize("arguments", [{"save_freq": 0}, {"save_freq": "step"}, {"keep": 0}, {"keep": 1.5}])
def test_bad_arguments_are_named(arguments, tmp_path):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        Checkpoints(tmp_path, **arguments)
