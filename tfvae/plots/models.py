"""Plots of a model: the latent space and the training history."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tfvae import checks, renamed
from tfvae.plots.examples import displayable, examples, is_image
from tfvae.plots.figures import BLUE, COLORS, MARKERS, ORANGE, check_positive, finite, new_figure, plain, whole

_METRICS = {"elbo": "ELBO", "reconstruction_log_likelihood": "Reconstruction\nlog-likelihood", "kl": "KL divergence"}
# With more different values, numbers are no classes.
_MOST_NUMBERS = 20
# The share of points, on either side, that may lie beyond the frame of a map, if all are so many times as far apart as
# the others.
_FEW, _FAR = 0.02, 4.0


def latent(
    loc: np.ndarray,
    x: np.ndarray | None = None,
    max_points: int = 2000,
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draws the posterior mean of each example: a map of the data in the latent space.

    Args:
        loc: posterior means `[B, L]`, drawn as a histogram (L = 1), as points (L = 2), or as points by their first two
            principal components.
        x: the examples `[B, ...event]` that the means belong to. If they are images `(height, width, 1 or 3)`, as many
            as there is room for are drawn at their points; others are ignored.
        max_points: how many points to draw at most, evenly spaced among the B. The principal components are those of
            all B.
        labels: the class of each example [B], which gives it its colour and shape; or numbers, of more than 20
            different values, which become a scale of colours. None draws all alike.
        limits: see `samples`.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: `loc` is not `[B, L]`, `x` or `labels` have a different B, there are more than 49 classes, there is
            no example, or a value drawn is not finite.
    """
    check_positive("max_points", max_points)
    loc = examples("loc", loc)
    if loc.ndim != 2:
        raise ValueError(f"`loc` must have the shape [B, L]. Received: loc.shape={loc.shape}")
    for name, given in (("x", x), ("labels", labels)):
        if given is not None and np.shape(given)[:1] != (len(loc),):
            what = "example" if name == "x" else "label"
            shapes = f"{name}.shape={np.shape(given)}, loc.shape={loc.shape}"
            raise ValueError(f"`{name}` must hold one {what} per row of `loc`. Received: {shapes}")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and labels.ndim > 1:
        raise ValueError(f"`labels` must have the shape [B]. Received: labels.shape={labels.shape}")
    groups = _Groups(len(loc), labels)
    figure = new_figure("Posterior means", 7.0 if labels is None else 7.8, 4 if loc.shape[1] == 1 else 7.3, ax)
    axes = figure.add_subplot()
    plain(axes)
    if loc.shape[1] == 1:
        names, members, colors, _ = zip(*groups, strict=True)
        parts = [loc[rows, 0] for rows in members]
        axes.hist(parts, bins=40, color=colors, label=names, stacked=True, edgecolor="white", linewidth=0.5)
        axes.set(xlabel="latent dimension 1", ylabel="examples")
        groups.explain(figure, axes)
        return whole(figure)
    name, points = ("latent dimension", loc) if loc.shape[1] == 2 else ("principal component", _principal(loc))
    shares = points.var(axis=0) / max(loc.var(axis=0).sum(), np.finfo(float).tiny)
    texts = [f"{name} {number} ({share:.0%} of the variance)" for number, share in enumerate(shares, start=1)]
    is_shown = np.zeros(len(loc), bool)
    is_shown[np.linspace(0, len(loc) - 1, min(max_points, len(loc))).astype(int)] = True
    style: dict[str, Any] = {"s": 12, "alpha": 0.4 if labels is None else 0.7, "linewidths": 0}
    if groups.numbers is not None:
        right, up = points[is_shown].T
        drawn = axes.scatter(right, up, c=groups.numbers[is_shown], cmap="cividis", **style)
        figure.colorbar(drawn, ax=axes, shrink=0.6)
    else:
        for label, rows, color, marker in groups:
            axes.scatter(*points[rows & is_shown].T, color=color, marker=marker, label=label, **style)
    centre, radius = _frame(points[is_shown])
    if x is not None and is_image(np.shape(x)[1:]):
        images = displayable(examples("x", x, is_shown), limits)
        frames = None if labels is None else groups.colors[is_shown]
        _thumbnails(axes, points[is_shown], images, 0.1 * radius, frames)
    # One scale for both axes, so that distances on the page are distances in the latent space.
    xlim, ylim = np.transpose([centre - radius, centre + radius])
    axes.set(xlabel=texts[0], ylabel=texts[1], xlim=xlim, ylim=ylim, aspect="equal")
    outside = int(np.sum(np.abs(points[is_shown] - centre).max(axis=1) > radius))
    if outside:
        axes.set_title(f"{outside} of {np.sum(is_shown)} points lie beyond the frame", size="small")
    groups.explain(figure, axes)
    return whole(figure)


def _frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The centre [2] of a map and half its width: of all points [N, 2], unless a few of them lie far off."""
    low, high = points.min(axis=0), points.max(axis=0)
    inner = np.quantile(points, [_FEW, 1.0 - _FEW], axis=0)
    if np.max(high - low) > _FAR * np.max(inner[1] - inner[0]) > 0.0:
        return inner.mean(axis=0), float(1.25 * np.max(inner[1] - inner[0]))
    return (low + high) / 2, float(0.55 * np.max(high - low)) or 1.0


def history(history: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Figure:
    """Draws the bound and its terms over the epochs, of training and validation together.

    Args:
        history: what Keras's `fit(...).history` holds. Of "elbo", "reconstruction_log_likelihood", "kl" and the same
            names after "val_", those present are drawn; NaN leaves a gap. Fewer values of validation than of training
            are taken to be those of every n-th epoch.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel per metric.

    Raises:
        ValueError: none of the metrics is present, or one has no values.
    """
    if not isinstance(history, Mapping):
        raise ValueError(f"`history` must be what `fit(...).history` holds. Received: {checks.shown(history)}")
    history = {renamed.metric(name): values for name, values in history.items()}
    present = [metric for metric in _METRICS if metric in history or f"val_{metric}" in history]
    if not present:
        raise ValueError(f"`history` must have at least one of {list(_METRICS)}. Received: {list(history)}")
    for name in (name for metric in present for name in (metric, f"val_{metric}") if name in history):
        if np.ndim(history[name]) != 1 or not len(history[name]):
            raise ValueError(
                f"`history` must have a value for each epoch, of one epoch at least. Received: {name} = "
                f"{checks.shown(history[name])}"
            )
    figure = new_figure("Training history", 4 * len(present), 3.6, ax)
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
    return whole(figure)


class _Groups:
    """Examples by their labels: iterates over the name, the rows, the colour and the marker of each class.

    Attributes:
        numbers: the labels [B], if they are numbers of which each may have a colour of its own; or None.
        colors: the colour of each example [B, 4].
    """

    def __init__(self, count: int, labels: np.ndarray | None) -> None:
        self._count, self._labels = count, labels
        self.numbers = None
        self.colors = np.empty((0, 4))
        self._classes = np.empty(0)
        if labels is None:
            return
        try:
            self._classes = np.unique(labels)
        except TypeError:
            raise ValueError(
                "`labels` must be all texts or all numbers, so that they have an order. Received: "
                f"{checks.shown_names(sorted({type(label).__name__ for label in labels}))}"
            ) from None
        if labels.dtype.kind in "iuf" and len(self._classes) > _MOST_NUMBERS:
            self.numbers = finite("labels", labels)
            self.colors = colormaps["cividis"](Normalize()(self.numbers))
        elif len(self._classes) > len(COLORS) * len(MARKERS):
            raise ValueError(
                f"`labels` must be of at most {len(COLORS) * len(MARKERS)} classes, or numbers. Received: "
                f"{len(self._classes)} classes"
            )
        else:
            places = np.searchsorted(self._classes, labels)
            self.colors = np.array([to_rgba(COLORS[place % len(COLORS)]) for place in places])

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, str, str]]:
        if self._labels is None or self.numbers is not None:
            yield "", np.ones(self._count, bool), BLUE, MARKERS[0]
            return
        for place, each in enumerate(self._classes):
            # Colours and markers go on together, so that neighbours differ in both.
            marker = MARKERS[(place + place // len(COLORS)) % len(MARKERS)]
            yield str(each), self._labels == each, COLORS[place % len(COLORS)], marker

    def explain(self, figure: Figure | SubFigure, axes: Axes) -> None:
        """Draws the legend, if there are classes."""
        if self._labels is not None and self.numbers is None:
            handles, names = axes.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right upper", fontsize="small", frameon=False)


def _thumbnails(
    axes: Axes, points: np.ndarray, images: np.ndarray, size: float, frames: np.ndarray | None = None
) -> None:
    """Draws each image at its point, unless an earlier one is in the way, in a frame of its colour [B, 4]."""
    height, width = images.shape[1:3]
    half_width, half_height = size / 2 * np.array([width, height]) / max(height, width)
    placed = np.empty((0, 2))
    for index, ((right, up), image) in enumerate(zip(points, images, strict=True)):
        if np.all(np.abs(placed - (right, up)).max(axis=1) >= 1.1 * size):
            placed = np.vstack([placed, (right, up)])
            extent = (right - half_width, right + half_width, up - half_height, up + half_height)
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, extent=extent, zorder=2)
            if frames is not None:
                corner = (right - half_width, up - half_height)
                frame = Rectangle(corner, 2 * half_width, 2 * half_height, fill=False, ec=frames[index], lw=1, zorder=3)
                axes.add_patch(frame)


def _principal(loc: np.ndarray) -> np.ndarray:
    centred = loc - loc.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred).eigenvectors[:, :-3:-1]
    # The sign of an eigenvector is arbitrary: it is fixed, so that plots of successive epochs do not flip.
    return centred @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]]))
