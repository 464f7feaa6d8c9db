"""Tables of numbers, `.csv` or `.parquet` files and data frames: read by pandas, checked column by column."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks

# The name that pandas gives to a column without a name.
_UNNAMED = re.compile(r"Unnamed: \d+")

SUFFIXES = (".csv", ".parquet")
# As many classes have colours and shapes of their own in plots.
MOST_CLASSES = 49


def is_table(path: str | Path) -> bool:
    """Whether a path is that of a table, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def read(path: Path) -> np.ndarray:
    """Reads a `.csv` or `.parquet` table to train on, as `from_frame` returns it.

    Raises:
        ImportError: the extra `tables` is not installed.
        ValueError: the file is not a table of numbers, or a `.csv` file does not have one name for each column.
    """
    return from_frame(frame(path), f"source='{path}'")


def features(path: Path) -> Any:
    """Reads a `.csv` or `.parquet` table of any values, without an unnamed first column that only counts the rows.

    Raises:
        ImportError: see `read`.
        ValueError: the file is not a table, or does not have one name for each column.
    """
    if not is_table(path):
        raise _invalid("a .csv or .parquet file", f"source='{path}'")
    table = _features(frame(path), f"source='{path}'")
    _warn_of_blanks(path, table)
    return table


def _warn_of_blanks(path: Path, table: Any) -> None:
    """Warns of texts such as NA, the code of a country, in columns of texts: pandas reads them as missing."""
    import pandas as pd

    is_text = [not pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    columns = [name for name, text in zip(table.columns, is_text, strict=True) if text and table[name].isna().any()]
    if not columns or path.suffix.lower() != ".csv":
        return
    texts = pd.read_csv(path, index_col=False, usecols=columns, dtype=str, keep_default_na=False)
    for name in columns:
        found = texts[name][table[name].isna().to_numpy()]
        found = found[found.str.strip() != ""]
        if len(found):
            warnings.warn(
                f'Column "{name}" has {len(found)} texts that are read as missing values, '
                f"{checks.shown_names(found.unique(), 5)}: rename them in the file if they are values",
                stacklevel=2,
            )


def rows(frame: Any, received: str) -> tuple[np.ndarray, list[str]]:
    """The rows of a table to pass to a trained model, and the names of their columns.

    Args:
        frame: see `checks.is_frame`.
        received: what error messages call the frame.

    Returns:
        The rows [N, D], float64, with NaN for a missing value; and D names.

    Raises:
        ValueError: see `read`.
    """
    features = _features(frame, received)
    x = checks.frame_to_numpy(features, "source", received).astype(np.float64)
    return x, [str(name) for name in features.columns]


def names(path: Path) -> list[str]:
    """The names of the columns that `read` returns.

    Raises:
        ImportError: see `read`.
        ValueError: see `read`.
    """
    return [str(name) for name in _features(frame(path), f"source='{path}'").columns]


def classes(frame: Any, name: str, argument: str) -> np.ndarray:
    """The values of a column as classes or, if they are numbers without gaps, as such [N].

    Args:
        frame: a data frame of pandas.
        name: the column.
        argument: what error messages call the name.

    Raises:
        ValueError: there is no such column, or it has more classes than have colours and shapes of their own.
    """
    if name not in frame:
        raise ValueError(
            f"`{argument}` must be one of the columns {checks.shown_names(frame.columns)}. Received: {name!r}"
        )
    column = frame[name]
    if column.dtype.kind not in "iuf" or column.isna().any():
        column = column.astype(object).where(column.notna(), "missing").map(str)
        if column.nunique() > MOST_CLASSES:
            raise ValueError(
                f"`{argument}` must be a column of numbers, or of at most {MOST_CLASSES} classes. Received: {name!r} "
                f"with {column.nunique()} classes"
            )
    return column.to_numpy()


def write(rows: Any, path: Path, names: Sequence[str] | None = None) -> None:
    """Writes a data frame of pandas, or an array [N, D] with names of its columns, as a `.csv` or `.parquet` table.

    Raises:
        ValueError: a column of a `.parquet` table has values of several kinds.
    """
    import pandas as pd

    frame = rows if names is None else pd.DataFrame(rows, columns=list(names))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
        return
    try:
        frame.to_parquet(path, index=False)
    except (TypeError, ValueError) as error:
        expected = "`output` must be a .csv table for columns that hold values of several kinds"
        raise ValueError(f"{expected}. Received: {checks.brief(error)}") from error


def frame(path: Path) -> Any:
    """Reads a `.csv` or `.parquet` table as a data frame of pandas.

    Raises:
        ImportError: the extra `tables` is not installed.
        ValueError: the file is not a table, or a `.csv` file does not have one name for each column.
    """
    try:
        import pandas as pd
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"Tables need pip install 'tfvae[tables]'. Received: source='{path}'") from error
    # A device has no end, and opening a pipe would wait for a writer.
    if not path.is_file():
        raise _invalid("a readable table", f"source='{path}': it is missing, or no regular file")
    if path.suffix.lower() == ".csv":
        return _read_csv(path, pd)
    with _readable(path):
        head = parquet.read_metadata(path)
    # Runs of equal values take hardly any room in such a file.
    shape = [head.num_rows, head.num_columns]
    checks.check_memory(head.num_rows * head.num_columns * 8, "source", f"'{path}' of shape {shape}")
    with _readable(path):
        return pd.read_parquet(path)


def from_frame(frame: Any, received: str = "source") -> np.ndarray:
    """Converts a data frame to train on to an array [N, D], float64.

    An unnamed first column that only counts the rows, which is how pandas and R write the index of a table, is left out
    with a warning. A warning also names columns that number the rows, and columns of a single value.

    Args:
        frame: see `checks.is_frame`.
        received: what error messages call the frame.

    Raises:
        ValueError: the frame is empty, or a column has no name, holds anything but numbers or has missing values.
    """
    frame = _features(frame, received)
    table = checks.frame_to_numpy(frame, "source", received)
    if np.isnan(table.astype(np.float64, copy=False)).any():
        missing = checks.shown_names(frame.columns[frame.isna().any()])
        raise _invalid(
            "a table without missing values: leave out rows by frame.dropna(), fill the gaps by "
            "frame.fillna(frame.median()), or train in Python, where `fit` takes NaN under tfvae.likelihoods.Missing",
            f"{received}, missing in the columns {missing}",
        )
    _warn_of_columns(frame, received)
    # Kept in float64: large, close values, such as timestamps, become equal in float32. `load` standardises them first.
    return table.astype(np.float64, copy=False)


def _features(frame: Any, received: str) -> Any:
    """The columns of a data frame that are features, as a frame of pandas."""
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    if frame.empty:
        raise _invalid("a table with rows and columns", f"{received} of shape {frame.shape}")
    if unnamed := [i + 1 for i, name in enumerate(frame.columns) if _UNNAMED.fullmatch(str(name))]:
        if unnamed != [1] or frame.shape[1] == 1 or not _counts(frame.iloc[:, 0]):
            expected = "a table with a name for each column; to_csv(index=False) leaves out the index of a data frame"
            raise _invalid(expected, f"{received} without a name for the columns {checks.shown_names(unnamed)}")
        warnings.warn(f"The first column has no name and counts the rows: it is left out of {received}", stacklevel=2)
        frame = frame.iloc[:, 1:]
    return frame


def _warn_of_columns(frame: Any, received: str) -> None:
    """Warns of columns that say nothing about an example, but would be learned, scored and drawn like the others."""
    if len(frame) < 3:
        return
    columns = [(str(name), frame.iloc[:, i]) for i, name in enumerate(frame.columns)]
    for what, found in (
        ("number the rows, as an index or an identifier does", [name for name, column in columns if _numbers(column)]),
        ("have the same value in each row", [name for name, column in columns if column.nunique() == 1]),
    ):
        if found:
            warnings.warn(
                f"Columns of the table {what}, so they say nothing about it: leave them out, for example by "
                f"frame.drop(columns=[...]). Received: {received} with the columns {checks.shown_names(found)}",
                stacklevel=2,
            )


def _invalid(expected: str, received: str) -> ValueError:
    return ValueError(f"`source` must be {expected}. Received: {received}")


def _counts(column: Any) -> bool:
    """Whether a column holds 0, 1, 2, ... or 1, 2, 3, ..."""
    return _numbers(column) and column.iloc[0] in (0, 1)


def _numbers(column: Any) -> bool:
    """Whether a column holds integers of which each is one more than that before it."""
    return column.dtype.kind in "iu" and bool((np.diff(column.to_numpy(np.int64)) == 1).all())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns an error that pandas or pyarrow raises for an unreadable table into a ValueError that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise _invalid("a readable table", f"source='{path}': {checks.brief(error)}") from error


def _read_csv(path: Path, pd: Any) -> Any:
    checks.check_memory(path.stat().st_size, "source", f"'{path}'")
    with _readable(path):
        first_row = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
    names = first_row.dropna().tolist()
    # pandas would number those after the first.
    checks.check_distinct("source", names)
    separator = next((each for each in ";\t|" if len(first_row) == 1 and each in "".join(names)), None)
    if separator is not None:
        raise _invalid(
            "a table whose fields are separated by commas; pandas.read_csv(path, sep=..., decimal=...) reads others, "
            "its to_csv(new_path, index=False) writes such a table, and tfvae.data.Table.learn takes the frame itself",
            f"source='{path}', which seems to be separated by {separator!r}",
        )
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
