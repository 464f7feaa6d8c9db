"""Named values as bars."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae.plots.figures import BLUE, finite, new_figure, plain, whole

# With more bars, their names would not be legible.
_MOST_NAMES = 40


def bars(title: str, names: Sequence[str], values: np.ndarray, unit: str, ax: Axes | None = None) -> Figure:
    """Draws values as vertical bars, in the order given.

    Args:
        title: the title.
        names: a text for each value.
        values: the values [N].
        unit: that of the values.
        ax: the axes of a grid that give their place to the plot; None makes a figure.
    """
    values = finite("values", values)
    figure = new_figure(title, 7, 2.8, ax)
    axes = figure.add_subplot()
    places = np.arange(len(values))
    axes.bar(places, values, color=BLUE, width=0.8)
    if len(values) <= _MOST_NAMES:
        axes.set_xticks(places, names, rotation=90 if len(values) > 10 else 0)
    axes.set_ylabel(unit)
    plain(axes)
    return whole(figure)
