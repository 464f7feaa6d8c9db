"""Plots of windows of time series: their channels, what a model makes of them, and walks through the latent space."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, check_positive, finite, new_figure, plain, whole


def series(
    x: np.ndarray,
    mean: np.ndarray | None = None,
    interval: Sequence[np.ndarray] | None = None,
    *,
    channels: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    marked: np.ndarray | None = None,
    names: tuple[str, str] = ("data", "reconstruction"),
    max_examples: int = 4,
    max_channels: int = 8,
    ax: Axes | None = None,
) -> Figure:
    """Draws windows of time series, a column for each window and a row for each channel.

    Args:
        x: windows `[N, T, C]`, with NaN for what is missing, which leaves a gap.
        mean: what a model makes of them `[N, T, C]`, drawn as a second line; or None.
        interval: the lower and the upper end of an interval, each `[N, T, C]`, drawn as a band; or None.
        channels: the names of the channels.
        titles: a text for each window.
        marked: the steps of each channel that are shaded, bool `[N, T, C]`, such as those that add most to a score.
        names: what x and the mean are.
        max_examples: how many windows to draw at most, from the first on.
        max_channels: how many channels to draw at most, from the first on.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: the shapes do not fit together, or a value is infinite or no number.
    """
    check_positive("max_examples", max_examples)
    check_positive("max_channels", max_channels)
    x = _windows("x", x)
    if interval is not None and len(interval) != 2:
        raise ValueError(f"`interval` must be two arrays, the lower ends and the upper. Received: {len(interval)}")
    low, high = (None, None) if interval is None else interval
    lines = {
        name: _windows(name, each, x.shape) for name, each in (("mean", mean), ("interval", low)) if each is not None
    }
    upper = None if high is None else _windows("interval", high, x.shape)
    if marked is not None and np.shape(marked) != x.shape:
        raise ValueError(f"`marked` must have the shape of x, {list(x.shape)}. Received: {list(np.shape(marked))}")
    channels = _channels(channels, x.shape[-1])
    if titles is not None and len(titles) != len(x):
        raise ValueError(f"`titles` must be a text for each of the {len(x)} windows. Received: {len(titles)}")
    columns, rows = min(len(x), max_examples), min(x.shape[-1], max_channels)
    title = f"{names[1].capitalize()}s of windows" if mean is not None else "Windows"
    if rows < x.shape[-1]:
        title += f" ({rows} of {x.shape[-1]} channels)"
    figure = new_figure(title, max(2.6 * columns, 5.0), 1.5 * rows + 1.0, ax)
    figure.supxlabel("step", fontsize="medium")
    steps = np.arange(x.shape[1])
    grid: Any = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for row in range(rows):
        for column in range(columns):
            axes, place = grid[row, column], (column, slice(None), row)
            plain(axes)
            if upper is not None:
                axes.fill_between(steps, lines["interval"][place], upper[place], color=ORANGE, alpha=0.25, linewidth=0)
            # A value between two gaps is no line.
            marker = "." if np.isnan(x[place]).any() else None
            axes.plot(steps, x[place], color=BLUE, linewidth=1, marker=marker, markersize=2, label=names[0])
            if "mean" in lines:
                axes.plot(steps, lines["mean"][place], color=ORANGE, linewidth=1, label=names[1])
            if marked is not None:
                for step in np.flatnonzero(np.asarray(marked)[place]):
                    axes.axvspan(step - 0.5, step + 0.5, color="black", alpha=0.15, linewidth=0)
            if column == 0:
                axes.set_ylabel(_plain(channels[row]), size="small")
            if row == 0 and titles is not None:
                axes.set_title(_plain(titles[column]), size="small")
    if "mean" in lines:
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower right", ncols=2, fontsize="small", frameon=False)
    return whole(figure)


def series_traversals(
    x: np.ndarray,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    channels: Sequence[str] | None = None,
    max_channels: int = 6,
    ax: Axes | None = None,
) -> Figure:
    """Draws how windows of time series change along each of some latent dimensions: see `tfvae.evaluation.traversals`.

    Args:
        x: what is decoded `[D, V, T, C]`, V points along each of D dimensions.
        labels: a text for each dimension.
        values: the coordinate of each point, in standard deviations.
        channels: the names of the channels.
        max_channels: how many channels to draw at most, from the first on.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with a row for each dimension, a column for each channel, and V lines in each panel.

    Raises:
        ValueError: the shapes do not fit together, or a value is not finite.
    """
    check_positive("max_channels", max_channels)
    x = finite("x", x)
    if x.ndim != 4 or len(labels) != len(x) or len(values) != x.shape[1]:
        raise ValueError(
            "`x` must have the shape [D, V, T, C], `labels` have D texts and `values` V numbers. Received: x of shape "
            f"{list(x.shape)}, {len(labels)} labels and {len(values)} values"
        )
    channels = _channels(channels, x.shape[-1])
    columns = min(x.shape[-1], max_channels)
    figure = new_figure("Along each latent dimension", max(2.6 * columns, 5.0), 1.5 * len(x) + 1.0, ax)
    figure.supxlabel("step", fontsize="medium")
    scale = ScalarMappable(Normalize(min(values), max(values)), colormaps["cividis"])
    grid: Any = figure.subplots(len(x), columns, sharex=True, sharey="col", squeeze=False)
    for row, (of_row, label) in enumerate(zip(x, labels, strict=True)):
        for column in range(columns):
            axes = grid[row, column]
            plain(axes)
            for window, value in zip(of_row, values, strict=True):
                axes.plot(window[:, column], color=scale.to_rgba(np.array(value)), linewidth=1)
            if column == 0:
                axes.set_ylabel(_plain(label), size="small")
            if row == 0:
                axes.set_title(_plain(channels[column]), size="small")
    figure.colorbar(scale, ax=grid.ravel().tolist(), label="standard deviations", shrink=0.8)
    return whole(figure)


def _windows(argument: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Windows [N, T, C] as floats, in which NaN is missing."""
    if checks.is_frame(value):
        raise ValueError(f"`{argument}` must be an array [N, T, C] of windows. Received: a data frame")
    try:
        x = np.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"`{argument}` must hold numbers. Received: {checks.shown(value)}") from None
    if x.ndim != 3 or not x.size or (shape is not None and x.shape != shape):
        expected = "[N, T, C], with at least one window" if shape is None else f"of `x`, {list(shape)}"
        raise ValueError(f"`{argument}` must have the shape {expected}. Received: shape {list(x.shape)}")
    if np.isinf(x).any():
        raise ValueError(
            f"`{argument}` must be finite, or NaN. Received: {np.count_nonzero(np.isinf(x))} infinite values"
        )
    return x


def _channels(channels: Sequence[str] | None, count: int) -> list[str]:
    names = [f"channel {number}" for number in range(1, count + 1)] if channels is None else list(map(str, channels))
    if len(names) != count:
        raise ValueError(f"`channels` must be a name for each of the {count} channels. Received: {len(names)} names")
    return names


def _plain(words: str) -> str:
    """A text in which matplotlib finds no formula."""
    return words.replace("$", r"\$")
