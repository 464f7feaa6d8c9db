"""Recognises what the columns of a table are, by their names, dtypes and values."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfvae import checks
from tfvae.data.columns import KINDS, Boolean, Category, Column, Constant, Count, Date, Identifier, Number
from tfvae.data.columns.column import FEW_WRONG, missing
from tfvae.data.columns.dates import _dates
from tfvae.data.columns.numbers import _numbers, read

# A number of so few values is a category, and a text of more values than the second, mostly different, is free text.
_FEW, _MANY = 10, 50
# A count above this is a number: its distribution is hardly told from a continuous one.
_LARGEST_COUNT = 1000
# What is not a single value.
_SEVERAL = (list, tuple, dict, set, np.ndarray)
# Names of columns that tell rows apart, if their values are all different.
_NAME = re.compile(r"(^|_|\b)(id|uuid|guid|key|index|row|nr|no)s?$|(?<=[a-z])(ID|Id)$|^(id|uuid)(_|\b)", re.IGNORECASE)


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
        is_missing = missing(values)
        if kind not in (Constant, Identifier) and is_missing.all():
            raise ValueError(f'Column "{name}" must have values. Received: a column in which all are missing')
        common = {"name": str(name), "dtype": str(values.dtype), "why": why, "has_gaps": bool(is_missing.any())}
        columns.append(kind.learn(values, **common))
    return columns


def _recognised(name: str, values: Any) -> tuple[type[Column], str]:
    """The kind of a column, and by what it is recognised, in words."""
    import pandas as pd

    found = values[~missing(values)]
    if len(found) == 0:
        return Constant, "no values"
    if found.dtype == object and found.map(lambda value: isinstance(value, _SEVERAL)).any():
        raise ValueError(
            f'Column "{name}" must hold single values: drop it, or make columns of its parts. Received: '
            f"{checks.shown(found.iloc[0])}"
        )
    distinct = found.astype(object).nunique()
    if distinct == 1:
        return Constant, "one value"
    dtype = str(values.dtype)
    if dtype in ("bool", "boolean"):
        return Boolean, f"dtype {dtype}"
    if values.dtype.kind == "M" or dtype.startswith("datetime"):
        return Date, f"dtype {dtype}"
    if values.dtype.kind == "m":
        return Number, "durations"
    if dtype == "category":
        return Category, "dtype category"
    if dtype in ("object", "str", "string"):
        return _of_texts(found, distinct)
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_complex_dtype(values.dtype):
        raise ValueError(
            f'Column "{name}" must hold numbers, bools, texts, categories, dates or durations: drop it, or convert it. '
            f"Received: dtype {dtype}"
        )
    x = read(name, found)
    if set(np.unique(x)) <= {0.0, 1.0}:
        return Boolean, "0 and 1"
    return _of_numbers(name, x, distinct)


def _of_texts(found: Any, distinct: int) -> tuple[type[Column], str]:
    if set(found.map(lambda value: str(value).strip().lower())) <= {"true", "false"}:
        return Boolean, "true and false"
    if np.mean(~np.isnan(_numbers(found))) > 1 - FEW_WRONG:
        return Number, "texts that are numbers"
    with warnings.catch_warnings():
        # Of mixed time zones; such texts are no dates here.
        warnings.simplefilter("ignore")
        dates = _dates(found)
    if dates is not None and np.mean(~dates.isna()) > 1 - FEW_WRONG:
        return Date, "texts that are dates"
    if distinct > _MANY and distinct > len(found) / 2:
        return Identifier, f"{distinct} different texts in {len(found)} rows"
    if distinct == len(found) and distinct > _FEW:
        return Identifier, "a different text in each row"
    return Category, f"{distinct} different texts"


def _of_numbers(name: str, x: np.ndarray, distinct: int) -> tuple[type[Column], str]:
    is_whole = bool((x % 1 == 0).all())
    is_key = is_whole and distinct == len(x) > _FEW
    if is_key and (_NAME.search(name) or np.ptp(x) < 1.5 * len(x)):
        return Identifier, "a different whole number in each row"
    if distinct <= _FEW and len(x) >= 10 * distinct:
        return Category, f"{distinct} different numbers"
    mean, variance = x.mean(), x.var()
    if is_whole and x.min() in (0, 1) and x.max() <= _LARGEST_COUNT and variance > mean / 2:
        return Count, "whole numbers from 0 or 1 on"
    return Number, "whole numbers" if is_whole else "numbers"
