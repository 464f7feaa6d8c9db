"""A table as it is: text, dates, gaps and identifiers become the x of a model, and x becomes rows again."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, likelihoods
from tfvae.data import tables
from tfvae.data.columns import BINARY, CATEGORY, COUNT, NUMBER, Column, Part, from_config
from tfvae.data.guess import chosen, columns_of
from tfvae.data.transforms import Transforms

# In x, parts of the same content are next to each other, so that they share a likelihood.
_ORDER = {NUMBER: 0, BINARY: 1, COUNT: 2, CATEGORY: 3}
# The most rows that are transformed at a time, in float64 and with copies.
_MOST_ROWS = 65_536
_TRANSFORMS = ("standard", "yeo_johnson", "quantile", "identity")


@keras.saving.register_keras_serializable("tfvae.data")
class Table:
    """What the columns of a table are, how its rows become x [N, D], and how x becomes rows again.

    `Table.learn` makes it from data. A model that is given it, as `tfvae.VAE.of_table` does, takes rows and gives rows,
    and its exports do.

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
        self._transforms = Transforms([part.transform for part in self.parts])
        self._of_numbers = Transforms([part.transform for part in self.parts if part.content == NUMBER])

    @classmethod
    def learn(
        cls,
        source: Any,
        *,
        kinds: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        columns: Sequence[str] | None = None,
    ) -> Self:
        """Recognises what each column of a table is, and learns its units, its categories and its range.

        `print(table)` shows what the columns were taken for, and `kinds` changes it.

        Args:
            source: the path of a .csv or .parquet file, or a data frame of pandas, polars, pyarrow or another library.
            kinds: the kinds of some columns by name: "number", "count", "bool", "category", "date", "constant" or
                "identifier".
            drop: columns to leave out.
            columns: the columns to take; None means all.

        Raises:
            ValueError: the source is not a table, a name is not of a column, or a column is not of its kind.
            ImportError: the extra `tables` is not installed.
        """
        frame = frame_of(source)
        kinds = dict(kinds or {})
        return cls(columns_of(chosen(frame, kinds, drop, columns), kinds))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of x, which are those of the table, or start with them."""
        return tuple(part.name for part in self.parts)

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

    def transform(self, rows: Any) -> np.ndarray:
        """Converts rows to x [N, D], float32, with NaN for missing values.

        Args:
            rows: see `codes`.

        Raises:
            ValueError: see `codes`.
        """
        return self.from_codes(self.codes(rows))

    def from_codes(self, codes: Any) -> np.ndarray:
        """Converts numbers and codes [N, D] to x [N, D], float32."""
        codes = np.asarray(codes, np.float64)
        parts = (codes[part] for part in chunks.slices(len(codes), _MOST_ROWS))
        return np.concatenate([self.forward(tf.constant(part)).numpy().astype(np.float32) for part in parts])

    def forward(self, codes: tf.Tensor) -> tf.Tensor:
        """Converts numbers and codes [B, D] to x [B, D], as tensors, in a graph or not."""
        return self._transforms.forward(codes)

    def inverse(self, x: tf.Tensor) -> tf.Tensor:
        """Converts x [B, D], or a mean of p(x|z) [B, M], to numbers and codes, as tensors, in a graph or not."""
        # The numbers come first, in a mean too, and no other part is transformed.
        numbers = sum(part.content == NUMBER for part in self.parts)
        others = x.shape[-1] - numbers
        if not (numbers and others):
            return self._of_numbers.inverse(x) if numbers else x
        own, rest = tf.split(x, [numbers, others], axis=-1)
        return tf.concat([self._of_numbers.inverse(own), rest], axis=-1)

    def to_codes(self, x: Any) -> np.ndarray:
        """Converts x [N, D] to numbers and codes [N, D], float64, the inverse of `from_codes`."""
        return self.inverse(tf.convert_to_tensor(x, tf.float64)).numpy()

    def rows(self, x: Any, seed: Any = 0) -> Any:
        """Converts x to rows, the inverse of `transform`.

        Args:
            x: an array [N, D] of the columns of `names`, such as draws of a model.
            seed: draws which of the rare categories a row has: a number or an array of numbers.

        Returns:
            A `pandas.DataFrame` of N rows, with the columns, dtypes and categories of the table.
        """
        return self.rows_of_codes(self.to_codes(x), seed)

    def rows_of_codes(self, codes: np.ndarray, seed: Any = 0) -> Any:
        """Converts numbers and codes [N, D] to rows: see `rows`."""
        import pandas as pd

        rng = np.random.default_rng(seed)
        by_column: dict[int, dict[int, np.ndarray]] = {index: {} for index in range(len(self.columns))}
        for (index, position), values in zip(self._places, np.asarray(codes, np.float64).T, strict=True):
            by_column[index][position] = values
        series = []
        for index, column in enumerate(self.columns):
            own = [by_column[index][position] for position in range(len(by_column[index]))]
            series.append(column.values(np.stack(own, axis=1) if own else np.empty([len(codes), 0]), rng))
        return pd.concat(series, axis=1)

    def likelihood(self, **kinds: Any) -> likelihoods.Likelihood:
        """The likelihood p(x|z) of the rows, under which any value may be missing.

        Args:
            kinds: for "number", "binary" and "count", a function that makes the likelihood of such parts, instead of
                `Normal("per_dimension")`, `Bernoulli()` and `NegativeBinomial()`.
        """
        made = {
            NUMBER: lambda: likelihoods.Normal("per_dimension"),
            BINARY: likelihoods.Bernoulli,
            COUNT: likelihoods.NegativeBinomial,
            **kinds,
        }
        groups: list[list[Any]] = []
        previous = None
        for part in self.parts:
            key = part.content, part.num_classes
            if key != previous:
                is_category = part.content == CATEGORY
                groups.append([likelihoods.Categorical(part.num_classes) if is_category else made[part.content](), 0])
            groups[-1][1] += 1
            previous = key
        return likelihoods.Missing(likelihoods.Columns(groups, names=self.names), fill=False)

    def config(self) -> list[dict[str, Any]]:
        """The columns, ready for JSON."""
        return [column.config() for column in self.columns]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"columns": self.config()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table of {len(self.columns)} columns, {len(self.parts)} in x"

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
        return tables.frame(Path(source))
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


def _in_a_cell(text: str, most: int) -> str:
    """A text in one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _transform_order(part: Part) -> int:
    return _TRANSFORMS.index(part.transform["name"]) if part.transform else len(_TRANSFORMS)
