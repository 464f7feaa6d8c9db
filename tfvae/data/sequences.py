"""Windows of time series, and sequences of unequal length, as arrays [N, T, C] in which NaN marks what is not there."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks


class Windows(NamedTuple):
    """Windows of time series in the model's units, and how to bring new series into the same: (raw - offset) / scale.

    Attributes:
        train: windows `[N, T, C]`, float32, of the steps before the split; NaN where a value is missing.
        validation: windows `[M, T, C]`, float32, of the steps after it, none of which is in a window of the training.
        offset: the mean `[C]` of each channel before the split, float32.
        scale: the standard deviation `[C]` of each channel before the split, float32; 1 for a constant channel.
        channels: the names of the channels.
        train_starts: for each window of the training, the name of its series and the time of its first step.
        validation_starts: the same for the validation.
    """

    train: np.ndarray
    validation: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    channels: tuple[str, ...]
    train_starts: list[tuple[Any, Any]]
    validation_starts: list[tuple[Any, Any]]


class _Series(NamedTuple):
    """One series on a grid of times: values [T, C], and the time of each step [T]."""

    name: Any
    values: np.ndarray
    times: np.ndarray


def windows(
    series: Any,
    length: int,
    stride: int | None = None,
    *,
    time: str | None = None,
    by: str | None = None,
    step: Any = None,
    validation_fraction: float = 0.2,
) -> Windows:
    """Cuts time series into windows, split by time and scaled by the steps before the split.

    Rows with times need not be complete: a step for which there is no row is missing, and NaN. Windows with nothing but
    NaN are left out.

    Args:
        series: one series, or several as a list or a dictionary: arrays `[T]` or `[T, C]`, or data frames, whose other
            columns are the channels.
        length: T, the number of steps of a window.
        stride: the number of steps from the start of a window to that of the next; None means half a window for the
            training, rounded up, and no overlap for the validation.
        time: the column of a data frame with the time of each row, a number or a date; the rows may be in any order.
            None takes the index if it is one of dates, and otherwise the order of the rows.
        by: the column of a data frame that says which series a row belongs to.
        step: the time from one step to the next, a number or a `Timedelta`; None means the median. A row belongs to the
            nearest step.
        validation_fraction: the share of the steps that is held out: those of the latest times, or, without times, the
            last ones of each series.

    Raises:
        ValueError: an argument is out of its range, two rows are of one step, or there are too few steps.
    """
    length = checks.positive_integer("length", length, 2)
    strides = (-(-length // 2), length) if stride is None else (checks.positive_integer("stride", stride),) * 2
    fraction = checks.number("validation_fraction", validation_fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"`validation_fraction` must be between 0 and 1. Received: validation_fraction={fraction:g}")
    given, channels = _read(series, time, by)
    has_times = given[0][2] is not None
    placed = [_on_grid(name, values, times, step) for name, values, times in given] if has_times else _numbered(given)
    cuts = _cuts(placed, fraction, has_times)
    before = np.concatenate([each.values[:cut] for each, cut in zip(placed, cuts, strict=True)])
    offset, scale = _moments(before, channels)
    parts = []
    for part, part_stride in zip(("before", "after"), strides, strict=True):
        cut_series = [
            _Series(each.name, each.values[:cut], each.times[:cut])
            if part == "before"
            else _Series(each.name, each.values[cut:], each.times[cut:])
            for each, cut in zip(placed, cuts, strict=True)
        ]
        parts.append(_cut(cut_series, length, part_stride))
        if not len(parts[-1][0]):
            longest = max(len(each.values) for each in cut_series)
            raise ValueError(
                f"`length` must be at most the number of steps {part} the split of at least one series. Received: "
                f"length={length}, where the longest has {longest} steps {part} the split"
            )
    (train, train_starts), (validation, validation_starts) = parts
    train, validation = (((x - offset) / scale).astype(np.float32) for x in (train, validation))
    return Windows(train, validation, offset, scale, channels, train_starts, validation_starts)


def pad(sequences: Any, length: int | None = None) -> np.ndarray:
    """Makes one array of sequences of unequal length, with NaN where a sequence has ended.

    Args:
        sequences: N arrays or lists `[T_n]` or `[T_n, C]` of numbers, or a `tf.RaggedTensor`.
        length: T; None means the longest.

    Returns:
        `[N, T, C]`, float32, with one channel for sequences `[T_n]`.

    Raises:
        ValueError: a sequence is empty, longer than `length`, not of finite numbers, or of another number of channels.
    """
    rows = sequences.to_list() if hasattr(sequences, "to_list") else list(sequences)
    if not rows:
        raise ValueError("`sequences` must hold at least one sequence. Received: none")
    arrays: list[np.ndarray] = []
    for index, row in enumerate(rows):
        array = checks.to_numpy(row, "sequences") if np.size(row) else np.empty(0)
        array = array[:, np.newaxis] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size or array.shape[1:] != (arrays[0] if arrays else array).shape[1:]:
            expected = f"[T, {arrays[0].shape[1]}]" if arrays else "[T] or [T, C]"
            raise ValueError(
                f"`sequences` must hold arrays {expected} with at least one step. Received: shape "
                f"{list(np.shape(row))} at index {index}"
            )
        checks.check_finite(array, "sequences", allow_nan=True)
        arrays.append(array)
    longest = max(map(len, arrays))
    length = longest if length is None else checks.positive_integer("length", length)
    if longest > length:
        raise ValueError(f"`length` must be at least that of the longest sequence, {longest}. Received: {length}")
    padded = np.full([len(arrays), length, arrays[0].shape[1]], np.nan, np.float32)
    for place, array in zip(padded, arrays, strict=True):
        place[: len(array)] = array
    return padded


def _read(
    series: Any, time: str | None, by: str | None
) -> tuple[list[tuple[Any, np.ndarray, np.ndarray | None]], tuple[str, ...]]:
    """The name, the values [T, C] and the times [T], or None, of each series; and the names of the channels."""
    if checks.is_frame(series) and by is not None:
        series = series.to_pandas() if hasattr(series, "to_pandas") else series
        _check_column(series, "by", by)
        if series[by].isna().any():
            raise ValueError(f"`by` must be a column with a value in each row. Received: {by!r}, with missing values")
        series = {name: rows.drop(columns=by) for name, rows in series.groupby(by)}
    elif by is not None:
        raise ValueError(f"`by` must be None unless `series` is one data frame. Received: by={by!r}")
    several: Iterable[tuple[Any, Any]] = [(0, series)]
    if isinstance(series, Mapping):
        several = series.items()
    elif isinstance(series, list | tuple) and series and (checks.is_frame(series[0]) or np.ndim(series[0])):
        several = enumerate(series)
    found, channels = [], None
    for name, one in several:
        values, times, names = _one(one, time)
        if channels is not None and names != channels:
            raise ValueError(
                f"`series` must all have the channels {checks.shown_names(channels)}. Received: "
                f"{checks.shown_names(names)} in series {name!r}"
            )
        channels = names
        found.append((name, values, times))
    if channels is None:
        raise ValueError("`series` must hold at least one series. Received: none")
    return found, channels


def _one(series: Any, time: str | None) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The values [T, C], the times [T] or None, and the names of the channels of one series."""
    times = None
    if checks.is_frame(series):
        series = series.to_pandas() if hasattr(series, "to_pandas") else series
        if time is not None:
            _check_column(series, "time", time)
            times, series = series[time].to_numpy(), series.drop(columns=time)
        elif series.index.dtype.kind == "M":
            times = series.index.to_numpy()
        names = tuple(map(str, series.columns))
    elif time is not None:
        raise ValueError(f"`time` must be None unless `series` is a data frame. Received: time={time!r}")
    else:
        names = ()
    values = checks.to_numpy(series, "series").astype(np.float64)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`series` must have the shape [T] or [T, C]. Received: shape {list(np.shape(series))}")
    checks.check_finite(values, "series", allow_nan=True)
    return values, times, names or tuple(f"x{index}" for index in range(values.shape[1]))


def _check_column(frame: Any, argument: str, name: str) -> None:
    if name not in frame.columns:
        known = checks.shown_names(list(map(str, frame.columns)))
        raise ValueError(f"`{argument}` must be one of the columns {known}. Received: {argument}={name!r}")


def _numbered(given: Sequence[tuple[Any, np.ndarray, np.ndarray | None]]) -> list[_Series]:
    return [_Series(name, values, np.arange(len(values))) for name, values, _ in given]


def _on_grid(name: Any, values: np.ndarray, times: np.ndarray | None, step: Any) -> _Series:
    """Brings rows to the steps of a grid, with NaN in the steps that have none."""
    assert times is not None
    is_date = times.dtype.kind == "M"
    if not is_date and times.dtype.kind not in "iuf":
        raise ValueError(f"`time` must be a column of numbers or dates. Received: the dtype {times.dtype}")
    if np.isnat(times).any() if is_date else not np.isfinite(times.astype(np.float64)).all():
        raise ValueError(f"`time` must have a value in each row. Received: missing ones in series {name!r}")
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    if len(times) < 2:
        return _Series(name, values, times)
    gaps = np.diff(times.astype("datetime64[ns]")).astype(np.int64) if is_date else np.diff(times.astype(np.float64))
    if step is None:
        length = float(np.median(gaps))
    else:
        length = _nanoseconds(step) if is_date else checks.positive_number("step", step)
    if length <= 0:
        raise ValueError(f"`time` must rise from row to row. Received: rows of one time in series {name!r}")
    places = np.rint(np.concatenate([[0.0], np.cumsum(gaps)]) / length).astype(np.int64)
    if (np.diff(places) == 0).any():
        at = times[int((np.diff(places) == 0).argmax()) + 1]
        raise ValueError(
            "`step` must be so short that no two rows of a series are nearest to one step. Received: two rows of one "
            f"step at {at} in series {name!r}"
        )
    filled = np.full([places[-1] + 1, values.shape[1]], np.nan)
    filled[places] = values
    steps = np.arange(len(filled)) * length
    grid = times[0] + (steps.astype(np.int64).astype("timedelta64[ns]") if is_date else steps)
    return _Series(name, filled, grid)


def _nanoseconds(step: Any) -> float:
    # Dates are in data frames alone, so pandas is there.
    import pandas as pd

    try:
        length = pd.Timedelta(step).value
    except (ValueError, TypeError) as error:
        raise ValueError(f"`step` must be a Timedelta where times are dates. Received: step={step!r}") from error
    return checks.positive_number("step", length)


def _cuts(series: Sequence[_Series], fraction: float, has_times: bool) -> list[int]:
    """How many steps of each series are before the split: with times, all series are split at the same one."""
    if not has_times:
        return [math.ceil((1 - fraction) * len(each.values)) for each in series]
    times = np.sort(np.concatenate([each.times for each in series]))
    first = times[min(math.ceil((1 - fraction) * len(times)), len(times) - 1)]
    return [int(np.searchsorted(each.times, first)) for each in series]


def _moments(values: np.ndarray, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each channel, of the values that are not missing."""
    is_empty = np.isnan(values).all(axis=0) if len(values) else np.ones(len(channels), bool)
    if is_empty.any():
        empty = [name for name, flag in zip(channels, is_empty, strict=True) if flag]
        raise ValueError(
            "`series` must have a value of each channel before the split. Received: none of "
            f"{checks.shown_names(empty)}"
        )
    varies = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)
    scale = np.where(varies, np.nanstd(values, axis=0), 1.0)
    return np.nanmean(values, axis=0).astype(np.float32), scale.astype(np.float32)


def _cut(series: Sequence[_Series], length: int, stride: int) -> tuple[np.ndarray, list[tuple[Any, Any]]]:
    """The windows [N, T, C] of all series that hold any value, and the name and the first time of each."""
    found, starts = [], []
    for each in series:
        for start in range(0, len(each.values) - length + 1, stride):
            window = each.values[start : start + length]
            if not np.isnan(window).all():
                found.append(window)
                starts.append((each.name, each.times[start]))
    return np.array(found).reshape([len(found), length, series[0].values.shape[1]]), starts
