"""Plots of how well amortised inference recovers latent variables that are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, check_positive, new_figure, plain, whole

# With more points than this the bars of single ones could not be told apart.
_MOST_BARS = 300


def recovery(found: Any, max_latents: int = 12, *, ax: Axes | None = None) -> Figure:
    """Draws the posterior mean of each latent variable over the known value, with bars of one standard deviation.

    Points on the diagonal are recovered exactly; points at one height say that the data tell nothing.

    Args:
        found: what `tfvae.evaluation.recovery` returned.
        max_latents: how many latent variables to draw at most, those of the lowest correlation first.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel for each latent variable.

    Raises:
        ValueError: an argument is not valid.
    """
    table = _summary(found, max_latents)

    def draw(axes: Axes, name: str) -> None:
        truth, mean, sd = found.truth[name], found.mean[name], found.sd[name]
        ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
        axes.plot(ends, ends, color="black", linewidth=0.6)
        axes.errorbar(
            truth,
            mean,
            sd if len(truth) <= _MOST_BARS else None,
            fmt="o",
            markersize=2.5,
            markeredgewidth=0,
            color=BLUE,
            alpha=0.5,
            elinewidth=0.5,
        )
        axes.set_title(f"{name}\ncorrelation {table.loc[name, 'correlation']:.2f}", size=8, loc="left")

    order = table["correlation"].sort_values(kind="stable").index
    return _panels("Posterior mean over known value", ("known value", "posterior mean"), order, max_latents, draw, ax)


def contraction(found: Any, max_latents: int = 12, *, ax: Axes | None = None) -> Figure:
    """Draws for each data set how far off the posterior mean is over how far the posterior contracts.

    The error is in posterior standard deviations (z), and contraction is 1 - posterior variance / variance of the known
    values. Points at the right within the lines at -2 and 2 are of data that tell much, by a posterior that is right;
    at the left the data tell little, beyond the lines the posterior is too narrow, and on one side of 0 it is biased.

    Args:
        found: what `tfvae.evaluation.recovery` returned.
        max_latents: how many latent variables to draw at most, those of the lowest contraction first.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel for each latent variable.

    Raises:
        ValueError: an argument is not valid.

    Reference: Schad et al. 2021, Toward a Principled Bayesian Workflow, on sensitivity.
    """
    table = _summary(found, max_latents)

    def draw(axes: Axes, name: str) -> None:
        truth, mean, sd = found.truth[name], found.mean[name], found.sd[name]
        # A latent variable that does not vary has no contraction.
        shares = 1.0 - sd**2 / (np.var(truth) or np.nan)
        for height, width in ((-2.0, 0.4), (0.0, 0.6), (2.0, 0.4)):
            axes.axhline(height, color="black", linewidth=width)
        z = (mean - truth) / sd
        for which, color in ((np.abs(z) <= 2, BLUE), (np.abs(z) > 2, ORANGE)):
            axes.plot(shares[which], z[which], "o", markersize=2.5, markeredgewidth=0, color=color, alpha=0.5)
        axes.set_xlim(min(0.0, np.nanmin(shares, initial=0.0)) - 0.03, 1.03)
        axes.set_title(f"{name}\ncontraction {table.loc[name, 'contraction']:.2f}", size=8, loc="left")

    order = table["contraction"].sort_values(kind="stable").index
    title = "Error over contraction of the posterior"
    return _panels(title, ("contraction", "(mean - known value) / sd"), order, max_latents, draw, ax)


def _summary(found: Any, max_latents: int) -> Any:
    check_positive("max_latents", max_latents)
    if not all(hasattr(found, name) for name in ("truth", "mean", "sd", "summary")):
        raise ValueError(f"`found` must be what tfvae.evaluation.recovery returns. Received: {checks.shown(found)}")
    return found.summary()


def _panels(
    title: str,
    labels: tuple[str, str],
    order: Any,
    max_latents: int,
    draw: Callable[[Axes, str], None],
    ax: Axes | None,
) -> Figure:
    """A figure with a panel for each of the first latent variables of an order."""
    shown = list(order[:max_latents])
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    if len(order) > len(shown):
        title += f" ({len(shown)} of {len(order)} latent variables)"
    figure = new_figure(title, max(2.5 * columns, 5.0), 2.5 * rows + 0.9, ax)
    figure.supxlabel(labels[0], fontsize="medium")
    figure.supylabel(labels[1], fontsize="medium")
    for index, name in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        draw(axes, name)
        plain(axes)
    return whole(figure)
