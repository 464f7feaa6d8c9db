"""Rows of a table: which are unusual and why, and rows whose dates can be drawn."""

import re
from typing import Any, NamedTuple

import numpy as np

from tfvae.data import Table
from tfvae.data.columns import Date
from tfvae.data.columns.column import missing
from tfvae.data.columns.dates import dates_of
from tfvae.models.vae import VAE

_MOST_ROWS, _MOST_REASONS = 5, 3
_MOST_CHARACTERS = 40


class UnusualRows(NamedTuple):
    """The most unusual of some rows, those first that are most so.

    Attributes:
        titles: a text that names each row and its score.
        labels: for each row a text for each column, with its value.
        nats: what each column adds to the score [B, C].
    """

    titles: list[str]
    labels: list[list[str]]
    nats: np.ndarray

    def __str__(self) -> str:
        lines = []
        for title, labels, nats in zip(*self, strict=True):
            reasons = (f"{labels[i]} ({nats[i]:+.1f})" for i in np.argsort(-nats, kind="stable")[:_MOST_REASONS])
            lines += [title, f"    {'; '.join(reasons)}"]
        return "\n".join(lines)


def unusual_rows(model: VAE, table: Table, rows: Any) -> UnusualRows:
    """Finds the rows of the highest anomaly scores, and what each column adds to these.

    Args:
        model: a model that is calibrated.
        table: its table.
        rows: held-out rows, a `pandas.DataFrame`.
    """
    found = model.detect(rows)
    nats = table.by_column(found["contributions"])
    order = np.argsort(-found["score"], kind="stable")[:_MOST_ROWS]
    identifiers = [column.name for column in table.columns if column.kind == "identifier" and column.name in rows]
    titles, labels = [], []
    for position in order:
        row = rows.iloc[[position]]
        # Free text is taken for an identifier too, but names no row.
        keys = [name for name in identifiers if not re.search(r"\s", str(row[name].iloc[0]))]
        names = [f"row {row.index[0]}", *(_labelled(name, row[name]) for name in keys)]
        titles.append(f"{', '.join(names)}: score {found['score'][position]:.1f} nats")
        labels.append([_labelled(name, row[name]) for name in table.kinds])
    return UnusualRows(titles, labels, nats[order])


def with_dates(table: Table, rows: Any) -> Any:
    """Rows with dates in the place of texts and numbers that are dates, whose format only the table knows."""
    read = {
        column.name: dates_of(column.known(rows[column.name]), column.format)
        for column in table.columns
        if isinstance(column, Date)
    }
    return rows.assign(**{name: dates for name, dates in read.items() if dates is not None})


def _labelled(name: str, value: Any) -> str:
    """A name and a value, the only one of a `pandas.Series`, in one line."""
    raw = value.iloc[0]
    text = "missing" if missing(value)[0] else f"{raw:.6g}" if isinstance(raw, float) else " ".join(str(raw).split())
    name = " ".join(name.split())
    return " = ".join(part if len(part) <= _MOST_CHARACTERS else f"{part[:_MOST_CHARACTERS]}…" for part in (name, text))
