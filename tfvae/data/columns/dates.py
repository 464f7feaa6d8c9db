"""Columns of dates and times."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from tfvae.data import transforms
from tfvae.data.columns import iso_dates
from tfvae.data.columns.column import CATEGORY, NUMBER, Column, Part, check_read, missing, wrong

_DAY = np.timedelta64(1, "D")
# Months matter where the dates span two years.
_TWO_YEARS = 730.0
_EXPECTED = "dates, such as 2024-05-31 or 2024-05-31T13:45:00"
_LABELS: dict[str, tuple[Any, ...]] = {
    "month": tuple(range(1, 13)),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "hour": tuple(range(24)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Date(Column):
    """A column of dates, or of dates with times.

    It becomes the number of days since the middle of the dates, and, where the dates vary in them, three codes of what
    is cyclic: the month (0 is January), the weekday (0 is Monday) and the hour.

    Args:
        reference: the day 0, such as 2024-05-31.
        low: the first day.
        high: the last day.
        transform: how the days become numbers of x: see `tfvae.data.transforms`.
        cycles: which codes it has: "month", "weekday" and "hour".
        has_times: whether the dates have times.
        format: the `strftime` format of dates that are texts; None for dates.
    """

    kind: ClassVar[str] = "date"
    takes_text: ClassVar[bool] = True
    reference: str
    low: float
    high: float
    transform: dict[str, Any]
    cycles: tuple[str, ...]
    has_times: bool
    format: str | None = None

    @classmethod
    def learn(cls, values: Any, **common: Any) -> "Date":
        """Makes the column from its values: see `Column`."""
        dates = _dates(values)
        if dates is None or dates.isna().all():
            raise wrong(common["name"], values, ~missing(values), _EXPECTED)
        check_read(common["name"], values, dates.isna().to_numpy(bool) & ~missing(values), _EXPECTED)
        clock = _clock(dates.dropna())
        reference = (clock.min() + (clock.max() - clock.min()) // 2).astype("datetime64[D]")
        days = (clock - reference) / _DAY
        has_times = bool((days % 1 != 0).any())
        spans = days.max() - days.min() >= _TWO_YEARS
        varies = {"month": spans, "weekday": len(np.unique(_weekday(clock))) > 1, "hour": has_times}
        first = values[~missing(values)].iloc[0]
        return cls(
            reference=str(reference),
            low=float(days.min()),
            high=float(days.max()),
            transform=transforms.learn(days),
            cycles=tuple(name for name, does in varies.items() if does),
            has_times=has_times,
            format=None if values.dtype.kind == "M" or not isinstance(first, str) else _format(first, has_times),
            **common,
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The day, and the codes of the cycles."""
        cycles = (
            Part(f"{self.name}_{name}", CATEGORY, len(_LABELS[name]), labels=_LABELS[name]) for name in self.cycles
        )
        return (Part(self.name, NUMBER, transform=self.transform, range=(self.low, self.high)), *cycles)

    def codes(self, values: Any) -> np.ndarray:
        """The days since the reference, and the codes of the cycles: see `Column`."""
        dates = _dates(values)
        is_wrong = ~missing(values) if dates is None else dates.isna().to_numpy(bool) & ~missing(values)
        check_read(self.name, values, is_wrong, _EXPECTED)
        if dates is None or dates.isna().all():
            return np.full([len(values), len(self.parts)], np.nan)
        clock = _clock(dates)
        codes = {"month": _month(clock), "weekday": _weekday(clock), "hour": _hour(clock)}
        columns = [(clock - np.datetime64(self.reference)) / _DAY, *(codes[name] for name in self.cycles)]
        return np.where(np.isnat(clock)[:, np.newaxis], np.nan, np.stack(columns, axis=1))

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The dates that are closest to the days and have the codes of the cycles: see `Column`."""
        import pandas as pd

        del rng
        is_missing = np.isnan(codes).any(axis=1)
        codes = np.where(is_missing[:, np.newaxis], 0, codes)
        given = dict(zip(self.cycles, codes[:, 1:].T.astype(int), strict=True))
        days = np.clip(codes[:, 0], self.low, self.high)
        seconds = np.round(days * 86_400) if self.has_times else np.round(days) * 86_400
        reference = np.datetime64(self.reference).astype("datetime64[s]")
        clock = reference + seconds.astype("timedelta64[s]")
        if "month" in given:
            clock = _in_nearest_month(clock, given["month"])
        if "weekday" in given:
            clock = clock + ((given["weekday"] - _weekday(clock) + 3) % 7 - 3).astype("timedelta64[D]")
        if "hour" in given:
            clock = clock + (given["hour"] - _hour(clock)).astype("timedelta64[h]")
        low, high = (reference + np.timedelta64(round(day * 86_400), "s") for day in (self.low, self.high))
        dates = pd.Series(np.where(is_missing, np.datetime64("NaT"), np.clip(clock, low, high)))
        if self.format is not None:
            return self.restored(dates.dt.strftime(self.format))
        zone = getattr(pd.api.types.pandas_dtype(self.dtype), "tz", None)
        if zone is not None:
            dates = dates.dt.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward")
        return self.restored(dates)

    def in_graph(self, values: Any) -> Any:
        """The days since the reference, and the codes of the cycles, by the clock: see `Column`."""
        return iso_dates.parsed(values, np.datetime64(self.reference, "D").astype(int), self.cycles)

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """ISO texts of the dates: see `Column`."""
        given = dict(zip(self.cycles, codes[:, 1:].T, strict=True))
        return iso_dates.texts(codes[:, 0], np.datetime64(self.reference, "us"), given)

    @property
    def description(self) -> str:
        """The first and the last date, and the cycles."""
        first, last = (
            np.datetime64(self.reference) + np.timedelta64(math.floor(day), "D") for day in (self.low, self.high)
        )
        return f"{first} to {last}" + (f"; with {', '.join(self.cycles)}" if self.cycles else "")


def _dates(values: Any) -> Any:
    """Raw values as dates, with NaT for what is none; None if they cannot be read at all."""
    import pandas as pd

    if values.dtype.kind == "M" or hasattr(values.dtype, "tz"):
        return values
    if values.dtype.kind in "iufb":
        return None
    try:
        return pd.to_datetime(values.where(~missing(values), None), errors="coerce", format="ISO8601")
    except (ValueError, TypeError):
        return None


def _clock(dates: Any) -> np.ndarray:
    """What calendar and clock show at dates, in microseconds, which unlike nanoseconds reach from year 1 to 9999."""
    if dates.dt.tz is not None:
        dates = dates.dt.tz_localize(None)
    return dates.to_numpy("datetime64[us]")


def _month(clock: np.ndarray) -> np.ndarray:
    return clock.astype("datetime64[M]").astype(int) % 12


def _weekday(clock: np.ndarray) -> np.ndarray:
    # Day 0, 1970-01-01, was a Thursday.
    return (clock.astype("datetime64[D]").astype(int) + 3) % 7


def _hour(clock: np.ndarray) -> np.ndarray:
    return clock.astype("datetime64[h]").astype(int) % 24


def _format(text: str, has_times: bool) -> str:
    if not has_times and len(text.strip()) == len("2024-05-31"):
        return "%Y-%m-%d"
    return f"%Y-%m-%d{text.strip()[10:11] or ' '}%H:%M:%S"


def _in_nearest_month(clock: np.ndarray, month: np.ndarray) -> np.ndarray:
    """The dates moved to a month (0 is January) of the closest year, with the same day if it exists."""
    own = clock.astype("datetime64[M]")
    moved = own + ((month - _month(clock) + 6) % 12 - 6).astype("timedelta64[M]")
    last = (moved + 1).astype("datetime64[D]") - moved.astype("datetime64[D]") - 1
    day = clock.astype("datetime64[D]") - own.astype("datetime64[D]")
    return moved.astype("datetime64[D]") + np.minimum(day, last) + (clock - clock.astype("datetime64[D]"))
