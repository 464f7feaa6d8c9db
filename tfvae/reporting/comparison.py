"""Runs side by side: tables of their figures, and one HTML page with their pictures in columns."""

import base64
import collections
import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfvae.plots.figures import COLORS, new_figure, plain
from tfvae.reporting.page import Section, page, picture, table, text

_OF_SIZES = ",.0f"
# The figures of a run: their headings, and how they are written.
FIGURES = {
    "elbo": ("ELBO", ".3f"),
    "log_likelihood": ("log p(x)", ".3f"),
    "reconstruction_log_likelihood": ("log p(x|z)", ".3f"),
    "kl": ("KL", ".3f"),
    "active_units": ("active units", ".3g"),
    "epoch": ("epoch", ".4g"),
    "seconds": ("seconds", ".4g"),
    "weights": ("weights", _OF_SIZES),
    "bytes": (".tflite bytes", _OF_SIZES),
}
_OF_QUALITY = ("elbo", "log_likelihood", "reconstruction_log_likelihood", "kl", "active_units")
# The pictures of a run, and what they show.
PICTURES = {
    "samples.png": "Samples",
    "reconstructions.png": "Reconstructions",
    "marginals.png": "Columns of generated and of real rows",
    "anomalies.png": "Unusual rows",
    "latent.png": "Latent space",
}
_STYLES = ("-", "--", ":", "-.")
_ERRORS = "After ± is the standard error of the mean over the seeds. Nats are per example, of held-out data."
_LIKELIHOODS = (
    "The likelihoods differ: their ELBO and log p(x) compare only if all are densities, or all probabilities, of the "
    "same x."
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained and evaluated run.

    Args:
        name: its folder.
        seed: its seed.
        arguments: what was chosen for it, but for seeds and files, by the name of the flag.
        figures: those of `FIGURES` that are known.
        held_out: what tells its held-out data from others.
        data: these data, in words.
        history: see `tfvae.plots.history`.
        pictures: the files of its pictures, by their name in `PICTURES`.
    """

    name: str
    seed: int
    arguments: Mapping[str, str]
    figures: Mapping[str, float]
    held_out: str
    data: str
    history: Mapping[str, Sequence[float]]
    pictures: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that differ only in their seeds.

    Args:
        name: the folder that they have in common, or that of the only one.
        runs: the runs.
    """

    name: str
    runs: Sequence[Run]

    def figure(self, name: str) -> tuple[float, float]:
        """The mean of a figure over the runs, and its standard error; NaN where they are not known."""
        values = [run.figures[name] for run in self.runs if run.figures.get(name) is not None]
        if len(values) < len(self.runs):
            return math.nan, math.nan
        error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return float(np.mean(values)), error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side. `str` gives the tables, as text.

    Args:
        tables: rows, best first; each table is of runs with the same held-out data.
        left_out: the folders that cannot be compared, with the reason.
    """

    tables: Sequence[Sequence[Row]]
    left_out: Mapping[str, str]

    def cells(self, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
        """The headings of a table, and its cells."""
        names = [name for name in FIGURES if any(not math.isnan(row.figure(name)[0]) for row in rows)]
        differing = _differing(rows)
        # What is measured of the model, then what was chosen for it, then what it costs.
        first = [name for name in names if name in _OF_QUALITY]
        others = [name for name in names if name not in _OF_QUALITY]
        header = ["run", "seeds", *(FIGURES[name][0] for name in first), *differing]
        lines = []
        for row in rows:
            cells = {name: _cell(*row.figure(name), FIGURES[name][1]) for name in names}
            chosen = [row.runs[0].arguments.get(name, "") for name in differing]
            line = [row.name, str(len(row.runs)), *(cells[name] for name in first), *chosen]
            lines.append([*line, *(cells[name] for name in others)])
        return [*header, *(FIGURES[name][0] for name in others)], lines

    def notes(self, rows: Sequence[Row]) -> list[str]:
        """What must be known to read a table."""
        found = [_ERRORS]
        if len({row.runs[0].arguments.get("likelihood", "").partition("(")[0] for row in rows}) > 1:
            found.append(_LIKELIHOODS)
        return found

    def heading(self, rows: Sequence[Row]) -> str:
        """What the runs of a table were evaluated on."""
        number = next(number for number, table in enumerate(self.tables, start=1) if table is rows)
        return f"Held out{f' ({number})' if len(self.tables) > 1 else ''}: {rows[0].runs[0].data}"

    @property
    def warning(self) -> str | None:
        """What is said where not all runs were evaluated on the same data."""
        if len(self.tables) < 2:
            return None
        return (
            f"The runs were evaluated on {len(self.tables)} different sets of held-out data, or ones not known to be "
            "the same, so that figures compare only within a table. --seeds, or one --split_seed, holds out the same."
        )

    def __str__(self) -> str:
        """The tables, to print."""
        blocks = [self.warning] if self.warning else []
        for rows in self.tables:
            header, lines = self.cells(rows)
            widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
            block = [self.heading(rows)]
            for line in (header, *lines):
                cells = [f"{cell:<{width}}" for cell, width in zip(line[:1], widths[:1], strict=True)]
                cells += [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
                block.append("  ".join(cells).rstrip())
            blocks.append("\n".join([*block, *self.notes(rows)]))
        if self.left_out:
            reasons = [f"{folder}: {why}" for folder, why in self.left_out.items()]
            blocks.append("\n".join(["Not compared:", *reasons]))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """All that is compared, ready for JSON."""
        tables = []
        for rows in self.tables:
            entries = []
            for row in rows:
                figures = {name: row.figure(name) for name in FIGURES}
                entries.append(
                    {
                        "name": row.name,
                        "runs": {run.name: dict(run.figures) for run in row.runs},
                        "arguments": dict(row.runs[0].arguments),
                        "figures": {
                            name: {"mean": mean, "standard_error": None if math.isnan(error) else error}
                            for name, (mean, error) in figures.items()
                            if not math.isnan(mean)
                        },
                    }
                )
            tables.append({"data": rows[0].runs[0].data, "rows": entries})
        return {"tables": tables, "left_out": dict(self.left_out)}

    def records(self) -> list[dict[str, Any]]:
        """One flat record for each run, for a CSV file."""
        return [
            {"run": run.name, "group": row.name, "held_out": number, **run.figures, **run.arguments}
            for number, rows in enumerate(self.tables, start=1)
            for row in rows
            for run in row.runs
        ]

    def page(self) -> str:
        """The whole HTML page."""
        sections = []
        for rows in self.tables:
            # A mean and its error stay on one line.
            body = table(*self.cells(rows)).replace(" ± ", "&nbsp;±&nbsp;") + "".join(
                text(note) for note in self.notes(rows)
            )
            curves = _curves(rows)
            if curves is not None:
                body += "<h3>The held-out bound in training</h3>"
                body += picture(curves, "The held-out bound of each run, for each epoch of its training")
            body += "".join(_columns(rows, name, title) for name, title in PICTURES.items())
            sections.append(Section(self.heading(rows), body))
        if self.left_out:
            sections.append(Section("Not compared", table(["folder", "why"], self.left_out.items())))
        count = sum(len(row.runs) for rows in self.tables for row in rows)
        lead = text(
            "1 run." if count == 1 else f"{count} runs, of which those that differ only in their seeds are one row."
        )
        return page("Runs side by side", lead + (text(self.warning) if self.warning else ""), sections)


def compare(runs: Sequence[Run], left_out: Mapping[str, str]) -> Comparison:
    """Groups runs by their held-out data, and within these by what was chosen for them.

    Args:
        runs: the runs.
        left_out: folders that cannot be compared, with the reason.
    """
    groups: dict[str, dict[tuple[str, int], list[Run]]] = {}
    repeats: collections.Counter[tuple[str, str, int]] = collections.Counter()
    for run in runs:
        chosen = json.dumps(dict(run.arguments), sort_keys=True)
        # A run that repeats a seed is no further sample of its row, but one of another.
        repeat = repeats[run.held_out, chosen, run.seed]
        repeats[run.held_out, chosen, run.seed] += 1
        groups.setdefault(run.held_out, {}).setdefault((chosen, repeat), []).append(run)
    tables = []
    for group in groups.values():
        rows = [Row(_common_name(found), found) for found in group.values()]
        tables.append(sorted(rows, key=_rank))
    return Comparison(tables, left_out)


def _rank(row: Row) -> tuple[bool, float]:
    """The place of a row in its table: by its bound, and after these rows those without one, by the reconstruction."""
    bound = row.figure("elbo")[0]
    has_none = math.isnan(bound)
    value = row.figure("reconstruction_log_likelihood")[0] if has_none else bound
    return has_none, math.inf if math.isnan(value) else -value


def _common_name(runs: Sequence[Run]) -> str:
    parents = {str(Path(run.name).parent) for run in runs}
    if len(runs) > 1 and len(parents) == 1 and all(Path(run.name).name.startswith("seed-") for run in runs):
        return parents.pop()
    return ", ".join(run.name for run in runs)


def _differing(rows: Sequence[Row]) -> list[str]:
    """The arguments in which rows differ."""
    chosen = [row.runs[0].arguments for row in rows]
    names = dict.fromkeys(name for arguments in chosen for name in arguments)
    return [name for name in names if len({arguments.get(name) for arguments in chosen}) > 1]


def _cell(mean: float, error: float, form: str) -> str:
    if math.isnan(mean):
        return ""
    # Sizes hardly depend on the seed.
    return f"{mean:{form}}" + ("" if math.isnan(error) or form == _OF_SIZES else f" ± {error:.2g}")


def _curves(rows: Sequence[Row]) -> Figure | None:
    if not any(run.history.get("val_elbo") for row in rows for run in row.runs):
        return None
    figure = new_figure("", 7.5, 4)
    axes = figure.subplots()
    for index, row in enumerate(rows):
        color, style = COLORS[index % len(COLORS)], _STYLES[index // len(COLORS) % len(_STYLES)]
        for number, run in enumerate(row.runs):
            values = run.history.get("val_elbo", [])
            if not values:
                # A run without a bound.
                continue
            label = row.name if number == 0 else None
            marker = "." if len(values) == 1 else None
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, label=label, linewidth=1.3, marker=marker, color=color, linestyle=style)
    axes.set(xlabel="epoch", ylabel="ELBO (nats per example)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    plain(axes)
    assert isinstance(figure, Figure)
    return figure


def _columns(rows: Sequence[Row], name: str, title: str) -> str:
    """One kind of picture of all rows, each of its first run."""
    if not any(name in row.runs[0].pictures for row in rows):
        return ""
    cells = ""
    for row in rows:
        run = row.runs[0]
        caption = html.escape(run.name)
        if (path := run.pictures.get(name)) is None:
            shown = "<p>No such picture.</p>"
        else:
            source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            shown = f'<img style="max-width:100%" src="{source}" alt="{title} of {caption}">'
        cells += f'<figure style="margin:0"><figcaption>{caption}</figcaption>{shown}</figure>'
    # No column is wider than its share of the page, but where that is too little to see, the row scrolls.
    style = "display:grid;grid-auto-flow:column;grid-auto-columns:minmax(min(17rem,100%),30rem);gap:1rem"
    return f'<h3>{title}</h3><div class="wide" tabindex="0"><div style="{style}">{cells}</div></div>'
