"""Recognises what the columns of a table are, by their names, dtypes and values."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfvae import checks
from tfvae.data.columns import KINDS, Boolean, Category, Column, Constant, Count, Date, Identifier, Number
from tfvae.data.columns.column import is_among, missing
from tfvae.data.columns.dates import dates_of, format_of
from tfvae.data.columns.numbers import numbers_of

# A number of so few values is a category, and a text of more values than the second, mostly different, is free text.
_FEW, _MANY = 10, 50
# A count above this is a number: its distribution is hardly told from a continuous one.
_LARGEST_COUNT = 1000
# Whole numbers that are less skewed than this are not counts, but ages, percentages or scores.
_SKEWNESS = 0.3
# The share of the texts of a column that must be numbers or dates if the column is to be one of these.
_MOST = 0.95
# Texts that stand for missing values in a column whose other values are numbers or dates.
_BLANKS = frozenset(("?", "-", "--", ".", "na", "n/a", "nan", "nat", "none", "null", "nil", "missing", "unknown"))
# What is not a single value.
_SEVERAL = (list, tuple, dict, set, np.ndarray)
# Names of columns that tell rows apart, if their values are all different.
_NAME = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|row|nr|no)s?$|(?<=[a-z])(ID|Id)$|^(id|uuid)(_|\b)", re.IGNORECASE)
# Names of columns whose numbers are names of something, even if several rows have the same.
_CODE = re.compile(
    r"(^|_|\b)(id|uuid|guid|zip|zip_?code|post_?code|postal_?code|plz|phone|telephone|mobile|fax|account|iban|ssn|sku"
    r"|ean|isbn|barcode)(_?(no|nr|num|number))?$|(?<=[a-z])(ID|Id)$",
    re.IGNORECASE,
)
# Texts of digits that are no numbers, because a number has no leading zeros, and no sign before so many digits.
_DIGITS = re.compile(r"0\d+|\+\d{7,}")
_AMOUNT = re.compile(r"[-+(]?\s*[$€£¥]?\s*[-+]?\d{1,3}([.,' ]?\d{3})*([.,]\d+)?\s*[$€£¥%]?\)?")
# Numbers such as 20240531 are dates if they are between these.
_FIRST_DATE, _LAST_DATE = 18_000_101, 22_001_231


def chosen(frame: Any, kinds: Mapping[str, str], drop: Sequence[str], columns: Sequence[str] | None) -> Any:
    """The columns of a data frame that the user takes, as a frame: see `tfvae.data.Table.learn`.

    Raises:
        ValueError: a name is not of a column, a kind is none, or no column is left.
    """
    for argument, names in (("kinds", kinds), ("drop", drop), ("columns", columns or ())):
        unknown = [name for name in names if name not in frame.columns]
        if isinstance(names, str) or unknown:
            nearest = "" if isinstance(names, str) else checks.did_you_mean(str(unknown[0]), frame.columns)
            raise ValueError(
                f"`{argument}` must name columns of the table, {checks.shown_names(frame.columns)}{nearest}. Received: "
                f"{argument}={checks.shown(names)}"
            )
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise ValueError(
                f"`kinds` must be among {', '.join(KINDS)}{checks.did_you_mean(str(kind), KINDS)}. Received: "
                f"{checks.shown(kind)} for the column {checks.shown(name)}"
            )
    kept = [name for name in (frame.columns if columns is None else columns) if name not in drop]
    if not kept:
        raise ValueError(f"`drop` must leave a column. Received: drop={checks.shown(drop)}")
    absent = [name for name in kinds if name not in kept]
    if absent:
        raise ValueError(f"`kinds` must be of columns that are taken. Received: kinds of {checks.shown_names(absent)}")
    return frame[list(dict.fromkeys(kept))]


def columns_of(frame: Any, kinds: Mapping[str, str]) -> list[Column]:
    """What each column of a data frame is.

    Args:
        frame: a `pandas.DataFrame` with rows.
        kinds: the kinds of some columns by name, as the user set them.

    Raises:
        ValueError: a column is not of the kind that the user set.
    """
    columns = []
    for name in frame.columns:
        values = frame[name]
        kind, why = (KINDS[kinds[name]], "set by kinds") if name in kinds else _recognised(str(name), values)
        blanks = _blanks(str(name), kind, values)
        found = values[~missing(values) & ~is_among(values, blanks)]
        if kind not in (Constant, Identifier) and len(found) == 0:
            raise ValueError(f'Column "{name}" must have values. Received: a column in which all are missing')
        common = {
            "name": str(name),
            "dtype": str(values.dtype),
            "why": why,
            "has_gaps": len(found) < len(values),
            "blanks": blanks,
        }
        columns.append(kind.learn(values, **common))
    return columns


def _recognised(name: str, values: Any) -> tuple[type[Column], str]:
    """The kind of a column, and by what it is recognised, in words."""
    found = values[~missing(values)]
    if len(found) == 0:
        return Constant, "no values"
    if found.dtype == object and found.map(lambda value: isinstance(value, _SEVERAL)).any():
        raise ValueError(
            f'Column "{name}" must hold single values: drop it, or make columns of its parts. Received: '
            f"{checks.shown(found.iloc[0])}"
        )
    if found.dtype == object:
        found = found.infer_objects()
    dtype, kind = str(found.dtype), found.dtype.kind
    if kind == "c":
        raise ValueError(f'Column "{name}" must hold real numbers. Received: {checks.shown(found.iloc[0])}')
    distinct = found.astype(object).nunique()
    if distinct == 1:
        return Constant, "one value"
    if dtype.startswith(("period", "interval", "Sparse[complex")):
        raise ValueError(
            f'Column "{name}" must hold numbers, bools, texts, categories, dates or durations: drop it, or convert it. '
            f"Received: dtype {dtype}"
        )
    if dtype in ("bool", "boolean"):
        return Boolean, f"dtype {dtype}"
    if kind == "M" or dtype.startswith("datetime"):
        return Date, f"dtype {dtype}"
    if kind == "m":
        return Number, "durations"
    if dtype == "category":
        return Category, "dtype category"
    if dtype in ("object", "str", "string"):
        return _of_texts(name, found, distinct)
    x = found.to_numpy(np.float64)
    if (np.abs(x) > np.finfo(np.float32).max).any():
        # Refused by the column, which names the value.
        return Number, "numbers"
    if set(np.unique(x)) <= {0.0, 1.0}:
        return Boolean, "0 and 1"
    return _of_numbers(name, x, distinct)


def _of_texts(name: str, found: Any, distinct: int) -> tuple[type[Column], str]:
    known = found[~is_among(_lower(found), _BLANKS)]
    if len(known):
        dates = dates_of(known, format_of(known))
        are_dates = dates is not None and np.mean(~dates.isna()) >= _MOST
        x = numbers_of(known)
        if np.mean(~np.isnan(x)) >= _MOST:
            if are_dates and np.nanmin(x) >= _FIRST_DATE and np.nanmax(x) <= _LAST_DATE:
                return Date, "texts that are dates"
            if not _match(_DIGITS, known).any():
                of_numbers = _of_numbers(name, x[~np.isnan(x)], distinct)
                return of_numbers if of_numbers[0] is Identifier else (Number, "texts that are numbers")
        elif are_dates:
            return Date, "texts that are dates"
    is_left_out = (distinct > _MANY and distinct > len(found) / 2) or distinct == len(found) > _FEW
    are_texts = len(known) > 0 and np.isnan(x).mean() > 1 - _MOST
    if (is_left_out or distinct > _MANY) and are_texts and _match(_AMOUNT, known).mean() >= _MOST:
        warnings.warn(
            f'Column "{name}" holds texts such as "{known.iloc[0]}", which are '
            f"{'left out' if is_left_out else 'taken for categories'}: if they are amounts, convert them to numbers "
            "first",
            stacklevel=2,
        )
    if is_left_out:
        return Identifier, f"{distinct} different texts in {len(found)} rows"
    if distinct > _MANY and _CODE.search(name):
        return Identifier, "its name, and many different texts"
    return Category, f"{distinct} different texts"


def _of_numbers(name: str, x: np.ndarray, distinct: int) -> tuple[type[Column], str]:
    if np.isinf(x).any():
        return Number, "numbers"
    is_whole = bool((x % 1 == 0).all())
    is_key = is_whole and distinct == len(x) > _FEW
    if is_key and (_NAME.search(name) or np.ptp(x) < 1.5 * len(x)):
        return Identifier, "a different whole number in each row"
    if distinct <= _FEW and len(x) >= 10 * distinct:
        return Category, f"{distinct} different numbers"
    if is_whole and _CODE.search(name):
        if is_key or distinct > _MANY:
            return Identifier, "its name, and many different values"
        return Category, "its name"
    if is_whole and x.min() >= _FIRST_DATE and x.max() <= _LAST_DATE:
        import pandas as pd

        dates = dates_of(pd.Series(x), "%Y%m%d")
        if not dates.isna().any():
            return Date, "whole numbers that are dates"
    from scipy import stats

    mean, variance = x.mean(), x.var()
    is_small = is_whole and x.min() in (0, 1) and x.max() <= _LARGEST_COUNT
    if is_small and variance > mean / 2 and stats.skew(x) > _SKEWNESS:
        return Count, "whole numbers from 0 or 1 on"
    return Number, "whole numbers" if is_whole else "numbers"


def _blanks(name: str, kind: type[Column], values: Any) -> tuple[str, ...]:
    """The texts in a column of numbers or dates that are taken for missing values, with a warning."""
    if kind in (Number, Count):
        is_wrong = np.isnan(numbers_of(values))
    elif kind is Date:
        dates = dates_of(values, format_of(values))
        is_wrong = np.ones(len(values), bool) if dates is None else dates.isna().to_numpy(bool)
    else:
        return ()
    is_text = is_wrong & ~missing(values)
    if not is_text.any():
        return ()
    texts = tuple(sorted(set(values[is_text].astype(str).map(str.strip))))
    others = is_text & ~is_among(_lower(values), _BLANKS)
    expected = "dates" if kind is Date else "numbers"
    if others.mean() > 1 - _MOST:
        first = values[others].astype(object).iloc[0]
        raise ValueError(
            f'Column "{name}" must hold {expected}. Received: {checks.shown(first)} in row {values.index[others][0]}'
        )
    warnings.warn(
        f'Column "{name}" holds {expected}, but in {int(is_text.sum())} rows texts, which are taken for missing '
        f"values: {checks.shown_names(list(texts), 5)}",
        stacklevel=2,
    )
    return texts


def _match(pattern: re.Pattern[str], values: Any) -> np.ndarray:
    return values.astype(str).map(lambda text: pattern.fullmatch(text.strip()) is not None).to_numpy(bool)


def _lower(values: Any) -> Any:
    return values.astype(object).map(lambda value: value.lower() if isinstance(value, str) else value)
