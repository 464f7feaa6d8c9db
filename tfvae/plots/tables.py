"""Plots of a model of a table: each column beside its marginal distribution, and what makes rows unusual."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfvae import checks
from tfvae.plots.figures import BLUE, ORANGE, check_positive, finite, new_figure, plain, whole

# The most bars of a column of categories, and the most characters of a text.
_MOST_BARS = 8
_MOST_CHARACTERS = 14
_MOST_CHARACTERS_OF_A_NAME = 30
_BINS = 30
# Histograms end where this share of the real values lies beyond, or outliers would leave no room for the others.
_TAIL = 0.005
_CENTURY = 36_525.0


def marginals(
    real: Any,
    generated: Any,
    kinds: Mapping[str, str] | None = None,
    max_columns: int = 24,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the distribution of each column of a table, of real rows beside generated ones.

    Numbers, counts and dates are drawn as histograms, with KS, the Kolmogorov-Smirnov distance of the two
    distributions, in the title; other columns as bars, with TV, the total variation distance. Both are 0 for equal
    distributions, and at most 1. The columns that agree least come first. Missing values are left out.

    Args:
        real: real rows, as a `pandas.DataFrame`.
        generated: rows of `generate(n, sample=True)`.
        kinds: the columns to draw and the kind of each, such as `vae.table.kinds`: "number", "count" and "date" become
            histograms, but for texts that are neither numbers nor dates of ISO 8601. None means all columns, numbers
            and dates of which become histograms.
        max_columns: how many columns to draw at most.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel per column.

    Raises:
        ValueError: the arguments are not data frames, or have no column with values in common.
    """
    check_positive("max_columns", max_columns)
    for argument, frame in (("real", real), ("generated", generated)):
        if not checks.is_frame(frame):
            raise ValueError(f"`{argument}` must be a data frame. Received: {checks.shown(frame)}")
        checks.check_distinct(argument, list(map(str, frame.columns)))
    if not (kinds is None or isinstance(kinds, Mapping)):
        raise ValueError(f"`kinds` must be the kinds of columns by name, or None. Received: {checks.shown(kinds)}")
    panels = []
    for name in real.columns if kinds is None else kinds:
        if name not in real.columns or name not in generated.columns:
            raise ValueError(
                f"`real` and `generated` must have the column {checks.shown(name)}. Received: one does not"
            )
        pair = real[name].dropna(), generated[name].dropna()
        if not all(map(len, pair)):
            continue
        kind = kinds[name] if kinds is not None else "number" if pair[0].dtype.kind in "iufmM" else "category"
        is_histogram = kind in ("number", "count", "date") and all(len(_numbers(values)[0]) for values in pair)
        panels.append((_Histogram if is_histogram else _Bars)(str(name), *pair))
    if not panels:
        raise ValueError("`real` and `generated` must have a column with values in common. Received: none")
    panels.sort(key=lambda panel: -panel.distance)
    shown = panels[:max_columns]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    title = "Columns of real and generated rows, the least alike first"
    if len(panels) > len(shown):
        title += f" ({len(shown)} of {len(panels)})"
    figure = new_figure(title, max(3 * columns, 6), 2.4 * rows + 0.8, ax)
    for index, panel in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        panel.draw(axes)
        plain(axes)
        name = _shown(panel.name, _MOST_CHARACTERS_OF_A_NAME)
        axes.set_title(f"{name}\n{panel.measure} {panel.distance:.2f}", size=8, loc="left")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower right", ncols=2, fontsize="small", frameon=False)
    return whole(figure)


def contributions(
    nats: np.ndarray,
    labels: Sequence[Sequence[str]],
    titles: Sequence[str],
    max_columns: int = 6,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws what each column adds to the anomaly score of rows, as bars: high for what is unusual.

    Args:
        nats: the contributions [B, C], such as those of `detect`; all rows are drawn.
        labels: for each row the texts of its C columns, such as "amount = 3.5".
        titles: a text for each row.
        max_columns: how many columns of a row to draw at most, from those that add most.
        ax: the axes of a grid that give their place to the plot; None makes a figure.

    Returns:
        The figure, with one panel per row.

    Raises:
        ValueError: the shapes do not fit together, or a contribution is not finite.
    """
    check_positive("max_columns", max_columns)
    nats = finite("nats", nats)
    if nats.ndim != 2 or [len(row) for row in labels] != [nats.shape[1]] * len(nats) or len(titles) != len(nats):
        raise ValueError(
            "`nats` must have the shape [B, C], `labels` be B lists of C texts and `titles` B texts. Received: nats of "
            f"shape {list(nats.shape)}, {len(labels)} lists and {len(titles)} titles"
        )
    shown = min(max_columns, nats.shape[1])
    figure = new_figure("What makes rows unusual", 7, (0.26 * shown + 0.75) * len(nats) + 0.9, ax)
    figure.supxlabel("contribution to the score (nats)", fontsize="medium")
    for index, (row, texts, title) in enumerate(zip(nats, labels, titles, strict=True)):
        # Each with a scale of its own, beside which the reasons of other rows could not be seen.
        axes = figure.add_subplot(len(nats), 1, index + 1)
        order = np.argsort(-row, kind="stable")[:shown]
        places = np.arange(shown)[::-1]
        axes.barh(places, row[order], color=np.where(row[order] > 0, ORANGE, BLUE).tolist(), height=0.7)
        axes.set_yticks(places, [_shown(texts[column], 44) for column in order])
        axes.axvline(0, color="black", linewidth=0.6)
        plain(axes)
        axes.set_title(_shown(title, 64), size=9, loc="left")
        axes.tick_params(axis="x", labelsize=8)
    return whole(figure)


class _Histogram:
    """A panel of numbers or dates."""

    measure = "KS"

    def __init__(self, name: str, real: Any, generated: Any) -> None:
        self.name = name
        (self.real, self.is_date), (self.generated, _) = _numbers(real), _numbers(generated)
        if self.is_date and np.ptp(self.real) > _CENTURY:
            # As plain years, because matplotlib knows no dates around the years 1 and 9999.
            self.is_date = False
            self.real, self.generated = (1970 + days / 365.2425 for days in (self.real, self.generated))
        both = np.sort(np.concatenate([self.real, self.generated]))
        shares = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (self.real, self.generated)]
        self.distance = float(np.abs(shares[0] - shares[1]).max())

    def draw(self, axes: Axes) -> None:
        """Draws both histograms over the range of the real values, with what is beyond it in the outer bins."""
        distinct = np.unique(self.real)
        low, high = np.quantile(self.real, [_TAIL, 1 - _TAIL])
        if high <= low:
            low, high = self.real.min() - 0.5, self.real.max() + 0.5
        if (distinct % 1 == 0).all():
            # As many whole numbers in each bin, or their number would be seen rather than how frequent they are.
            width = math.ceil((high - low + 1) / _BINS)
            edges = np.arange(np.floor(low), np.ceil(high) + width + 1, width) - 0.5
        else:
            edges = np.linspace(low, high, _BINS + 1)
        for values, label, color in ((self.real, "real", BLUE), (self.generated, "generated", ORANGE)):
            clipped = np.clip(values, edges[0], edges[-1])
            weights = np.full(len(values), 1 / len(values))
            kind: Any = {"histtype": "stepfilled", "alpha": 0.35} if label == "real" else {"histtype": "step"}
            axes.hist(clipped, edges.tolist(), weights=weights, color=color, label=label, linewidth=1.4, **kind)
        # The shapes tell how frequent values are.
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        if self.is_date:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator(minticks=2, maxticks=4)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


class _Bars:
    """A panel of categories."""

    measure = "TV"

    def __init__(self, name: str, real: Any, generated: Any) -> None:
        self.name = name
        shares = [self._texts(values).value_counts(normalize=True) for values in (real, generated)]
        labels = shares[0].index.union(shares[1].index, sort=False)
        self.shares = [share.reindex(labels, fill_value=0.0) for share in shares]
        self.distance = float(np.abs(self.shares[0] - self.shares[1]).sum() / 2)

    def _texts(self, values: Any) -> Any:
        # Numbers are compared as numbers: a column of integers with gaps is one of floats.
        return values.astype(object).map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))

    def draw(self, axes: Axes) -> None:
        """Draws the most frequent categories, and all others together, as pairs of horizontal bars."""
        order = self.shares[0].sort_values(ascending=False, kind="stable").index
        most = len(order) if len(order) <= _MOST_BARS + 1 else _MOST_BARS
        kept, others = order[:most], order[most:]
        names = [_shown(str(name), _MOST_CHARACTERS) for name in kept]
        if len(others):
            names.append(f"{len(others)} others")
        places = np.arange(len(names))[::-1]
        for share, label, color, shift in zip(
            self.shares, ("real", "generated"), (BLUE, ORANGE), (0.2, -0.2), strict=True
        ):
            heights = [*share[kept], *([share[others].sum()] if len(others) else [])]
            alpha = 0.5 if label == "real" else 1.0
            axes.barh(places + shift, heights, height=0.38, color=color, alpha=alpha, label=label)
        axes.set_yticks(places, names)


def _numbers(values: Any) -> tuple[np.ndarray, bool]:
    """Values as numbers, dates as days since 1970, as matplotlib counts them; and whether they are dates."""
    import pandas as pd

    if values.dtype.kind == "m":
        return values.dt.total_seconds().to_numpy(np.float64), False
    x = values if values.dtype.kind in "iufbM" or hasattr(values.dtype, "tz") else pd.to_numeric(values, "coerce")
    if not hasattr(x, "dt") and x.isna().all():
        x = pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True)
    is_date = hasattr(x, "dt")
    if is_date:
        x = x if x.dt.tz is None else x.dt.tz_localize(None)
        x = (x - pd.Timestamp("1970-01-01")) / np.timedelta64(1, "D")
    x = x.to_numpy(np.float64, na_value=np.nan)
    return x[np.isfinite(x)], is_date


def _shown(text: str, most: int) -> str:
    """A text in one line of at most so many characters, in which matplotlib finds no formula."""
    text = " ".join(text.split())
    # Names and categories often differ only at their end.
    text = text if len(text) <= most else f"{text[: (most - 1) // 2]}…{text[-(most // 2) :]}"
    return text.replace("$", r"\$")
