"""What the plots share: how figures and axes look, and checks of what is drawn."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tfvae import checks

# Okabe and Ito's palette: they can be told apart with every common form of colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE = COLORS[:2]
# One for each turn through the colours.
MARKERS = ("o", "^", "s", "X", "D", "v", "P")


def new_figure(title: str, width: float, height: float, ax: Axes | None = None) -> Figure | SubFigure:
    """A figure with a title, or a part of one.

    Args:
        title: the title.
        width: in inches, of a new figure.
        height: in inches, of a new figure.
        ax: the axes that give their place to what is drawn; None makes a figure. Their figure gets the constrained
            layout, unless it has another.

    Raises:
        ValueError: `ax` is not one of the axes of a grid.
    """
    figure: Figure | SubFigure
    if ax is None:
        figure = Figure((width, height), dpi=120, layout="constrained")
    else:
        place = ax.get_subplotspec() if isinstance(ax, Axes) else None
        if place is None:
            received = "axes of no grid" if isinstance(ax, Axes) else checks.shown(ax)
            raise ValueError(
                "`ax` must be matplotlib axes in a grid, such as `figure, ax = plt.subplots()` makes. Received: "
                f"ax={received}"
            )
        root = ax.get_figure(root=True)
        # Without it, titles and labels of the plot would overlap those beside it.
        if root is not None and root.get_layout_engine() is None:
            root.set_layout_engine("constrained")
        figure = ax.figure.add_subfigure(place)
        ax.remove()
    figure.suptitle(title)
    return figure


def whole(figure: Figure | SubFigure) -> Figure:
    """The figure that a part belongs to."""
    found = figure.get_figure(root=True)
    assert isinstance(found, Figure)
    return found


def plain(axes: Axes) -> None:
    """Makes the labels of the ticks small, and removes the lines above and on the right."""
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def finite(argument: str, values: np.ndarray) -> np.ndarray:
    """Values as floats.

    Raises:
        ValueError: one is no number or not finite, or there is none.
    """
    try:
        values = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"`{argument}` must hold numbers. Received: {checks.shown(values)}") from None
    bad = np.count_nonzero(~np.isfinite(values))
    if bad or values.size == 0:
        raise ValueError(
            f"`{argument}` must hold finite values, at least one. "
            f"Received: {values.size} values, {bad} of them NaN or infinite"
        )
    return values


def check_positive(argument: str, value: int) -> None:
    """Raises ValueError unless a value is at least 1."""
    if value < 1:
        raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
