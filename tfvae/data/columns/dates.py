"""Columns of dates and times."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfvae.data import transforms
from tfvae.data.columns.column import CATEGORY, NUMBER, Column, Part, check_read, missing, wrong

_DAY = 86_400_000_000_000
# Months matter where the dates span two years.
_TWO_YEARS = 730.0
_EXPECTED = "dates, such as 2024-05-31 or 2024-05-31T13:45:00"
_PERIODS = {"month": 12, "weekday": 7, "hour": 24}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Date(Column):
    """A column of dates, or of dates with times.

    It becomes the number of days since the middle of the dates, and, where the dates vary in them, three codes of what
    is cyclic: the month (0 is January), the weekday (0 is Monday) and the hour.

    Args:
        reference: the date that is day 0.
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
        found = dates.dropna()
        middle = found.min() + (found.max() - found.min()) / 2
        reference = middle.normalize()
        days = _days(found, reference)
        has_times = bool((days % 1 != 0).any())
        spans = days.max() - days.min() >= _TWO_YEARS
        varies = {"month": spans, "weekday": found.dt.weekday.nunique() > 1, "hour": has_times}
        first = values[~missing(values)].iloc[0]
        return cls(
            reference=reference.isoformat(),
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
        cycles = (Part(f"{self.name}_{name}", CATEGORY, _PERIODS[name]) for name in self.cycles)
        return (Part(self.name, NUMBER, transform=self.transform), *cycles)

    def codes(self, values: Any) -> np.ndarray:
        """The days since the reference, and the codes of the cycles: see `Column`."""
        dates = _dates(values)
        is_wrong = ~missing(values) if dates is None else dates.isna().to_numpy(bool) & ~missing(values)
        check_read(self.name, values, is_wrong, _EXPECTED)
        if dates.isna().all():
            return np.full([len(values), len(self.parts)], np.nan)
        codes = {
            "month": dates.dt.month.to_numpy(np.float64, na_value=np.nan) - 1,
            "weekday": dates.dt.weekday.to_numpy(np.float64, na_value=np.nan),
            "hour": dates.dt.hour.to_numpy(np.float64, na_value=np.nan),
        }
        return np.stack([_days(dates, self._reference(dates)), *(codes[name] for name in self.cycles)], axis=1)

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The dates that are closest to the days and have the codes of the cycles: see `Column`."""
        import pandas as pd

        del rng
        days = np.clip(codes[:, 0], self.low, self.high)
        given = dict(zip(self.cycles, codes[:, 1:].T, strict=True))
        is_missing = np.isnan(codes).any(axis=1)
        reference = pd.Timestamp(self.reference)
        clock = (
            np.round(np.where(is_missing, 0, days) * 86_400)
            if self.has_times
            else np.round(np.where(is_missing, 0, days)) * 86_400
        )
        dates = pd.Series(reference.tz_localize(None) + pd.to_timedelta(clock, unit="s"))
        if "month" in given:
            dates = _nearest_month(dates, np.nan_to_num(given["month"]))
        if "weekday" in given:
            shift = (np.nan_to_num(given["weekday"]) - dates.dt.weekday.to_numpy() + 3) % 7 - 3
            dates = dates + pd.to_timedelta(shift, unit="D")
        if "hour" in given:
            dates = dates + pd.to_timedelta(np.nan_to_num(given["hour"]) - dates.dt.hour.to_numpy(), unit="h")
        dates = dates.where(~is_missing)
        if self.format is not None:
            return self.restored(dates.dt.strftime(self.format))
        if reference.tz is not None:
            dates = dates.dt.tz_localize(reference.tz, ambiguous="NaT", nonexistent="shift_forward")
        return self.restored(dates)

    @property
    def description(self) -> str:
        """The first and the last date, and the cycles."""
        import pandas as pd

        ends = (pd.Timestamp(self.reference) + pd.Timedelta(days=day) for day in (self.low, self.high))
        first, last = (f"{end:%Y-%m-%d}" for end in ends)
        return f"{first} to {last}" + (f"; with {', '.join(self.cycles)}" if self.cycles else "")

    def _reference(self, dates: Any) -> Any:
        """The reference with the time zone of some dates, whose clock counts."""
        import pandas as pd

        reference = pd.Timestamp(self.reference).tz_localize(None)
        return reference if dates.dt.tz is None else reference.tz_localize(dates.dt.tz)


def _dates(values: Any) -> Any:
    """Raw values as dates, with NaT for what is none; None if they cannot be read at all."""
    import pandas as pd

    if values.dtype.kind == "M" or hasattr(values.dtype, "tz"):
        return values
    try:
        return pd.to_datetime(values.where(~missing(values), None), errors="coerce", format="ISO8601")
    except (ValueError, TypeError):
        return None


def _days(dates: Any, reference: Any) -> np.ndarray:
    """The days since a reference, by the clock."""
    if dates.dt.tz is not None:
        dates, reference = dates.dt.tz_localize(None), reference.tz_localize(None)
    return ((dates - reference) / np.timedelta64(_DAY, "ns")).to_numpy(np.float64)


def _format(text: str, has_times: bool) -> str:
    if not has_times and len(text.strip()) == len("2024-05-31"):
        return "%Y-%m-%d"
    return f"%Y-%m-%d{text.strip()[10:11] or ' '}%H:%M:%S"


def _nearest_month(dates: Any, month: np.ndarray) -> Any:
    """The dates moved to a month (0 is January) of the closest year, with the same day if it exists."""
    import pandas as pd

    steps = (month - (dates.dt.month.to_numpy() - 1) + 6) % 12 - 6
    total = dates.dt.year.to_numpy() * 12 + dates.dt.month.to_numpy() - 1 + steps.astype(int)
    first = pd.to_datetime(pd.DataFrame({"year": total // 12, "month": total % 12 + 1, "day": 1}))
    day = np.minimum(dates.dt.day.to_numpy(), first.dt.days_in_month.to_numpy())
    return first + pd.to_timedelta(day - 1, unit="D") + (dates - dates.dt.normalize())
