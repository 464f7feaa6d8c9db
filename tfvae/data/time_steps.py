"""The steps of time: how long they are, and the rows of a series brought to even ones."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks

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


def step_of(given: Any, times: Sequence[np.ndarray]) -> Step:
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


def on_steps(name: Any, values: np.ndarray, times: Any, step: Step) -> Timeline:
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
            f"makes one row of several. Received: two rows of one step at {shown_time(at)} in series {name!r}, for "
            f"steps of {shown_step(step)}"
        )
    count = int(places[-1]) + 1
    if count > _MOST_STEPS_A_ROW * len(times):
        raise ValueError(
            f"`step` must give at most {_MOST_STEPS_A_ROW} steps for each row. Received: {count:,} steps of "
            f"{shown_step(step)} for {len(times):,} rows of series {name!r}, from {shown_time(times[0])} to "
            f"{shown_time(times[-1])}"
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


def shown_time(time: Any) -> str:
    """A time as a text, without digits that say nothing."""
    return str(time).removesuffix(".000000000") if isinstance(time, np.datetime64) else f"{time:g}"
