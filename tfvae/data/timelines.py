"""Time series as users have them: arrays, lists and data frames become values on even steps of time."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks
from tfvae.data.columns.dates import dates_of, format_of
from tfvae.data.time_steps import Step, Timeline, on_steps, shown_time, step_of

# A channel of so few different whole numbers seems to hold codes.
_MOST_CODES = 10
# How a text of a date and a time ends that says the offset from UTC.
_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?:Z|[+-]\d\d:?\d\d)\s*$"


class Timelines(NamedTuple):
    """Several series with the same channels and steps.

    Attributes:
        series: the series.
        channels: the names of the channels.
        step: the time from one step to the next; None if the rows have no times.
        is_utc: whether the dates had a time zone.
    """

    series: list[Timeline]
    channels: tuple[str, ...]
    step: Step | None
    is_utc: bool = False

    @property
    def longest(self) -> int:
        """The number of steps of the longest series."""
        return max(len(each.values) for each in self.series)

    def split(self, fraction: float, *, is_whole: bool) -> tuple["Timelines", "Timelines"]:
        """What is before the split and what is after it.

        Args:
            fraction: the share of the steps, or of the series, that is after it.
            is_whole: whether each series is on one side of it: those that begin last are after it, or, without times,
                the last ones. Otherwise all series are split at one time, or, without times, each at the same share.
        """
        if is_whole:
            count = len(self.series)
            if count < 2:
                raise ValueError(
                    "`series` must be at least two, of which some are held out, where `length` is None. Received: one"
                )
            order = np.arange(count)
            if self.step is not None:
                order = np.argsort([each.times[0] for each in self.series], kind="stable")
            kept = count - min(max(round(fraction * count), 1), count - 1)
            return tuple(
                self._replace(series=[self.series[place] for place in sorted(part)])
                for part in (order[:kept], order[kept:])
            )  # type: ignore[return-value]
        if self.step is None:
            cuts = [math.ceil((1 - fraction) * len(each.values)) for each in self.series]
        else:
            times = np.sort(np.concatenate([each.times for each in self.series]))
            first = times[min(math.ceil((1 - fraction) * len(times)), len(times) - 1)]
            cuts = [int(np.searchsorted(each.times, first)) for each in self.series]
        pairs = list(zip(self.series, cuts, strict=True))
        return (
            self._replace(series=[Timeline(each.name, each.values[:cut], each.times[:cut]) for each, cut in pairs]),
            self._replace(series=[Timeline(each.name, each.values[cut:], each.times[cut:]) for each, cut in pairs]),
        )

    def without(self, names: Sequence[str]) -> "Timelines":
        """The same without some of the channels."""
        kept = [place for place, name in enumerate(self.channels) if name not in names]
        return self._replace(
            series=[each._replace(values=each.values[:, kept]) for each in self.series],
            channels=tuple(self.channels[place] for place in kept),
        )


def read(
    series: Any,
    *,
    time: str | None = None,
    by: str | None = None,
    step: Any = None,
    channels: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    kind: str | None = None,
) -> Timelines:
    """Reads series in any form that `tfvae.data.windows` takes.

    Args:
        series: see `tfvae.data.windows`.
        time: the column with the time of each row.
        by: the column that says which series a row belongs to.
        step: see `tfvae.data.windows`.
        channels: the columns that are channels; None means all others.
        drop: columns to leave out.
        kind: what times the rows must have, "dates" or "numbers"; None for any, or none.

    Raises:
        ValueError: see `tfvae.data.windows`.
    """
    if isinstance(series, list | tuple | Mapping) and not series:
        raise ValueError("`series` must hold at least one series. Received: none")
    found, names = [], None
    is_utc: bool | None = None
    for name, one in _several(series, by):
        values, times, of_one, zoned = _one(one, name, time, channels, drop)
        if names is not None and of_one != names:
            raise ValueError(
                f"`series` must all have the channels {checks.shown_names(names)}. Received: "
                f"{checks.shown_names(of_one)} in series {name!r}"
            )
        if is_utc is not None and zoned != is_utc:
            raise ValueError(
                "`time` must have a time zone in all series, or in none. Received: dates with and without one"
            )
        names, is_utc = of_one, zoned
        if times is not None:
            order = np.argsort(times, kind="stable")
            values, times = values[order], times[order]
            _check_times(times, name, time)
        found.append((name, values, times))
    if names is None:
        # Of a data frame without rows, or a RaggedTensor.
        raise ValueError("`series` must hold at least one series. Received: none")
    with_times = [(name, values, times) for name, values, times in found if times is not None]
    _check_kinds(with_times, kind)
    if with_times and len(with_times) < len(found):
        raise ValueError(
            "`series` must all have times, as an index of dates or in the column `time`, or none of them. Received: "
            f"times of {len(with_times)} of {len(found)} series"
        )
    if not with_times:
        if step is not None:
            raise ValueError(
                f"`step` must be None unless the rows have times, in the column `time`. Received: step={step!r}"
            )
        return Timelines([Timeline(name, values, np.arange(len(values))) for name, values, _ in found], names, None)
    step = step_of(step, [times for _, _, times in with_times])
    return Timelines([on_steps(*each, step) for each in with_times], names, step, bool(is_utc))


def _check_kinds(with_times: list[tuple[Any, np.ndarray, np.ndarray]], kind: str | None) -> None:
    """Raises ValueError unless all times are of one kind, the given one if there is one."""
    if kind is not None and not with_times:
        raise ValueError(
            f"`time` must be a column or an index of {kind}, as in the training, unless `series` are arrays. Received: "
            "rows without times"
        )
    first = kind
    for name, _, times in with_times:
        found = "dates" if times.dtype.kind == "M" else "numbers"
        if found != (first := first or found):
            where = "in the training" if kind else f"in series {with_times[0][0]!r}"
            raise ValueError(f"`time` must hold {first}, as {where}. Received: {found} in series {name!r}")


def _check_times(times: np.ndarray, name: Any, column: str | None) -> None:
    """Raises ValueError if two rows have one time."""
    same = times[1:] == times[:-1]
    if same.any():
        raise ValueError(
            "`time` must be another in each row of a series: name the column that says which series a row belongs to "
            "by `by`, or make one row of several by frame.groupby(column).mean(). Received: "
            f"{np.count_nonzero(same) + 1} rows of times that are there more than once, such as "
            f"{shown_time(times[:-1][same][0])}, in series {name!r}{'' if column is None else f', column {column!r}'}"
        )


def _several(series: Any, by: str | None) -> Iterable[tuple[Any, Any]]:
    """Each series with its name."""
    if checks.is_frame(series) and by is not None:
        series = _frame(series)
        _check_column(series, "by", by)
        if series[by].isna().any():
            raise ValueError(f"`by` must be a column with a value in each row. Received: {by!r}, with missing values")
        return [(name, rows.drop(columns=by)) for name, rows in series.groupby(by, observed=True)]
    if by is not None:
        raise ValueError(f"`by` must be None unless `series` is one data frame. Received: by={by!r}")
    if isinstance(series, Mapping):
        return series.items()
    if type(series).__name__ == "RaggedTensor":
        return enumerate(series.to_list())
    return [(0, series)] if are_one(series) else enumerate(series)


def are_one(series: Any) -> bool:
    """Whether a list is the values of one series, and not several series; anything else is one, or has a name."""
    return not isinstance(series, list | tuple) or all(map(_is_scalar, series))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, numbers.Number) or value is None:
        return True
    return not isinstance(value, list | tuple) and not has_index(value) and np.ndim(value) == 0


def has_index(series: Any) -> bool:
    """Whether one series is a data frame or a column of one, whose rows may have times, as those of arrays have not."""
    return checks.is_frame(series) or (hasattr(series, "to_frame") and hasattr(series, "index"))


def _frame(frame: Any, channels: Sequence[str] | None = None) -> Any:
    """A data frame of pandas, whose columns are named by different texts; one without a name is the only channel."""
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    if not hasattr(frame, "columns"):
        only = channels[0] if channels is not None and len(channels) == 1 else "x0"
        frame = frame.to_frame(only if frame.name is None else frame.name)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    checks.check_distinct("series", list(frame.columns))
    return frame


def _one(
    series: Any, name: Any, time: str | None, channels: Sequence[str] | None, drop: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], bool]:
    """The values [T, C], the times [T] or None, the channels of one series, and whether its dates have a zone."""
    times, zoned = None, False
    names: tuple[str, ...] = ()
    if has_index(series):
        has_columns = hasattr(series, "columns")
        series = _frame(series, channels)
        index = series.index
        is_dates = hasattr(index, "to_timestamp") or index.dtype.kind == "M"
        if time is not None and has_columns and index.name != time:
            _check_column(series, "time", time)
        if time is not None and has_columns and time in series.columns:
            times, zoned = _times(series[time], name)
            series = series.drop(columns=time)
        elif is_dates or (time is not None and index.name == time):
            times, zoned = _times(index.to_series(), name)
        elif time is not None:
            raise ValueError(
                f"`time` must be the name of the index of a pandas.Series, or its index one of dates, or `series` a "
                f"data frame with the column {time!r}. Received: a pandas.Series with an index of the dtype "
                f"{index.dtype}"
            )
        for each in drop:
            _check_column(series, "drop", each)
        if absent := [each for each in channels or () if each not in series.columns]:
            known = list(series.columns)
            raise ValueError(
                f"`series` must have the channels {checks.shown_names(channels or ())}. Received: the columns "
                f"{checks.shown_names(known)} in series {name!r}, without {checks.shown_names(map(repr, absent))}"
                f"{checks.did_you_mean(absent[0], known)}"
            )
        series = series.drop(columns=list(drop)) if channels is None else series[list(channels)]
        values, names = _numbers(series, name), tuple(series.columns)
    elif time is not None:
        raise ValueError(f"`time` must be None unless `series` is a data frame. Received: time={time!r}")
    else:
        if isinstance(series, list | tuple) and not series:
            raise ValueError(f"`series` must have at least one row. Received: none in series {name!r}")
        if series is None or (not isinstance(series, list | tuple) and np.ndim(series) == 0):
            raise ValueError(
                "`series` must be an array [T] or [T, C] or a data frame, or several of them. Received: "
                f"{checks.shown(series)}"
            )
        values = checks.to_numpy(series, "series").astype(np.float64)
        values = values[:, np.newaxis] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`series` must have the shape [T] or [T, C]. Received: shape {list(np.shape(series))}")
    names = names or tuple(channels or (f"x{index}" for index in range(values.shape[1])))
    if len(names) != values.shape[1]:
        raise ValueError(
            f"`series` must have the channels {checks.shown_names(names)}. Received: {values.shape[1]} channels"
        )
    if np.isinf(values).any():
        row, column = (int(each[0]) for each in np.nonzero(np.isinf(values)))
        raise ValueError(
            "`series` must hold finite numbers, or NaN for a missing value. Received: an infinite one in row "
            f"{row} of the channel {names[column]!r} of series {name!r}"
        )
    return values, times, names, zoned


def _numbers(frame: Any, name: Any) -> np.ndarray:
    """The values [T, C] of a data frame of channels."""
    wrong = [each for each, dtype in frame.dtypes.items() if dtype.kind not in "biuf"]
    if wrong:
        found = frame[wrong[0]].dropna()
        found = found[[not isinstance(value, int | float) for value in found]]
        example = "" if found.empty else f", such as {checks.shown(found.iloc[0])}"
        raise ValueError(
            "`series` must have channels of numbers: name the column of the times by `time` and that of the series by "
            f"`by`, and leave out what is no number. Received: the columns {checks.shown_names(wrong)}, of which "
            f"{wrong[0]!r} is of dtype {frame.dtypes[wrong[0]]}{example}"
        )
    if not len(frame.columns):
        raise ValueError("`series` must have at least one channel beside its times. Received: none")
    if frame.empty:
        raise ValueError(f"`series` must have at least one row. Received: none in series {name!r}")
    return frame.to_numpy(np.float64, na_value=np.nan)


def _check_column(frame: Any, argument: str, name: str) -> None:
    if name not in frame.columns:
        known = checks.shown_names(list(map(str, frame.columns)))
        hint = checks.did_you_mean(str(name), list(map(str, frame.columns)))
        index = ", or the name of the index of dates" if argument == "time" and frame.index.dtype.kind == "M" else ""
        raise ValueError(f"`{argument}` must be one of the columns {known}{index}{hint}. Received: {argument}={name!r}")


def _times(column: Any, name: Any) -> tuple[np.ndarray, bool]:
    """The times of rows [T], as numbers or dates without a zone, and whether they had one."""
    if column.isna().any():
        raise ValueError(f"`time` must have a value in each row. Received: missing ones in series {name!r}")
    # `column` is of pandas, so it is there.
    import pandas as pd

    if hasattr(column.dtype, "freq") and hasattr(column, "dt"):
        column = column.dt.to_timestamp()
    if column.dtype.kind in "iuf":
        times = column.to_numpy(np.float64)
        if not np.isfinite(times).all():
            raise ValueError(f"`time` must be finite in each row. Received: infinite ones in series {name!r}")
        # Integers stay what they are, as long as they are exact in what follows.
        return (column.to_numpy(np.int64) if column.dtype.kind in "iu" else times), False
    dates = None if column.dtype.kind in "mb" else dates_of(column, format_of(column))
    if dates is None and column.astype(str).str.contains(_OFFSET).all():
        # Of several offsets, as the clock of a place with daylight saving time has.
        dates = pd.to_datetime(column.astype(str), errors="coerce", format="ISO8601", utc=True)
    if dates is None:
        example = checks.shown(column.iloc[0])
        raise ValueError(
            "`time` must be a column of numbers, or of dates that all have a time zone or none; pandas.to_datetime "
            "reads dates of any format, and column.dt.total_seconds() makes numbers of durations. Received: the dtype "
            f"{column.dtype}, such as {example}"
        )
    if dates.isna().any():
        wrong = checks.shown(column[dates.isna()].iloc[0])
        raise ValueError(f"`time` must have a date in each row. Received: {wrong} in series {name!r}")
    zoned = dates.dt.tz is not None
    dates = dates.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else dates
    return dates.to_numpy("datetime64[ns]"), zoned


def constant(read: Timelines) -> list[str]:
    """The channels that have one value alone."""
    return [name for name, distinct in _distinct(read) if len(distinct) == 1]


def codes(read: Timelines) -> list[str]:
    """The channels of so few different whole numbers, three at least, that they seem to be codes of something."""
    return [
        name
        for name, distinct in _distinct(read)
        if 2 < len(distinct) <= _MOST_CODES and bool((distinct % 1 == 0).all())
    ]


def _distinct(read: Timelines) -> list[tuple[str, np.ndarray]]:
    values = np.concatenate([each.values for each in read.series])
    return [(name, np.unique(column[~np.isnan(column)])) for name, column in zip(read.channels, values.T, strict=True)]
