"""Columns of two values, and of categories."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfvae.data.columns.column import BINARY, CATEGORY, Column, Part, missing, wrong

# A category that fewer rows have is one of the others: so few say little of it, and others must occur to be learned.
_RARE = 5
_MOST_LABELS = 100
_MOST_DESCRIBED = 3
# The label of the last code.
OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boolean(Column):
    """A column of two values, False and True or 0 and 1.

    Args:
        rate: the share of True.
    """

    kind: ClassVar[str] = "bool"
    rate: float

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Boolean":
        """Makes the column from its values: see `Column`."""
        column = cls(rate=0.0, **common)
        return dataclasses.replace(column, rate=float(np.nanmean(column.codes(values))))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The value."""
        return (Part(self.name, BINARY),)

    def codes(self, values: Any) -> np.ndarray:
        """0 for False and 1 for True: see `Column`."""
        is_missing = missing(values)
        raw = values.astype(object).where(~is_missing, None)
        x = np.array([_BITS.get(str(value).strip().lower(), np.inf) for value in raw])
        if np.isinf(x).any():
            raise wrong(self.name, values, np.isinf(x), "True, False, 1 or 0")
        return x[:, np.newaxis]

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The values, for a probability the more probable one: see `Column`."""
        import pandas as pd

        del rng
        x = pd.Series(np.where(np.isnan(codes[:, 0]), np.nan, codes[:, 0] >= 0.5), dtype=object)
        if self.dtype in ("bool", "boolean", "object"):
            return self.restored(x.map(bool, "ignore"))
        return self.restored(x.astype("Float64"))

    def in_graph(self, values: Any) -> Any:
        """The values, which are 0 or 1: see `Column`."""
        import tensorflow as tf

        is_wrong = tf.not_equal(values, 0.0) & tf.not_equal(values, 1.0) & ~tf.math.is_nan(values)
        return tf.where(is_wrong, np.inf, values)[:, tf.newaxis]

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """The codes: see `Column`."""
        return codes[:, 0]

    @property
    def description(self) -> str:
        """The share of True."""
        return f"{self.rate:.0%} true"


_BITS = {"none": np.nan, "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Category(Column):
    """A column of categories, each of which has a code; what is rare or unknown has the code of the others, the last.

    Args:
        labels: the categories, texts or numbers, by their code.
        rare: the categories that share the last code.
        rare_counts: how many rows each of them has.
        categories: those of the pandas dtype, in its order; empty for another dtype.
        ordered: whether the pandas dtype is ordered.
    """

    kind: ClassVar[str] = "category"
    labels: tuple[Any, ...]
    rare: tuple[Any, ...] = ()
    rare_counts: tuple[int, ...] = ()
    categories: tuple[Any, ...] = ()
    ordered: bool = False

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Category":
        """Makes the column from its values: see `Column`."""
        is_missing = missing(values)
        is_categorical = str(values.dtype) == "category"
        counts = values[~is_missing].astype(object).value_counts()
        counts = counts.sort_index(key=lambda labels: labels.map(str)).sort_values(ascending=False, kind="stable")
        # One category at least is not rare.
        frequent = max(1, min(_MOST_LABELS, int((counts >= _RARE).sum())))
        kept = [_plain(label) for label in counts.index]
        return cls(
            labels=tuple(kept[:frequent]),
            rare=tuple(kept[frequent:]),
            rare_counts=tuple(int(count) for count in counts[frequent:]),
            categories=tuple(map(_plain, values.cat.categories)) if is_categorical else (),
            ordered=bool(values.cat.ordered) if is_categorical else False,
            **common,
        )

    @property
    def takes_text(self) -> bool:
        """Whether the categories are texts."""
        return any(isinstance(label, str) for label in (*self.labels, *self.rare))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The code."""
        return (Part(self.name, CATEGORY, len(self.labels) + 1, labels=(*self.labels, OTHER)),)

    def codes(self, values: Any) -> np.ndarray:
        """The codes: see `Column`."""
        other, key, codes = float(len(self.labels)), self._key, self._codes
        distinct = {value: codes.get(key(value), other) for value in values.dropna().unique()}
        infinite = () if self.takes_text else [value for value in distinct if abs(key(value) or 0.0) == np.inf]
        if infinite:
            raise wrong(self.name, values, values.isin(infinite).to_numpy(bool), "finite numbers")
        x = values.map(distinct, na_action="ignore").to_numpy(np.float64, na_value=np.nan)
        return np.where(missing(values), np.nan, x)[:, np.newaxis]

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The categories; those of the last code are drawn from the rare ones as often as these occur: see `Column`."""
        import pandas as pd

        x = np.full(len(codes), None, object)
        rows = np.flatnonzero(~np.isnan(codes[:, 0]))
        labels = np.array([*self.labels, None], object)
        x[rows] = labels[codes[rows, 0].astype(int)]
        others = rows[codes[rows, 0] == len(self.labels)]
        if self.rare:
            share = np.array(self.rare_counts) / sum(self.rare_counts)
            x[others] = np.array(self.rare, object)[rng.choice(len(self.rare), len(others), p=share)]
        else:
            # The most frequent category, because there are no others.
            x[others] = self.labels[0]
        if self.categories:
            dtype = pd.CategoricalDtype(list(self.categories), self.ordered)
            return pd.Series(x, dtype=object).astype(dtype).rename(self.name)
        return self.restored(pd.Series(x, dtype=object))

    def in_graph(self, values: Any) -> Any:
        """The codes: see `Column`."""
        import tensorflow as tf

        values = tf.strings.strip(values) if self.takes_text else values
        keys = tf.constant(list(self._codes), values.dtype)
        other = np.float32(len(self.labels))
        before_other = np.array(list(self._codes.values()), np.float32) - other
        is_label = tf.cast(tf.equal(values[:, tf.newaxis], keys), tf.float32)
        code = tf.reduce_sum(is_label * before_other, axis=1) + other
        if self.takes_text:
            return tf.where(tf.equal(values, ""), np.nan, code)[:, tf.newaxis]
        # NaN stays NaN, and infinity becomes infinity.
        is_finite = tf.math.is_finite(values)
        return tf.where(is_finite, code, values)[:, tf.newaxis]

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """The categories, with one that is none of them for the last code: see `Column`."""
        if self.takes_text:
            other = OTHER
            while other in self._codes:
                other += "_"
            values = np.array([*map(_text, self.labels), other, ""], object)
        else:
            values = np.array([*self.labels, max(map(float, self.labels)) + 1, np.nan], np.float64)
        return values[np.where(np.isnan(codes[:, 0]), len(self.labels) + 1, codes[:, 0]).astype(int)]

    @property
    def _key(self) -> Any:
        return _text if self.takes_text else _number

    @property
    def _codes(self) -> dict[Any, float]:
        """The codes by what equal categories share."""
        return {self._key(label): float(code) for code, label in enumerate(self.labels)}

    @property
    def description(self) -> str:
        """The most frequent categories, and how many there are."""
        names = ", ".join(map(str, self.labels[:_MOST_DESCRIBED]))
        more = len(self.labels) - _MOST_DESCRIBED
        rest = f" and {more} more" if more > 0 else ""
        return f"{names}{rest}" + (f"; {len(self.rare)} rare ones" if self.rare else "")


def _plain(label: Any) -> Any:
    """A label as a value of Python, for JSON."""
    return (
        label.item()
        if isinstance(label, np.generic)
        else label
        if isinstance(label, bool | int | float)
        else str(label)
    )


def _text(label: Any) -> str:
    """What equal texts share."""
    return str(label).strip()


def _number(label: Any) -> float | None:
    """What equal numbers share, however they are stored; None for what is not a number."""
    try:
        return float(label)
    except (TypeError, ValueError):
        return None
