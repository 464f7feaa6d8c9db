"""Time series as users have them: arrays, lists and data frames become values on even steps of time."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks
from tfvae.data.columns.dates import dates_of, format_of

# A step from which the rows differ by so little, relative to it, that this is rounding.
_ROUNDING = 1e-6
# As many steps for a row are a slip: a wrong `step`, or a date that is far off.
_MOST_STEPS_A_ROW = 1000
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_CALENDAR = re.compile(r"\s*(\d*)\s*(month|quarter|year)s?\s*", re.IGNORECASE)

Step = float | np.timedelta64


class Timeline(NamedTuple):
    """One series on even steps.

    Attributes:
        name: its name, or its number.
        values: `[T, C]`, float64, in raw units; NaN where there is no value.
        times: the time of each step `[T]`: a number, a date (of UTC if the dates have a time zone), or its number.
    """

    name: Any
    values: np.ndarray
    times: np.ndarray


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
            order = range(count)
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
) -> Timelines:
    """Reads series in any form that `tfvae.data.windows` takes.

    Args:
        series: see `tfvae.data.windows`.
        time: the column with the time of each row.
        by: the column that says which series a row belongs to.
        step: see `tfvae.data.windows`.
        channels: the columns that are channels; None means all others.
        drop: columns to leave out.

    Raises:
        ValueError: see `tfvae.data.windows`.
    """
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
        raise ValueError("`series` must hold at least one series. Received: none")
    if any(times is None for _, _, times in found):
        if step is not None:
            raise ValueError(
                f"`step` must be None unless the rows have times, in the column `time`. Received: step={step!r}"
            )
        return Timelines([Timeline(name, values, np.arange(len(values))) for name, values, _ in found], names, None)
    step = _step(step, [times for _, _, times in found])
    return Timelines([_on_grid(*each, step) for each in found], names, step, bool(is_utc))


def _check_times(times: np.ndarray, name: Any, column: str | None) -> None:
    """Raises ValueError if two rows have one time."""
    same = times[1:] == times[:-1]
    if same.any():
        raise ValueError(
            "`time` must be another in each row of a series: name the column that says which series a row belongs to by "
            "`by`, or make one row of several by frame.groupby(column).mean(). Received: "
            f"{np.count_nonzero(same) + 1} rows of times that are there more than once, such as "
            f"{_shown(times[:-1][same][0])}, in series {name!r}{'' if column is None else f', column {column!r}'}"
        )


def _several(series: Any, by: str | None) -> Iterable[tuple[Any, Any]]:
    """Each series with its name."""
    if hasattr(series, "to_frame") and hasattr(series, "index"):
        series = series.to_frame("x0" if series.name is None else series.name)
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
    if isinstance(series, list | tuple) and series and (checks.is_frame(series[0]) or np.ndim(series[0])):
        return enumerate(series)
    return [(0, series)]


def _frame(frame: Any) -> Any:
    """A data frame of pandas, whose columns are named by different texts."""
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    checks.check_distinct("series", list(frame.columns))
    return frame


def _one(
    series: Any, name: Any, time: str | None, channels: Sequence[str] | None, drop: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], bool]:
    """The values [T, C], the times [T] or None, the channels of one series, and whether its dates have a zone."""
    times, zoned, names = None, False, ()
    if checks.is_frame(series):
        series = _frame(series)
        if time is not None:
            _check_column(series, "time", time)
            times, zoned = _times(series[time], name)
            series = series.drop(columns=time)
        elif hasattr(series.index, "to_timestamp"):
            times = series.index.to_timestamp().to_numpy()
        elif series.index.dtype.kind == "M":
            times, zoned = _times(series.index.to_series(), name)
        for argument, given in (("drop", drop), ("channels", channels or ())):
            for each in given:
                _check_column(series, argument, each)
        series = series.drop(columns=list(drop)) if channels is None else series[list(channels)]
        values, names = _numbers(series, name), tuple(series.columns)
    elif time is not None:
        raise ValueError(f"`time` must be None unless `series` is a data frame. Received: time={time!r}")
    else:
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
        raise ValueError(f"`{argument}` must be one of the columns {known}{hint}. Received: {argument}={name!r}")


def _times(column: Any, name: Any) -> tuple[np.ndarray, bool]:
    """The times of rows [T], as numbers or dates without a zone, and whether they had one."""
    if column.isna().any():
        raise ValueError(f"`time` must have a value in each row. Received: missing ones in series {name!r}")
    if hasattr(column.dtype, "freq") and hasattr(column, "dt"):
        column = column.dt.to_timestamp()
    if column.dtype.kind in "iuf":
        times = column.to_numpy(np.float64)
        if not np.isfinite(times).all():
            raise ValueError(f"`time` must be finite in each row. Received: infinite ones in series {name!r}")
        # Integers stay what they are, as long as they are exact in what follows.
        return (column.to_numpy(np.int64) if column.dtype.kind in "iu" else times), False
    dates = None if column.dtype.kind in "mb" else dates_of(column, format_of(column))
    if dates is None:
        example = checks.shown(column.iloc[0])
        raise ValueError(
            "`time` must be a column of numbers, or of dates that all have a time zone or none; pandas.to_datetime reads "
            f"dates of any format, and column.dt.total_seconds() makes numbers of durations. Received: the dtype {column.dtype}, such as "
            f"{example}"
        )
    if dates.isna().any():
        wrong = checks.shown(column[dates.isna()].iloc[0])
        raise ValueError(f"`time` must have a date in each row. Received: {wrong} in series {name!r}")
    zoned = dates.dt.tz is not None
    dates = dates.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else dates
    return dates.to_numpy("datetime64[ns]"), zoned


def _step(given: Any, times: Sequence[np.ndarray]) -> Step:
    """The time from one step to the next: what is given, or the median of all series, whose times are in order."""
    is_date = times[0].dtype.kind == "M"
    if given is not None:
        return _of_dates(given) if is_date else checks.positive_number("step", given)
    gaps = np.concatenate([np.diff(each) for each in times])
    if not len(gaps):
        raise ValueError("`series` must have at least two rows, or `step` be given. Received: one row")
    if is_date and np.ptp(gaps.astype(np.int64)) and _of_month(np.concatenate(times)) is not None:
        months = np.concatenate([np.diff(each.astype("datetime64[M]").astype(np.int64)) for each in times])
        if (median := int(np.median(months))) > 0:
            return np.timedelta64(median, "M")
    gaps = gaps.astype(np.int64) if is_date else gaps.astype(np.float64)
    median = float(np.median(gaps))
    # The median of times that jitter is off by a little, which would add up over many steps.
    regular = np.maximum(np.rint(gaps / median), 1)
    length = float(gaps.sum() / regular.sum()) if np.ptp(gaps) else median
    length = median if abs(length / median - 1) < _ROUNDING else length
    return np.timedelta64(round(length), "ns") if is_date else length


def _of_dates(step: Any) -> np.timedelta64:
    """A step of dates, of nanoseconds or months."""
    # Dates are in data frames alone, so pandas is there.
    import pandas as pd

    if isinstance(step, str) and (found := _CALENDAR.fullmatch(step)):
        step = np.timedelta64(int(found[1] or 1) * _MONTHS[found[2].lower()], "M")
    try:
        if isinstance(step, np.timedelta64) and np.datetime_data(step)[0] in "YM":
            length = step.astype("timedelta64[M]")
        else:
            length = np.timedelta64(pd.Timedelta(step).value, "ns")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`step` must be a Timedelta where times are dates, such as '10min' or '1 month'. Received: step={step!r}"
        ) from error
    if length.astype(np.int64) <= 0:
        raise ValueError(f"`step` must be above 0. Received: step={step!r}")
    return length


def _of_month(times: np.ndarray) -> tuple[np.timedelta64, int] | None:
    """The one time of the month that dates have, from its start (0) or to its end (1); None if they have several."""
    months = times.astype("datetime64[M]")
    for end in (0, 1):
        difference = times - (months + end).astype("datetime64[ns]")
        if (difference == difference[0]).all():
            return difference[0], end
    return None


def _on_grid(name: Any, values: np.ndarray, times: Any, step: Step) -> Timeline:
    """Brings rows to even steps, with NaN in the steps that have none. A step with a row has its time."""
    if isinstance(step, np.timedelta64) and np.datetime_data(step)[0] == "M":
        months, count = times.astype("datetime64[M]").astype(np.int64), step.astype(np.int64)
        places = np.rint((months - months[0]) / count).astype(np.int64)
        difference, end = _of_month(times) or (np.timedelta64(0, "ns"), 0)

        def time_of(steps: np.ndarray) -> np.ndarray:
            return (months[0] + end + steps * count).astype("datetime64[M]").astype("datetime64[ns]") + difference
    else:
        length = step.astype(np.int64) if isinstance(step, np.timedelta64) else step
        passed = (times - times[0]).astype(np.int64 if times.dtype.kind == "M" else np.float64)
        steps = passed / length
        # Where rows jitter, the first one may be far from the step that it is of.
        shift = float(np.median(steps - np.rint(steps)))
        shift = 0.0 if abs(shift) < _ROUNDING else shift
        places = np.rint(steps - shift).astype(np.int64)
        first = places[0]
        places = places - first

        def time_of(steps: np.ndarray) -> np.ndarray:
            after = (steps + (first + shift)) * length
            return times[0] + (np.rint(after).astype("timedelta64[ns]") if times.dtype.kind == "M" else after)

    same = np.diff(places) == 0
    if same.any():
        at = times[int(same.argmax()) + 1]
        raise ValueError(
            "`step` must be so short that no two rows of a series are nearest to one step; frame.resample(step).mean() "
            f"makes one row of several. Received: two rows of one step at {_shown(at)} in series {name!r}, for steps of "
            f"{shown_step(step)}"
        )
    count = int(places[-1]) + 1
    if count > _MOST_STEPS_A_ROW * len(times):
        raise ValueError(
            f"`step` must give at most {_MOST_STEPS_A_ROW} steps for each row. Received: {count:,} steps of "
            f"{shown_step(step)} for {len(times):,} rows of series {name!r}, from {_shown(times[0])} to "
            f"{_shown(times[-1])}"
        )
    filled = np.full([count, values.shape[1]], np.nan)
    filled[places] = values
    grid = np.asarray(time_of(np.arange(count)))
    grid = grid.astype(times.dtype) if times.dtype.kind == "i" and float(step) % 1 == 0 else grid
    grid[places] = times
    return Timeline(name, filled, grid)


def shown_step(step: Step | None) -> str:
    """A step as a text."""
    if step is None:
        return "a row"
    if not isinstance(step, np.timedelta64):
        return f"{step:g}"
    unit, _ = np.datetime_data(step)
    count = int(step.astype(np.int64))
    if unit == "M":
        return "1 month" if count == 1 else f"{count} months"
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if count % (size * 10**9) == 0:
            return f"{count // (size * 10**9)} {name}"
    return f"{count / 1e9:g} s"


def _shown(time: Any) -> str:
    return str(time).removesuffix("000") if isinstance(time, np.datetime64) else f"{time:g}"
