"""Reads the rows that a command passes to an exported model, from a file of a user."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfvae.data import numpy_files, tables
from tfvae.data.schema import Schema


class Rows(NamedTuple):
    """Rows for a model, and what they were read from.

    Attributes:
        x: what the model takes, [N, ...]: for the model of a table numbers and codes.
        names: the names of the columns of the table; None for an array.
        frame: the whole table, as it is in the file, as a data frame of pandas; None for an array.
        schema: what the columns of the table are, for the model of a table.
    """

    x: np.ndarray
    names: list[str] | None = None
    frame: Any = None
    schema: Schema | None = None


def check(path: str) -> Path:
    """Returns the path of a file of rows, which need not be there.

    Raises:
        ValueError: it has another suffix.
    """
    if Path(path).suffix.lower() != ".npy" and not tables.is_table(path):
        raise ValueError(f"`--input` must be a .npy, .csv or .parquet file. Received: {path}")
    return Path(path)


def read(path: Path) -> np.ndarray | Any:
    """Reads a .npy file of x [N, ...], or a .csv or .parquet table as a data frame of pandas.

    Raises:
        ImportError: the extra `tables` is not installed.
        ValueError: the file cannot be read.
    """
    return tables.frame(path) if tables.is_table(path) else numpy_files.read(path, "--input")[0]


def of_model(given: np.ndarray | Any, path: Path, exported: Any) -> Rows:
    """The rows that were read, as an exported model takes them.

    Args:
        given: what `read` returned.
        path: the file.
        exported: the `tfvae.export.ExportedModel`.

    Raises:
        ValueError: the model takes numbers, and they are others.
    """
    schema = Schema(exported.metadata["table"]) if "table" in exported.metadata else None
    if isinstance(given, np.ndarray):
        return Rows(given, None if schema is None else list(schema.names))
    if schema is not None:
        return Rows(schema.checked_codes(schema.codes(given)), list(schema.kinds), given, schema)
    x, names = tables.rows(given, f"source='{path}'")
    return Rows(x, names, given)
