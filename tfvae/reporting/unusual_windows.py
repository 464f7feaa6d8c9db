"""Windows of time series: which are unusual, and the steps and channels that make them so."""

from typing import Any, NamedTuple

import numpy as np

from tfvae.data.series import Cut
from tfvae.data.time_steps import shown_time
from tfvae.models.vae import VAE

# An element is marked if it adds so many nats to a score.
MARKED = 3.0
_MOST_WINDOWS, _MOST_REASONS = 5, 3


class UnusualWindows(NamedTuple):
    """The most unusual of some windows, those first that are most so.

    Attributes:
        order: their places.
        titles: a text that names each window and its score.
        reasons: for each window the texts of the steps and channels that add most.
        nats: what each element adds to the score [B, T, C].
    """

    order: np.ndarray
    titles: list[str]
    reasons: list[list[str]]
    nats: np.ndarray

    def __str__(self) -> str:
        lines = []
        for title, reasons in zip(self.titles, self.reasons, strict=True):
            lines += [title, f"    {'; '.join(reasons)}"]
        return "\n".join(lines)


def unusual_windows(model: VAE, held_out: Any) -> UnusualWindows:
    """Finds the windows of the highest anomaly scores, and the steps and channels that add most to these.

    Args:
        model: a model of windows that is calibrated.
        held_out: the windows [N, T, C]; or a `tfvae.data.series.Cut`, which knows their times.
    """
    series = model.series
    assert series is not None
    cut = held_out if isinstance(held_out, Cut) else None
    x = held_out if cut is None else cut.x
    found = model.detect(x)
    order = np.argsort(-found["score"], kind="stable")[:_MOST_WINDOWS]
    nats = found["contributions"][order]
    raw = series.raw(x[order])
    several = cut is not None and len({name for name, _ in cut.starts}) > 1
    titles, reasons = [], []
    for place, window, values in zip(order, nats, raw, strict=True):
        if cut is None:
            name = f"window {place}"
        else:
            of, start = cut.starts[place]
            name = f"window from {shown_time(start)}" + (f" of {of}" if several else "")
        titles.append(f"{name}: score {found['score'][place]:.1f} nats")
        largest = np.argsort(-window, axis=None, kind="stable")[:_MOST_REASONS]
        texts = []
        for step, channel in zip(*np.unravel_index(largest, window.shape), strict=True):
            when = f"step {step}" if cut is None else shown_time(cut.steps.times[cut.first[place] + step])
            what = f"{series.channels[channel]} = {values[step, channel]:.6g}"
            texts.append(f"{what} at {when} ({window[step, channel]:+.1f})")
        reasons.append(texts)
    return UnusualWindows(order, titles, reasons, nats)
