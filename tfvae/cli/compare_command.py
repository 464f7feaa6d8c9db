"""`tfvae compare`: the figures and pictures of runs side by side."""

import csv
import glob
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tfvae import files
from tfvae.cli import flags, parser, paths, record, yaml_files
from tfvae.cli.command_of_run import defaults
from tfvae.cli.history import history

if TYPE_CHECKING:
    from tfvae.reporting.comparison import Run

# The arguments that do not change what is trained, or that seeds of one model differ in.
_NOT_COMPARED = {"name", "runs", "saved_models", "seed", "seeds", "split_seed", "resume", "overwrite", "allow_import"}
_NOT_COMPARED |= {"evaluate", "pictures", "report", "export", "latency", "strategy", "devices", "worker_timeout"}
_NOT_COMPARED |= {"save_freq", "steps_per_execution", "jit_compile"}
# What decides which examples are held out.
_OF_SPLIT = {"data", "validation_fraction", "seed", "split_seed", "binarize", "image_size", "skip_unreadable"}
_OF_SPLIT |= {"drop", "columns", "kinds", "sequence", "time", "by", "length", "step"}
# The lines of evaluation.txt, for runs of versions that wrote no training.json.
_EVALUATION = re.compile(r"^(ELBO|log-likelihood|KL)\b.*?\s(-?\d+\.\d{3})(?:\s|$)", re.MULTILINE)
_NAMES = {"ELBO": "elbo", "log-likelihood": "log_likelihood", "KL": "kl"}
_EXAMPLES = re.compile(r"held out: (\d+) ")
_MAX_BYTES = 1_000_000


def compare(runs: Annotated[Sequence[str], flags.PATHS] = ("runs/*",), output: str = "compare.html") -> None:
    """Compares runs: a table of what they differ in and of their figures, and a page with their pictures in columns.

    Runs that differ only in their seeds are one row, with the mean and its standard error. Runs that were evaluated on
    different data are in different tables, and those that are unfinished or have diverged are named.

    Args:
        runs: folders of runs, or of runs for each seed.
        output: the file to write: a page (.html), or the figures alone (.csv or .json).
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        path = paths.check_output(output, ".html", ".csv", ".json")
        folders = _folders(runs)
        found, left_out = [], {}
        for folder in folders:
            try:
                found.append(_read(folder))
            except (ValueError, OSError) as error:
                left_out[str(folder)] = " ".join(str(error).split())
        if not found and not any((folder / "config.yaml").exists() for folder in folders):
            raise ValueError(f"`runs` must be folders that `tfvae train` wrote. Received: {', '.join(runs) or 'none'}")
        # Matplotlib takes a second to import.
        from tfvae.reporting import comparison

        compared = comparison.compare(found, left_out)
        with files.replacing(path) as written:
            if path.suffix == ".html":
                written.write_text(compared.page(), encoding="utf-8")
            elif path.suffix == ".json":
                written.write_text(json.dumps(compared.to_dict(), indent=2) + "\n", encoding="utf-8")
            else:
                records = compared.records()
                columns = dict.fromkeys(name for each in records for name in each)
                with written.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, columns)
                    writer.writeheader()
                    writer.writerows(records)
    print(f"{compared}\n\nWrote {path}")


def _folders(given: Sequence[str]) -> list[Path]:
    """The folders of runs among those given, the folders in these, and what is no run, in their order."""
    found: dict[Path, None] = {}
    for each in given:
        matches = [Path(each)] if Path(each).exists() else sorted(map(Path, glob.glob(each)))
        for path in matches or [Path(each)]:
            inside = sorted(config.parent for config in path.glob("*/config.yaml"))
            is_run = (path / "config.yaml").exists()
            # A folder of runs for each seed is no run itself.
            found |= dict.fromkeys([path] if is_run or not inside else [])
            found |= dict.fromkeys(inside)
    return list(found)


def _read(folder: Path) -> "Run":
    """Reads a run.

    Raises:
        ValueError: it is no run, or it cannot be compared; the message says why.
        OSError: a file cannot be read.
    """
    from tfvae.reporting.comparison import PICTURES, Run

    if not (folder / "config.yaml").exists():
        raise ValueError("not a run: it has no config.yaml")
    config = defaults() | yaml_files.read(folder / "config.yaml")
    known, epochs = record.read(folder), history(folder)
    _check_complete(folder, config, known, epochs)
    evaluation = known.get("evaluation") or _evaluation(folder)
    try:
        figures = _figures(evaluation, known, epochs)
        data = f"{int(evaluation['examples'])} examples of {config.get('data')}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{record.FILE} is damaged: {type(error).__name__}: {error}") from error
    split = {name: config.get(name) for name in _OF_SPLIT}
    return Run(
        name=str(folder),
        seed=config["seed"],
        arguments={name: _shown(value) for name, value in config.items() if name not in _NOT_COMPARED},
        figures=figures,
        held_out=evaluation.get("held_out") or json.dumps(split, sort_keys=True, default=str),
        data=data,
        history=epochs,
        pictures={name: folder / name for name in PICTURES if (folder / name).is_file()},
    )


def _figures(
    evaluation: Mapping[str, Any], known: Mapping[str, Any], epochs: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The figures of a run that are known, by their names in `tfvae.reporting.comparison.FIGURES`."""
    sizes = known.get("bytes", {})
    names = [*_NAMES.values(), "reconstruction_log_likelihood"]
    found = {name: evaluation[name]["mean"] for name in names if name in evaluation} | {
        "active_units": evaluation.get("active_units"),
        "epoch": known.get("best_epoch") or known.get("epochs") or (len(epochs.get("loss", [])) or None),
        "seconds": known.get("seconds"),
        "weights": known.get("weights"),
        "bytes": next((size for name, size in sizes.items() if "tflite" in name.lower()), None),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _check_complete(
    folder: Path, config: Mapping[str, Any], known: Mapping[str, Any], epochs: Mapping[str, Sequence[float]]
) -> None:
    """Raises ValueError unless a run is trained."""
    losses = epochs.get("loss", [])
    if known.get("diverged") or (losses and not math.isfinite(losses[-1])):
        raise ValueError(f"diverged in epoch {len(losses)}")
    if (folder / "checkpoints").exists() or not (folder / "model.keras").exists():
        raise ValueError(f"unfinished: {len(losses)} of {config.get('epochs')} epochs; --resume goes on")


def _evaluation(folder: Path) -> dict[str, Any]:
    """The figures of a run that has them in evaluation.txt alone.

    Raises:
        ValueError: it has none.
    """
    path = folder / "evaluation.txt"
    if not path.exists():
        raise ValueError("trained, but not evaluated yet; --resume goes on")
    content = files.read_text(path, _MAX_BYTES)
    found = {_NAMES[name]: {"mean": float(value)} for name, value in _EVALUATION.findall(content)}
    examples = _EXAMPLES.search(content)
    if len(found) < len(_NAMES) or examples is None:
        raise ValueError("trained, but its evaluation was left out or is damaged")
    return {**found, "examples": int(examples[1])}


def _shown(value: Any) -> str:
    """The value of an argument, in a few letters."""
    if isinstance(value, Mapping) and "class_path" in value:
        given = [f"{name}={_shown(each)}" for name, each in (value.get("init_args") or {}).items() if each is not None]
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({', '.join(given)})" if given else name
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_shown(each)}" for name, each in value.items())
    return "" if value is None else str(value)
