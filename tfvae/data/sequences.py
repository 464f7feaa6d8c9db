"""Windows of time series, and sequences of unequal length, as arrays [N, T, C] in which NaN marks what is not there."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks
from tfvae.data import timelines
from tfvae.data.series import Series


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
        series: all that new series need to become such windows, a `tfvae.data.Series`, for `tfvae.VAE(series=...)`.
    """

    train: np.ndarray
    validation: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    channels: tuple[str, ...]
    train_starts: list[tuple[Any, Any]]
    validation_starts: list[tuple[Any, Any]]
    series: Series


def windows(
    series: Any,
    length: int | None,
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
            columns are the channels, or `pandas.Series`, each the channel of its name; or a `tf.RaggedTensor` of
            several.
        length: T, the number of steps of a window. None means that each series is one example, a sequence that is
            padded with NaN to the longest of the training, and that whole series are held out.
        stride: the number of steps from the start of a window to that of the next; None means half a window for the
            training, rounded up, and no overlap for the validation.
        time: the column of a data frame, or the name of its index, with the time of each row, a number or a date; the
            rows may be in any order. None takes the index if it is one of dates, and otherwise the order of the rows.
            Dates with a time zone, and texts of dates with an offset, become dates of UTC.
        by: the column of a data frame that says which series a row belongs to.
        step: the time from one step to the next, a number, a `Timedelta` or a text such as "10min" or "1 month"; None
            means the median. A row belongs to the nearest step.
        validation_fraction: the share of the steps that is held out: those of the latest times, or, without times, the
            last ones of each series. With `length=None` it is a share of the series: those that begin last, or, without
            times, the last ones.

    Raises:
        ValueError: an argument is out of its range, a column is not of its kind, two rows are of one step, or there are
            too few steps.
    """
    if length is not None:
        length = checks.positive_integer("length", length, 2)
    elif stride is not None:
        raise ValueError(f"`stride` must be None where `length` is None. Received: stride={checks.shown(stride)}")
    strides = (stride, stride) if stride is None else (checks.positive_integer("stride", stride),) * 2
    fraction = checks.number("validation_fraction", validation_fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"`validation_fraction` must be between 0 and 1. Received: validation_fraction={fraction:g}")
    read = timelines.read(series, time=time, by=by, step=step)
    parts = read.split(fraction, is_whole=length is None)
    learned = Series.of(parts[0], read.longest if length is None else length, length is None, time, by)
    for part, name in zip(parts, ("before", "after"), strict=True):
        learned.check_length(part, name)
    train, validation = (
        learned.cut(part, stride or default, to_the_end=False)
        for part, stride, default in zip(parts, strides, (-(-learned.length // 2), learned.length), strict=True)
    )
    for cut, name in ((train, "before"), (validation, "after")):
        if not len(cut.x):
            raise ValueError(f"`series` must have a value in a window {name} the split. Received: none")
    return Windows(
        train.x,
        validation.x,
        learned.offset,
        learned.scale,
        learned.channels,
        train.starts,
        validation.starts,
        learned,
    )


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
    is_one = isinstance(sequences, str | Mapping) or checks.is_frame(sequences)
    is_list = isinstance(sequences, Iterable) or hasattr(sequences, "to_list")
    if is_one or not is_list or (isinstance(sequences, np.ndarray) and not sequences.ndim):
        raise ValueError(f"`sequences` must be a list of arrays [T] or [T, C]. Received: {checks.shown(sequences)}")
    rows = sequences.to_list() if hasattr(sequences, "to_list") else list(sequences)
    if not rows:
        raise ValueError("`sequences` must hold at least one sequence. Received: none")
    arrays: list[np.ndarray] = []
    for index, row in enumerate(rows):
        array = np.empty(0) if hasattr(row, "__len__") and not len(row) else checks.to_numpy(row, "sequences")
        shape = list(array.shape)
        array = array[:, np.newaxis] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size or array.shape[1:] != (arrays[0] if arrays else array).shape[1:]:
            expected = f"[T, {arrays[0].shape[1]}]" if arrays else "[T] or [T, C]"
            raise ValueError(
                f"`sequences` must hold arrays {expected} with at least one step. Received: shape "
                f"{shape} at index {index}"
            )
        arrays.append(array)
    longest = max(map(len, arrays))
    length = longest if length is None else checks.positive_integer("length", length)
    if longest > length:
        raise ValueError(f"`length` must be at least that of the longest sequence, {longest}. Received: {length}")
    padded = np.full([len(arrays), length, arrays[0].shape[1]], np.nan, np.float32)
    # What does not fit in float32 becomes infinite.
    with np.errstate(over="ignore"):
        for place, array in zip(padded, arrays, strict=True):
            place[: len(array)] = array
    expected = "hold finite numbers that fit in float32, or NaN, which marks a missing value"
    checks.check_elements(padded, np.isinf, expected, "sequences")
    return padded
