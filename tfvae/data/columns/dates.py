"""Columns of dates and times."""

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np

from tfvae.data import transforms
from tfvae.data.columns import iso_dates
from tfvae.data.columns.column import CATEGORY, NUMBER, Column, Part, missing

_DAY = np.timedelta64(1, "D")
_SECONDS = 86_400
# Months matter where the dates span two years.
_TWO_YEARS = 730.0
_LABELS: dict[str, tuple[Any, ...]] = {
    "month": tuple(range(1, 13)),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "hour": tuple(range(24)),
}
# How texts that are not of ISO 8601 are read. Where day and month cannot be told apart, the month is first, as pandas
# takes it.
_DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m-%d-%Y", "%d-%m-%Y"),
    *("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y"),
)
_CLOCKS = ("%H:%M", "%H:%M:%S")
_COMPACT = "%Y%m%d"
_FORMATS = (_COMPACT, *_DAYS, *(f"{day} {clock}" for day in _DAYS for clock in _CLOCKS), *_CLOCKS)
# The days of x are rounded to float32: so much of the range they may be off.
_ROUNDING = 1e-6
# The share of texts that must be of a format for it to be theirs.
_MOST = 0.5
_CLOCK = re.compile(r"([T ])\d\d:\d\d(:\d\d)?([.,]\d+)?(Z|[+-]\d\d:?\d\d)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Date(Column):
    """A column of dates, of dates with times, or of times.

    It becomes the number of days since the middle of the dates, and, where the dates vary in them, three codes of what
    is cyclic: the month (0 is January), the weekday (0 is Monday) and the hour.

    Args:
        reference: the date that is day 0, by the clock of the column's time zone.
        low: the first day.
        high: the last day.
        transform: how the days become numbers of x: see `tfvae.data.transforms`.
        cycles: which codes it has: "month", "weekday" and "hour".
        has_times: whether the dates have times.
        format: the `strftime` format of dates that are texts or numbers such as 20240531; None for dates.
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
        format = format_of(values)
        dates = dates_of(values, format)
        if dates is None or dates.isna().all():
            raise ValueError(f'Column "{common["name"]}" must hold dates. Received: {values.iloc[0]!r}')
        found = dates.dropna()
        if found.dt.tz is not None:
            found = found.dt.tz_localize(None)
        reference = (found.min() + (found.max() - found.min()) / 2).normalize()
        days = _days(found, reference)
        has_times = bool((days % 1 != 0).any())
        spans = days.max() - days.min() >= _TWO_YEARS
        varies = {"month": spans, "weekday": found.dt.day_of_week.nunique() > 1, "hour": has_times}
        return cls(
            reference=reference.isoformat(),
            low=float(days.min()),
            high=float(days.max()),
            transform=transforms.learn(days),
            cycles=tuple(name for name, does in varies.items() if does),
            has_times=has_times,
            format=format,
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
        import pandas as pd

        values = self.known(values)
        dates = dates_of(values, self.format)
        if dates is None:
            dates = pd.Series(pd.NaT, values.index)
        is_wrong = dates.isna().to_numpy(bool) & ~missing(values)
        example = f"{pd.Timestamp(2024, 5, 31, 13, 45):{self.format or '%Y-%m-%dT%H:%M:%S'}}"
        self.check_read(values, is_wrong, f"dates, such as {example}")
        if dates.isna().all():
            return np.full([len(values), len(self.parts)], np.nan)
        if dates.dt.tz is not None:
            zone = self.zone
            dates = (dates if zone is None else dates.dt.tz_convert(zone)).dt.tz_localize(None)
        codes = _cyclic(dates)
        return np.stack([_days(dates, pd.Timestamp(self.reference)), *(codes[name] for name in self.cycles)], axis=1)

    def values(self, codes: np.ndarray, rng: np.random.Generator) -> Any:
        """The dates that are closest to the days and have the codes of the cycles: see `Column`."""
        import pandas as pd

        del rng
        is_missing = np.isnan(codes).any(axis=1)
        days = np.clip(np.where(is_missing, self.low, codes[:, 0]), self.low, self.high)
        given = {name: np.nan_to_num(code) for name, code in zip(self.cycles, codes[:, 1:].T, strict=True)}
        clock = np.round(days * _SECONDS) if self.has_times else np.round(days) * _SECONDS
        dates = self._with_cycles(pd.Series(pd.Timestamp(self.reference) + pd.to_timedelta(clock, unit="s")), given)
        dates = dates.where(~is_missing)
        if self.format is not None:
            texts = dates.dt.strftime(self.format)
            return self.restored(texts if self._is_text else pd.to_numeric(texts).astype("Float64"))
        if self.zone is not None:
            summer = np.ones(len(dates), bool)
            dates = dates.dt.tz_localize(self.zone, ambiguous=summer, nonexistent="shift_forward")
        elif self.dtype == "object" and not self.has_times:
            dates = dates.dt.date
        return self.restored(dates)

    def in_graph(self, values: Any) -> Any:
        """The days since the reference, and the codes of the cycles, by the clock: see `Column`."""
        import tensorflow as tf

        for blank in self.blanks:
            values = tf.where(tf.equal(tf.strings.strip(values), blank), "", values)
        texts = values if self.format is None else iso_dates.of_format(values, self.format)
        day_0 = np.datetime64(self.day_0, "D").astype(int)
        return iso_dates.parsed(texts, day_0, self.cycles, takes_zones=self.zone is None)

    def raw(self, codes: np.ndarray) -> np.ndarray:
        """ISO texts of the dates: see `Column`."""
        given = dict(zip(self.cycles, codes[:, 1:].T, strict=True))
        return iso_dates.texts(codes[:, 0], np.datetime64(self.day_0, "us"), given)

    @property
    def day_0(self) -> str:
        """The date of the reference, without its time zone."""
        return self.reference[: len("2024-05-31")]

    @property
    def description(self) -> str:
        """The first and the last date, and the cycles."""
        import pandas as pd

        ends = (pd.Timestamp(self.reference) + pd.Timedelta(days=day) for day in (self.low, self.high))
        is_clock = self.format in _CLOCKS
        first, last = (f"{end:%H:%M}" if is_clock else f"{end:%Y-%m-%d}" for end in ends)
        return f"{first} to {last}" + (f"; with {', '.join(self.cycles)}" if self.cycles else "")

    @property
    def zone(self) -> Any:
        """The time zone of the dates in a data frame; None if they have none."""
        import pandas as pd

        return getattr(pd.api.types.pandas_dtype(self.dtype), "tz", None)

    @property
    def _is_text(self) -> bool:
        return self.dtype in ("object", "str", "string", "category")

    def _with_cycles(self, dates: Any, given: dict[str, np.ndarray]) -> Any:
        """The dates moved to the given codes, within the range of the data."""
        import pandas as pd

        reference = pd.Timestamp(self.reference)
        low, high = (reference + pd.Timedelta(round(day * _SECONDS), "s") for day in (self.low, self.high))
        moved = dates
        if "month" in given:
            moved = _nearest_month(moved, given["month"])
            moved = moved.where(moved <= high, moved - pd.DateOffset(years=1))
            moved = moved.where(moved >= low, moved + pd.DateOffset(years=1))
        if "weekday" in given:
            shift = (given["weekday"] - moved.dt.day_of_week.to_numpy() + 3) % 7 - 3
            moved = moved + pd.to_timedelta(shift, unit="D")
            week = pd.Timedelta(days=7)
            moved = moved.where(moved.dt.normalize() <= high, moved - week)
            moved = moved.where(moved >= low.normalize(), moved + week)
        if "hour" in given:
            moved = moved + pd.to_timedelta(given["hour"] - moved.dt.hour.to_numpy(), unit="h")
        # A day that was rounded across the start of an hour, a day or a month is moved back over it, and no further.
        if not self.has_times:
            return moved.clip(low, high)
        most = pd.Timedelta(1 + (self.high - self.low) * _SECONDS * _ROUNDING, "s")
        for near in (dates, dates.dt.ceil("h"), dates.dt.floor("h") - pd.Timedelta(1, "s")):
            codes = _cyclic(near)
            fits = np.logical_and.reduce(
                [(near - dates).abs() <= most, *(codes[name] == given[name] for name in given)]
            )
            moved = near.where(fits, moved)
        return moved.clip(low, high)


def format_of(values: Any) -> str | None:
    """The `strftime` format of texts or numbers that are dates, as most of them are; None if they are dates already."""
    import pandas as pd

    found = values[~missing(values)].infer_objects()
    if not len(found) or not (_is_numeric(found) or isinstance(found.iloc[0], str)):
        return None
    texts = _texts(pd.Series(found.unique()))
    if not _is_numeric(found):
        try:
            if pd.to_datetime(texts, errors="coerce", format="ISO8601").notna().mean() > _MOST:
                return _iso_format(str(texts.iloc[0]).strip())
        except ValueError:
            # Of several time zones.
            return None

    def share(format: str, some: Any) -> float:
        return float(pd.to_datetime(some, errors="coerce", format=format).notna().mean())

    # Most formats are ruled out by a few texts.
    candidates = (_COMPACT,) if _is_numeric(found) else _FORMATS
    shares = {format: share(format, texts) for format in candidates if share(format, texts[:20]) > _MOST}
    return max(shares, key=lambda format: shares[format]) if shares else None


def dates_of(values: Any, format: str | None = None) -> Any:
    """Raw values as dates, with NaT for what is none; None if they cannot be read at all.

    Args:
        values: a `pandas.Series`.
        format: the format of texts or numbers; ISO 8601 is read too.
    """
    import pandas as pd

    values = values.infer_objects()
    if values.dtype.kind == "M" or hasattr(values.dtype, "tz"):
        return values
    is_numeric = _is_numeric(values)
    if is_numeric and format is None:
        return None
    texts = _texts(values).where(~missing(values), None)
    try:
        if is_numeric:
            return pd.to_datetime(texts, errors="coerce", format=format)
        dates = pd.to_datetime(texts, errors="coerce", format="ISO8601")
        if format is None or format.startswith("%Y-%m"):
            return dates
        of_format = pd.to_datetime(texts, errors="coerce", format=format)
        return of_format.where(of_format.notna(), dates if dates.dt.tz is None else dates.dt.tz_localize(None))
    except (ValueError, TypeError):
        return None


def _is_numeric(values: Any) -> bool:
    return values.dtype.kind in "iuf"


def _texts(values: Any) -> Any:
    """Numbers as texts without decimals, None for those with decimals; other values as they are."""
    import pandas as pd

    if not _is_numeric(values):
        # pandas would take numbers among them for times.
        return values.astype(object).map(
            lambda value: str(value) if isinstance(value, int | float) else value, "ignore"
        )
    x = values.to_numpy(np.float64, na_value=np.nan)
    is_whole = np.isfinite(x) & (x % 1 == 0)
    texts = [f"{number:.0f}" if whole else None for number, whole in zip(x, is_whole, strict=True)]
    return pd.Series(texts, dtype=object)


def _iso_format(text: str) -> str:
    """The `strftime` format of a text of ISO 8601, with its time zone as it is."""
    if text.isdigit():
        return _COMPACT
    day, clock = ("%Y-%m-%d"[: len(text) - 2], "") if len(text) <= len("2024-05-31") else ("%Y-%m-%d", text[10:])
    found = _CLOCK.fullmatch(clock)
    if found is None:
        return day
    separator, seconds, fraction, zone = found.groups()
    return f"{day}{separator}%H:%M{':%S' if seconds else ''}{'.%f' if fraction else ''}{zone or ''}"


def _cyclic(dates: Any) -> dict[str, np.ndarray]:
    """The codes of the cycles of dates."""
    return {
        "month": dates.dt.month.to_numpy(np.float64, na_value=np.nan) - 1,
        "weekday": dates.dt.day_of_week.to_numpy(np.float64, na_value=np.nan),
        "hour": dates.dt.hour.to_numpy(np.float64, na_value=np.nan),
    }


def _days(dates: Any, reference: Any) -> np.ndarray:
    """The days since a reference."""
    return ((dates - reference) / _DAY).to_numpy(np.float64)


def _nearest_month(dates: Any, month: np.ndarray) -> Any:
    """The dates moved to a month (0 is January) of the closest year, with the same day if it exists."""
    import pandas as pd

    steps = (month - (dates.dt.month.to_numpy() - 1) + 6) % 12 - 6
    total = dates.dt.year.to_numpy() * 12 + dates.dt.month.to_numpy() - 1 + steps.astype(int)
    first = pd.to_datetime(pd.DataFrame({"year": total // 12, "month": total % 12 + 1, "day": 1}))
    day = np.minimum(dates.dt.day.to_numpy(), first.dt.days_in_month.to_numpy())
    return first + pd.to_timedelta(day - 1, unit="D") + (dates - dates.dt.normalize())
