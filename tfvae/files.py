"""Writes files and folders so that readers see them complete or not at all."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterator

TEMPORARY = ".tmp-"
# What the names of the folders begin with that `temporary_folder` makes.
_OWN = TEMPORARY + "tfvae-"
# The name of the file by which `locked` locks a folder.
LOCK = ".lock"
# The error numbers of a disk, a quota or a limit of the process that is full. HDF5 and TensorFlow raise errors of other
# classes then, whose texts contain the words of the operating system.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The error numbers of file systems that cannot lock or sync a folder.
_UNSUPPORTED = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write a file to, and moves the file to its place by one rename when it is complete.

    The temporary path is in a new folder next to the final place; the folder's name cannot be guessed, and no other
    user can put a link into it. The file gets the permissions of the one that it replaces, or those of any new file.

    Args:
        path: the final place. An earlier version stays there until the new one is complete. A link is replaced by the
            file, and the target of the link is left alone.

    Yields:
        The path to write to, which has the same file name.

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
        suffix: the ending of the file names that are treated this way.
        overwrite: whether an existing file may be replaced; if not, its path is yielded, and Keras asks the user.
    """
    is_local_file = str(path).endswith(suffix) and "://" not in str(path)
    if is_local_file and (overwrite or not os.path.exists(path)):
        return replacing(pathlib.Path(path))
    return contextlib.nullcontext(path)


def check_whole_model(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a file in HDF5 of a whole model, which Keras would write but could not load again.

    Args:
        path: the file.
    """
    if str(path).lower().endswith((".h5", ".hdf5")):
        raise ValueError(
            "`filepath` must end in .keras, because Keras cannot load a whole model of tfvae from HDF5; `save_weights` "
            f"writes the weights alone, as .weights.h5. Received: filepath={path}"
        )


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as `replacing` does."""
    with replacing(path) as written:
        written.write_text(text)


@contextlib.contextmanager
def temporary_folder(parent: pathlib.Path, naming: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """Makes a new folder in which to write what `move_in` then moves; only this user can enter it.

    Args:
        parent: the folder in which to make it, on the same file system as the place that `move_in` moves to.
        naming: the path that the error names if the folder cannot be made; None means the parent.

    Yields:
        The folder. It is removed at the end; until then `remove_temporaries` leaves it alone as long as this process
        lives.

    Raises:
        OSError: the folder cannot be made, or the disk is full; the error of a full disk names `naming` whatever was
            being written, and by whichever library.
    """
    try:
        folder, lock = _new_locked_folder(parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(naming or parent)) from error
    try:
        yield folder
    except Exception as error:
        number = _full(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(naming or parent)) from error
    finally:
        shutil.rmtree(folder)
        os.close(lock)


@contextlib.contextmanager
def locked(folder: pathlib.Path, *, wait: bool = True) -> Iterator[None]:
    """Locks a folder for this process, until the end of the `with` or the death of the process.

    Args:
        folder: the folder. A file `.lock` is made in it, and stays there.
        wait: whether to wait while another process has the lock.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is False.
        OSError: `.lock` is a link, or cannot be opened.
    """
    # Not emptied, and no link is followed: another user may have put something in this place.
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        with _unless_unsupported():
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def read_text(path: pathlib.Path, max_bytes: int) -> str:
    """Reads a text file of which nothing is known.

    Args:
        path: the file.
        max_bytes: the most that it may hold.

    Raises:
        ValueError: the path is not a regular file, the file is larger, or it is not UTF-8.
    """
    if (path.exists() or path.is_symlink()) and not path.is_file():
        raise ValueError(f"A file of text was expected. Received: {path}, which is not a regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"A file of at most {max_bytes} bytes was expected. Received: {path}, which is larger")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"A file of text in UTF-8 was expected. Received: {path}: {error}") from error


def move_in(written: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Moves a complete file or folder to its place by one rename, and waits until it is on the disk.

    Args:
        written: the file or folder, in a `temporary_folder`.
        path: its place. A file replaces a link there, or another file, whose permissions it gets; a folder replaces
            nothing.

    Returns:
        Its place.

    Raises:
        OSError: it cannot be moved there; whatever was there is left alone.
    """
    if written.is_dir():
        for folder, _, names in os.walk(written):
            for name in names:
                sync(os.path.join(folder, name))
            sync(folder)
    else:
        permissions = _permissions(path)
        # Without this the rename may reach the disk before the content of the file does.
        sync(written)
        if permissions is not None:
            written.chmod(permissions)
    os.replace(written, path)
    sync(path.parent)
    return path


def sync(path: str | os.PathLike[str]) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.path.isdir(path):
            with _unless_unsupported():
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: pathlib.Path, *, shared: bool = False) -> None:
    """Removes what killed processes left in a folder: every entry whose name begins with `TEMPORARY`.

    If the file system has locks, entries to which a running process is still writing are left alone.

    Args:
        folder: the folder.
        shared: whether other programs may write to the folder too. Then only what `temporary_folder` made is removed.
    """
    for path in folder.glob((_OWN if shared else TEMPORARY) + "*"):
        if path.is_dir() and not path.is_symlink():
            # These errors mean that a process still uses the folder, or has just removed it.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    shutil.rmtree(path)
                finally:
                    os.close(lock)
        else:
            path.unlink(missing_ok=True)


def _full(error: BaseException | None) -> int | None:
    """The error number of a full disk if that is what an error, or one of those behind it, reports; else None."""
    while error is not None:
        for number in _FULL:
            if os.strerror(number) in str(error):
                return number
        # What NumPy says, without an error number, of an array of which only a part could be written.
        if re.search(r"\d+ requested and \d+ written", str(error)):
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _permissions(path: pathlib.Path) -> int | None:
    """The permissions of the file at a path; None if nothing or a link is there, which may lead to itself.

    Raises:
        OSError: there is a folder, a device or a pipe, or a link to a device or a pipe.
    """
    try:
        # Follows links, because nobody wants a file in place of /dev/stdout.
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EEXIST, "Not a regular file", str(path))
    if path.is_symlink():
        return None
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return stat.S_IMODE(mode)


def _new_locked_folder(parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Makes a new folder in another, and returns it with its lock, a file descriptor."""
    while True:
        folder = parent / f"{_OWN}{secrets.token_hex(8)}"
        # Raises an error if the name is taken, even if only by a link.
        os.mkdir(folder, 0o700)
        # Before it is locked, another process may take it for a leftover and remove it; then a new one is made.
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _lock(folder: pathlib.Path, how: int = fcntl.LOCK_EX) -> int:
    """Locks a folder until the descriptor that this returns is closed, by this process or by its death."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with _unless_unsupported():
            fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _unless_unsupported() -> Iterator[None]:
    """Ignores the error if the file system does not support an operation on folders."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
