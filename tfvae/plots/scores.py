"""Plots of anomaly scores."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, finite, new_figure, plain, whole

_BINS = 60
# The share of the scores, on either side, that lie in the outermost bars: a single wild one would leave no room else.
_TAIL = 0.02


def anomalies(score: np.ndarray, threshold: float | None = None, *, ax: Axes | None = None) -> Figure:
    """Draws how the anomaly scores of examples are distributed, and the threshold between typical and unusual ones.

    Args:
        score: the scores [N] of `detect`, in nats.
        threshold: the score above which an example is an anomaly, such as `model.decision.threshold.value`, or None.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure. The outermost bars hold all scores beyond them.

    Raises:
        ValueError: there is no score, one is not finite, or the threshold is not a number.
    """
    score = finite("score", np.ravel(score))
    low, high = np.quantile(score, [_TAIL, 1.0 - _TAIL])
    if threshold is not None:
        if np.size(threshold) != 1:
            raise ValueError(f"`threshold` must be one number. Received: threshold={checks.shown(threshold)}")
        threshold = float(finite("threshold", np.ravel(threshold))[0])
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.05 * (high - low) or 0.5
    figure = new_figure("Anomaly scores", 7, 3.4, ax)
    axes = figure.add_subplot()
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    if threshold is not None:
        # So that no bar is on both sides of it.
        place = np.argmin(np.abs(edges - threshold))
        edges += threshold - edges[place]
        edges[place] = threshold
    # Each bar holds its right edge, not its left: a score that equals the threshold is not above it.
    counts = np.histogram(-np.clip(score, edges[0], edges[-1]), -edges[::-1])[0][::-1]
    is_above = edges[:-1] >= (np.inf if threshold is None else threshold)
    colors = np.where(is_above, ORANGE, BLUE).tolist()
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors, edgecolor="white", linewidth=0.4)
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1.2, linestyle="--")
        share = np.mean(score > threshold)
        axes.set_title(f"{share:.2%} of {len(score)} above the threshold of {threshold:.4g} nats", size="small")
    axes.set(xlabel="score (nats)", ylabel="examples", yscale="symlog")
    axes.set_ylim(0.0)
    axes.set_yticks(ticks := _ticks(int(counts.max())), [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
    plain(axes)
    return whole(figure)


def _ticks(most: int) -> list[int]:
    """The marks of counts: all up to 5; 0, 1, 2, 5, 10, ...; or the powers of 10 alone where these are enough."""
    if most <= 5:
        return list(range(most + 1))
    powers = [10**exponent for exponent in range(len(str(most)))]
    steps = (1, 2, 5) if len(powers) < 3 else (1,)
    return [0, *(tick for power in powers for tick in (step * power for step in steps) if tick <= most)]
