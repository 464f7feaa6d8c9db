"""Plots of examples, as images or as lines: reconstructions, samples, and walks through the latent space."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, check_positive, finite, new_figure, plain, whole

# In inches, between images and around them.
_GAP = 0.06


def reconstructions(
    x: np.ndarray,
    reconstruction: np.ndarray,
    max_examples: int = 16,
    *,
    names: tuple[str, str] = ("original", "reconstruction"),
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draws examples beside their reconstructions.

    Args:
        x: examples `[B, ...event]`. Images `(height, width, 1 or 3)` are drawn in pairs, others as two lines over the
            flattened dimensions.
        reconstruction: their reconstructions, of the same shape.
        max_examples: how many examples to draw at most, from the first on.
        names: what the two are.
        limits: see `samples`.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: the shapes differ, there is no example, or a value drawn is not finite.
    """
    check_positive("max_examples", max_examples)
    if len(names) != 2:
        raise ValueError(f"`names` must be two texts. Received: names={checks.shown(names)}")
    if np.shape(x) != np.shape(reconstruction):
        shapes = f"x.shape={np.shape(x)}, reconstruction.shape={np.shape(reconstruction)}"
        raise ValueError(f"`reconstruction` must have the shape of `x`. Received: {shapes}")
    x = examples("x", x, slice(max_examples))
    reconstruction = examples("reconstruction", reconstruction, slice(max_examples))
    if is_image(x.shape[1:]):
        both = displayable(np.stack([x, reconstruction]), limits)
        return _image_grid(f"{names[0].capitalize()}s above, {names[1]}s below", both, 8, ax)
    return _line_grid(f"{names[1].capitalize()}s", dict(zip(names, (x, reconstruction), strict=True)), 4, ax)


def samples(
    x: np.ndarray, columns: int = 8, *, limits: tuple[float, float] | None = None, ax: Axes | None = None
) -> Figure:
    """Draws generated examples.

    Args:
        x: generated examples `[B, ...event]`, all of which are drawn: as images or lines, as by `reconstructions`.
        columns: how many examples to draw side by side.
        limits: the values that are black and white in images, such as the least and the greatest of the data; None
            means 0 and 1 if nearly all values lie between them, and otherwise the least and the greatest value drawn.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: there is no example or a value is not finite.
    """
    check_positive("columns", columns)
    x = examples("x", x)
    if is_image(x.shape[1:]):
        return _image_grid("Samples", displayable(x[np.newaxis], limits), columns, ax)
    return _line_grid("Samples", {"sample": x}, columns, ax)


def traversals(
    x: np.ndarray,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draws what changes along each of some latent dimensions: see `tfvae.evaluation.traversals`.

    Args:
        x: what is decoded `[D, V, ...event]`, V points along each of D dimensions.
        labels: a text for each dimension.
        values: the coordinate of each point, in standard deviations.
        limits: see `samples`.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one row of images for each dimension, or one panel with V lines.

    Raises:
        ValueError: the shapes do not fit together, or a value is not finite.
    """
    x = _walks("x", x)
    if len(labels) != len(x) or len(values) != x.shape[1]:
        raise ValueError(
            "`labels` must have a text for each of the D rows of `x`, and `values` a number for each of the V columns. "
            f"Received: {len(labels)} labels and {len(values)} values for x of shape {list(x.shape)}"
        )
    title = "Along each latent dimension"
    if is_image(x.shape[2:]):
        names = [f"{value:+.3g}" if value else "0" for value in values]
        return _image_grid(title, displayable(x, limits), x.shape[1], ax, labels, names)
    return _line_fans(title, x, labels, values, "standard deviations", ax)


def interpolations(x: np.ndarray, *, limits: tuple[float, float] | None = None, ax: Axes | None = None) -> Figure:
    """Draws the ways between pairs of examples through the latent space: see `tfvae.evaluation.interpolations`.

    Args:
        x: what is decoded `[R, V, ...event]`, V points on each of R ways.
        limits: see `samples`.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one row of images for each way, or one panel with V lines.

    Raises:
        ValueError: the shape is another, or a value is not finite.
    """
    x = _walks("x", x)
    title = "Between two examples"
    if is_image(x.shape[2:]):
        return _image_grid(title, displayable(x, limits), x.shape[1], ax)
    labels = [f"way {number}" for number in range(1, len(x) + 1)]
    return _line_fans(title, x, labels, np.linspace(0.0, 1.0, x.shape[1]), "share of the way", ax)


def displayable(images: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Images `[..., height, width, 1 or 3]` on one scale from 0 to 1, as `imshow` takes them.

    Args:
        images: the images.
        limits: see `samples`.

    Raises:
        ValueError: the limits are not two finite numbers in ascending order.
    """
    if limits is None:
        clipped = np.clip(images, 0.0, 1.0)
        # A linear decoder overshoots 0 and 1 in a few pixels: stretching the scale to them would turn the rest grey.
        is_unit = np.abs(images - clipped).sum() <= 0.1 * np.abs(images).sum()
        limits = (0.0, 1.0) if is_unit else (images.min(), max(images.max(), images.min() + 1e-9))
    elif np.shape(limits) != (2,) or not (
        np.asarray(limits).dtype.kind in "iuf" and -math.inf < limits[0] < limits[1] < math.inf
    ):
        raise ValueError(f"`limits` must be two numbers, the lower one first. Received: limits={checks.shown(limits)}")
    scaled = np.clip((images - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
    return scaled[..., 0] if images.shape[-1] == 1 else scaled


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether examples of a shape are drawn as images."""
    return len(event_shape) == 3 and event_shape[-1] in (1, 3)


def examples(argument: str, value: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
    """Some of the examples `[B, ...]`, as floats.

    Raises:
        ValueError: they are rows of a table or a single value, or not finite.
    """
    if checks.is_frame(value):
        raise ValueError(
            f"`{argument}` must be an array, in which the order of the dimensions means something. Of the rows of a "
            "table, tfvae.plots.marginals draws the columns. Received: a data frame"
        )
    if np.ndim(value) < 2:
        raise ValueError(f"`{argument}` must have the shape [B, ...]. Received: shape={np.shape(value)}")
    return finite(argument, np.asarray(value)[rows])


def _walks(argument: str, value: np.ndarray) -> np.ndarray:
    x = examples(argument, value)
    if x.ndim < 3:
        raise ValueError(
            f"`{argument}` must have the shape [D, V, ...], with V points for each of D rows. Received: "
            f"shape={np.shape(value)}"
        )
    return x


def _image_grid(
    title: str,
    images: np.ndarray,
    columns: int,
    ax: Axes | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Figure:
    """A grid of images `[rows, B, height, width, ...]` from 0 to 1, those of an example one below the other."""
    rows, count, height, width = images.shape[:4]
    columns = min(columns, count)
    bands = math.ceil(count / columns)
    # Placed by hand, in inches: a layout engine stretches a last band that is not full.
    cell, top, left = height / width, 0.45 + 0.2 * bool(column_labels), 1.2 * bool(row_labels)
    band = rows * (cell + _GAP) + _GAP
    size = np.array([max(left + columns * (1 + _GAP) + _GAP, 4.0), top + bands * band])
    figure = new_figure(title, size[0], size[1], ax)
    whole(figure).set_layout_engine("none" if ax is None else whole(figure).get_layout_engine())
    room = np.array([figure.bbox.width, figure.bbox.height]) / whole(figure).dpi
    scale = min(room / size)
    figure.suptitle(title, y=1 - 0.225 * scale / room[1], va="center")

    def place(right: float, down: float) -> np.ndarray:
        """The place of a point, given from the upper left corner of the grid in inches, as a share of the figure."""
        unused = size - [left + columns * (1 + _GAP) + _GAP, top + bands * band]
        corner = (room - scale * size) / 2 + scale * (unused / 2 + [left + _GAP + right, bands * band - down])
        return corner / room

    for row, of_row in enumerate(images):
        for index, image in enumerate(of_row):
            down = index // columns * band + row * (cell + _GAP) + cell
            axes = figure.add_axes((*place(index % columns * (1 + _GAP), down), *(scale * np.array([1, cell]) / room)))
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_axis_off()
            if row < len(row_labels) and index == 0:
                axes.text(-0.08, 0.5, row_labels[row], transform=axes.transAxes, size="small", ha="right", va="center")
            if row == 0 and index < len(column_labels):
                axes.text(0.5, 1.05, column_labels[index], transform=axes.transAxes, size="small", ha="center")
    return whole(figure)


def _line_grid(title: str, series: Mapping[str, np.ndarray], columns: int, ax: Axes | None) -> Figure:
    """A panel per example; in each panel one line per series."""
    count = len(next(iter(series.values())))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(title, np.clip(2.5 * columns, 6, 10), 1.6 * rows + 0.8, ax)
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
        handles = figure.axes[0].lines
        figure.legend(handles=handles, loc="outside lower right", ncols=2, fontsize="small", frameon=False)
    return whole(figure)


def _line_fans(
    title: str, x: np.ndarray, labels: Sequence[str], values: Sequence[float] | np.ndarray, unit: str, ax: Axes | None
) -> Figure:
    """A panel for each row of x `[D, V, ...]`; in each panel V lines, from dark to light."""
    columns = min(3, len(x))
    rows = math.ceil(len(x) / columns)
    figure = new_figure(title, np.clip(3.2 * columns, 6, 10), 1.9 * rows + 0.8, ax)
    figure.supxlabel("dimension", fontsize="medium")
    figure.supylabel("value", fontsize="medium")
    colors = colormaps["cividis"](np.linspace(0.0, 0.95, len(values)))
    first = None
    for index, (of_row, label) in enumerate(zip(x, labels, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1, sharex=first, sharey=first)
        first = first or axes
        for line, value, color in zip(of_row, values, colors, strict=True):
            axes.plot(line.ravel(), ".-", color=color, label=f"{value:+.2g}", linewidth=1.0, markersize=3)
        plain(axes)
        axes.set_title(label, size="small", loc="left")
    figure.legend(handles=figure.axes[0].lines, title=unit, loc="outside right upper", fontsize="small", frameon=False)
    return whole(figure)
