"""What the plots share: how figures and axes look, and checks of what is drawn."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Of Okabe and Ito's palette: they can be told apart with every common form of colour blindness.
BLUE, ORANGE = "#0072B2", "#D55E00"


def new_figure(title: str, width: float, height: float) -> Figure:
    """A figure with a title, whose sizes are in inches."""
    figure = Figure((width, height), dpi=120, layout="constrained")
    figure.suptitle(title)
    return figure


def plain(axes: Axes) -> None:
    """Makes the labels of the ticks small, and removes the lines above and on the right."""
    axes.tick_params(labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def finite(argument: str, values: np.ndarray) -> np.ndarray:
    """Values as floats.

    Raises:
        ValueError: one is not finite, or there is none.
    """
    values = np.asarray(values, dtype=float)
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
