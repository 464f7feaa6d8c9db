"""The sections of a report on sequences of any length: measures, reconstructions, forecasts, draws and texts."""

import math
import warnings
from typing import Any

import numpy as np

from tfvae import plots
from tfvae.callbacks.warnings import COLLAPSE_ADVICE, COLLAPSED
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.forecasting import forecast
from tfvae.models.sequential import SequentialVAE
from tfvae.reporting import sections, series_sections
from tfvae.reporting.measures import ratio, standard_error
from tfvae.reporting.page import Section, code, picture, table, text
from tfvae.reporting.subject import Subject
from tfvae.reporting.unusual_windows import MARKED

_DRAWN, _TEXTS, _GENERATED, _WAYS, _POINTS = 4, 12, 64, 4, 5
# Futures are drawn so many times for so many sequences, each of the last part of it.
_FUTURES, _FORECAST, _PART = 200, 200, 4
_LEVELS = (0.1, 0.5, 0.9)
_TEMPERATURES = (1.0, 0.5)


def lengths(x: np.ndarray) -> np.ndarray:
    """The number of steps of each sequence [N], without the padding after its end."""
    is_known = ~np.isnan(x).all(axis=tuple(range(2, x.ndim)))
    return np.where(is_known.any(axis=1), x.shape[1] - np.argmax(is_known[:, ::-1], axis=1), 0)


def held_out(subject: Subject) -> Section:
    """The bound, log p(x) and the KL divergence, for each sequence and for each step, with their standard errors."""
    x, model = subject.x, subject.model
    number = lengths(x)
    of_texts = isinstance(model, AutoregressiveVAE) and model.vocabulary is not None
    in_bits = of_texts and model.has_bound
    step, sequence = ("symbol", "text") if of_texts else ("step", "sequence")
    rows = []
    for label, values in subject.measures.labelled().items():
        mean, error = ratio(values, number)
        row = [label, f"{np.mean(values):.3f}", f"{standard_error(values):.3f}", f"{mean:.4f}", f"{error:.4f}"]
        if in_bits:
            row.append(f"{(1 if label == 'KL' else -1) * mean / math.log(2):.4f}")
        rows.append(row)
    header = ["measure", f"nats per {sequence}", "standard error", f"nats per {step}", "standard error"]
    body = table([*header, f"bits per {step}"] if in_bits else header, rows)
    words = f"{number.sum():,} {step}s in {len(x):,} {sequence}s of {number.min()} to {number.max()}"
    words += ", the end of a text counted too" if of_texts else ""
    if not of_texts:
        real = np.arange(x.shape[1]) < number[:, np.newaxis]
        missing = np.isnan(x[real]).mean() if real.any() else 0.0
        words += f"; {missing:.1%} of the values before the ends are missing, and add nothing" if missing else ""
    body += text(f"{words}. The standard error of a mean per {step} is that of a ratio, over the {sequence}s.")
    if isinstance(model, AutoregressiveVAE) and len(x) > 1:
        body += text(sections.of_active(subject))
    if subject.measures.kl is not None and (kl := float(np.mean(subject.measures.kl))) < COLLAPSED:
        body += text(f"KL(q(z|x) || p(z)) is {kl:.3g} nats: z says almost nothing about x. {COLLAPSE_ADVICE}")
    return Section("Held-out data", body + sections.without_bound(subject))


def reconstructions(subject: Subject) -> Section:
    """Held-out sequences with their reconstructions."""
    x = subject.x[series_sections.spread(subject)]
    if isinstance(subject.model, SequentialVAE):
        mean = np.asarray(subject.model.likelihood.to_data(subject.model.reconstruct(x)))
        low, high = np.quantile(series_sections.draws(subject.model, x, subject.seed), series_sections.ENDS, axis=1)
        band: Any = _of_length(x, low), _of_length(x, high)
        lead = f"The band holds {series_sections.SHARE:.0%} of draws of x_t given z_t, for z of q(z|x)."
    else:
        mean, band = subject.model.reconstruct(x, length=x.shape[1]), None
        lead = "Each step is the best guess given z and the steps that were guessed before, not those of the data."
    figure = plots.series(x, _of_length(x, mean), band)
    figure.suptitle("Held-out sequences, and their reconstructions")
    return Section("Reconstructions", text(lead) + picture(figure, "Held-out sequences and their reconstructions"))


def forecasts(subject: Subject) -> Section | None:
    """The last steps of held-out sequences as the model forecasts them from the steps before."""
    model, number = subject.model, lengths(subject.x)
    assert isinstance(model, SequentialVAE)
    steps = int(np.median(number)) // _PART
    rows = np.flatnonzero(number > max(steps, 1))[:_FORECAST]
    x, number = subject.x[rows], number[rows]
    hides = model.likelihood.allows_missing
    of_numbers = model.likelihood.mean_shape(x.shape[2:]) == x.shape[2:]
    if steps < 1 or not len(rows) or not of_numbers or (not hides and model.event_shape[0] is not None):
        return None
    hidden = (np.arange(x.shape[1]) >= number[:, np.newaxis] - steps) & (np.arange(x.shape[1]) < number[:, np.newaxis])
    given = np.where(hidden[..., np.newaxis], np.nan, x) if hides else x[:, :-steps]
    # That the draws are too few is for the reader of the report.
    with warnings.catch_warnings(record=True) as given_warnings:
        warnings.simplefilter("always")
        found = forecast(model, given.astype(np.float32), steps, _LEVELS, _FUTURES, seed=subject.seed)
    true = x[hidden].reshape(len(x), steps, *x.shape[2:])
    low, middle, high = (found.quantiles[level] for level in _LEVELS)
    is_known = ~np.isnan(true)
    coverage = ratio(((true >= low) & (true <= high) & is_known).sum(axis=(1, 2)), is_known.sum(axis=(1, 2)))
    share = _LEVELS[-1] - _LEVELS[0]
    rows_of_table = [[f"share of the true values in the {share:.0%} band", f"{coverage[0]:.1%}", f"{coverage[1]:.1%}"]]
    last = _last_known(x, hidden)
    for name, guess in (("the median", middle), ("the last known value", last)):
        # The last value is not known of a channel that is missing up to there.
        is_there = is_known & ~np.isnan(guess)
        errors = np.where(is_there, np.abs(true - guess), 0.0).sum(axis=(1, 2))
        mean, error = ratio(errors, is_there.sum(axis=(1, 2)))
        rows_of_table.append([f"mean absolute error of {name}", f"{mean:.4g}", f"{error:.2g}"])
    lead = (
        f"The last {steps} steps of {len(x)} held-out sequences were hidden from the model, which forecasts them by "
        f"{_FUTURES} draws. A share far from {share:.0%} means that the model is too sure, or not sure enough."
    )
    shown, lower, upper = (np.full_like(x, np.nan) for _ in range(3))
    for filled, values in ((shown, middle), (lower, low), (upper, high)):
        filled[hidden] = values.reshape(-1, *x.shape[2:])
    figure = plots.series(x[:_DRAWN], shown[:_DRAWN], (lower[:_DRAWN], upper[:_DRAWN]), names=("data", "forecast"))
    figure.suptitle(f"Forecasts: the median, and the {share:.0%} band")
    body = text(lead) + table(["measure", "mean", "standard error"], rows_of_table)
    body += "".join(text(str(each.message)) for each in given_warnings)
    return Section("Forecasts", body + picture(figure, "The ends of held-out sequences and their forecasts"))


def samples(subject: Subject) -> Section:
    """What the model generates."""
    model, seed = subject.model, subject.seed
    length = int(np.median(lengths(subject.x)))
    if isinstance(model, SequentialVAE):
        drawn = model.generate(_DRAWN, length, seed=seed, sample=True)
        mean = np.asarray(model.likelihood.to_data(model.generate(_DRAWN, length, seed=seed)))
        figure = plots.series(drawn, mean, names=("draw", "mean"))
        figure.suptitle("Draws of sequences, and the means of p(x_t|z_t) for the same z")
    else:
        figure = plots.series(model.generate(_DRAWN, length=length, seed=seed))
        figure.suptitle("Draws of sequences: z of the prior, and then each step given those before")
    return Section("Samples", picture(figure, "Generated sequences"))


def unusual(subject: Subject) -> Section | None:
    """The held-out sequences with the steps of highest score, and what makes them so."""
    model, number = subject.model, lengths(subject.x)
    if model.decision is None:
        return None
    found = model.detect(subject.x)
    real = np.arange(subject.x.shape[1]) < number[:, np.newaxis]
    limit = model.decision.threshold.value
    figure = plots.anomalies(found["score"][real], limit)
    body = picture(figure, "How many steps of held-out sequences have which anomaly score, and the threshold")
    order = np.argsort(-np.where(real, found["score"], -np.inf).max(axis=1), kind="stable")[:_DRAWN]
    x, marked = subject.x[order], found["contributions"][order] > MARKED
    mean = np.asarray(model.likelihood.to_data(model.reconstruct(x)))
    figure = plots.series(x, _of_length(x, mean), marked=marked, titles=[f"sequence {row}" for row in order])
    figure.suptitle(f"What adds more than {MARKED:g} nats to the score of its step is shaded")
    body += picture(figure, "The held-out sequences with the most unusual steps")
    return Section("Unusual steps", body)


def texts(subject: Subject) -> Section:
    """Held-out texts with their reconstructions."""
    model = subject.model
    x = model.vocabulary.decode(subject.x[:_TEXTS])
    made = model.reconstruct(x, seed=subject.seed)
    lead = "Each symbol is the most probable one given z, the mean of q(z|x), and the symbols that were written before."
    equal = np.mean([first == second for first, second in zip(x, made, strict=True)])
    lead += f" {equal:.0%} of these are equal to the text."
    rows = [[str(place), *pair] for place, pair in enumerate(zip(x, made, strict=True), start=1)]
    return Section("Reconstructions", text(lead) + table(["number", "text", "reconstruction"], rows))


def written(subject: Subject) -> Section:
    """Texts that the model writes, and how many of them it may have learned by heart."""
    model, body = subject.model, ""
    known = None if subject.train is None else set(model.vocabulary.decode(subject.train))
    for temperature in _TEMPERATURES:
        made = model.generate(_GENERATED, temperature=temperature, seed=subject.seed)
        words = f"Of {len(made)} texts, {len(set(made))} are different"
        if known is not None:
            words += f", and {sum(each in known for each in made)} are among {len(known):,} texts of the training"
        body += f"<h3>Temperature {temperature:g}</h3>" + text(f"{words}.") + code("\n".join(made[:_TEXTS]))
    return Section("Samples", body)


def ways(subject: Subject) -> Section | None:
    """Texts at even steps between the z of pairs of held-out texts."""
    model = subject.model
    if len(subject.x) < 2 or model.posterior.support != "real":
        return None
    first, last = sections.pairs(subject, _WAYS)
    body = text("The most probable texts at even steps of z, from that of the first text to that of the last.")
    start, end = (np.asarray(model.posterior.center(model.encode(subject.x[rows]))) for rows in (first, last))
    points = np.linspace(start, end, _POINTS, axis=1)
    found = model.decode(points.reshape(-1, points.shape[-1]))
    ends = [model.vocabulary.decode(subject.x[rows]) for rows in (first, last)]
    for way, (from_text, to_text) in enumerate(zip(*ends, strict=True)):
        rows = [[f"{place / (_POINTS - 1):.0%}", found[way * _POINTS + place]] for place in range(_POINTS)]
        body += table(["step of z", "text"], [["from", from_text], *rows, ["to", to_text]])
    return Section("Between two texts", body)


def _of_length(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values [N, T, C], without those after the end of the sequences x."""
    real = np.arange(x.shape[1]) < lengths(x)[:, np.newaxis]
    return np.where(real[..., np.newaxis], values, np.nan)


def _last_known(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The last value [N, 1, C] of each channel before the steps that are hidden [N, T]."""
    is_known = ~np.isnan(x) & (np.cumsum(hidden, axis=1) == 0)[..., np.newaxis]
    last = x.shape[1] - 1 - np.argmax(is_known[:, ::-1], axis=1)
    values = np.take_along_axis(x, last[:, np.newaxis], axis=1)
    return np.where(is_known.any(axis=1)[:, np.newaxis], values, np.nan)
