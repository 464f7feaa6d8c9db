"""Writing files and folders so that readers find them complete or not at all."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterator

TEMPORARY = ".tmp-"
# What file systems answer that cannot lock a folder, or bring one to the disk.
_UNSUPPORTED = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Lets a file be written under a temporary name, and then moves it to its place by one rename.

    It is written in a new folder beside its place, whose name cannot be guessed and in which no other user can put a
    link. It gets the permissions of the file that it replaces, or else those of any new file.

    Args:
        path: the file; an earlier version stays in place until the new one is complete. A link is replaced by the file,
            and what the link points at is left alone.

    Yields:
        The path to write to, which has the same name.

    Raises:
        OSError: the path is a folder, a device or a pipe, or cannot be written.
    """
    _permissions(path)
    with temporary_folder(path.parent, naming=path) as folder:
        yield folder / path.name
        move_in(folder / path.name, path)


def replacing_local(
    path: str | os.PathLike[str], suffix: str, overwrite: bool
) -> contextlib.AbstractContextManager[str | os.PathLike[str]]:
    """`replacing` for a local file with a suffix; any other path is yielded as it is, to be written directly.

    Args:
        path: the file.
        suffix: how its name ends.
        overwrite: whether an existing file may be replaced; if not, its path is yielded, and Keras asks the user.
    """
    is_local_file = str(path).endswith(suffix) and "://" not in str(path)
    if is_local_file and (overwrite or not os.path.exists(path)):
        return replacing(pathlib.Path(path))
    return contextlib.nullcontext(path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as `replacing` does."""
    with replacing(path) as written:
        written.write_text(text)


@contextlib.contextmanager
def temporary_folder(parent: pathlib.Path, naming: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A new folder to write in before `move_in`, which only this user can enter; removed at the end.

    Args:
        parent: the folder to make it in, so that both are on one file system.
        naming: the path that an error names where none can be made there; None stands for the parent.

    Yields:
        The folder, which `remove_temporaries` leaves alone until this process ends.
    """
    try:
        folder, lock = _new_locked_folder(parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(naming or parent)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def move_in(written: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Moves a file or a folder that is complete to its place by one rename, as far as to the disk.

    Args:
        written: where it is, in a `temporary_folder`.
        path: its place. A link there is replaced; so is a file, whose permissions the new file gets.

    Returns:
        Its place.

    Raises:
        OSError: it cannot be moved there; what was there is left alone.
    """
    if written.is_dir():
        for folder, _, names in os.walk(written):
            for name in names:
                _sync(os.path.join(folder, name))
            _sync(folder)
    else:
        permissions = _permissions(path)
        if permissions is not None:
            written.chmod(permissions)
        # Without this the rename may reach the disk before what it renames.
        _sync(written)
    os.replace(written, path)
    _sync(path.parent)
    return path


def remove_temporaries(folder: pathlib.Path) -> None:
    """Removes what killed processes left in a folder: every path in it that begins with `TEMPORARY`.

    What a running process is still writing is left alone, where the file system has locks.
    """
    for path in folder.glob(TEMPORARY + "*"):
        if path.is_dir() and not path.is_symlink():
            # In use, or removed by the process that it was of.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    shutil.rmtree(path)
                finally:
                    os.close(lock)
        else:
            path.unlink(missing_ok=True)


def _permissions(path: pathlib.Path) -> int | None:
    """The permissions of the file that is at a path, or None where there is none or a link."""
    try:
        # Of what a link points at too: in place of /dev/stdout nobody wants a file.
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EEXIST, "Not a regular file", str(path))
    if path.is_symlink():
        return None
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return stat.S_IMODE(mode)


def _new_locked_folder(parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new folder in another, and a lock of it."""
    while True:
        folder = parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        # Fails where the name is taken, if only by a link.
        os.mkdir(folder, 0o700)
        # Before it is locked another process may take it for one that was left behind.
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _lock(folder: pathlib.Path, how: int = fcntl.LOCK_EX) -> int:
    """Locks a folder until the descriptor that this returns is closed, if only because the process dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with _unless_unsupported():
            fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync(path: str | os.PathLike[str]) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.path.isdir(path):
            with _unless_unsupported():
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _unless_unsupported() -> Iterator[None]:
    """Goes on without what the file system does not have for folders."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
