"""`.npy` and `.npz` files, of which nothing is read before their headers agree with the size of the file."""

import contextlib
import math
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tfvae import checks

# An archive that expands to more than this, and by more than this factor, is refused as a zip bomb.
_BOMB_BYTES = 2**30
_BOMB_FACTOR = 200


class OpenArray(NamedTuple):
    """An array in a file that is open at the first byte of its numbers.

    Attributes:
        file: the open file.
        shape: the shape of the array.
        fortran_order: whether the first axis varies fastest.
        dtype: the dtype, in the byte order of the file.
    """

    file: IO[bytes]
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def read(path: Path, argument: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the array of a file, and from an `.npz` file with x_train also x_test, or None if there is none.

    Args:
        path: the file.
        argument: the name of the caller's argument, for error messages.

    Raises:
        ValueError: the file cannot be read, holds pickled objects or does not fit in memory.
    """
    if path.suffix.lower() == ".npy":
        return _read(path, None, argument), None
    there = names(path, argument)
    name = array_name(there, path, argument)
    with_test = name == "x_train" and "x_test" in there
    return _read(path, name, argument), _read(path, "x_test", argument) if with_test else None


def read_named(path: Path, name: str, argument: str) -> np.ndarray:
    """Reads an array of an `.npz` file.

    Args:
        path: the file.
        name: the array.
        argument: the name of the caller's argument, for error messages.

    Raises:
        ValueError: the array cannot be read, holds pickled objects or does not fit in memory.
    """
    return _read(path, name, argument)


def length(path: Path, name: str, argument: str) -> int:
    """The number of rows of an array of an `.npz` file: see `read_named`."""
    with contextlib.ExitStack() as stack:
        return (*open_array(path, argument, stack, name).shape, 0)[0]


def open_array(path: Path, argument: str, stack: contextlib.ExitStack, name: str | None = None) -> OpenArray:
    """Opens a file, and checks its header.

    Args:
        path: the file.
        argument: the name of the caller's argument, for error messages.
        stack: what closes the file.
        name: the array in an `.npz` file; None means the one that `array_name` chooses.

    Raises:
        ValueError: the file cannot be read, or its header does not agree with its size.
    """
    is_archive = path.suffix.lower() == ".npz"
    with readable(path, argument):
        # Opening a pipe would wait for a writer.
        if not path.is_file():
            raise ValueError("it is missing, or no regular file")
    if is_archive and name is None:
        name = array_name(names(path, argument), path, argument)
    with readable(path, argument):
        if is_archive:
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = archive.getinfo(f"{name}.npy")
            if is_bomb(member.file_size, member.compress_size):
                sizes = f"{member.compress_size / 1e6:.3g} MB would expand to {member.file_size / 1e9:.3g} GB"
                raise ValueError(f"{sizes}; save the array as .npy if this is meant")
            file, size = stack.enter_context(archive.open(member)), member.file_size
        else:
            file, size = stack.enter_context(path.open("rb")), path.stat().st_size
        # Version 3 differs from 2 only in Unicode field names, which plain numbers do not have.
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found = OpenArray(file, *header(file))
        if found.dtype.hasobject:
            raise ValueError("it holds pickled objects, which can run any code (allow_pickle=False)")
        needed, there = math.prod(found.shape) * found.dtype.itemsize, size - file.tell()
        if min(found.shape, default=0) < 0 or needed > there:
            shape = checks.shown(list(found.shape))
            raise ValueError(
                f"it is damaged: its header has the shape {shape}, {needed} bytes, but {there} bytes follow"
            )
        return found


@contextlib.contextmanager
def readable(path: Path, argument: str) -> Iterator[None]:
    """Turns any error that NumPy raises for an unreadable file into a ValueError that names the file."""
    try:
        yield
    # Damaged files make NumPy and zipfile raise errors of a dozen classes, not all of which are documented.
    except Exception as error:
        expected = f"`{argument}` must be a readable .npy or .npz file without pickled objects"
        raise ValueError(f"{expected}. Received: {argument}='{path}': {checks.brief(error)}") from error


def is_bomb(size: int, stored: int) -> bool:
    """Whether `stored` bytes that would expand to `size` bytes are too likely to be meant to exhaust the memory."""
    return size > max(_BOMB_BYTES, _BOMB_FACTOR * stored)


def array_name(names: Collection[str], path: Path, argument: str) -> str:
    """The key of an `.npz` file that holds its rows; raises ValueError if none of its keys `names` does."""
    for name in ("x_train", "x", *(names if len(names) == 1 else ())):
        if name in names:
            return name
    raise ValueError(
        f"`{argument}` must be an .npz file with the key x_train (and perhaps x_test), the key x, or one array. "
        f"Received: {argument}='{path}' with the keys {checks.shown_names(names)}"
    )


def names(path: Path, argument: str) -> list[str]:
    """The names of the arrays of an `.npz` file."""
    with readable(path, argument), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _read(path: Path, name: str | None, argument: str) -> np.ndarray:
    with contextlib.ExitStack() as stack:
        found = open_array(path, argument, stack, name)
        size = math.prod(found.shape) * found.dtype.itemsize
        checks.check_memory(size, argument, f"'{path}' of shape {list(found.shape)}")
        with readable(path, argument):
            if name is None:
                return np.load(path, allow_pickle=False)
            found.file.seek(0)
            return np.lib.format.read_array(found.file, allow_pickle=False)
