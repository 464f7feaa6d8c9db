"""history.csv, the metrics of each epoch of a run: read, though it may be damaged, and cut where a training resumes."""

import contextlib
import csv
import io
import warnings
from collections.abc import Collection
from pathlib import Path

from tfvae import files, renamed

# The most bytes of a history.csv that is read, which is that of some 10,000 epochs.
_MAX_HISTORY = 10_000_000


def history(folder: Path) -> dict[str, list[float]]:
    """Reads the metrics of a run from its history.csv: by name, one value for each epoch whose row is whole."""
    rows = list(history_rows(folder).values())
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def history_rows(folder: Path) -> dict[int, dict[str, float]]:
    """The rows of history.csv that are whole, by epoch, each by the present names of the metrics."""
    try:
        text = files.read_text(folder / "history.csv", _MAX_HISTORY)
        # A number at the end of a last line that has no end may be cut.
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except (FileNotFoundError, ValueError, csv.Error):
        return {}
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        # What is cut, or of another table, has no number for a name, or no name for a number.
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            epoch = int(row.pop("epoch"))
            found[epoch] = {renamed.metric(name): float(value) for name, value in row.items()}
    return found


def cut_history(folder: Path, epoch: int, columns: Collection[str]) -> list[float]:
    """Leaves in history.csv the epochs before `epoch`, because the later ones are trained again.

    Args:
        folder: the folder of the run.
        epoch: the epoch.
        columns: what a row holds; others are not of this training, and are removed, with a warning.

    Returns:
        The losses of the epochs that are left.
    """
    path = folder / "history.csv"
    rows = {number: row for number, row in history_rows(folder).items() if {"epoch", *row} == set(columns)}
    kept = {number: rows[number] for number in range(epoch) if number in rows}
    lost = [str(number + 1) for number in range(epoch) if number not in rows]
    if lost:
        warnings.warn(
            f"The history of {len(lost)} epochs is lost, because their rows are damaged or missing; the training goes "
            f"on from its checkpoint. Received: {path}, without epoch {', '.join(lost[:20])}"
            + (", ..." if len(lost) > 20 else ""),
            stacklevel=2,
        )
    # Replaced in any case: what is there may be a link, which Keras would write through.
    with files.replacing(path) as written, open(written, "w", newline="") as file:
        if kept:
            # The order in which Keras will append the other rows, whatever the names were when these were written.
            writer = csv.DictWriter(file, ["epoch", *sorted(set(columns) - {"epoch"})])
            writer.writeheader()
            writer.writerows({"epoch": number, **row} for number, row in kept.items())
    return [row["loss"] for row in kept.values()]
