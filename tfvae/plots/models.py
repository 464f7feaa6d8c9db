"""Plots of a model: reconstructions, samples, the latent space and the training history."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfvae import checks, renamed
from tfvae.plots.figures import BLUE, ORANGE, check_positive, finite, new_figure, plain

_METRICS = {"elbo": "ELBO", "reconstruction_log_likelihood": "Reconstruction\nlog-likelihood", "kl": "KL divergence"}


def reconstructions(x: np.ndarray, reconstruction: np.ndarray, max_examples: int = 16) -> Figure:
    """Draws examples beside their reconstructions.

    Args:
        x: examples `[B, ...event]`. Images `(height, width, 1 or 3)` are drawn in pairs, others as two lines over the
            flattened dimensions.
        reconstruction: their reconstructions, of the same shape.
        max_examples: how many examples to draw at most, from the first on.

    Returns:
        The figure.

    Raises:
        ValueError: the shapes differ, there is no example, or a value drawn is not finite.
    """
    check_positive("max_examples", max_examples)
    if np.shape(x) != np.shape(reconstruction):
        shapes = f"x.shape={np.shape(x)}, reconstruction.shape={np.shape(reconstruction)}"
        raise ValueError(f"`reconstruction` must have the shape of `x`. Received: {shapes}")
    x = _examples("x", x, slice(max_examples))
    reconstruction = _examples("reconstruction", reconstruction, slice(max_examples))
    if _is_image(x.shape[1:]):
        return _image_grid("Originals above, reconstructions below", np.stack([x, reconstruction]), columns=8)
    return _line_grid("Reconstructions", {"original": x, "reconstruction": reconstruction}, columns=4)


def samples(x: np.ndarray, columns: int = 8) -> Figure:
    """Draws generated examples.

    Args:
        x: generated examples `[B, ...event]`, all of which are drawn: as images or lines, as by `reconstructions`.
        columns: how many examples to draw side by side.

    Returns:
        The figure.

    Raises:
        ValueError: there is no example or a value is not finite.
    """
    check_positive("columns", columns)
    x = _examples("x", x)
    if _is_image(x.shape[1:]):
        return _image_grid("Samples", x[np.newaxis], columns)
    return _line_grid("Samples", {"sample": x}, columns)


def latent(loc: np.ndarray, x: np.ndarray | None = None, max_points: int = 2000) -> Figure:
    """Draws the posterior mean of each example: a map of the data in the latent space.

    Args:
        loc: posterior means `[B, L]`, drawn as a histogram (L = 1), as points (L = 2), or as points by their first two
            principal components.
        x: the examples `[B, ...event]` that the means belong to. If they are images `(height, width, 1 or 3)`, as many
            as there is room for are drawn at their points; others are ignored.
        max_points: how many points to draw at most, evenly spaced among the B. The principal components are those of
            all B.

    Returns:
        The figure.

    Raises:
        ValueError: `loc` is not `[B, L]`, `x` has a different B, there is no example, or a value drawn is not finite.
    """
    check_positive("max_points", max_points)
    loc = _examples("loc", loc)
    if loc.ndim != 2:
        raise ValueError(f"`loc` must have the shape [B, L]. Received: loc.shape={loc.shape}")
    if x is not None and np.shape(x)[:1] != (len(loc),):
        shapes = f"x.shape={np.shape(x)}, loc.shape={loc.shape}"
        raise ValueError(f"`x` must hold one example per row of `loc`. Received: {shapes}")
    figure = new_figure("Posterior means", 7, 4 if loc.shape[1] == 1 else 7.3)
    axes = figure.add_subplot()
    plain(axes)
    if loc.shape[1] == 1:
        axes.hist(loc[:, 0], bins=40, color=BLUE, edgecolor="white", linewidth=0.5)
        axes.set(xlabel="latent dimension 1", ylabel="examples")
        return figure
    name, points = ("latent dimension", loc) if loc.shape[1] == 2 else ("principal component", _principal(loc))
    shares = points.var(axis=0) / max(loc.var(axis=0).sum(), np.finfo(float).tiny)
    labels = [f"{name} {number} ({share:.0%} of the variance)" for number, share in enumerate(shares, start=1)]
    shown = np.unique(np.linspace(0, len(loc) - 1, min(max_points, len(loc))).astype(int))
    points = points[shown]
    axes.scatter(points[:, 0], points[:, 1], s=10, color=BLUE, alpha=0.4, linewidths=0)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = 0.55 * np.ptp(points, axis=0).max() or 1.0
    if x is not None and _is_image(np.shape(x)[1:]):
        _thumbnails(axes, points, _examples("x", x, shown), size=0.1 * radius)
    # One scale for both axes, so that distances on the page are distances in the latent space.
    xlim, ylim = np.transpose([centre - radius, centre + radius])
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=xlim, ylim=ylim, aspect="equal")
    return figure


def history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the bound and its terms over the epochs, of training and validation together.

    Args:
        history: what Keras's `fit(...).history` holds. Of "elbo", "reconstruction_log_likelihood", "kl" and the same
            names after "val_", those present are drawn; NaN leaves a gap. Fewer values of validation than of training
            are taken to be those of every n-th epoch.

    Returns:
        The figure, with one panel per metric.

    Raises:
        ValueError: none of the metrics is present.
    """
    history = {renamed.metric(name): values for name, values in history.items()}
    present = [metric for metric in _METRICS if metric in history or f"val_{metric}" in history]
    if not present:
        raise ValueError(f"`history` must have at least one of {list(_METRICS)}. Received: {list(history)}")
    figure = new_figure("Training history", 4 * len(present), 3.6)
    for index, metric in enumerate(present):
        axes = figure.add_subplot(1, len(present), index + 1)
        epochs = len(history[metric if metric in history else f"val_{metric}"])
        for key, label, color in [(metric, "training", BLUE), (f"val_{metric}", "validation", ORANGE)]:
            if key in history:
                values = history[key]
                every = max(epochs // len(values), 1)
                axes.plot(every * np.arange(1, len(values) + 1), values, ".-", color=color, label=label, linewidth=1.5)
        axes.set(xlabel="epoch", ylabel=f"{_METRICS[metric]} (nats per example)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        plain(axes)
        if index == 0:
            axes.legend(fontsize="small", frameon=False)
    return figure


def _image_grid(title: str, series: np.ndarray, columns: int) -> Figure:
    """A grid of images `[rows, B, height, width, channels]`, the images of an example one below the other."""
    rows, count, height, width = series.shape[:4]
    columns = min(columns, count)
    bands = math.ceil(count / columns)
    # Placed by hand, in inches: a layout engine stretches a last band that is not full.
    cell, gap, top, page_width = height / width, 0.06, 0.45, max(columns * 1.06 + 0.06, 4.0)
    band = rows * (cell + gap) + gap
    page = np.array([page_width, top + bands * band])
    figure = Figure((page[0], page[1]), dpi=120)
    figure.suptitle(title, y=1 - top / 2 / page[1], va="center")
    first = [(page_width - columns * (1 + gap) + gap) / 2, page[1] - top - cell]
    for row, images in enumerate(_displayable(series)):
        for index, image in enumerate(images):
            corner = first + np.array([index % columns * (1 + gap), -(index // columns) * band - row * (cell + gap)])
            axes = figure.add_axes((*corner / page, *(1, cell) / page))
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_axis_off()
    return figure


def _line_grid(title: str, series: Mapping[str, np.ndarray], columns: int) -> Figure:
    """A panel per example; in each panel one line per series."""
    count = len(next(iter(series.values())))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(title, np.clip(2.5 * columns, 6, 10), 1.6 * rows + 0.8)
    figure.supxlabel("dimension", fontsize="medium")
    figure.supylabel("value", fontsize="medium")
    first = None
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1, sharex=first, sharey=first)
        first = first or axes
        for (label, values), color in zip(series.items(), [BLUE, ORANGE], strict=False):
            axes.plot(values[index].ravel(), ".-", color=color, label=label, linewidth=1.2, markersize=4)
        plain(axes)
        axes.tick_params(labelbottom=index + columns >= count, labelleft=index % columns == 0)
    if len(series) > 1:
        figure.legend(handles=figure.axes[0].lines, loc="outside lower right", ncols=2, fontsize="small", frameon=False)
    return figure


def _thumbnails(axes: Axes, points: np.ndarray, images: np.ndarray, size: float) -> None:
    """Draw each image at its point, unless an earlier one is in the way."""
    height, width = images.shape[1:3]
    half_width, half_height = size / 2 * np.array([width, height]) / max(height, width)
    placed = np.empty((0, 2))
    for (right, up), image in zip(points, _displayable(images), strict=True):
        if np.all(np.abs(placed - (right, up)).max(axis=1) >= 1.1 * size):
            placed = np.vstack([placed, (right, up)])
            extent = (right - half_width, right + half_width, up - half_height, up + half_height)
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, extent=extent, zorder=2)


def _principal(loc: np.ndarray) -> np.ndarray:
    centred = loc - loc.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred).eigenvectors[:, :-3:-1]
    # The sign of an eigenvector is arbitrary: it is fixed, so that plots of successive epochs do not flip.
    return centred @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]]))


def _displayable(images: np.ndarray) -> np.ndarray:
    """Images `[..., height, width, 1 or 3]` on one scale from 0 to 1, as `imshow` takes them."""
    clipped = np.clip(images, 0.0, 1.0)
    # A linear decoder overshoots 0 and 1 in a few pixels: stretching the scale to them would turn the rest grey.
    if np.abs(images - clipped).sum() > 0.1 * np.abs(images).sum():
        clipped = (images - images.min()) / max(np.ptp(images), np.finfo(float).tiny)
    return clipped[..., 0] if images.shape[-1] == 1 else clipped


def _is_image(event_shape: tuple[int, ...]) -> bool:
    return len(event_shape) == 3 and event_shape[-1] in (1, 3)


def _examples(argument: str, value: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
    if checks.is_frame(value):
        raise ValueError(
            f"`{argument}` must be an array, in which the order of the dimensions means something. Of the rows of a "
            "table, tfvae.plots.marginals draws the columns. Received: a data frame"
        )
    if np.ndim(value) < 2:
        raise ValueError(f"`{argument}` must have the shape [B, ...]. Received: shape={np.shape(value)}")
    return finite(argument, np.asarray(value)[rows])
