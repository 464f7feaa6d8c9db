"""The sections of a report on windows of time series: reconstructions, filled gaps, samples, walks, unusual windows."""

import numpy as np
from matplotlib.figure import Figure

from tfvae import plots
from tfvae.data import Series
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE
from tfvae.reporting import sections
from tfvae.reporting.page import Section, code, picture, text
from tfvae.reporting.subject import Subject
from tfvae.reporting.unusual_windows import MARKED, unusual_windows

_WINDOWS, _SAMPLES, _MOST_TRAVERSED = 4, 4, 6
# The draws of an interval, and its share.
_DRAWS, SHARE = 100, 0.9
ENDS = ((1 - SHARE) / 2, (1 + SHARE) / 2)


def series_of(model: VAE) -> Series:
    """The series of a model of windows."""
    assert model.series is not None
    return model.series


def draws(model: VAE | SequentialVAE, x: np.ndarray, seed: int) -> np.ndarray:
    """Draws [N, K, T, C] of windows x [N, T, C]: z from q(z|x), and then all of x from p(x|z), observed or not."""
    drawn = model.reconstruct(np.repeat(x, _DRAWS, axis=0), sample=True, seed=seed)
    return drawn.reshape(len(x), _DRAWS, *x.shape[1:])


def reconstructed(model: VAE, x: np.ndarray, seed: int) -> Figure:
    """Windows [N, T, C] with their reconstructions, and the interval that has 90% of the draws of x given z."""
    series = series_of(model)
    low, high = np.quantile(draws(model, x, seed), ENDS, axis=1)
    mean = np.asarray(model.likelihood.to_data(model.reconstruct(x)))
    return plots.series(series.raw(x), series.raw(mean), (series.raw(low), series.raw(high)), channels=series.channels)


def generated(model: VAE, seed: int) -> Figure:
    """Draws of windows, with the means of p(x|z) for the same z."""
    series = series_of(model)
    mean = np.asarray(model.likelihood.to_data(model.generate(_SAMPLES, seed=seed)))
    drawn = model.generate(_SAMPLES, seed=seed, sample=True)
    figure = plots.series(series.raw(drawn), series.raw(mean), channels=series.channels, names=("draw", "mean"))
    figure.suptitle("Draws of windows, and the means of p(x|z) for the same z")
    return figure


def most_unusual(model: VAE, x: np.ndarray, seed: int) -> Figure:
    """The windows of highest score with their reconstructions, in which what adds much to the score is shaded."""
    series, found = series_of(model), unusual_windows(model, x)
    order = found.order[:_WINDOWS]
    mean = np.asarray(model.likelihood.to_data(model.reconstruct(x[order])))
    titles = [title.partition(": ")[2] for title in found.titles[:_WINDOWS]]
    marked = found.nats[:_WINDOWS] > MARKED
    figure = plots.series(
        series.raw(x[order]), series.raw(mean), channels=series.channels, titles=titles, marked=marked
    )
    figure.suptitle(f"The most unusual windows; what adds more than {MARKED:g} nats to a score is shaded")
    return figure


def reconstructions(subject: Subject) -> Section:
    """Held-out windows with their reconstructions."""
    figure = reconstructed(subject.model, subject.x[spread(subject)], subject.seed)
    lead = (
        f"The band holds {SHARE:.0%} of draws of p(x|z) at z of q(z|x): it is of the noise, and of what z leaves open."
    )
    return Section("Reconstructions", text(lead) + picture(figure, "Held-out windows and their reconstructions"))


def gaps(subject: Subject) -> Section:
    """Held-out windows of which a part was hidden, and what the model fills in."""
    series, x = series_of(subject.model), subject.x[spread(subject)]
    hidden = x.copy()
    steps = x.shape[1]
    part = slice(steps * 3 // 8, max(steps * 5 // 8, steps * 3 // 8 + 1))
    hidden[:, part] = np.nan
    low, high, shown = (np.full_like(x, np.nan) for _ in range(3))
    drawn = draws(subject.model, hidden, subject.seed)[:, :, part]
    low[:, part], high[:, part] = np.quantile(drawn, ENDS, axis=1)
    shown[:, part] = drawn.mean(axis=1)
    figure = plots.series(
        series.raw(x),
        series.raw(shown),
        (series.raw(low), series.raw(high)),
        channels=series.channels,
        names=("data", "filled in"),
    )
    figure.suptitle("Held-out windows, of which the model did not see the part that it fills in")
    is_known = ~np.isnan(x[:, part])
    inside = (
        ((x[:, part] >= low[:, part]) & (x[:, part] <= high[:, part]))[is_known].mean() if is_known.any() else np.nan
    )
    lead = (
        f"A quarter of each window was hidden from the model, which fills it in by draws of z from q(z|x) and of x "
        f"from p(x|z); the band holds {SHARE:.0%} of them. "
        f"{inside:.0%} of the hidden values of these windows are in it."
    )
    return Section("Gaps", text(lead) + picture(figure, "Windows with a hidden part, and what the model fills in"))


def samples(subject: Subject) -> Section:
    """What the model generates."""
    return Section("Samples", picture(generated(subject.model, subject.seed), "Generated windows"))


def traversals(subject: Subject) -> Section | None:
    """How windows change along each active latent dimension."""
    found = sections.traversals(subject)
    if found is None or isinstance(found, Section):
        return found
    series = series_of(subject.model)
    x = series.raw(np.asarray(subject.model.likelihood.to_data(found.x))[:_MOST_TRAVERSED])
    figure = plots.series_traversals(x, found.labels[:_MOST_TRAVERSED], found.values, channels=series.channels)
    body = text(sections.of_traversals(found))
    return Section("Along each latent dimension", body + picture(figure, "What each dimension of z changes"))


def unusual(subject: Subject) -> Section | None:
    """The held-out windows of highest score, and the steps and channels that make them so."""
    model = subject.model
    if model.decision is None:
        return None
    figure = most_unusual(model, subject.x, subject.seed)
    body = sections.scores(subject) + picture(figure, "The most unusual held-out windows and their reconstructions")
    return Section("Unusual windows", body + code(str(unusual_windows(model, subject.x))))


def spread(subject: Subject) -> np.ndarray:
    """The places of some windows, from the first to the last."""
    return np.unique(np.linspace(0, len(subject.x) - 1, _WINDOWS).astype(int))
