"""The sections of a report on a table: its columns, generated rows, and unusual rows with their reasons."""

from tfvae import plots
from tfvae.data import Table
from tfvae.reporting import sections
from tfvae.reporting.page import Section, code, picture, table
from tfvae.reporting.rows_of_table import unusual_rows, with_dates
from tfvae.reporting.subject import Subject

_ROWS = 8
_MOST_COLUMNS = 12


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
        [str(number), *(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)]
        for number, row in enumerate(made[names].head(_ROWS).itertuples(index=False), start=1)
    ]
    return Section("Generated rows", body + table(["row", *map(str, names)], rows))


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
