"""The folder of a run: reads the model and the data back for the other commands, writes evaluation and pictures."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from tfvae import data as data_module
from tfvae import files, plots
from tfvae.cli import command_of_run, record, yaml_files
from tfvae.cli.history import history
from tfvae.cli.progress import duration
from tfvae.data import LoadedSeries, Rows, Series, Table, loading, tables
from tfvae.data.labels import of_validation
from tfvae.detection.thresholds import least_rate
from tfvae.evaluation import active_units
from tfvae.export.card import Card, code_span
from tfvae.export.report import Verification
from tfvae.models.vae import VAE
from tfvae.reporting.document import report as write_report
from tfvae.reporting.measures import Measures, standard_error
from tfvae.reporting.subject import MOST_EXAMPLES

# The entries of config.yaml that are needed to read the data again, and their types.
_DATA_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "batch_size": (int,),
    "validation_fraction": (int, float),
    "binarize": (str, type(None)),
    "image_size": (list, type(None)),
    "skip_unreadable": (bool,),
    "seed": (int,),
}
# The rate of false alarms that a training calibrates its model for.
FALSE_ALARM_RATE = 0.01
# The most bytes of an evaluation.txt that is read; it has a few lines.
_MAX_EVALUATION = 100_000
# The values of those that runs of earlier versions lack.
_EARLIER = {"skip_unreadable": False, "split_seed": None, "stride": None, "sequence": False}


def load_model(folder: Path) -> VAE:
    """Loads the trained model of a run.

    Raises:
        ValueError: the folder has no trained model, or its file is damaged.
    """
    path = folder / "model.keras"
    if not path.is_file():
        raise ValueError(f"`run` must be a folder that `tfvae train` wrote. Received: {folder}, with no model.keras")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # A damaged file may raise anything.
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"`run` must have a model.keras that is whole. Received: {path}: {what}") from error
    if not isinstance(model, VAE):
        raise ValueError(f"`run` must have the model of a `tfvae.VAE`. Received: {path}, of a {type(model).__name__}")
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the config.yaml of a run, with that seed which its data have.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / "config.yaml"
    config = _EARLIER | yaml_files.read(path)
    for name, types in (_DATA_ARGUMENTS | {"split_seed": (int, type(None))}).items():
        if not isinstance(config.get(name, ...), types):
            received = f"{name}: {config[name]!r}" if name in config else f"no {name}"
            raise ValueError(f"A config.yaml that `tfvae train` wrote was expected. Received: {path}, with {received}")
    if config["split_seed"] is not None:
        config["seed"] = config["split_seed"]
    return config


def load_data(
    folder: Path, source: str | None = None, table: Table | None = None, series: Series | None = None
) -> loading.Pipelines:
    """Loads the data that a run was trained on, or other data, split and scaled in the same way.

    Args:
        folder: the folder of the run.
        source: other data, by name or path.
        table: that of the model, if it has one.
        series: those of the model, if it has any.
    """
    if series is not None:
        return load_series(folder, series, source).pipelines
    if table is not None:
        return load_rows(folder, table, source).pipelines
    config = read_config(folder)
    arguments = {name: config[name] for name in _DATA_ARGUMENTS}
    data = arguments.pop("data")
    return loading.load(source or data, **arguments)


def load_rows(folder: Path, table: Table, source: str | None = None) -> Rows:
    """Loads the rows that a run of a table was trained on, or others, as `load_data` does."""
    config = read_config(folder)
    arguments = {name: config[name] for name in ("batch_size", "validation_fraction", "seed")}
    return data_module.load_rows(source or config["data"], table, **arguments)


def load_series(folder: Path, series: Series, source: str | None = None) -> LoadedSeries:
    """Loads the series that a run was trained on, or others, as `load_data` does."""
    config = read_config(folder)
    arguments = {name: config[name] for name in ("stride", "batch_size", "validation_fraction", "seed")}
    return data_module.load_series(source or config["data"], series=series, **arguments)


def labels(folder: Path, count: int, **limits: int) -> np.ndarray | None:
    """The classes of the first held-out examples of a run [count], or None if they are not known.

    Args:
        folder: the folder of the run.
        count: how many.
        limits: `most_classes` of `tfvae.data.labels.of_validation`, if there is a limit of its own.
    """
    config = read_config(folder)
    # Of a folder of which some pictures were left out, it is not known which classes are there.
    if config["skip_unreadable"]:
        return None
    arguments = {name: config[name] for name in ("validation_fraction", "seed")}
    found = of_validation(config["data"], **arguments, **limits)
    return None if found is None or len(found) < count else found[:count]


def column_names(folder: Path) -> list[str]:
    """The names of the columns of the table that a run was trained on.

    Raises:
        ValueError: the data of the run are not a table.
    """
    source = Path(read_config(folder)["data"])
    if not tables.is_table(source):
        raise ValueError(
            f"`--output` must end in .png or .npy if the run is not of a table. Received: a run of {source}"
        )
    return tables.names(source)


def held_out(pipelines: loading.Pipelines) -> np.ndarray:
    """The held-out examples [N, ...], but no more than the first 10,000, so that they fit in memory."""
    examples = pipelines.validation.unbatch().take(10_000).batch(10_000)
    return next(examples.as_numpy_iterator())


def evaluation(model: VAE, x: np.ndarray, measures: Measures) -> str:
    """A table of the bound and of log p(x) on held-out data, in nats per example and, but for rows, bits per dimension.

    Args:
        model: the model.
        x: the data [N, ...].
        measures: what was measured of them.
    """
    figures = [(label, float(np.mean(values))) for label, values in measures.labelled().items()]
    if model.table is not None:
        return _evaluation_of_rows(len(x), len(model.table.kinds), figures)
    if model.series is not None:
        return _evaluation_of_windows(x, figures)
    dimensions = math.prod(x.shape[1:])
    title = f"{f'held out: {len(x)} examples of {dimensions} dimensions':<50}{'nats':>10}"
    if not model.has_bound:
        # What is no bound on log p(x) is not the length of a code for x.
        return "\n".join([title, *(f"{label:<50}{nats:>10.3f}" for label, nats in figures)])
    lines = [f"{title}{'bits/dim':>10}"]
    for label, nats in figures:
        sign = 1 if label == "KL" else -1
        lines.append(f"{label:<50}{nats:>10.3f}{sign * nats / (dimensions * math.log(2)):>10.4f}")
    return "\n".join(lines)


def _evaluation_of_rows(rows: int, columns: int, figures: list[tuple[str, float]]) -> str:
    # Without bits per dimension, which mean nothing where numbers are beside categories.
    lines = [f"{f'held out: {rows} rows of {columns} columns':<50}{'nats per row':>14}"]
    return "\n".join([*lines, *(f"{label:<50}{nats:>14.3f}" for label, nats in figures)])


def _evaluation_of_windows(x: np.ndarray, figures: list[tuple[str, float]]) -> str:
    # A missing value adds nothing, so it counts for nothing.
    observed = np.count_nonzero(~np.isnan(x)) / len(x)
    title = f"held out: {len(x)} windows of {x.shape[1]} steps, {x.shape[2]} channels"
    lines = [f"{title:<50}{'nats per window':>16}{'per value':>11}"]
    return "\n".join([*lines, *(f"{label:<50}{nats:>16.3f}{nats / observed:>11.4f}" for label, nats in figures)])


def card(folder: Path, evaluated: str | None = None) -> Card:
    """What is known of a run, for the model card of its exports.

    Args:
        folder: the folder of the run.
        evaluated: the text of its evaluation.txt, if that is not written yet.
    """
    config, path = read_config(folder), folder / "evaluation.txt"
    if evaluated is None and path.is_file():
        evaluated = files.read_text(path, _MAX_EVALUATION)
    table = None if evaluated is None else "\n".join(["```text", *evaluated.strip().splitlines(), "```"])
    # The name alone, because a path may say what is not to be published.
    fraction = f"{config['validation_fraction']:g}"
    if config["sequence"]:
        held_out = f"held out is the last {fraction} of the time"
    else:
        held_out = (
            f"held out is its own test split if it has one, or else {fraction} of it, chosen at random by the seed "
            f"{config['seed']}"
        )
    return Card(
        data=f"{code_span(Path(config['data']).name)}; {held_out}",
        figures=table,
        # Without the seed of the split in the place of its own, which `read_config` puts there.
        command=command_of_run.command(yaml_files.read(folder / "config.yaml")),
    )


def measured(model: VAE, x: np.ndarray, measures: Measures, seed: int) -> dict[str, Any]:
    """What the record of a run has of its evaluation.

    Args:
        model: the model.
        x: the data [N, ...].
        measures: what was measured of them.
        seed: the seed of the draws.
    """
    figures = {
        name: {"mean": float(np.mean(values)), "standard_error": standard_error(values)}
        for name, values in measures.named().items()
    }
    active = active_units(model, x, seed=seed).count if len(x) > 1 else None
    return {
        "evaluation": {
            **figures,
            "num_samples": measures.num_samples,
            "examples": len(x),
            "held_out": record.digest(x),
            "active_units": active,
            "latent_dim": model.latent_dim,
        }
    }


def calibrate(model: VAE, folder: Path, x: np.ndarray, **given: Any) -> None:
    """Calibrates the model of a run for anomaly detection, saves it, and prints the threshold.

    Args:
        model: the model.
        folder: the folder of the run.
        x: held-out data [N, ...].
        given: the rate or threshold, by its name in `tfvae.VAE.calibrate`; by default a `false_alarm_rate` of 0.01, or
            the least for which there are enough rows.
    """
    if not given:
        given = {"false_alarm_rate": max(FALSE_ALARM_RATE, least_rate(len(x)))}
    found = model.calibrate(x, **given)
    model.save(folder / "model.keras")
    rate = "" if found.rate is None else f" of {found.rate:.3g}"
    print(
        f"Anomalies have a score above {found.value:.4g} nats: {found.method}{rate}, on {found.rows} held-out "
        + ("examples" if model.table is None else "rows")
    )


def draw(model: VAE, x: np.ndarray, folder: Path, seed: int) -> None:
    """Writes reconstructions.png, samples.png and latent.png.

    Args:
        model: the model.
        x: held-out data [N, ...].
        folder: the folder of the run.
        seed: the seed of the samples.
    """
    to_data, limits = model.likelihood.to_data, (float(x.min()), float(x.max()))
    reconstructions = plots.reconstructions(x, to_data(model.reconstruct(x)), limits=limits)
    write_picture(reconstructions, folder / "reconstructions.png")
    write_picture(plots.samples(to_data(model.generate(64, seed=seed)), limits=limits), folder / "samples.png")
    z = np.asarray(model.posterior.center(model.encode(x)))
    write_picture(plots.latent(z, x, labels=labels(folder, len(x)), limits=limits), folder / "latent.png")


def report(
    model: VAE,
    folder: Path,
    pipelines: loading.Pipelines,
    data: Any,
    measures: Measures | None,
    verification: Verification | None,
    num_samples: int,
    seed: int,
    *,
    label: str | None,
    numbers: np.ndarray | None = None,
) -> None:
    """Writes report.html.

    Args:
        model: the model.
        folder: the folder of the run.
        pipelines: the data of the run.
        data: held-out examples, or rows.
        measures: what was measured of them, or None.
        verification: the comparison with the exports, or None.
        num_samples: draws of z per example for log p(x).
        seed: the seed of the draws.
        label: the column of the rows that colours the latent space, or None.
        numbers: a number for each held-out example that does so; None means the classes, if they are known.
    """
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    known, settings = record.read(folder), read_config(folder)
    train = next(pipelines.train.unbatch().take(MOST_EXAMPLES).batch(MOST_EXAMPLES).as_numpy_iterator())
    # To count more, all would have to be read.
    is_all = len(train) < MOST_EXAMPLES
    count = f"{len(train):,}" if is_all else f"some {len(pipelines.train) * settings['batch_size']:,}"
    facts = {
        "Data": str(settings["data"]),
        "Training": f"{count} examples",
        "Held out": f"{len(data):,} examples" + (", the first of them" if len(data) == MOST_EXAMPLES else ""),
    }
    if "best_epoch" in known:
        best = "bound is the highest" if model.has_bound else "loss is the lowest"
        facts["Weights"] = f"those of epoch {known['best_epoch']}, whose held-out {best}"
    if "seconds" in known:
        epochs = known["epochs"]
        facts["Training"] += f", {epochs} epoch{'' if epochs == 1 else 's'} in {duration(known['seconds'])}"
    colours: Any = label
    if numbers is not None:
        colours = numbers
    elif model.table is None:
        colours = labels(folder, len(data))
    commands = record.texts(folder, "commands")
    if commands:
        facts["Command"] = commands[0]
    if commands[1:]:
        # What the run is depends on these too, such as by more --epochs.
        facts["Resumed by"] = "; ".join(commands[1:])
    write_report(
        model,
        data,
        folder / "report.html",
        labels=colours,
        train=train,
        history=history(folder),
        verification=verification,
        facts=facts | {"config.yaml": config},
        warnings=record.texts(folder, "warnings"),
        measures=measures,
        num_samples=num_samples,
        seed=seed,
    )


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a figure to a file, which is there whole or not at all."""
    with files.replacing(path) as written:
        figure.savefig(written)
