"""Reads the rows that a command passes to an exported model, from a file of a user."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfvae.data import numpy_files, tables


class Rows(NamedTuple):
    """Rows for a model, and what they were read from.

    Attributes:
        x: the rows [N, ...].
        names: the names of the columns of x; None for an array.
        frame: the whole table, as it is in the file, as a data frame of pandas; None for an array.
    """

    x: np.ndarray
    names: list[str] | None = None
    frame: Any = None


def check(path: str) -> Path:
    """Returns the path of a file of rows, which need not be there.

    Raises:
        ValueError: it has another suffix.
    """
    if Path(path).suffix.lower() not in (".npy", *tables.SUFFIXES):
        raise ValueError(f"`--input` must be a .npy, .csv or .parquet file. Received: {path}")
    return Path(path)


def read(path: Path) -> Rows:
    """Reads a .npy file of x [N, ...], or a .csv or .parquet table with the columns of the training in their order.

    Raises:
        ImportError: the extra `tables` is not installed.
        ValueError: the file cannot be read, or is not a table of numbers.
    """
    if path.suffix.lower() == ".npy":
        return Rows(numpy_files.read(path, "--input")[0])
    frame = tables.frame(path)
    x, names = tables.rows(frame, f"source='{path}'")
    return Rows(x, names, frame)
