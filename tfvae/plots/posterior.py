"""Plots of a posterior: the distribution of each latent variable, and predictions beside the data."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfvae.plots.figures import BLUE, ORANGE, check_positive, finite, new_figure, plain, whole

_BINS = 40
# The share of the draws, on either side, that lie in the outermost bars: a single wild one would leave no room else.
_TAIL = 0.002
# The band of predictions is that of so many of the replications.
_BAND = 0.9


def posterior(
    draws: Mapping[str, np.ndarray],
    names: Sequence[str] | None = None,
    *,
    truth: Mapping[str, Any] | None = None,
    probability: float = 0.9,
    corrected: bool = True,
    max_panels: int = 12,
    ax: Axes | None = None,
) -> Figure:
    """Draws the marginal distribution of each element of each latent variable, its mean and an interval.

    Args:
        draws: what `VariationalInference.draw` or `refine` returned, or draws by name, each [S, ...].
        names: the latent variables to draw; None means all.
        truth: known values by name, each [...], such as those of a simulation.
        probability: of the interval between quantiles; the tails on its two sides are alike.
        corrected: whether to weight draws by their smoothed importance weights, where they have any.
        max_panels: how many elements to draw at most, from the first on.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel for each element. The outermost bars hold all draws beyond them.

    Raises:
        ValueError: there are no such draws, a draw is not finite, or an argument is out of its range.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"`probability` must be between 0 and 1. Received: probability={probability}")
    check_positive("max_panels", max_panels)
    if names is not None and not len(names):
        raise ValueError("`names` must be those of one latent variable at least, or None for all. Received: no name")
    if not isinstance(draws, Mapping) or not draws:
        raise ValueError(f"`draws` must be draws by name. Received: {type(draws).__name__}")
    for argument, given in (("names", names or ()), ("truth", truth or ())):
        if unknown := [name for name in given if name not in draws]:
            raise ValueError(f"`{argument}` must be among {list(draws)}. Received: {unknown}")
    known = getattr(draws, "log_weights", None) is not None
    weights = getattr(draws, "weights") if corrected and known else None  # noqa: B009  Not of every mapping.
    elements = [
        element
        for name in (draws if names is None else names)
        for element in _elements(name, draws[name], (truth or {}).get(name))
    ]
    shown = elements[:max_panels]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    title = "Posterior" + (f" ({len(shown)} of {len(elements)} elements)" if len(shown) < len(elements) else "")
    figure = new_figure(title, max(2.6 * columns, 5.0), 2.1 * rows + 0.9, ax)
    for index, (label, values, value) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        mass = np.full(len(values), 1.0 / len(values)) if weights is None else weights
        low, high = _quantiles(values, mass, probability)
        binned, edges = _binned(values)
        axes.hist(binned, edges.tolist(), weights=mass, color=BLUE, alpha=0.35)
        axes.plot([low, high], [0.0, 0.0], color=BLUE, linewidth=4, solid_capstyle="butt", label=f"{probability:.0%}")
        axes.axvline(float(mass @ values), color=BLUE, linewidth=1.2, label="mean")
        if value is not None:
            axes.axvline(value, color=ORANGE, linewidth=1.6, linestyle="--", label="known value")
        axes.set_yticks([])
        axes.set_title(f"{label}\n{low:.3g} to {high:.3g}", size=8, loc="left")
        plain(axes)
    # All panels have the same lines, but for those without a known value.
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower right", ncols=3, fontsize="small", frameon=False)
    return whole(figure)


def predictive(replicated: Any, observed: Any, *, ax: Axes | None = None) -> Figure:
    """Draws how data are distributed, beside what the model predicts: a band that holds 90% of the replications.

    Args:
        replicated: what `posterior_predictive` or `prior_predictive` returned: replications [S, N, ...], or such by
            name.
        observed: the data [N, ...], or such by name; only the names of these are drawn.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel for each name. The outermost bars hold all values beyond them.

    Raises:
        ValueError: there are no such replications, their shapes are not those of the data, or a value is not finite.
    """
    if isinstance(observed, Mapping) != isinstance(replicated, Mapping):
        raise ValueError(
            "`observed` must be data by name if `replicated` is, and an array otherwise. Received: observed of type "
            f"{type(observed).__name__}, replicated of type {type(replicated).__name__}"
        )
    if not isinstance(observed, Mapping):
        observed, replicated = {"": observed}, {"": replicated}
    if not observed or (unknown := [name for name in observed if name not in replicated]):
        received = unknown if observed else "no names"
        raise ValueError(f"`observed` must have names, all among {list(replicated)}. Received: {received}")
    columns = min(3, len(observed))
    rows = math.ceil(len(observed) / columns)
    figure = new_figure("Data and replications", max(3.4 * columns, 5.0), 2.6 * rows + 0.9, ax)
    for index, (name, of_data) in enumerate(observed.items()):
        data, draws = np.asarray(of_data), np.asarray(replicated[name])
        if draws.ndim == 0 or draws.shape[1:] != data.shape:
            raise ValueError(
                f"`replicated` must have the shape [{', '.join(map(str, ('S', *data.shape)))}], as `observed` has. "
                f"Received: shape {list(draws.shape)}" + (f" of {name!r}" if name else "")
            )
        axes = figure.add_subplot(rows, columns, index + 1)
        # None of either may be missing where they are reshaped.
        data, draws = finite("observed", data).ravel(), finite("replicated", draws).reshape(len(draws), -1)
        # Few data would be a comb in many bars.
        _, edges = _binned(np.concatenate([data, draws.ravel()]), min(_BINS, 5 + math.isqrt(len(data))))
        share = [np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] / len(data) for each in (data, *draws)]
        low, high = np.quantile(share[1:], [(1 - _BAND) / 2, (1 + _BAND) / 2], axis=0)
        axes.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.25, label=f"{_BAND:.0%} of replications")
        axes.stairs(np.mean(share[1:], axis=0), edges, color=BLUE, linewidth=1.2, label="their mean")
        axes.stairs(share[0], edges, color=ORANGE, linewidth=1.6, label="data")
        axes.set_ylabel("share of the values", size="small")
        axes.set_title(name, size=8, loc="left")
        plain(axes)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower right", ncols=3, fontsize="small", frameon=False)
    return whole(figure)


def _elements(name: str, values: Any, truth: Any) -> Iterator[tuple[str, np.ndarray, float | None]]:
    """For each element of a latent variable its label, its draws [S] and its known value."""
    values = finite("draws", values)
    if values.ndim == 0:
        raise ValueError(f"`draws` must have the shape [S, ...], with S draws. Received: a single value of {name!r}")
    if truth is not None:
        truth = finite("truth", truth)
        if truth.shape != values.shape[1:]:
            raise ValueError(
                f"`truth` must have the shape {list(values.shape[1:])} of {name!r}. Received: {list(truth.shape)}"
            )
    for index in np.ndindex(values.shape[1:]):
        label = f"{name}[{', '.join(map(str, index))}]" if index else name
        yield label, values[(slice(None), *index)], None if truth is None else float(truth[index])


def _binned(values: np.ndarray, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray]:
    """The values, with the far ones in the outermost bins, and the edges: around each number where all are whole."""
    distinct = np.unique(values)
    if len(distinct) <= _BINS and (distinct % 1 == 0).all() and np.ptp(distinct) < 2 * _BINS:
        return values, np.arange(distinct[0], distinct[-1] + 2) - 0.5
    low, high = np.quantile(values, [_TAIL, 1.0 - _TAIL])
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    return np.clip(values, edges[0], edges[-1]), edges


def _quantiles(values: np.ndarray, mass: np.ndarray, probability: float) -> np.ndarray:
    """The ends of the interval that leaves equal probability on both sides, of draws that have weights."""
    tail = (1.0 - probability) / 2
    return np.quantile(values, [tail, 1.0 - tail], weights=mass, method="inverted_cdf")
