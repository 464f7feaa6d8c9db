"""Files that are there whole or not at all, whatever happens while they are written."""

import os
import pathlib

import pytest

from tfvae import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_text("old")
    return path


def test_the_earlier_file_is_there_until_the_new_one_is_whole(old, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.pread(descriptor, 9, 0)))
    with files.replacing(old) as path:
        path.write_text("new")
        assert (path.parent, path.suffixes) == (old.parent, old.suffixes)
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert names(old.parent) == [old.name]
    assert synced == [b"new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_the_earlier_file_alone(error, old):
    def write():
        with files.replacing(old) as path:
            path.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert old.read_text() == "old"
    assert names(old.parent) == [old.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_earlier_file_alone(step, old, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"), files.replacing(old) as path:
        path.write_text("new")
    assert old.read_text() == "old"
    assert names(old.parent) == [old.name]


def test_a_link_stays_a_link(old, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "latest.keras"
    link.symlink_to(old)
    with files.replacing(link) as path:
        path.write_text("new")
        assert path.suffix == ".keras"
    assert link.is_symlink()
    assert old.read_text() == "new"
    assert names(tmp_path) == ["a.weights.h5", "elsewhere"]
    assert names(link.parent) == [link.name]


def test_what_killed_processes_left_is_removed(old):
    (old.parent / ".tmp-1-a.weights.h5").write_text("half")
    (old.parent / ".tmp-folder").mkdir()
    (old.parent / ".tmp-folder" / "a").write_text("half")
    files.remove_temporaries(old.parent)
    assert names(old.parent) == [old.name]
    files.remove_temporaries(old.parent / "no folder")


# What a model saves

SAVES = {"save": "a.keras", "save_weights": "a.weights.h5"}


@pytest.fixture(scope="module")
def vae(tiny_vae):
    return tiny_vae()


@pytest.mark.parametrize("method", SAVES)
def test_an_error_in_the_middle_of_a_save_leaves_the_earlier_file(method, vae, tmp_path, monkeypatch):
    path = tmp_path / SAVES[method]
    getattr(vae, method)(path)
    before = path.read_bytes()

    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(vae.decoder.layers[-1], "save_own_variables", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        getattr(vae, method)(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("method", SAVES)
@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_file_that_is_there_may_be_kept(method, answer, vae, tmp_path, monkeypatch):
    path, asked = tmp_path / SAVES[method], []
    path.write_text("old")
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    getattr(vae, method)(path, overwrite=False)
    assert len(asked) == 1
    assert (path.read_bytes() == b"old") is (answer == "n")
    path.unlink()
    getattr(vae, method)(path, overwrite=False)
    assert len(asked) == 1
    assert path.exists()


@pytest.mark.parametrize("form", [str, pathlib.Path])
@pytest.mark.parametrize("method", SAVES)
def test_a_path_may_be_relative_and_of_either_kind(method, form, vae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("folder").mkdir()
    for path in (SAVES[method], f"folder/../folder/{SAVES[method]}"):
        getattr(vae, method)(form(path))
        vae.load_weights(form(path))
    assert names(tmp_path) == sorted([SAVES[method], "folder"])
    assert names(tmp_path / "folder") == [SAVES[method]]


def test_other_formats_are_left_to_keras(vae, tmp_path):
    with pytest.raises(ValueError, match="extension"):
        vae.save(tmp_path / "a.other")
    with pytest.raises(ValueError, match=r"weights\.h5"):
        vae.save_weights(tmp_path / "a.other")
    assert names(tmp_path) == []
