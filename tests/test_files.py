"""Files that are either complete or absent, whatever happens while they are written."""

import errno
import fcntl
import os
import pathlib
import secrets

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
    synced, fsync = [], os.fsync

    def record(descriptor):
        fsync(descriptor)
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            # The folder's content at the time of the sync.
            synced.append(sorted(os.listdir(descriptor)))
        else:
            synced.append(os.pread(descriptor, 9, 0))

    monkeypatch.setattr(os, "fsync", record)
    with files.replacing(old) as path:
        path.write_text("new")
        assert (path.parent.parent, path.name) == (old.parent, old.name)
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert names(old.parent) == [old.name]
    # The file is synced before the rename; the folder after it, when it lists the new name.
    (folder,) = synced[1:]
    assert synced[0] == b"new"
    assert old.name in folder


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


@pytest.mark.parametrize("target", ["file", "folder", "nothing", "itself"])
def test_a_link_is_replaced_and_what_it_points_at_left_alone(target, old, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "latest.keras"
    link.symlink_to({"file": old, "folder": tmp_path, "nothing": tmp_path / "none", "itself": link}[target])
    old.chmod(0o400)
    with files.replacing(link) as path:
        path.write_text("new")
    assert not link.is_symlink()
    assert link.read_text() == "new"
    assert link.stat().st_mode & 0o200
    assert old.read_text() == "old"
    assert names(tmp_path) == ["a.weights.h5", "elsewhere"]
    assert names(link.parent) == [link.name]


def test_a_link_in_place_of_what_is_written_is_not_followed(old, tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / f"{files._OWN}guessed").symlink_to(tmp_path)
    with pytest.raises(FileExistsError, match=old.name), files.replacing(old):
        raise AssertionError
    assert old.read_text() == "old"


def test_only_this_user_can_enter_where_it_is_written(old):
    with files.replacing(old) as path:
        path.write_text("new")
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_names_of_temporaries_are_each_another(tmp_path):
    with files.temporary_folder(tmp_path) as one, files.temporary_folder(tmp_path) as other:
        assert one != other
        assert all(len(folder.name) >= len(files.TEMPORARY) + 16 for folder in (one, other))


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_new_file_has_the_permissions_of_any_new_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "a", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_keeps_the_permissions_of_the_one_it_replaces(old):
    old.chmod(0o604)
    files.write_text(old, "new")
    assert old.read_text() == "new"
    assert old.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "folder"])
def test_what_is_no_file_is_not_replaced(kind, tmp_path):
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        path = path if kind != "pipe" else tmp_path / "pipe"
        if kind != "pipe":
            path.symlink_to(tmp_path / "pipe")
    before = names(tmp_path)
    with pytest.raises(OSError, match=path.name), files.replacing(path):
        raise AssertionError
    assert names(tmp_path) == before


@pytest.mark.parametrize("parent", ["no folder", "a.weights.h5"])
def test_an_error_names_the_file_that_cannot_be_written(parent, old):
    path = old.parent / parent / "b.keras"
    with pytest.raises(OSError, match=f"{parent}/b.keras"), files.replacing(path):
        raise AssertionError


def test_a_folder_is_on_the_disk_before_it_is_moved_in(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def record(descriptor):
        fsync(descriptor)
        events.append(pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("rename") or replace(*paths))
    with files.temporary_folder(tmp_path) as folder:
        (folder / "version" / "variables").mkdir(parents=True)
        (folder / "version" / "variables" / "data").write_text("weights")
        (folder / "version" / "graph").write_text("graph")
        files.move_in(folder / "version", tmp_path / "1")
    assert set(events[:-2]) == {"version", "variables", "data", "graph"}
    assert events[-2:] == ["rename", tmp_path.name]
    assert (tmp_path / "1" / "variables" / "data").read_text() == "weights"
    assert names(tmp_path) == ["1"]


def test_a_file_system_that_cannot_lock_or_sync_folders_is_written_to(old, monkeypatch):
    fsync = os.fsync

    def unsupported(descriptor, *_):
        if not os.path.isdir(f"/dev/fd/{descriptor}"):
            return fsync(descriptor)
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "fsync", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    (old.parent / ".tmp-folder").mkdir()
    files.write_text(old, "new")
    assert old.read_text() == "new"
    files.remove_temporaries(old.parent)
    assert names(old.parent) == [old.name]


def test_what_killed_processes_left_is_removed(old):
    (old.parent / ".tmp-1-a.weights.h5").write_text("half")
    (old.parent / ".tmp-folder").mkdir()
    (old.parent / ".tmp-folder" / "a").write_text("half")
    (old.parent / ".tmp-link").symlink_to(old.parent)
    files.remove_temporaries(old.parent)
    assert names(old.parent) == [old.name]
    files.remove_temporaries(old.parent / "no folder")


def test_in_a_shared_folder_only_what_is_recognised_is_removed(old):
    with files.temporary_folder(old.parent) as folder:
        killed = folder.with_name(f"{folder.name[:-1]}z")
        (killed / "a").mkdir(parents=True)
        (old.parent / ".tmp-of-another-program").mkdir()
        files.remove_temporaries(old.parent, shared=True)
        assert names(old.parent) == sorted([folder.name, ".tmp-of-another-program", old.name])


def test_what_is_being_written_is_not_removed(old):
    with files.replacing(old) as path:
        files.remove_temporaries(old.parent)
        path.write_text("new")
    assert old.read_text() == "new"


def test_what_another_process_removes_meanwhile_is_no_error(old, monkeypatch):
    lock, left = files._lock, [old.parent / f"{files.TEMPORARY}{name}" for name in "ab"]

    def meanwhile(path, *arguments):
        descriptor = lock(path, *arguments) if path == left[0] else None
        path.rmdir()
        return lock(path, *arguments) if descriptor is None else descriptor

    for path in left:
        path.mkdir()
    monkeypatch.setattr(files, "_lock", meanwhile)
    files.remove_temporaries(old.parent)
    assert names(old.parent) == [old.name]


def test_a_folder_that_is_removed_before_it_is_locked_is_made_anew(old, monkeypatch):
    removed, lock = [], files._lock

    def too_late(folder, *arguments):
        if len(removed) < 2:
            removed.append(folder)
            # The first time the folder vanishes before it is opened, the second time between opening and locking.
            descriptor = lock(folder) if len(removed) == 2 else None
            folder.rmdir()
            if descriptor is not None:
                return descriptor
        return lock(folder, *arguments)

    monkeypatch.setattr(files, "_lock", too_late)
    files.write_text(old, "new")
    assert len(set(removed)) == 2
    assert old.read_text() == "new"
    assert names(old.parent) == [old.name]


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


# A full disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "elsewhere"),
        RuntimeError("Unable to flush (file write failed: errno = 28, error message = 'No space left on device')"),
        OSError("64000 requested and 4968 written"),
        Exception("{{function_node x}} /tmp/a.tempstate; No space left on device [Op:MergeV2Checkpoints]"),
    ],
    ids=["the system", "a quota", "HDF5", "NumPy", "TensorFlow"],
)
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(error, old):
    with pytest.raises(OSError, match=r"No space left on device|quota exceeded") as raised, files.replacing(old):
        raise error
    assert raised.value.filename == str(old)
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert old.read_text() == "old"


def test_any_other_error_stays_what_it_is(old):
    with pytest.raises(RuntimeError, match="another"), files.replacing(old):
        raise RuntimeError("another")


def test_weights_that_do_not_fit_on_the_disk_never_reach_hdf5(vae, tmp_path, monkeypatch):
    path = tmp_path / "a.weights.h5"
    vae.save_weights(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        vae.save_weights(path)
    assert path.read_bytes() == before


# Locks and what is read


def test_a_lock_keeps_others_out_until_it_ends(tmp_path):
    with files.locked(tmp_path), pytest.raises(BlockingIOError), files.locked(tmp_path, wait=False):
        raise AssertionError
    with files.locked(tmp_path, wait=False):
        pass


def test_a_lock_does_not_follow_a_link_and_empties_nothing(tmp_path):
    lock, other = tmp_path / files.LOCK, tmp_path / "other"
    other.write_text("kept")
    lock.symlink_to(other)
    with pytest.raises(OSError, match=r"\.lock"), files.locked(tmp_path):
        raise AssertionError
    assert other.read_text() == "kept"
    lock.unlink()
    lock.write_text("kept")
    with files.locked(tmp_path):
        assert lock.read_text() == "kept"


def test_the_mode_of_a_lock_is_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with files.locked(tmp_path):
            assert (tmp_path / files.LOCK).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("content", "expected"), [(b"\xff\xfe", "UTF-8"), (b"a" * 101, "at most 100 bytes"), (None, "not a regular file")]
)
def test_text_that_is_none_is_refused_by_name(content, expected, tmp_path):
    path = tmp_path / "a.yaml"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{expected}.*") as raised:
        files.read_text(path, 100)
    assert str(path) in str(raised.value)
