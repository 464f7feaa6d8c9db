"""What the columns of a table are, without TensorFlow: raw rows become numbers and codes, and these rows again."""

import itertools
import keyword
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks
from tfvae.data import tables
from tfvae.data.columns import BINARY, CATEGORY, COUNT, NUMBER, Column, Part, from_config

# In x, parts of the same content are next to each other, so that they share a likelihood.
_ORDER = {NUMBER: 0, BINARY: 1, COUNT: 2, CATEGORY: 3}
_TRANSFORMS = ("standard", "yeo_johnson", "quantile", "identity")
# The inputs that signatures have beside x, and what TensorFlow refuses: no input for a column may have such a name.
_TAKEN = ("epsilon", "uniform", "condition", "label", "self")
# What the name of an input may be made of.
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_]")


class Schema:
    """What the columns of a table are, and how its rows become numbers and codes [N, D]: a `Table` without TensorFlow.

    Args:
        columns: the columns, or their configurations.

    Raises:
        ValueError: there is no column that a model can use, or two have the same name.
    """

    def __init__(self, columns: Iterable[Column | Mapping[str, Any]]) -> None:
        self.columns = tuple(each if isinstance(each, Column) else from_config(each) for each in columns)
        names = [column.name for column in self.columns]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"`columns` must have different names. Received: {sorted(repeated)} more than once")
        places = [
            (index, position, part)
            for index, column in enumerate(self.columns)
            for position, part in enumerate(column.parts)
        ]
        if not places:
            raise ValueError(
                "`columns` must have one at least that is neither constant nor an identifier. Received: "
                f"{checks.shown({column.name: column.kind for column in self.columns})}"
            )
        places.sort(key=lambda place: (_ORDER[place[2].content], _transform_order(place[2]), place[2].num_classes))
        # For each column of x, the column of the table and which of its parts it is.
        self._places = [(index, position) for index, position, _ in places]
        self.parts: tuple[Part, ...] = tuple(part for *_, part in places)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of x, which are those of the table, or start with them."""
        return tuple(part.name for part in self.parts)

    @property
    def arguments(self) -> dict[str, str]:
        """The columns that a model uses, each with the name of its input where it has one, as in a SavedModel.

        It is the name of the column, unless that has other characters than letters of ASCII, digits and "_", does not
        begin with a letter, is a keyword of Python or "self", which TensorFlow refuses, or differs from the name of
        another input in upper and lower case at most.
        """
        arguments: dict[str, str] = {}
        used = dict.fromkeys(self.owners())
        # First those that may keep their names.
        for column in sorted(used, key=lambda name: not _is_argument(name)):
            name = column if _is_argument(column) else _NOT_ALLOWED.sub("_", column)
            name = name if _is_argument(name) else f"column_{name}"
            taken = {argument.lower() for argument in arguments.values()}
            numbers = itertools.count(2)
            unique = name
            while unique.lower() in taken:
                unique = f"{name}_{next(numbers)}"
            arguments[column] = unique
        return {column: arguments[column] for column in used}

    def owners(self) -> tuple[str, ...]:
        """For each column of x, the name of the column of the table that it belongs to."""
        return tuple(self.columns[index].name for index, _ in self._places)

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of the columns that a model uses, by name."""
        used = {index for index, _ in self._places}
        return {column.name: column.kind for index, column in enumerate(self.columns) if index in used}

    def by_column(self, contributions: np.ndarray) -> np.ndarray:
        """Sums what the columns of x contribute to a score, [N, D], over those of each column of `kinds`: [N, C]."""
        position = {name: index for index, name in enumerate(self.kinds)}
        sums = np.zeros([len(contributions), len(position)])
        for name, column in zip(self.owners(), np.asarray(contributions).T, strict=True):
            sums[:, position[name]] += column
        return sums

    def codes(self, rows: Any) -> np.ndarray:
        """Converts rows to numbers and codes, which the exported models without texts take.

        Args:
            rows: a data frame with the columns of the table, in any order; a dictionary of columns; a dictionary or a
                list of dictionaries of values; or a path as for `learn`. Columns that the model does not use may be
                missing, and others are ignored.

        Returns:
            An array [N, D], float64, with NaN for missing values.

        Raises:
            ValueError: a column is missing, or a value is not of its column.
        """
        frame = frame_of(rows)
        self._check_columns(frame)
        parts = {
            index: self.columns[index].codes(frame[self.columns[index].name])
            for index in {index for index, _ in self._places}
        }
        return np.stack([parts[index][:, position] for index, position in self._places], axis=1)

    def checked_codes(self, codes: np.ndarray) -> np.ndarray:
        """Converts numbers and codes [N, D] to float32.

        Raises:
            ValueError: a value is not one of its column, which the error names, or is too large for float32.
        """
        with np.errstate(over="ignore"):
            codes = codes.astype(np.float32)
        for column, part in enumerate(self.parts):
            x = codes[:, column]
            is_right, expected = np.isfinite(x), "finite numbers in float32"
            if part.content != NUMBER:
                is_right &= (x >= 0) & (x == np.floor(x))
                expected = "counts, whole numbers of at least 0"
            if part.content in (BINARY, CATEGORY):
                most = 1 if part.content == BINARY else part.num_classes - 1
                is_right &= x <= most
                expected = f"codes, whole numbers from 0 to {most}"
            wrong = np.flatnonzero(~is_right & ~np.isnan(x))
            if len(wrong):
                raise ValueError(
                    f'Column "{part.name}" must hold {expected}. Received: {x[wrong[0]]:g} in row {wrong[0]}'
                )
        return codes

    def raw(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Converts numbers and codes [N, D] to raw values by `arguments`, each [N]: float32, or texts.

        Args:
            codes: what `codes` returns. NaN in one of the columns of x that belong to a column of the table makes its
                value missing: NaN or "".
        """
        parts = self._by_column(codes)
        columns = {column.name: (column, parts[index]) for index, column in enumerate(self.columns) if column.parts}
        values = {argument: columns[name][0].raw(columns[name][1]) for name, argument in self.arguments.items()}
        with np.errstate(over="ignore"):
            return {name: v if v.dtype == object else v.astype(np.float32) for name, v in values.items()}

    def codes_of_mean(self, mean: np.ndarray) -> np.ndarray:
        """Converts a mean of p(x|z) whose numbers are raw to numbers and codes [N, D]: the most probable codes.

        Args:
            mean: [N, M], with a probability for each code in the place of the code.
        """
        widths = [part.num_classes or 1 for part in self.parts]
        groups = np.split(mean, np.cumsum(widths)[:-1], axis=1)
        columns = [
            np.argmax(group, axis=1) if part.num_classes else group[:, 0]
            for part, group in zip(self.parts, groups, strict=True)
        ]
        return np.stack(columns, axis=1)

    def rows_of_codes(self, codes: np.ndarray, seed: Any = 0) -> Any:
        """Converts numbers and codes [N, D] to rows: see `rows`."""
        import pandas as pd

        rng = np.random.default_rng(seed)
        parts = zip(self.columns, self._by_column(codes), strict=True)
        return pd.concat([column.values(part, rng) for column, part in parts], axis=1)

    def _by_column(self, codes: np.ndarray) -> list[np.ndarray]:
        """The numbers and codes [N, P] of each column of the table."""
        by_column: dict[int, dict[int, np.ndarray]] = {index: {} for index in range(len(self.columns))}
        for (index, position), values in zip(self._places, np.asarray(codes, np.float64).T, strict=True):
            by_column[index][position] = values
        return [
            np.stack([own[position] for position in range(len(own))], axis=1) if own else np.empty([len(codes), 0])
            for own in by_column.values()
        ]

    def config(self) -> list[dict[str, Any]]:
        """The columns, ready for JSON."""
        return [column.config() for column in self.columns]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self.columns)} columns, {len(self.parts)} in x"

    def __str__(self) -> str:
        rows = [("column", "taken for", "because of", "values")] + [
            (
                _in_a_cell(column.name, 40),
                column.kind + (", with gaps" if column.has_gaps else ""),
                column.why,
                _in_a_cell(column.description, 80),
            )
            for column in self.columns
        ]
        widths = [max(len(row[position]) for row in rows) for position in range(3)]
        return "\n".join(
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in rows
        )

    @property
    def labels(self) -> dict[str, tuple[Any, ...]]:
        """For the columns of x that hold codes of several classes, by name, what the codes 0, 1, ... stand for."""
        return {part.name: part.labels for part in self.parts if part.num_classes}

    @property
    def ranges(self) -> dict[str, list[float | None]]:
        """The least and the greatest value of each column of x in the data, `low` and `high`; None for codes."""
        return {
            name: [None if part.range is None else float(part.range[end]) for part in self.parts]
            for end, name in enumerate(("low", "high"))
        }

    def _check_columns(self, frame: Any) -> None:
        used = dict.fromkeys(self.owners())
        absent = [name for name in used if name not in frame.columns]
        if absent:
            raise ValueError(
                f"The rows must have the columns {checks.shown_names(list(used))}. Received: rows without "
                f"{checks.shown_names(absent)}"
            )


def frame_of(source: Any) -> Any:
    """Converts a table in any form to a `pandas.DataFrame` whose columns are named by texts.

    Args:
        source: a path, a data frame, a dictionary of columns, a dictionary of values, or a list of such dictionaries.

    Raises:
        ValueError: the source is not a table with rows.
        ImportError: the extra `tables` is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(f"Tables need pip install 'tfvae[tables]'. Received: {checks.shown(source)}") from error
    if isinstance(source, str | os.PathLike):
        return tables.features(Path(source))
    if isinstance(source, Mapping):
        is_one = not any(hasattr(value, "__len__") and not isinstance(value, str) for value in source.values())
        source = pd.DataFrame([dict(source)] if is_one else dict(source))
    elif isinstance(source, list) and source and all(isinstance(row, Mapping) for row in source):
        source = pd.DataFrame(source)
    elif hasattr(source, "to_pandas"):
        source = source.to_pandas()
    if not isinstance(source, pd.DataFrame):
        raise ValueError(
            "`source` must be a data frame, the path of a .csv or .parquet file, or dictionaries of columns or values. "
            f"Received: {checks.shown(source)}"
        )
    if source.empty:
        raise ValueError(f"`source` must be a table with rows and columns. Received: a table of shape {source.shape}")
    source = source.set_axis([str(name) for name in source.columns], axis=1)
    checks.check_distinct("source", list(source.columns))
    return source


def is_rows(data: Any) -> bool:
    """Whether data passed to a model are rows rather than an array of x."""
    return checks.is_frame(data) or (
        isinstance(data, list) and bool(data) and all(isinstance(row, Mapping) for row in data)
    )


def _is_argument(name: str) -> bool:
    is_name = re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) is not None
    return is_name and name.lower() not in _TAKEN and not keyword.iskeyword(name)


def _in_a_cell(text: str, most: int) -> str:
    """A text in one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _transform_order(part: Part) -> int:
    return _TRANSFORMS.index(part.transform["name"]) if part.transform else len(_TRANSFORMS)
