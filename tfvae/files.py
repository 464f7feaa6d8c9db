"""Writing files so that readers find them complete or not at all."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Lets a file be written under a temporary name beside its place, and then moves it there by one rename.

    Args:
        path: the file, or a link to it; an earlier version stays in place until the new one is complete.

    Yields:
        The path to write to, with the same suffixes.
    """
    temporary_name = f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}"
    path = path.resolve()
    temporary = path.with_name(temporary_name)
    try:
        yield temporary
        # Without this the rename may reach the disk before the contents of the file.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def remove_temporaries(folder: pathlib.Path) -> None:
    """Removes the temporary files of killed processes from a folder that no other process writes to."""
    for path in folder.glob(TEMPORARY + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
