"""Tables of numbers, `.csv` or `.parquet` files and data frames: read by pandas, checked column by column."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks

# The name that pandas gives to a column without a name.
_UNNAMED = re.compile(r"Unnamed: \d+")


def read(path: Path) -> np.ndarray:
    """Reads a `.csv` or `.parquet` table, as `from_frame` returns it.

    Raises:
        ImportError: the extra `tables` is not installed.
        ValueError: the file is not a table of numbers, or a `.csv` file does not have one name for each column.
    """
    try:
        import pandas as pd
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"Tables need pip install 'tfvae[tables]'. Received: source='{path}'") from error
    if path.suffix.lower() == ".csv":
        return from_frame(_read_csv(path, pd), f"source='{path}'")
    with _readable(path):
        head = parquet.read_metadata(path)
    # Runs of equal values take hardly any room in such a file.
    shape = [head.num_rows, head.num_columns]
    checks.check_memory(head.num_rows * head.num_columns * 8, "source", f"'{path}' of shape {shape}")
    with _readable(path):
        frame = pd.read_parquet(path)
    return from_frame(frame, f"source='{path}'")


def from_frame(frame: Any, received: str = "source") -> np.ndarray:
    """Converts a data frame to an array [N, D], float64.

    An unnamed first column that only counts the rows, which is how pandas and R write the index of a table, is left out
    with a warning.

    Args:
        frame: see `checks.is_frame`.
        received: what error messages call the frame.

    Raises:
        ValueError: the frame is empty, or a column has no name, holds anything but numbers or has missing values.
    """
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    if frame.empty:
        raise _invalid("a table with rows and columns", f"{received} of shape {frame.shape}")
    if unnamed := [i + 1 for i, name in enumerate(frame.columns) if _UNNAMED.fullmatch(str(name))]:
        if unnamed != [1] or frame.shape[1] == 1 or not _counts(frame.iloc[:, 0]):
            expected = "a table with a name for each column; to_csv(index=False) leaves out the index of a data frame"
            raise _invalid(expected, f"{received} without a name for the columns {checks.shown_names(unnamed)}")
        warnings.warn(f"The first column has no name and counts the rows: it is left out of {received}", stacklevel=2)
        frame = frame.iloc[:, 1:]
    table = checks.frame_to_numpy(frame, "source", received)
    if np.isnan(table.astype(np.float64, copy=False)).any():
        missing = checks.shown_names(frame.columns[frame.isna().any()])
        raise _invalid("a table without missing values", f"{received}, missing in the columns {missing}")
    # Kept in float64: large, close values, such as timestamps, become equal in float32. `load` standardises them first.
    return table.astype(np.float64, copy=False)


def _invalid(expected: str, received: str) -> ValueError:
    return ValueError(f"`source` must be {expected}. Received: {received}")


def _counts(column: Any) -> bool:
    """Whether a column holds 0, 1, 2, ... or 1, 2, 3, ..."""
    numbers = column.to_numpy()
    return numbers.dtype.kind in "iu" and numbers[0] in (0, 1) and bool((np.diff(numbers) == 1).all())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns an error that pandas or pyarrow raises for an unreadable table into a ValueError that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise _invalid("a readable table", f"source='{path}': {' '.join(str(error).split())[:300]}") from error


def _read_csv(path: Path, pd: Any) -> Any:
    checks.check_memory(path.stat().st_size, "source", f"'{path}'")
    with _readable(path):
        first_row = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
    names = first_row.dropna().tolist()
    if all(map(_is_number, names)):
        # pandas gives columns without names the names 0, 1, 2, ..., and writes nothing above the index.
        if names != [str(i) for i in range(len(names))] or len(names) < max(len(first_row) - 1, 1):
            raise _invalid(
                "a table whose first row holds names; pandas.read_csv(path, header=None).add_prefix('x').to_csv("
                "new_path, index=False) gives names to a file without them",
                f"source='{path}' with the first row {checks.shown_names(names, 5)}",
            )
        if len(names) == len(first_row):
            warnings.warn(f"The first row, {checks.shown_names(names, 5)}, is read as names: '{path}'", stacklevel=2)
    try:
        with _readable(path), warnings.catch_warnings():
            # A row of more fields than the header: pandas would take its first for an index, or drop its last.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, index_col=False)
    except pd.errors.ParserWarning as error:
        expected = "a table with a name for each column"
        raise _invalid(expected, f"source='{path}', whose rows have more fields than its header") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.strip().lower() in ("true", "false")
    return True
