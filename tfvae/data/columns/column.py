"""A column of a table, and the parts that it has in x."""

import abc
import dataclasses
import warnings
from collections.abc import Container
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tfvae import checks

# What a part of x holds: real numbers, 0 or 1, counts, or codes of classes.
NUMBER, BINARY, COUNT, CATEGORY = "number", "binary", "count", "category"
# A smaller share of the values of a column may be of another kind than the others: they are taken for missing ones.
FEW_WRONG = 0.05
# The dtypes of pandas that have no missing value, and those that have one.
_NULLABLE = {"bool": "boolean"} | {
    f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class Part(NamedTuple):
    """One column of x, which a column of the table becomes.

    Attributes:
        name: its name.
        content: what it holds: `NUMBER`, `BINARY`, `COUNT` or `CATEGORY`.
        num_classes: the number of codes of a `CATEGORY`; 0 otherwise.
        transform: how its values become those of x: see `tfvae.data.transforms`.
        labels: what the codes of a `CATEGORY` stand for, in their order.
        range: the least and the greatest value in the data, of numbers and counts.
    """

    name: str
    content: str
    num_classes: int = 0
    transform: dict[str, Any] | None = None
    labels: tuple[Any, ...] = ()
    range: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column(abc.ABC):
    """A column of a table.

    Args:
        name: its name.
        dtype: the dtype of the values in a data frame of pandas, by name.
        why: what it was recognised by, in words.
        has_gaps: whether values were missing.
        blanks: texts that stand for missing values in a column of numbers or dates, such as "?".
    """

    kind: ClassVar[str]
    # Whether raw values are texts, in a request to a server; otherwise they are numbers.
    takes_text: ClassVar[bool] = False
    name: str
    dtype: str
    why: str = ""
    has_gaps: bool = False
    blanks: tuple[str, ...] = ()

    @classmethod
    @abc.abstractmethod
    def learn(cls, values: Any, **common: Any) -> "Column":
        """Makes the column from its values in a table.

        Args:
            values: a `pandas.Series`.
            common: the arguments of `Column`.
        """

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The columns of x that it becomes; none if the model does not use it."""

    @abc.abstractmethod
    def codes(self, values: Any) -> np.ndarray:
        """Converts raw values to numbers and codes.

        Args:
            values: a `pandas.Series` of N raw values, in which None, NaN, NaT and "" are missing.

        Returns:
            An array [N, P], float64, with a column for each part and NaN for what is missing.

        Raises:
            ValueError: a value is not of the column.
        """

    @abc.abstractmethod
    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """Converts numbers and codes [N, P] to a `pandas.Series` of raw values, the inverse of `codes`.

        Args:
            codes: what `codes` returns, or draws of it.
            rng: draws what the codes do not determine.
        """

    def in_graph(self, values: Any) -> Any:
        """Converts raw values to numbers and codes as `codes` does, by ops of TensorFlow.

        Args:
            values: a tensor [B] of texts if the column `takes_text`, and of numbers otherwise, in which "" and NaN are
                missing.

        Returns:
            A tensor [B, P], float32, with infinity where a value is not of the column.
        """
        raise NotImplementedError(f"A column without parts, such as one of kind {self.kind}, is not in a graph")

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """Converts numbers and codes [N, P] to raw values [N] as `in_graph` takes them, neither clipped nor rounded."""
        raise NotImplementedError(f"A column without parts, such as one of kind {self.kind}, has no codes")

    @property
    def description(self) -> str:
        """What was learned of the values, in a few words."""
        return ""

    def config(self) -> dict[str, Any]:
        """The kind and the arguments, ready for JSON, from which `from_config` makes the same column."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    def known(self, values: Any) -> Any:
        """Raw values without the texts that stand for missing ones."""
        return values.where(~is_among(values, self.blanks), None) if self.blanks else values

    def restored(self, values: Any) -> Any:
        """Raw values as a `pandas.Series` of the dtype of the data; integers with gaps become nullable ones."""
        import pandas as pd

        series = values if isinstance(values, pd.Series) else pd.Series(values)
        dtype = _NULLABLE.get(self.dtype, self.dtype) if series.isna().any() else self.dtype
        return series.astype(dtype).rename(self.name)

    def check_read(self, values: Any, is_wrong: np.ndarray, expected: str) -> None:
        """Warns that a few values cannot be read, and are taken for missing ones.

        Args:
            values: a `pandas.Series` of raw values.
            is_wrong: which of them cannot be read.
            expected: what they must be, in words.

        Raises:
            ValueError: they are more than a few.
        """
        if not is_wrong.any():
            return
        if is_wrong.sum() >= FEW_WRONG * (~missing(values)).sum():
            raise self.wrong(values, is_wrong, expected)
        distinct = values[is_wrong].map(checks.shown).unique()
        warnings.warn(
            f'Column "{self.name}" must hold {expected}, but {int(is_wrong.sum())} values are none, and are taken for '
            f"missing ones: {checks.shown_names(distinct, 5)}",
            stacklevel=2,
        )

    def wrong(self, values: Any, is_wrong: np.ndarray, expected: str) -> ValueError:
        """The error for values that are not of the column, which names the column and the first of them."""
        position = int(np.flatnonzero(is_wrong)[0])
        value = values.iloc[position]
        received = checks.shown(value.item() if isinstance(value, np.generic) else value)
        row = values.index[position]
        return ValueError(f'Column "{self.name}" must hold {expected}. Received: {received} in row {row}')


def missing(values: Any) -> np.ndarray:
    """Which values of a `pandas.Series` are missing: None, NaN, NaT and empty texts."""
    is_missing = values.isna().to_numpy(bool, copy=True)
    if values.dtype == object or str(values.dtype) in ("str", "string"):
        is_missing |= (values.astype(object).map(lambda value: isinstance(value, str) and not value.strip())).to_numpy(
            bool
        )
    return is_missing


def is_among(values: Any, texts: Container[str]) -> np.ndarray:
    """Which values of a `pandas.Series` are one of some texts."""
    return values.astype(object).map(lambda value: isinstance(value, str) and value.strip() in texts).to_numpy(bool)
