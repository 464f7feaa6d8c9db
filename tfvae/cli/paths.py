"""Checks of the paths and names that a command is given, before TensorFlow is imported to read what is there."""

import glob
import os
import re
from pathlib import Path

# The names of `tfvae.data.NAMES`, which takes seconds to import.
DATA_NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")


def check_data(source: str, argument: str = "data") -> None:
    """Raises ValueError unless a source of data is a name, or something is there."""
    if source in DATA_NAMES or "://" in source or Path(source).exists() or glob.glob(source):
        return
    raise ValueError(
        f"`{argument}` must be one of the names {', '.join(DATA_NAMES)}, or an existing file, folder or pattern of "
        f"files. Received: {source}"
    )


def check_run(folder: str, *, with_data: bool = True) -> Path:
    """Returns the folder of a run.

    Args:
        folder: the folder.
        with_data: whether the command needs the data of the run as well.

    Raises:
        ValueError: it is not one, or its training has not ended.
    """
    for name in ("model.keras", "config.yaml") if with_data else ("model.keras",):
        if not (Path(folder) / name).is_file():
            raise ValueError(
                f"`run` must be a folder in which `tfvae train` wrote a model. Received: {folder}, with no {name}"
            )
    return Path(folder)


def name_of(folder: str | Path) -> str:
    """The name of a folder, which may be given as `.` or by a link."""
    # Unlike Path.resolve, this takes a link to itself.
    return os.path.basename(os.path.realpath(folder))


def check_export(folder: Path, argument: str) -> Path:
    """Returns the folder of an export.

    Raises:
        ValueError: it has a name that an exported model cannot have, or a file is there.
    """
    name = name_of(folder)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError(
            f"`{argument}` must end in a name of letters, digits, '.', '_' and '-', because it is part of a URL. "
            f"Received: {folder}"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{argument}` must be a folder, or new. Received: {folder}, which is a file")
    return folder


def check_existing(path: str, argument: str, expected: str) -> Path:
    """Returns a path.

    Raises:
        ValueError: nothing is there.
    """
    if not Path(path).exists():
        raise ValueError(f"`{argument}` must be {expected}. Received: {path}, which does not exist")
    return Path(path)


def check_output(path: str, *suffixes: str) -> Path:
    """Returns the path of a file to write.

    Raises:
        ValueError: it has another suffix, its folder does not exist, or it is itself a folder.
    """
    output = Path(path)
    if output.suffix not in suffixes:
        raise ValueError(f"`--output` must end in {' or '.join(suffixes)}. Received: {path}")
    if not output.parent.is_dir():
        raise ValueError(f"`--output` must be in an existing folder. Received: {path}")
    if output.is_dir():
        raise ValueError(f"`--output` must be a file. Received: {path}, which is a folder")
    return output
