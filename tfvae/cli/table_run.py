"""What is different in the run of a table: its model, its evaluation, its unusual rows and its pictures."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfvae import plots
from tfvae.cli import run_folder, run_training
from tfvae.cli.train_command import check_likelihood_of_table
from tfvae.data import Table
from tfvae.data.columns import Date
from tfvae.data.columns.column import missing
from tfvae.data.columns.dates import dates_of
from tfvae.likelihoods import Likelihood
from tfvae.likelihoods.location_scale import LocationScale
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


def make_model(
    table: Table, likelihood: Likelihood, latent_dim: int, hidden: tuple[int, ...], activation: str, **others: Any
) -> VAE:
    """Makes the model of a table.

    Args:
        table: what its columns are.
        likelihood: p(x|z) of the numbers.
        latent_dim: the dimension of z.
        hidden: the widths of the dense layers of the encoder.
        activation: the name of the activation.
        others: the other arguments of `VAE`.

    Raises:
        ValueError: the likelihood is not one of numbers, or the networks do not fit in memory.
    """
    check_likelihood_of_table(type(likelihood).__name__)
    if isinstance(likelihood, LocationScale) and (config := likelihood.get_config())["scale"] == "learned":
        # The columns have nothing in common that would make their scales alike.
        likelihood = type(likelihood).from_config({**config, "scale": "per_dimension"})
    of_rows = table.likelihood(number=lambda: likelihood)
    run_training.check_memory(of_rows.parameter_shape((len(table.parts),)), latent_dim, hidden)
    return VAE.of_table(table, latent_dim, hidden, activation, of_rows, **others)


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


def draw(
    model: VAE, table: Table, x: np.ndarray, rows: Any, unusual: UnusualRows | None, folder: Path, seed: int
) -> None:
    """Writes marginals.png, anomalies.png and latent.png.

    Args:
        model: the model.
        table: its table.
        x: held-out data [N, D].
        rows: the same as rows, a `pandas.DataFrame`.
        unusual: those of them that are unusual; None for a model that does not detect any, without anomalies.png.
        folder: the folder of the run.
        seed: the seed of the generated rows.
    """
    generated = model.generate(len(rows), seed=seed, sample=True)
    figure = plots.marginals(_with_dates(table, rows), _with_dates(table, generated), table.kinds)
    run_folder.write_picture(figure, folder / "marginals.png")
    if unusual is not None:
        picture = plots.contributions(unusual.nats, unusual.labels, unusual.titles)
        run_folder.write_picture(picture, folder / "anomalies.png")
    z = np.asarray(model.posterior.center(model.encode(x)))
    run_folder.write_picture(plots.latent(z), folder / "latent.png")


def _with_dates(table: Table, rows: Any) -> Any:
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
