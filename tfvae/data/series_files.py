"""Series from files: read, split by time, and learned from what is before the split."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfvae import checks
from tfvae.data import numpy_files, tables, timelines
from tfvae.data.series import Series
from tfvae.data.timelines import Timelines

SUFFIXES = (*tables.SUFFIXES, ".npy", ".npz")


class Split(NamedTuple):
    """Series in two parts.

    Attributes:
        series: what their channels and steps are.
        before: what is before the split.
        after: what is after it.
    """

    series: Series
    before: Timelines
    after: Timelines


def split(
    source: Any,
    length: int | None,
    series: Series | None = None,
    *,
    time: str | None = None,
    by: str | None = None,
    step: Any = None,
    drop: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    validation_fraction: float = 0.2,
) -> Split:
    """Reads series, splits them, and learns from the part before what they are: see `tfvae.data.load_series`.

    Channels that are constant before the split are left out, with a warning.
    """
    given = read(source)
    if series is not None:
        before, after = series.read(given).split(validation_fraction, is_whole=series.is_whole)
    else:
        found = timelines.read(given, time=time, by=by, step=step, channels=columns, drop=drop)
        is_whole = length is None
        before, after = found.split(validation_fraction, is_whole=is_whole)
        if unvaried := timelines.constant(before):
            if len(unvaried) == len(before.channels):
                raise ValueError(
                    "`series` must have a channel that varies before the split. Received: constant ones, "
                    f"{checks.shown_names(unvaried)}"
                )
            warnings.warn(
                f"Channels are left out, because they are constant before the split: {checks.shown_names(unvaried)}",
                stacklevel=2,
            )
            before, after = before.without(unvaried), after.without(unvaried)
        if codes := timelines.codes(before):
            warnings.warn(
                "Channels have few different whole numbers, which are taken for measurements; leave them out if they "
                f"are codes: {checks.shown_names(codes)}",
                stacklevel=2,
            )
        series = Series.of(before, found.longest if length is None else length, is_whole, time, by)
    series.check_length(before, "before")
    series.check_length(after, "after")
    return Split(series, before, after)


def read(source: Any) -> Any:
    """Reads a file of series: a data frame, an array, or several arrays by name. Returns anything else as it is.

    Raises:
        ValueError: the file is of another kind.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"`source` must be a file {', '.join(SUFFIXES)} of series. Received: source='{path}'")
    if tables.is_table(path):
        return tables.features(path)
    if path.suffix.lower() == ".npy":
        return numpy_files.read(path, "source")[0]
    names = numpy_files.names(path, "source")
    arrays = {name: numpy_files.read_named(path, name, "source") for name in names}
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
