"""A table as it is: text, dates, gaps and identifiers become the x of a model, and x becomes rows again."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfvae import chunks, likelihoods
from tfvae.data.columns import BINARY, CATEGORY, COUNT, NUMBER, Column
from tfvae.data.guess import chosen, columns_of
from tfvae.data.schema import Schema, frame_of
from tfvae.data.transforms import Transforms
from tfvae.numerics import is_number

# The most rows that are transformed at a time, in float64 and with copies.
_MOST_ROWS = 65_536


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
        return cls(columns_of(chosen(frame, kinds, drop, columns), kinds))

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
