"""A table as it is: text, dates, gaps and identifiers become the x of a model, and x becomes rows again."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, likelihoods
from tfvae.data.columns import BINARY, CATEGORY, COUNT, KINDS, NUMBER, Column
from tfvae.data.guess import columns_of
from tfvae.data.schema import Schema, frame_of
from tfvae.data.transforms import Transforms
from tfvae.numerics import is_number


@keras.saving.register_keras_serializable("tfvae.data")
class Table(Schema):
    """What the columns of a table are, how its rows become x [N, D], and how x becomes rows again.

    `Table.learn` makes it from data. A model that is given it, as `tfvae.VAE.of_table` does, takes rows and gives rows,
    and its exports do.

    Args:
        columns: the columns, or their configurations.

    Raises:
        ValueError: there is no column that a model can use, or two have the same name.
    """

    def __init__(self, columns: Iterable[Column | Mapping[str, Any]]) -> None:
        super().__init__(columns)
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
        for argument, names in (("kinds", kinds), ("drop", drop), ("columns", columns or ())):
            unknown = [name for name in names if name not in frame.columns]
            if isinstance(names, str) or unknown:
                raise ValueError(
                    f"`{argument}` must name columns of the table, {checks.shown_names(frame.columns)}. Received: "
                    f"{argument}={checks.shown(names)}"
                )
        for name, kind in kinds.items():
            if kind not in KINDS:
                raise ValueError(f'`kinds` must be among {list(KINDS)}. Received: "{kind}" for the column "{name}"')
        kept = [name for name in (frame.columns if columns is None else columns) if name not in drop]
        if not kept:
            raise ValueError(f"`drop` must leave a column. Received: drop={checks.shown(drop)}")
        return cls(columns_of(frame[kept], kinds))

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
        return self.forward(tf.convert_to_tensor(codes, tf.float64)).numpy().astype(np.float32)

    def forward(self, codes: tf.Tensor) -> tf.Tensor:
        """Converts numbers and codes [B, D] to x [B, D], as tensors, in a graph or not."""
        # NaN is set apart, because a minimum of it and a number is the number in TFLite.
        is_observed = is_number(codes)
        x = self._transforms.forward(tf.where(is_observed, codes, tf.zeros_like(codes)))
        return tf.where(is_observed, x, tf.constant(np.nan, x.dtype))

    def in_graph(self, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Converts raw values to numbers and codes as `codes` does, by ops of TensorFlow.

        Args:
            values: by the names of `arguments`, tensors [B] of the dtypes of `specs`.

        Returns:
            The numbers and codes [B, D], float32, with infinity for a value that is not of its column.
        """
        arguments = self.arguments
        of_columns = {
            index: column.in_graph(values[arguments[column.name]])
            for index, column in enumerate(self.columns)
            if column.parts
        }
        return tf.stack([of_columns[index][:, position] for index, position in self._places], axis=1)

    def specs(self) -> tuple[tf.TensorSpec, ...]:
        """The names, dtypes and shapes of the raw values that `in_graph` takes."""
        takes_text = {column.name: column.takes_text for column in self.columns}
        return tuple(
            tf.TensorSpec([None], tf.string if takes_text[name] else tf.float32, argument)
            for name, argument in self.arguments.items()
        )

    @functools.cached_property
    def typical(self) -> np.ndarray:
        """The numbers and codes [1, D], float32, of a row in the middle of the data."""
        x = np.zeros([1, len(self.parts)])
        for column, part in enumerate(self.parts):
            if part.content == COUNT and part.transform:
                x[0, column] = np.round(np.expm1(part.transform["mean"]))
        return self.codes(self.rows(x)).astype(np.float32)

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
            (column.name, column.kind + (", with gaps" if column.has_gaps else ""), column.why, column.description)
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
    return source.rename(columns=str)


def is_rows(data: Any) -> bool:
    """Whether data passed to a model are rows rather than an array of x."""
    return checks.is_frame(data) or (
        isinstance(data, list) and bool(data) and all(isinstance(row, Mapping) for row in data)
    )


def _transform_order(part: Part) -> int:
    return _TRANSFORMS.index(part.transform["name"]) if part.transform else len(_TRANSFORMS)
