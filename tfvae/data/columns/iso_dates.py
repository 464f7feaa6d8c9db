"""Dates as ISO texts, such as 2024-05-31 or 2024-05-31T13:45:00: written by NumPy, and read by ops of TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SECONDS, _HOUR = 86_400, 3600
_MICROSECONDS = 1_000_000
# What ISO texts can say with four digits for the year.
_FIRST, _LAST = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31T23:59:59.999999", "us")
# Days in float32 are rounded by a few seconds: a time so close to midnight is midnight if no hour is given.
_ROUNDING = 90.0
_PATTERN = (
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[T ](\d{2})(?::(\d{2})(?::(\d{2}(?:\.\d+)?))?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?"
)
_EPOCH = 719_468  # The days from 0000-03-01 to 1970-01-01.
_DAYS_OF_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def texts(days: np.ndarray, reference: np.datetime64, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    """ISO texts of dates, "" where one is missing.

    Args:
        days: the days since the reference [N], NaN where missing.
        reference: the date that is day 0.
        codes: the codes of the cycles by name, each [N]. An hour tells on which side of it a time is that was rounded.
    """
    is_missing = np.isnan([days, *codes.values()]).any(axis=0)
    days = np.where(is_missing, 0, days)
    # With as many decimals as float32 has, in which exports take days.
    decimals = np.clip(np.floor(-np.log10(np.spacing(np.abs(days).astype(np.float32)) * _SECONDS)), 0, 6)
    seconds = np.round(days * _SECONDS * 10**decimals) / 10**decimals
    if "hour" in codes:
        start = np.where(is_missing, 0, codes["hour"]) * _HOUR
        start += np.round((seconds - start - _HOUR / 2) / _SECONDS) * _SECONDS
        seconds = np.clip(seconds, start, start + _HOUR - 10**-decimals)
    else:
        midnight = np.round(seconds / _SECONDS) * _SECONDS
        seconds = np.where(np.abs(seconds - midnight) < _ROUNDING, midnight, seconds)
    earliest, latest = ((end - reference).astype(np.int64) for end in (_FIRST, _LAST))
    microseconds = np.clip(np.round(seconds * _MICROSECONDS), earliest, latest).astype(np.int64)
    dates = reference + microseconds.astype("timedelta64[us]")
    is_midnight = microseconds % (_SECONDS * _MICROSECONDS) == 0
    is_whole = microseconds % _MICROSECONDS == 0
    written = np.select(
        [is_missing, is_midnight, is_whole],
        [np.full(len(days), ""), *(np.datetime_as_string(dates, unit=unit) for unit in ("D", "s"))],
        np.datetime_as_string(dates, unit="us"),
    )
    return written.astype(object)


def parsed(values: Any, reference: int, cycles: Sequence[str]) -> Any:
    """Reads ISO texts in a graph. A time zone is left out: the clock counts.

    Args:
        values: a tensor of texts [B].
        reference: day 0, in days since 1970-01-01.
        cycles: which codes to compute: "month", "weekday" and "hour".

    Returns:
        A tensor [B, 1 + the number of cycles], float32: the days since the reference, and the codes. A row of "" is
        NaN, and one of a text that is not a date infinite.
    """
    import tensorflow as tf

    values = tf.strings.strip(values)
    is_date = tf.strings.regex_full_match(values, _PATTERN)
    valid = tf.where(is_date, values, "1970-01-01")
    # A 0 before each part is a number where the text has no such part.
    year, month, day, hour, minute = (
        tf.strings.to_number(tf.strings.regex_replace(valid, f"^{_PATTERN}$", rf"0\{part}"), tf.int32)
        for part in range(1, 6)
    )
    second = tf.strings.to_number(tf.strings.regex_replace(valid, f"^{_PATTERN}$", r"0\6"), tf.float64)
    is_date &= (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    is_leap = tf.equal(year % 4, 0) & (tf.not_equal(year % 100, 0) | tf.equal(year % 400, 0))
    days_of_month = tf.gather(_DAYS_OF_MONTH, tf.clip_by_value(month, 1, 12) - 1)
    days_of_month += tf.cast(is_leap & tf.equal(month, 2), tf.int32)
    is_date &= (day >= 1) & (day <= days_of_month)
    # Days since 1970 by the calendar: years that begin in March end in the leap day.
    years = year - tf.cast(month <= 2, tf.int32)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    date = 365 * years + years // 4 - years // 100 + years // 400 + of_year - _EPOCH
    clock = tf.cast(3600 * hour + 60 * minute, tf.float64) + second
    days = tf.cast(tf.cast(date - int(reference), tf.float64) + clock / _SECONDS, tf.float32)
    codes = {"month": month - 1, "weekday": (date + 3) % 7, "hour": hour}
    columns = tf.stack([days, *(tf.cast(codes[name], tf.float32) for name in cycles)], axis=1)
    columns = tf.where(is_date[:, tf.newaxis], columns, np.inf)
    return tf.where(tf.equal(values, "")[:, tf.newaxis], np.nan, columns)
