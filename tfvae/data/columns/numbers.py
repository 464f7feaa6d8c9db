"""Columns of real numbers, and of counts."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfvae.data import transforms
from tfvae.data.columns.column import CATEGORY, COUNT, NUMBER, Column, Part, missing

# A single value that so large a share of the rows has is a spike: a number beside which the others are distributed.
_SPIKE = 0.1
_MOST_SPIKES = 5
_MOST_DECIMALS = 6
_NANOSECONDS = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number(Column):
    """A column of real numbers, or of durations, which are numbers of seconds.

    Args:
        low: the least value that is no spike.
        high: the greatest value that is no spike.
        decimals: how many decimals the values have; None for more than 6.
        is_text: whether the numbers are texts.
        spikes: values that many rows have exactly, such as 0 for amounts. They become codes in a part of their own.
        transform: how the other values become those of x: see `tfvae.data.transforms`.
    """

    kind: ClassVar[str] = "number"
    low: float
    high: float
    decimals: int | None
    is_text: bool = False
    spikes: tuple[float, ...]
    transform: dict[str, Any]

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Number":
        """Makes the column from its values: see `Column`."""
        column = cls(low=0.0, high=0.0, decimals=None, spikes=(), transform={}, **common)
        x = column.codes(values)[:, 0]
        x = x[~np.isnan(x)]
        distinct, counts = np.unique(x, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_MOST_SPIKES]
        spikes = distinct[order[counts[order] > _SPIKE * len(x)]]
        rest = x[~np.isin(x, spikes)]
        if len(np.unique(rest)) < 2:
            spikes, rest = spikes[:0], x
        return dataclasses.replace(
            column,
            low=float(rest.min()),
            high=float(rest.max()),
            decimals=_decimals(distinct),
            is_text=are_texts(values),
            spikes=tuple(map(float, np.sort(spikes))),
            transform=transforms.learn(rest),
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The number, and the code of a spike if there are any."""
        number = Part(self.name, NUMBER, transform=self.transform, range=(self.low, self.high))
        if not self.spikes:
            return (number,)
        labels = (f"not {' or '.join(f'{spike:g}' for spike in self.spikes)}", *self.spikes)
        return (number, Part(f"{self.name}_spike", CATEGORY, len(labels), labels=labels))

    def codes(self, values: Any) -> np.ndarray:
        """The numbers, with NaN for spikes, whose codes are 1, 2, ...: see `Column`."""
        values = self.known(values)
        x = numbers_of(values)
        self.check_read(values, np.isnan(x) & ~missing(values), "numbers")
        is_large = np.abs(x) > np.finfo(np.float32).max
        if is_large.any():
            raise self.wrong(values, is_large, "finite numbers in float32")
        if not self.spikes:
            return x[:, np.newaxis]
        code = (x[:, np.newaxis] == self.spikes) @ np.arange(1.0, len(self.spikes) + 1)
        return np.stack([np.where(code > 0, np.nan, x), np.where(np.isnan(x), np.nan, code)], axis=1)

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The numbers, within the range of the data and with their decimals: see `Column`."""
        del rng
        x = np.clip(codes[:, 0], self.low, self.high)
        if self.decimals is not None:
            # Without negative zeros.
            x = np.round(x, self.decimals) + 0.0
        if self.spikes:
            x = np.where(codes[:, 1] > 0, np.array([np.nan, *self.spikes])[np.nan_to_num(codes[:, 1]).astype(int)], x)
            x = np.where(np.isnan(codes[:, 1]), np.nan, x)
        return self.restored(_of_numbers(x, self.dtype, self.decimals, self.is_text))

    def in_graph(self, values: Any) -> Any:
        """The numbers, and the codes of spikes: see `Column`."""
        import tensorflow as tf

        if not self.spikes:
            return values[:, tf.newaxis]
        is_spike = tf.cast(tf.equal(values[:, tf.newaxis], np.array(self.spikes, np.float32)), tf.float32)
        code = tf.reduce_sum(is_spike * np.arange(1.0, len(self.spikes) + 1, dtype=np.float32), axis=1)
        number, code = tf.where(code > 0, np.nan, values), tf.where(tf.math.is_nan(values), np.nan, code)
        return tf.stack([number, code], axis=1)

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """The numbers, and the spikes where a code says so: see `Column`."""
        if not self.spikes:
            return codes[:, 0]
        spikes = np.array([np.nan, *self.spikes])[np.nan_to_num(codes[:, 1]).astype(int)]
        return np.where(np.isnan(codes[:, 1]), np.nan, np.where(codes[:, 1] > 0, spikes, codes[:, 0]))

    @property
    def description(self) -> str:
        """The range, the spikes and the transformation."""
        spikes = f", often {' or '.join(f'{spike:g}' for spike in self.spikes)}" if self.spikes else ""
        return f"{self.low:g} to {self.high:g}{spikes}; {transforms.NAMES[self.transform['name']]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count(Column):
    """A column of counts: 0, 1, 2, ...

    Args:
        low: the least count.
        high: the greatest count.
        mean: the mean of log(1 + count), by which the encoder standardises it.
        stddev: the standard deviation of log(1 + count).
        is_text: whether the counts are texts.
    """

    kind: ClassVar[str] = "count"
    low: int
    high: int
    mean: float
    stddev: float
    is_text: bool = False

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Count":
        """Makes the column from its values: see `Column`."""
        column = cls(low=0, high=0, mean=0.0, stddev=1.0, is_text=are_texts(values), **common)
        x = column.codes(values)
        x = x[~np.isnan(x)]
        log = np.log1p(x)
        return dataclasses.replace(
            column,
            low=int(x.min()),
            high=int(x.max()),
            mean=float(log.mean()),
            stddev=float(log.std()) or 1.0,
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The count."""
        transform = {"name": "identity", "mean": self.mean, "stddev": self.stddev}
        return (Part(self.name, COUNT, transform=transform, range=(0, self.high)),)

    def codes(self, values: Any) -> np.ndarray:
        """The counts: see `Column`."""
        values = self.known(values)
        x = numbers_of(values)
        expected = "counts, whole numbers of at least 0"
        self.check_read(values, np.isnan(x) & ~missing(values), expected)
        is_wrong = (x < 0) | (x != np.floor(x)) & ~np.isnan(x) | np.isinf(x)
        if is_wrong.any():
            raise self.wrong(values, is_wrong, expected)
        return x[:, np.newaxis]

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The counts, rounded, none below the least: see `Column`."""
        del rng
        x = np.maximum(np.round(codes[:, 0]), self.low)
        return self.restored(_of_numbers(x, self.dtype, 0, self.is_text))

    def in_graph(self, values: Any) -> Any:
        """The counts: see `Column`."""
        import tensorflow as tf

        is_wrong = (values < 0) | tf.not_equal(values, tf.floor(values)) & ~tf.math.is_nan(values)
        return tf.where(is_wrong, np.inf, values)[:, tf.newaxis]

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """The counts: see `Column`."""
        return codes[:, 0]

    @property
    def description(self) -> str:
        """The range."""
        return f"{self.low} to {self.high}"


def numbers_of(values: Any) -> np.ndarray:
    """Raw values as float64, with NaN for whatever is not a number; durations in seconds."""
    import pandas as pd

    values = values.infer_objects()
    if values.dtype.kind == "m":
        x = values.dt.total_seconds()
    elif values.dtype.kind == "M":
        # Its nanoseconds are numbers, but not what is meant.
        return np.full(len(values), np.nan)
    elif values.dtype == object or str(values.dtype) in ("str", "string", "category"):
        x = pd.to_numeric(values.astype(object).where(values.notna(), None), errors="coerce")
    else:
        x = values
    return x.to_numpy(np.float64, na_value=np.nan)


def are_texts(values: Any) -> bool:
    """Whether the first raw value is a text."""
    found = values[~missing(values)]
    return len(found) > 0 and isinstance(found.iloc[0], str)


def _of_numbers(x: np.ndarray, dtype: str, decimals: int | None, is_text: bool) -> Any:
    import pandas as pd

    if dtype.startswith("timedelta"):
        return pd.Series(pd.to_timedelta(np.round(x * _NANOSECONDS), unit="ns"))
    if not is_text:
        return pd.Series(x)
    return pd.Series(x).map(repr if decimals is None else f"{{:.{decimals}f}}".format, "ignore")


def _decimals(distinct: np.ndarray) -> int | None:
    """The number of decimals that all values have; None for more than 6."""
    for decimals in range(_MOST_DECIMALS + 1):
        if np.allclose(np.round(distinct, decimals), distinct, rtol=1e-12, atol=0):
            return decimals
    return None
