"""The steps of time: how long they are, and the rows of a series brought to even ones."""

import datetime
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
        of_months = [np.diff(each.astype("datetime64[M]").astype(np.int64)) for each in times]
        if (months := int(np.median(np.concatenate(of_months)))) > 0:
            return np.timedelta64(months, "M")
    gaps = gaps.astype(np.int64) if is_date else gaps.astype(np.float64)
    median = float(np.median(gaps))
    # The median of times that jitter is off by a little, which would add up over many steps: without gaps the mean is
    # not, and with gaps the mean of what is left of them.
    candidates = [median, float(gaps.sum() / np.maximum(np.rint(gaps / median), 1).sum()), float(np.mean(gaps))]
    length = min(candidates, key=lambda candidate: _roughness(times, candidate))
    return np.timedelta64(round(length), "ns") if is_date else length


def _roughness(times: Sequence[np.ndarray], length: float) -> float:
    """How far rows are from even steps: the mean square, as a share of a step."""
    off = []
    for each in times:
        steps = (each - each[0]).astype(np.float64) / length
        off.append(steps - np.rint(steps))
        off[-1] = off[-1] - np.median(off[-1])
    # Less is rounding.
    return max(float(np.mean(np.concatenate(off) ** 2)), _ROUNDING**2)


def checked(step: Any) -> Step | None:
    """A step as `tfvae.data.Series` takes it.

    Raises:
        ValueError: it is no time from one step to the next.
    """
    if step is None or isinstance(step, str | datetime.timedelta | np.timedelta64):
        return None if step is None else _of_dates(step)
    if isinstance(step, list | tuple):
        if len(step) != 2 or step[1] not in ("ns", "M"):
            raise ValueError(f"`step` must be a pair of a number and 'ns' or 'M'. Received: step={checks.shown(step)}")
        return np.timedelta64(checks.positive_integer("step", step[0], maximum=2**63 - 1), step[1])
    return checks.positive_number("step", step)


def _of_dates(step: Any) -> np.timedelta64:
    """A step of dates, of nanoseconds or months."""
    if isinstance(step, str) and (found := _CALENDAR.fullmatch(step)):
        step = np.timedelta64(int(found[1] or 1) * _MONTHS[found[2].lower()], "M")
    try:
        if isinstance(step, np.timedelta64) and np.datetime_data(step)[0] in "YM":
            length = step.astype("timedelta64[M]")
        elif isinstance(step, np.timedelta64):
            length = step.astype("timedelta64[ns]")
        else:
            import pandas as pd

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
    """Brings rows, in the order of their times, to even steps, with NaN in the steps that have none."""
    is_calendar = isinstance(step, np.timedelta64) and np.datetime_data(step)[0] == "M"
    places = _months(times, step) if is_calendar else _places(times, step)
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
    # A step without a row is so many steps after the last one with a row.
    row = np.zeros(count, np.int64)
    row[places] = np.arange(len(places))
    row = np.maximum.accumulate(row)
    after = np.arange(count) - places[row]
    if is_calendar:
        grid = _later_months(times, row, after * np.int64(step))
    elif isinstance(step, np.timedelta64):
        grid = times[row] + after * step
    else:
        grid = times[row] + after * (int(step) if times.dtype.kind == "i" and float(step) % 1 == 0 else step)
    return Timeline(name, filled, grid)


def _places(times: np.ndarray, step: Step) -> np.ndarray:
    """The number of the step that each row is of."""
    is_date = times.dtype.kind == "M"
    passed = (times - times[0]).astype(np.int64 if is_date else np.float64)
    steps = passed / (step.astype(np.int64) if isinstance(step, np.timedelta64) else step)
    # Where rows jitter, the first one may be far from the step that it is of.
    places = np.rint(steps - np.median(steps - np.rint(steps))).astype(np.int64)
    if (np.diff(places) == 0).any():
        # As of a clock that drifts: each row is so many steps after the one before it.
        places = np.concatenate([[0], np.cumsum(np.rint(np.diff(steps)))]).astype(np.int64)
    return places - places[0]


def _months(times: np.ndarray, step: Any) -> np.ndarray:
    """The number of the step of months that each row is of."""
    months = times.astype("datetime64[M]").astype(np.int64)
    return np.rint((months - months[0]) / np.int64(step)).astype(np.int64)


def _later_months(times: np.ndarray, row: np.ndarray, months: np.ndarray) -> np.ndarray:
    """The times of rows, so many months later: at the same time of the month, from its start or to its end."""
    of_month = _of_month(times)
    if of_month is None:
        return np.where(months == 0, times[row], (times[row].astype("datetime64[M]") + months).astype(times.dtype))
    difference, end = of_month
    return (times[row].astype("datetime64[M]") + months + end).astype(times.dtype) + difference


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
