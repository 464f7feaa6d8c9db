"""The sections of a report on a table: its columns, generated rows, walks, and unusual rows with their reasons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfvae import evaluation, plots
from tfvae.data import Table
from tfvae.data.columns import BINARY, CATEGORY, COUNT
from tfvae.reporting import sections
from tfvae.reporting.page import Section, code, picture, table, text
from tfvae.reporting.rows_of_table import unusual_rows, with_dates
from tfvae.reporting.subject import Subject

_ROWS = 8
_STEPS = 5
_MOST_COLUMNS = 12
# As many dimensions are traversed, and columns shown of them, and rows compared with those of the training.
_MOST_TRAVERSED, _MOST_WALKED, _COMPARED = 6, 30, 200


def columns(subject: Subject) -> Section:
    """What each column was taken for."""
    return Section("Columns", code(str(_table(subject))))


def generated(subject: Subject) -> Section:
    """Generated rows: the distribution of each column beside that of the real rows, and some of the rows."""
    model, known = subject.model, _table(subject)
    made = model.generate(len(subject.rows), seed=subject.seed, sample=True)
    figure = plots.marginals(with_dates(known, subject.rows), with_dates(known, made), known.kinds)
    body = picture(figure, "The distribution of each column, of held-out and of generated rows")
    names = list(made.columns)[:_MOST_COLUMNS]
    rows = [
        [str(number), *map(_cell, row)]
        for number, row in enumerate(made[names].head(_ROWS).itertuples(index=False), start=1)
    ]
    body += table(["row", *map(str, names)], rows)
    if subject.train is not None and len(subject.train):
        body += text(_nearness(subject, made))
    return Section("Generated rows", body)


def traversals(subject: Subject) -> Section | None:
    """How the row of the mean of p(x|z) changes along each active latent dimension."""
    found = sections.traversals(subject)
    if found is None or isinstance(found, Section):
        return found
    body = text(sections.of_traversals(found))
    header = ["column", *(f"{value:+g} sd" for value in found.values)]
    for label, x in zip(found.labels[:_MOST_TRAVERSED], found.x, strict=False):
        body += f"<h3>{label}</h3>" + _walk(subject, x, header)
    return Section("Along each latent dimension", body)


def interpolations(subject: Subject) -> Section | None:
    """The way between two held-out rows, of different classes if these are known."""
    if len(subject.x) < 2:
        return None
    first, last = sections.pairs(subject, 1)
    (x,) = evaluation.interpolations(subject.model, subject.x[first], subject.x[last], steps=_STEPS)
    header = ["column", *(f"{share:.0%}" for share in np.linspace(0, 1, _STEPS))]
    lead = "From the reconstruction of a held-out row to that of another, by even steps of z."
    return Section("Between two rows", text(lead) + _walk(subject, x, header))


def _walk(subject: Subject, means: np.ndarray, header: Sequence[str]) -> str:
    """A table with the columns in its rows, and the points of a walk in its columns."""
    rows = _table(subject).rows(np.asarray(subject.model.likelihood.to_data(means)))
    names = list(_table(subject).kinds)[:_MOST_WALKED]
    return table(header, [[name, *map(_cell, rows[name])] for name in names])


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _nearness(subject: Subject, made: Any) -> str:
    """How near generated rows are to those of the training, and held-out rows for comparison."""
    assert subject.train is not None
    of_made, of_held_out = (
        _nearest(_table(subject), x[:_COMPARED], subject.train) for x in (subject.model.of_rows(made), subject.x)
    )
    equal = np.sum(of_made == 0)
    return (
        f"Of {len(of_made)} generated rows, {equal} equal a row of the training. The median distance to the nearest "
        f"row of the training is {np.median(of_made):.3g} for generated and {np.median(of_held_out):.3g} for held-out "
        "rows: generated rows that were much nearer would be copies. (Numbers differ by their standard deviations, "
        "counts by those of their logarithms, and other values by 1 if they are not the same.)"
    )


def _nearest(known: Table, x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The distance of each row of x [N, D] to the nearest of the training [M, D]."""
    distances = np.zeros([len(x), len(train)])
    for part, first, second in zip(known.parts, np.asarray(x, float).T, np.asarray(train, float).T, strict=True):
        if part.content == COUNT and part.transform:
            first, second = (np.log1p(values) / part.transform["stddev"] for values in (first, second))
        difference = np.abs(first[:, np.newaxis] - second)
        if part.content in (BINARY, CATEGORY):
            difference = np.where(difference > 0, 1.0, difference)
        both_missing = np.isnan(first)[:, np.newaxis] & np.isnan(second)
        distances += np.where(both_missing, 0.0, np.where(np.isnan(difference), 1.0, difference))
    return distances.min(axis=1)


def unusual(subject: Subject) -> Section | None:
    """The held-out rows of highest score, and what each column adds to it."""
    if subject.model.decision is None:
        return None
    found = unusual_rows(subject.model, _table(subject), subject.rows)
    figure = plots.contributions(found.nats, found.labels, found.titles)
    body = sections.scores(subject) + picture(figure, "The most unusual held-out rows, and what adds to their scores")
    return Section("Unusual rows", body + code(str(found)))


def _table(subject: Subject) -> Table:
    assert subject.model.table is not None
    return subject.model.table
