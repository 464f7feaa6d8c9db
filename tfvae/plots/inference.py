"""Plots of inference: whether it is calibrated, and whether the model generates data like those observed."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, check_positive, new_figure, plain, whole

_BINS = 20


def calibration(result: Any, probability: float = 0.95, max_latents: int = 12, *, ax: Axes | None = None) -> Figure:
    """Draws a `tfvae.evaluation.Calibration`, with two panels for each latent variable.

    The first is the distribution function of the ranks, less that of uniform ones, which lies within the band
    everywhere if the inference is right: a slope through 0 in the middle shows posteriors of a wrong width, a bulge to
    one side a bias. The second is the histogram of p, the share of draws below the known value, which is symmetric if
    there is no bias.

    Args:
        result: what `tfvae.evaluation.calibration` returned.
        probability: that the ranks of a right inference stay within the band of a panel.
        max_latents: how many latent variables to draw at most, those of the smallest p-values first.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: an argument is not valid.
    """
    _check_result(result, "calibration", "ranks", "bands")
    check_positive("max_latents", max_latents)
    table = result.summary()
    order = table[["rank_p_value", "symmetry_p_value"]].min(axis=1).sort_values(kind="stable").index[:max_latents]
    pairs = 1 if len(order) == 1 else 2
    rows = math.ceil(len(order) / pairs)
    title = "Ranks of known values among draws"
    if len(order) < len(table):
        title += f" ({len(order)} of {len(table)} latent variables)"
    figure = new_figure(title, 5.0 * pairs, 1.9 * rows + 0.9, ax)
    figure.supxlabel("share of draws below the known value", fontsize="medium")
    for index, name in enumerate(order):
        bands, p = result.bands(name, probability), (result.ranks[name] + 0.5) / (result.num_draws + 1)
        axes = figure.add_subplot(rows, 2 * pairs, 2 * index + 1)
        axes.fill_between(bands.points, bands.lower, bands.upper, step="mid", color=BLUE, alpha=0.2, linewidth=0)
        axes.step(bands.points, bands.difference, where="mid", color=BLUE, linewidth=1.2)
        is_outside = (bands.difference < bands.lower - 1e-9) | (bands.difference > bands.upper + 1e-9)
        axes.plot(bands.points[is_outside], bands.difference[is_outside], ".", color=ORANGE, markersize=4)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.set_title(f"{name}\nranks p={table.loc[name, 'rank_p_value']:.2g}", size=8, loc="left")
        axes.set_xlim(0.0, 1.0)
        plain(axes)
        axes = figure.add_subplot(rows, 2 * pairs, 2 * index + 2)
        bins = min(_BINS, max(4, len(p) // 10))
        axes.hist(p, np.linspace(0.0, 1.0, bins + 1).tolist(), color=BLUE, alpha=0.35)
        axes.axhline(len(p) / bins, color="black", linewidth=0.6)
        axes.set_title(f"\nsymmetry p={table.loc[name, 'symmetry_p_value']:.2g}", size=8, loc="left")
        axes.set_xlim(0.0, 1.0)
        plain(axes)
    return whole(figure)


def predictive_check(result: Any, *, ax: Axes | None = None) -> Figure:
    """Draws a `tfvae.evaluation.PredictiveCheck`: each statistic of the data in the histogram of its replications.

    Args:
        result: what `tfvae.evaluation.predictive_check` returned.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel for each statistic.

    Raises:
        ValueError: `result` is something else, or holds no statistic.
    """
    _check_result(result, "predictive_check", "observed", "replicated")
    columns = min(4, len(result.observed))
    rows = math.ceil(len(result.observed) / columns)
    figure = new_figure("Statistics of the data and of replications", max(2.6 * columns, 5.0), 2.1 * rows + 0.9, ax)
    for index, (name, observed) in enumerate(result.observed.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        values = result.replicated[name]
        distinct = np.unique(values)
        if len(distinct) <= 2 * _BINS and (distinct % 1 == 0).all():
            edges = np.arange(distinct[0], distinct[-1] + 2) - 0.5
        else:
            edges = (
                np.linspace(distinct[0], distinct[-1], _BINS + 1) if len(distinct) > 1 else distinct[0] + [-0.5, 0.5]
            )
        axes.hist(values, edges.tolist(), color=BLUE, alpha=0.35, label="replications")
        axes.axvline(observed, color=ORANGE, linewidth=1.6, label="data")
        axes.set_yticks([])
        axes.set_title(f"{name}\np={result.p_values[name]:.3g}", size=8, loc="left")
        plain(axes)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower right", ncols=2, fontsize="small", frameon=False)
    return whole(figure)


def _check_result(result: Any, function: str, *names: str) -> None:
    """Raises ValueError unless a result is that of a function of `tfvae.evaluation` and holds something to draw."""
    if not all(hasattr(result, name) for name in names) or not getattr(result, names[0]):
        raise ValueError(
            f"`result` must be what tfvae.evaluation.{function} returns, and not empty. "
            f"Received: {checks.shown(result)}"
        )
