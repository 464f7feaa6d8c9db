"""Columns that the model does not use: those with one value, and those that tell rows apart."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfvae.data.columns.categories import categorical, categories_of, plain
from tfvae.data.columns.column import Column, Part, missing


class Unused(Column):
    """A column without parts in x."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """None."""
        return ()

    def codes(self, values: Any) -> np.ndarray:
        """An array without columns, whatever the values: see `Column`."""
        return np.empty([len(values), 0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Unused):
    """A column with the same value in all rows, or with none.

    Args:
        value: the value; None if all are missing.
        categories: those of the pandas dtype, in its order; empty for another dtype.
        ordered: whether the pandas dtype is ordered.
    """

    kind: ClassVar[str] = "constant"
    value: Any = None
    categories: tuple[Any, ...] = ()
    ordered: bool = False

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Constant":
        """Makes the column from its values: see `Column`."""
        found = values[~missing(values)]
        return cls(value=plain(found.iloc[0]) if len(found) else None, **categories_of(values), **common)

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The value in each row: see `Column`."""
        import pandas as pd

        del rng
        values = pd.Series([self.value] * len(codes), dtype=object)
        return self.restored(categorical(values, self.categories, self.ordered) if self.categories else values)

    @property
    def description(self) -> str:
        """The value."""
        return "all missing" if self.value is None else f"always {self.value}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identifier(Unused):
    """A column that tells rows apart, such as a number, a key or free text, and says nothing else about them."""

    kind: ClassVar[str] = "identifier"

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Identifier":
        """Makes the column, whatever its values: see `Column`."""
        del values
        return cls(**common)

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """Numbers that count the rows, as texts in a column of texts: see `Column`."""
        import pandas as pd

        del rng
        numbers = pd.Series(np.arange(1, len(codes) + 1))
        return self.restored(numbers.astype(str) if self.dtype in ("object", "str", "string") else numbers)
