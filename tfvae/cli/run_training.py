"""The training of a run, which can be interrupted at any point and resumed, and the files in its folder meanwhile."""

import contextlib
import itertools
import math
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import yaml

from tfvae import checks, files, networks
from tfvae.callbacks import Checkpoints
from tfvae.cli import early_stopping, record, yaml_files
from tfvae.cli.history import cut_history, history, history_rows
from tfvae.cli.progress import ProgressLine, RecordTime
from tfvae.data import Pipelines
from tfvae.distribute import strategies
from tfvae.exportable import weight_count
from tfvae.likelihoods import Likelihood
from tfvae.models.vae import VAE

_CHECKPOINTS = "checkpoints"
# The arguments that may differ when a run is resumed, because they do not affect the trained model.
_FREE = {"strategy", "devices", "worker_timeout", "save_freq", "resume", "overwrite", "runs", "saved_models", "epochs"}
_FREE |= {"allow_import", "evaluate", "pictures", "report", "export", "latency", "label", "seeds"}
# The values that runs of earlier versions had.
_EARLIER = {"schedule": "cosine", "sequence": False}


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
    checkpoints, rows = folder / _CHECKPOINTS, history_rows(folder)
    is_lost = not (checkpoints.is_dir() and any(checkpoints.iterdir()))
    if not is_lost or not rows or max(rows) + 1 >= epochs:
        return False
    # The evaluation is written after the last epoch, whatever was lost of the history since. A callback may have ended
    # the training early, as the record then says.
    return not (folder / "evaluation.txt").exists() and not record.read(folder).get("ended")


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
            f"Received: {folder}, whose history has {max(history_rows(folder)) + 1} epochs, without checkpoints"
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
    for name in ("history.csv", "table.txt", "series.json", record.FILE):
        (folder / name).unlink(missing_ok=True)
    early_stopping.forget(folder)
    files.write_text(folder / "config.yaml", config)


def _resume(folder: Path, config: str) -> None:
    """Checks that the run can go on with a config.yaml, and writes that if it has more epochs."""
    before, now = yaml_files.read(folder / "config.yaml"), yaml.safe_load(config)
    check_same(before, now, folder)
    epochs = _epochs(before, folder)
    if now["epochs"] < epochs:
        raise ValueError(
            f"`--epochs` must be at least as in {folder / 'config.yaml'}, {epochs}, to resume that training. "
            f"Received: {now['epochs']}"
        )
    if not (folder / _CHECKPOINTS).exists():
        if now.get("early_stopping") is not None:
            raise ValueError(
                f"`--epochs` must be as in {folder / 'config.yaml'}, {epochs}, once a training with --early_stopping "
                "has ended, because its model is that of its best epoch; start it again by --overwrite. Received: "
                f"{now['epochs']}"
            )
        # A callback may have ended the training before its last epoch.
        _make_checkpoint(folder, record.read(folder).get("epochs", epochs))
    try:
        Checkpoints(folder / _CHECKPOINTS).newest()
    except ValueError as error:
        raise ValueError(f"{error}: all are damaged; start the training again by --overwrite") from error
    if now["epochs"] > epochs:
        # Removed first, because it marks a run that is complete.
        (folder / "evaluation.txt").unlink(missing_ok=True)
        files.write_text(folder / "config.yaml", config)
        record.add(folder, ended=False)
        why = (
            " The learning rate falls to 0 along a cosine over all epochs: from here on it is that of a training of "
            f"{now['epochs']}, but the epochs before were trained with that of {epochs}, so the result is not that of "
            f"a training of {now['epochs']} from the start."
        )
        print(f"Going on to {now['epochs']} epochs instead of {epochs}." + why * (now.get("schedule") != "constant"))


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
        network: "dense", "convolutional" or "residual".
        event_shape: the shape of one example.
        latent_dim: the dimension of z.
        likelihood: p(x|z).
        hidden: the widths of the dense layers of the encoder.
        filters: the filters of the convolutions of the encoder.
        activation: the name of the activation.

    Raises:
        ValueError: the networks do not fit in memory.
    """
    check_memory(event_shape, latent_dim, hidden, filters if network != "dense" else (), network == "residual")
    output_shape = likelihood.parameter_shape(event_shape)
    if network == "dense":
        encoder = networks.dense_encoder(event_shape, hidden, activation)
        return encoder, networks.dense_decoder(latent_dim, output_shape, hidden[::-1], activation)
    make_encoder, make_decoder = {
        "convolutional": (networks.convolutional_encoder, networks.convolutional_decoder),
        "residual": (networks.residual_encoder, networks.residual_decoder),
    }[network]
    return (
        make_encoder(event_shape, filters, hidden, activation),
        make_decoder(latent_dim, output_shape, filters[::-1], hidden[::-1], activation),
    )


def check_memory(
    event_shape: tuple[int, ...],
    latent_dim: int,
    hidden: tuple[int, ...],
    filters: tuple[int, ...] = (),
    is_residual: bool = False,
) -> None:
    """Raises ValueError if the networks are so large that the machine could not train them: see `make_networks`."""
    channels = (event_shape[-1], *filters)
    # Every convolution halves height and width, of a residual network those between two resolutions.
    sides = [-(-side // 2 ** (len(filters) - is_residual)) for side in event_shape[:-1]]
    widths = (math.prod(sides) * channels[-1], *hidden, latent_dim)
    kernels = sum(16 * a * b for a, b in itertools.pairwise(channels))
    # Two blocks at each resolution, of two convolutions of 3 x 3.
    kernels += sum(2 * 2 * 9 * channels**2 for channels in filters) if is_residual else 0
    weights = kernels + sum(a * b for a, b in itertools.pairwise(widths))
    # In float32, of encoder and decoder, with a gradient and Adam's two averages of each weight.
    size, memory = 4 * 2 * 4 * weights, checks.memory_bytes()
    if size > memory:
        raise ValueError(
            f"`--hidden`, `--filters` and `--latent_dim` must give networks that can be trained in memory, which is "
            f"{memory / 1e9:.3g} GB. Received: --hidden {list(hidden)} for x of shape {list(event_shape)}, which takes "
            f"{size / 1e9:.3g} GB"
        )


def metrics(model: VAE) -> list[str]:
    """The names of the metrics that `fit` computes for each epoch."""
    return [f"{prefix}{metric.name}" for metric in model.metrics for prefix in ("", "val_")]


def fit(
    model: VAE,
    pipelines: Pipelines,
    folder: Path,
    *,
    epochs: int,
    save_freq: int | Literal["epoch"],
    chief: bool,
    patience: int | None = None,
    chosen: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a model, starting from the newest checkpoint of its run if there is one, and saves it.

    Args:
        model: the model, compiled.
        pipelines: the data.
        folder: the folder of the run, to which model.keras, history.csv and the checkpoints are written.
        epochs: how many passes over the training data.
        save_freq: see `tfvae.callbacks.Checkpoints`.
        chief: whether this process is the one that writes the files.
        patience: see `early_stopping.EarlyStopping`; None does not stop early.
        chosen: more callbacks.

    Raises:
        FloatingPointError: the training diverged; model.keras then has the epoch of lowest loss, if any was finite.
    """
    checkpoints = Checkpoints(folder / _CHECKPOINTS, save_freq)
    callbacks: list[keras.callbacks.Callback] = [keras.callbacks.TerminateOnNaN()]
    cleanup, stopping = contextlib.ExitStack(), None
    if chief:
        newest = checkpoints.newest()
        losses = cut_history(folder, 0 if newest is None else newest.epoch, ["epoch", *metrics(model)])
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
        ]
        if patience is not None:
            stopping = early_stopping.EarlyStopping(patience, folder, history_rows(folder), model.has_bound)
            callbacks.append(stopping)
            if stopping.is_over and newest is not None:
                # It was interrupted after its last epoch.
                epochs = newest.epoch
        callbacks.append(RecordTime(folder))
    with cleanup:
        model.fit(
            pipelines.train,
            validation_data=pipelines.validation,
            epochs=epochs,
            verbose=0,
            # Checkpoints last, so that the other files already contain every epoch that a checkpoint covers. The
            # callbacks that the user chose are after the logger, because some add to the metrics.
            callbacks=[*callbacks, *chosen, checkpoints],
        )
    losses = history(folder).get("loss", []) if chief else []
    diverged = bool(losses) and not np.isfinite(losses[-1])
    if chief:
        if not diverged:
            if stopping is not None:
                stopping.restore()
                best = stopping.best_epoch + 1
                criterion = "bound is the highest" if model.has_bound else "loss is the lowest"
                print(f"The model is that of epoch {best}, whose held-out {criterion} of {len(losses)}.")
                record.add(folder, best_epoch=best)
            record.add(folder, ended=True, weights=weight_count(model))
            model.save(folder / "model.keras")
        elif not np.isfinite(losses).any():
            # `ModelCheckpoint` saves the first epoch whatever its loss.
            (folder / "model.keras").unlink(missing_ok=True)
        if diverged:
            record.add(folder, diverged=True)
        # Without checkpoints the run counts as trained.
        _remove_checkpoints(folder)
        early_stopping.forget(folder)
    _wait_for_workers(model.distribute_strategy)
    if diverged:
        raise FloatingPointError(f"the training diverged; its history is in {folder / 'history.csv'}")


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


def check_same(config: dict[str, Any], received: dict[str, Any], folder: Path) -> None:
    """Raises ValueError if a run has another configuration than the one received, in what changes its training.

    Args:
        config: the content of the config.yaml of the run.
        received: that of the new one.
        folder: the folder of the run.
    """
    config, received = _EARLIER | config, _EARLIER | received
    for name in sorted({*config, *received} - _FREE):
        if config.get(name) != received.get(name):
            raise ValueError(
                f"`--{name}` must be as in {folder / 'config.yaml'}, {config.get(name)!r}, to resume that training. "
                f"Received: {received.get(name)!r}"
            )
