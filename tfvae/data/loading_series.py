"""Loads time series into the batches of a model of their windows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tfvae.data import loading, series_files
from tfvae.data.series import Cut, Series
from tfvae.data.timelines import Timelines

# Training windows overlap so much that a step is in so many of them: at each place of a window something is learned.
_OVERLAP = 8


class LoadedSeries(NamedTuple):
    """Series, split and as batches of windows.

    Attributes:
        series: what their channels and steps are.
        pipelines: the batches of windows x, in the model's units.
        held_out: the windows of the validation batches, and their steps.
        after: all that is after the split.
    """

    series: Series
    pipelines: loading.Pipelines
    held_out: Cut
    after: Timelines


def load_series(
    source: Any,
    length: int | None = None,
    series: Series | None = None,
    *,
    time: str | None = None,
    by: str | None = None,
    step: Any = None,
    stride: int | None = None,
    drop: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    batch_size: int = 128,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> LoadedSeries:
    """Reads series, splits them by time, and learns from the part before what their channels are.

    Channels that are constant before the split are left out.

    Args:
        source: the path of a .csv or .parquet table, or of a .npy or .npz file, of which each array is a series; or
            series as for `tfvae.data.windows`.
        length: see `tfvae.data.windows`.
        series: what the channels and steps are, if that is known; then the next three arguments are not read.
        time: see `tfvae.data.windows`.
        by: see `tfvae.data.windows`.
        step: see `tfvae.data.windows`.
        stride: the number of steps from the start of a window of the training to that of the next; None means an
            eighth of a window, rounded up. Windows of the validation do not overlap.
        drop: columns to leave out.
        columns: the columns that are channels; None means all others.
        batch_size: the number of windows in a batch.
        validation_fraction: see `tfvae.data.windows`.
        seed: of the order of the batches.

    Raises:
        ValueError: see `tfvae.data.windows`; or the file is of another kind.

    Warns:
        UserWarning: a channel is left out, or seems to hold codes.
    """
    series, before, after = series_files.split(
        source,
        length,
        series,
        time=time,
        by=by,
        step=step,
        drop=drop,
        columns=columns,
        validation_fraction=validation_fraction,
    )
    train = series.cut(before, -(-series.length // _OVERLAP) if stride is None else stride, to_the_end=False)
    held_out = series.cut(after, series.length, to_the_end=False)
    batches = loading.batches_in_memory(train.x, held_out.x, batch_size=batch_size, seed=seed)
    return LoadedSeries(series, loading.Pipelines(*batches, series.offset, series.scale), held_out, after)
