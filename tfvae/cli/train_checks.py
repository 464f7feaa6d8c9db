"""The check of the flags of `tfvae train`, as far as this is possible without TensorFlow."""

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from tfvae.cli import chosen_callbacks, parts, paths
from tfvae.data import guess, series_files, tables

# A table of at most so many bytes is read before TensorFlow is imported, so that its errors come at once; a larger one
# would take long to be read twice.
_SMALL_TABLE = 2**26
# The likelihoods that numbers of a table, or channels of series, may have.
_OF_NUMBERS = ("Normal", "Laplace", "StudentT")
# The networks of series.
_OF_SERIES = ("temporal", "recurrent", "transformer")


def check(chosen: Namespace, choices: Sequence[tuple[str, str, str]]) -> None:
    """Raises ValueError unless the arguments are valid, as far as this is known without TensorFlow.

    Args:
        chosen: the arguments, but for those parts that the command line chooses.
        choices: the choices of parts of the command line, from `parts.split`.
    """
    name = chosen.name or Path(chosen.data).stem
    # Exports need such a name, and a pattern of files, whose stem is the default, is not one.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(
            "`--name` must consist of letters, digits, '.', '_' and '-', and begin with none of '.' and '-'. Received: "
            f"{name}"
        )
    known = [slot for slot in parts.PARTS if not parts.may_be_replaced(slot, choices)]
    for slot in known:
        parts.check(slot, chosen.get(slot, parts.DEFAULTS[slot]), choices, chosen.allow_import)
    named = [value for slot, argument, value in choices if slot == "likelihood" and not argument]
    likelihood = [chosen.get("likelihood", {}).get("class_path", "Normal"), *named][-1].rpartition(".")[2]
    paths.check_data(chosen.data)
    check_callbacks(chosen.callbacks, chosen.allow_import, chosen.schedule, chosen.data, chosen.sequence)
    if chosen.seeds is not None and chosen.seed != 0:
        raise ValueError(f"`--seed` must not be given with `--seeds`. Received: --seed {chosen.seed}")
    if chosen.sequence:
        _check_of_sequence(chosen)
        if "likelihood" in known:
            check_likelihood_of_sequence(likelihood)
    elif tables.is_table(chosen.data):
        _check_without_sequence(chosen)
        _check_of_table(chosen)
        if "likelihood" in known:
            check_likelihood_of_table(likelihood)
    else:
        _check_without_sequence(chosen)
        for flag in ("drop", "columns", "kinds", "label"):
            if chosen[flag] is not None:
                raise ValueError(
                    f"`--{flag}` must be given for a .csv or .parquet table alone. Received: {chosen.data}"
                )
        is_other = likelihood in parts.PARTS["likelihood"] and likelihood != "Bernoulli"
        if chosen.binarize and is_other and "likelihood" in known:
            raise ValueError(
                "`--binarize` makes x 0 or 1, which needs `--likelihood Bernoulli`. Received: --likelihood "
                + likelihood
            )
    if chosen.export != "none":
        paths.check_export(Path(chosen.saved_models) / name, "--saved_models")


def check_callbacks(
    callbacks: Any, allowed: Sequence[str], schedule: str, data: str, sequence: bool
) -> list[tuple[str, dict]]:
    """See `chosen_callbacks.check`."""
    is_table = tables.is_table(data) and not sequence
    return chosen_callbacks.check(callbacks, allowed, schedule=schedule, is_table=is_table, is_sequence=sequence)


def _check_of_table(chosen: Namespace) -> None:
    """Raises ValueError unless the table can be read, and the flags are those of a table with such columns."""
    for flag, value in (("binarize", None), ("image_size", None), ("skip_unreadable", False), ("network", "dense")):
        if chosen[flag] != value:
            raise ValueError(f"`--{flag}` must not be given for a table. Received: {chosen[flag]}")
    path = Path(chosen.data)
    if not path.is_file() or path.stat().st_size <= _SMALL_TABLE:
        # Training reads the table again, and gives the warnings.
        with warnings.catch_warnings(action="ignore"):
            frame = tables.features(path)
            guess.chosen(frame, chosen.kinds or {}, chosen.drop or (), chosen.columns)
            if chosen.label is not None:
                tables.classes(frame, chosen.label, "--label")


def _check_without_sequence(chosen: Namespace) -> None:
    """Raises ValueError if a flag is given that is for series alone."""
    for flag in ("time", "by", "length", "stride", "step"):
        if chosen[flag] is not None:
            raise ValueError(f"`--{flag}` must be given with `--sequence` alone. Received: --{flag} {chosen[flag]}")
    if chosen.network in _OF_SERIES:
        raise ValueError(
            "`--network` must be dense, convolutional or residual without `--sequence`. Received: --network "
            f"{chosen.network}"
        )


def _check_of_sequence(chosen: Namespace) -> None:
    """Raises ValueError unless the file has such series, and the flags are those of series."""
    others = {"binarize": None, "image_size": None, "skip_unreadable": False, "kinds": None, "label": None}
    for flag, value in others.items():
        if chosen[flag] != value:
            raise ValueError(f"`--{flag}` must not be given with `--sequence`. Received: {chosen[flag]}")
    if chosen.network not in ("dense", *_OF_SERIES):
        names = ", ".join(("dense", *_OF_SERIES))
        raise ValueError(f"`--network` must be one of {names} with `--sequence`. Received: --network {chosen.network}")
    path = Path(chosen.data)
    if path.suffix.lower() not in series_files.SUFFIXES or not path.is_file():
        raise ValueError(
            f"`data` must be a file {', '.join(series_files.SUFFIXES)} of series with `--sequence`. Received: "
            f"{chosen.data}"
        )
    if not tables.is_table(path):
        for flag in ("time", "by", "step", "drop", "columns"):
            if chosen[flag] is not None:
                raise ValueError(
                    f"`--{flag}` must be given for a .csv or .parquet table alone. Received: {chosen.data}"
                )
    if chosen.length is None and chosen.by is None and path.suffix.lower() != ".npz":
        raise ValueError(
            "`--length`, the number of steps of a window, must be given with `--sequence`, unless `--by` says which "
            "rows are a whole sequence. Received: neither"
        )
    if chosen.length is None and chosen.stride is not None:
        raise ValueError(
            f"`--stride` must be given with `--length` alone, because whole sequences are not cut. Received: --stride "
            f"{chosen.stride}"
        )
    if path.stat().st_size <= _SMALL_TABLE:
        # Training reads the file again, and gives the warnings.
        with warnings.catch_warnings(action="ignore"):
            series_files.split(path, chosen.length, **arguments_of_series(chosen.as_dict()))


def arguments_of_series(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `tfvae.data.load_series` about what series there are, from those of the command."""
    names = ("time", "by", "step", "columns", "validation_fraction")
    return {**{name: config[name] for name in names}, "drop": config["drop"] or ()}


def check_likelihood_of_sequence(name: str) -> None:
    """Raises ValueError unless the likelihood of a name may be that of the channels of series."""
    if name in parts.PARTS["likelihood"] and name not in _OF_NUMBERS:
        raise ValueError(
            f"`--likelihood` must be {', '.join(_OF_NUMBERS[:-1])} or {_OF_NUMBERS[-1]} with `--sequence`, because it "
            f"is that of standardised channels, whose missing values it takes as such. Received: --likelihood {name}"
        )


def check_likelihood_of_table(name: str) -> None:
    """Raises ValueError unless the likelihood of a name may be that of the numbers of a table."""
    if name in parts.PARTS["likelihood"] and name not in _OF_NUMBERS:
        raise ValueError(
            f"`--likelihood` must be {', '.join(_OF_NUMBERS[:-1])} or {_OF_NUMBERS[-1]} for a table, because it is "
            "that of the numbers; --kinds decides that of the other columns, as in --kinds age=count. Received: "
            f"--likelihood {name}"
        )


def import_allowed(modules: Sequence[str]) -> None:
    """Imports modules, whose classes Keras then finds when it loads a model.

    Raises:
        ImportError: there is no such module.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"`--allow_import` must name modules that can be imported. Received: {module}") from error
