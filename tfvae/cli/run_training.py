"""The training of a run, which can be interrupted at any point and resumed, and the files in its folder meanwhile."""

import contextlib
import csv
import io
import itertools
import math
import shutil
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import yaml

from tfvae import checks, files, networks, renamed
from tfvae.callbacks import Checkpoints
from tfvae.cli import record, yaml_files
from tfvae.cli.progress import ProgressLine, RecordTime
from tfvae.data import Pipelines
from tfvae.distribute import strategies
from tfvae.likelihoods import Likelihood
from tfvae.models.vae import VAE

_CHECKPOINTS = "checkpoints"
# The arguments that may differ when a run is resumed, because they do not affect the trained model.
_FREE = {"strategy", "devices", "worker_timeout", "save_freq", "resume", "overwrite", "runs", "saved_models", "epochs"}
_FREE |= {"allow_import", "evaluate", "pictures", "report", "export", "latency", "label"}
# The most bytes of a history.csv that is read, which is that of some 10,000 epochs.
_MAX_HISTORY = 10_000_000


class RunLock:
    """Keeps other processes from training a run, from `lock` to the end of the `with`.

    If the `with` ends by an interruption or an error of a file, the exception gets a note of what is kept.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def lock(self, folder: Path) -> None:
        """Locks the folder of a run, which is made if it is not there, until the end of the `with`.

        Raises:
            ValueError: another process trains this run.
        """
        if self._folder is None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._stack.enter_context(files.locked(folder, wait=False))
            except BlockingIOError as error:
                raise ValueError(
                    f"{folder} is in use by another training, which is still running: wait for its end, or choose "
                    "another --name"
                ) from error
            self._folder = folder

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt | OSError):
            error.add_note("nothing was written" if self._folder is None else _what_is_kept(self._folder))
        self._stack.close()


def _what_is_kept(folder: Path) -> str:
    if (folder / _CHECKPOINTS).exists():
        newest = Checkpoints(folder / _CHECKPOINTS).newest()
        kept = f"keeps the training up to epoch {newest.epoch if newest else 0}"
    elif (folder / "model.keras").exists():
        kept = "keeps the trained model, and what was written after it"
    else:
        return f"{folder} keeps no training yet"
    return f"{folder} {kept}: the same command with --resume goes on from there"


def is_trained(folder: Path, epochs: int = 0) -> bool:
    """Whether the training in a run's folder was completed, with at least `epochs` epochs, and did not diverge."""
    if not (folder / "model.keras").exists() or (folder / _CHECKPOINTS).exists():
        return False
    planned = _epochs(yaml_files.read(folder / "config.yaml"), folder)
    if planned < epochs or _lost_checkpoints(folder, planned):
        return False
    losses = history(folder).get("loss")
    # A history that is lost does not make a model one that diverged.
    return not losses or bool(np.isfinite(losses[-1]))


def _lost_checkpoints(folder: Path, epochs: int) -> bool:
    """Whether a training that ended before its last epoch, as its history says, has no checkpoints."""
    checkpoints, rows = folder / _CHECKPOINTS, _rows(folder)
    is_lost = not (checkpoints.is_dir() and any(checkpoints.iterdir()))
    # The evaluation is written after the last epoch, whatever was lost of the history since.
    return is_lost and bool(rows) and max(rows) + 1 < epochs and not (folder / "evaluation.txt").exists()


def start(folder: Path, config: str, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder of a run and writes its config.yaml, or checks that the run in the folder can be resumed.

    Args:
        folder: the folder.
        config: the text of config.yaml.
        resume: continue an interrupted training, if there is one.
        overwrite: overwrite an earlier run in the folder.

    Raises:
        ValueError: the folder holds a run, and neither `resume` nor `overwrite` applies to it; or the run to resume has
            another configuration, or no checkpoint that is whole.
    """
    files.remove_temporaries(folder)
    cut = (folder / _CHECKPOINTS).exists()
    if (folder / "history.csv").is_dir():
        raise ValueError(f"history.csv must be a file, or not be there. Received: {folder / 'history.csv'}, a folder")
    planned = _epochs(yaml_files.read(folder / "config.yaml"), folder) if (folder / "config.yaml").exists() else 0
    if resume and not overwrite and _lost_checkpoints(folder, planned):
        raise ValueError(
            f"`--resume` needs the checkpoints of a training that was interrupted: start it again by --overwrite. "
            f"Received: {folder}, whose history has {max(_rows(folder)) + 1} epochs, without checkpoints"
        )
    if resume and not _lost_checkpoints(folder, planned) and (cut or is_trained(folder)):
        _resume(folder, config)
        return
    if cut and not overwrite:
        raise ValueError(f"{folder} holds an interrupted training: pass --resume to continue it, or --overwrite")
    if (folder / "model.keras").exists() and not overwrite:
        raise ValueError(f"{folder} holds a trained model: choose another --name, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    # Removed before the checkpoints: a model.keras without checkpoints would count as trained.
    for name in ("evaluation.txt", "model.keras"):
        (folder / name).unlink(missing_ok=True)
    _remove_checkpoints(folder)
    for name in ("history.csv", "table.txt", record.FILE):
        (folder / name).unlink(missing_ok=True)
    files.write_text(folder / "config.yaml", config)


def _resume(folder: Path, config: str) -> None:
    """Checks that the run can go on with a config.yaml, and writes that if it has more epochs."""
    before, now = yaml_files.read(folder / "config.yaml"), yaml.safe_load(config)
    _check_same(before, now, folder)
    epochs = _epochs(before, folder)
    if now["epochs"] < epochs:
        raise ValueError(
            f"`--epochs` must be at least as in {folder / 'config.yaml'}, {epochs}, to resume that training. "
            f"Received: {now['epochs']}"
        )
    if not (folder / _CHECKPOINTS).exists():
        _make_checkpoint(folder, epochs)
    try:
        Checkpoints(folder / _CHECKPOINTS).newest()
    except ValueError as error:
        raise ValueError(f"{error}: all are damaged; start the training again by --overwrite") from error
    if now["epochs"] > epochs:
        # Removed first, because it marks a run that is complete.
        (folder / "evaluation.txt").unlink(missing_ok=True)
        files.write_text(folder / "config.yaml", config)
        print(
            f"Going on to {now['epochs']} epochs instead of {epochs}. The learning rate falls to 0 along a cosine over "
            f"all epochs: from here on it is that of a training of {now['epochs']}, but the epochs before were trained "
            f"with that of {epochs}, so the result is not that of a training of {now['epochs']} from the start."
        )


def _make_checkpoint(folder: Path, epochs: int) -> None:
    """Makes a checkpoint of the model of a completed training: it has the optimizer and the position too."""
    try:
        with zipfile.ZipFile(folder / "model.keras") as archive, files.temporary_folder(folder) as temporary:
            written = temporary / _CHECKPOINTS / "written"
            written.parent.mkdir()
            with archive.open("model.weights.h5") as weights, written.open("wb") as file:
                shutil.copyfileobj(weights, file)
            written.rename(Checkpoints(written.parent).path_for(written, epochs, 0))
            files.move_in(written.parent, folder / _CHECKPOINTS)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"A model.keras that is whole was expected. Received: {folder / 'model.keras'}: {error}"
        ) from error


def _epochs(config: dict[str, Any], folder: Path) -> int:
    epochs = config.get("epochs")
    if not isinstance(epochs, int):
        raise ValueError(f"{folder / 'config.yaml'} must have a number of epochs. Received: epochs: {epochs!r}")
    return epochs


def make_networks(
    network: str,
    event_shape: tuple[int, ...],
    latent_dim: int,
    likelihood: Likelihood,
    hidden: tuple[int, ...],
    filters: tuple[int, ...],
    activation: str,
) -> tuple[keras.Model, keras.Model]:
    """Makes an encoder, and a decoder that mirrors it and returns the parameters of the likelihood.

    Args:
        network: "dense" or "convolutional".
        event_shape: the shape of one example.
        latent_dim: the dimension of z.
        likelihood: p(x|z).
        hidden: the widths of the dense layers of the encoder.
        filters: the filters of the convolutions of the encoder.
        activation: the name of the activation.

    Raises:
        ValueError: the networks do not fit in memory.
    """
    check_memory(event_shape, latent_dim, hidden, filters if network == "convolutional" else ())
    output_shape = likelihood.parameter_shape(event_shape)
    if network == "dense":
        return (
            networks.dense_encoder(event_shape, hidden, activation),
            networks.dense_decoder(latent_dim, output_shape, hidden[::-1], activation),
        )
    return (
        networks.convolutional_encoder(event_shape, filters, hidden, activation),
        networks.convolutional_decoder(latent_dim, output_shape, filters[::-1], hidden[::-1], activation),
    )


def check_memory(
    event_shape: tuple[int, ...], latent_dim: int, hidden: tuple[int, ...], filters: tuple[int, ...] = ()
) -> None:
    """Raises ValueError if the networks are so large that the machine could not train them: see `make_networks`."""
    channels = (event_shape[-1], *filters)
    # Each convolution halves height and width.
    sides = [-(-side // 2 ** len(filters)) for side in event_shape[:-1]] if filters else event_shape[:-1]
    widths = (math.prod(sides) * channels[-1], *hidden, latent_dim)
    kernels = sum(16 * a * b for a, b in itertools.pairwise(channels))
    weights = kernels + sum(a * b for a, b in itertools.pairwise(widths))
    # In float32, of encoder and decoder, with a gradient and Adam's two averages of each weight.
    size, memory = 4 * 2 * 4 * weights, checks.memory_bytes()
    if size > memory:
        raise ValueError(
            f"`--hidden`, `--filters` and `--latent_dim` must give networks that can be trained in memory, which is "
            f"{memory / 1e9:.3g} GB. Received: --hidden {list(hidden)} for x of shape {list(event_shape)}, which takes "
            f"{size / 1e9:.3g} GB"
        )


def fit(
    model: VAE, pipelines: Pipelines, folder: Path, *, epochs: int, save_freq: int | Literal["epoch"], chief: bool
) -> None:
    """Trains a model, starting from the newest checkpoint of its run if there is one, and saves it.

    Args:
        model: the model, compiled.
        pipelines: the data.
        folder: the folder of the run, to which model.keras, history.csv and the checkpoints are written.
        epochs: how many passes over the training data.
        save_freq: see `tfvae.callbacks.Checkpoints`.
        chief: whether this process is the one that writes the files.

    Raises:
        FloatingPointError: the training diverged; model.keras then has the epoch of lowest loss, if any was finite.
    """
    checkpoints = Checkpoints(folder / _CHECKPOINTS, save_freq)
    callbacks: list[keras.callbacks.Callback] = [keras.callbacks.TerminateOnNaN()]
    cleanup = contextlib.ExitStack()
    if chief:
        newest = checkpoints.newest()
        metrics = [f"{prefix}{metric.name}" for metric in model.metrics for prefix in ("", "val_")]
        losses = _cut_history(folder, 0 if newest is None else newest.epoch, ["epoch", *metrics])
        logger = keras.callbacks.CSVLogger(folder / "history.csv", append=bool(losses))
        # Keras leaves its file open where a training is interrupted.
        cleanup.callback(logger.on_train_end)
        callbacks += [
            logger,
            # Keeps the best epoch so far, so that its weights remain if the training diverges.
            keras.callbacks.ModelCheckpoint(
                folder / "model.keras",
                monitor="loss",
                mode="min",
                save_best_only=True,
                initial_value_threshold=min(losses, default=None),
            ),
            ProgressLine(),
            RecordTime(folder),
        ]
    with cleanup:
        model.fit(
            pipelines.train,
            validation_data=pipelines.validation,
            epochs=epochs,
            verbose=0,
            # Checkpoints last, so that the other files already contain every epoch that a checkpoint covers.
            callbacks=[*callbacks, checkpoints],
        )
    losses = history(folder).get("loss", []) if chief else []
    diverged = bool(losses) and not np.isfinite(losses[-1])
    if chief:
        if not diverged:
            model.save(folder / "model.keras")
        elif not np.isfinite(losses).any():
            # `ModelCheckpoint` saves the first epoch whatever its loss.
            (folder / "model.keras").unlink(missing_ok=True)
        # Without checkpoints the run counts as trained.
        _remove_checkpoints(folder)
    _wait_for_workers(model.distribute_strategy)
    if diverged:
        raise FloatingPointError(f"the training diverged; its history is in {folder / 'history.csv'}")


def history(folder: Path) -> dict[str, list[float]]:
    """Reads the metrics of a run from its history.csv: by name, one value for each epoch whose row is whole."""
    rows = list(_rows(folder).values())
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _rows(folder: Path) -> dict[int, dict[str, float]]:
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


def _cut_history(folder: Path, epoch: int, columns: Collection[str]) -> list[float]:
    """Leaves in history.csv the epochs before `epoch`, because the later ones are trained again.

    Args:
        folder: the folder of the run.
        epoch: the epoch.
        columns: what a row holds; others are not of this training, and are removed, with a warning.

    Returns:
        The losses of the epochs that are left.
    """
    path = folder / "history.csv"
    rows = {number: row for number, row in _rows(folder).items() if {"epoch", *row} == set(columns)}
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


def _remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints by one rename: if only some were removed, the run would look interrupted."""
    if (folder / _CHECKPOINTS).exists():
        with files.temporary_folder(folder) as temporary:
            (folder / _CHECKPOINTS).rename(temporary / _CHECKPOINTS)
    files.remove_temporaries(folder)


def _wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Returns once all workers are here: a worker that is lost after another has ended could not be resumed."""

    def one() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0))

    if strategies.workers(strategy)[1] > 1:
        tf.function(lambda: strategy.run(one), autograph=False)()


def _check_same(config: dict, received: dict, folder: Path) -> None:
    for name in sorted({*config, *received} - _FREE):
        if config.get(name) != received.get(name):
            raise ValueError(
                f"`--{name}` must be as in {folder / 'config.yaml'}, {config.get(name)!r}, to resume that training. "
                f"Received: {received.get(name)!r}"
            )
