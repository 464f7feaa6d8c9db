"""The training of a run, which can be cut anywhere and resumed: what is in its folder while it lasts."""

import csv
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
import yaml

from tfvae import files
from tfvae.callbacks import Checkpoints
from tfvae.data import Pipelines
from tfvae.distribute import strategies
from tfvae.models.vae import VAE

_CHECKPOINTS = "checkpoints"
# What may differ when a run is resumed: where it runs, and what is no part of the training.
_FREE = {"strategy", "devices", "worker_timeout", "save_freq", "resume", "overwrite", "runs", "saved_models"}


def is_trained(folder: Path) -> bool:
    """Whether a training in a run's folder came to its end, and not by diverging."""
    if not (folder / "model.keras").exists() or (folder / _CHECKPOINTS).exists():
        return False
    return bool(np.isfinite(history(folder)["loss"][-1]))


def start(folder: Path, config: str, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder of a run and writes its config.yaml, or finds there the training that is to go on.

    Args:
        folder: the folder.
        config: the text of config.yaml.
        resume: go on with a training that was cut, if there is one.
        overwrite: write into the folder of an earlier run.

    Raises:
        ValueError: the folder holds a run that is neither to be resumed nor to be overwritten, another one than is to
            be resumed, or no checkpoint that is whole.
    """
    files.remove_temporaries(folder)
    cut = (folder / _CHECKPOINTS).exists()
    if cut and resume:
        _check_same(yaml.safe_load((folder / "config.yaml").read_text()), yaml.safe_load(config), folder)
        Checkpoints(folder / _CHECKPOINTS).newest()
        return
    if cut and not overwrite:
        raise ValueError(f"{folder} holds a training that was cut: pass --resume to go on, or --overwrite")
    if (folder / "model.keras").exists() and not overwrite:
        raise ValueError(f"{folder} holds a trained model: choose another --name, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    # Before the checkpoints: a model that was cut would count as trained without them.
    for name in ("evaluation.txt", "model.keras"):
        (folder / name).unlink(missing_ok=True)
    _remove_checkpoints(folder)
    (folder / "history.csv").unlink(missing_ok=True)
    with files.replacing(folder / "config.yaml") as path:
        path.write_text(config)


def fit(
    model: VAE, pipelines: Pipelines, folder: Path, *, epochs: int, save_freq: int | Literal["epoch"], chief: bool
) -> None:
    """Trains a model, from the newest checkpoint of its run on, and saves it.

    Args:
        model: the model, compiled.
        pipelines: the data.
        folder: the folder of the run, to which model.keras, history.csv and the checkpoints are written.
        epochs: how many passes over the training data.
        save_freq: see `tfvae.callbacks.Checkpoints`.
        chief: whether this process is the one that writes.

    Raises:
        FloatingPointError: the training diverged; model.keras is what it was before, if it was ever better.
    """
    checkpoints = Checkpoints(folder / _CHECKPOINTS, save_freq)
    callbacks = [keras.callbacks.TerminateOnNaN()]
    if chief:
        newest = checkpoints.newest()
        losses = _cut_history(folder, epoch=0 if newest is None else newest.epoch)
        callbacks += [
            keras.callbacks.CSVLogger(folder / "history.csv", append=bool(losses)),
            # The best so far, so that a training that diverges leaves the weights from before.
            keras.callbacks.ModelCheckpoint(
                folder / "model.keras",
                monitor="loss",
                mode="min",
                save_best_only=True,
                initial_value_threshold=min(losses, default=None),
            ),
        ]
    model.fit(
        pipelines.train,
        validation_data=pipelines.validation,
        epochs=epochs,
        verbose="auto" if chief else 0,
        # The checkpoints last: what they hold is in the other files before.
        callbacks=[*callbacks, checkpoints],
    )
    losses = history(folder)["loss"] if chief else []
    diverged = chief and not np.isfinite(losses[-1])
    if chief:
        if not diverged:
            model.save(folder / "model.keras")
        elif not np.isfinite(losses).any():
            # Keras saves the first epoch, whatever its loss.
            (folder / "model.keras").unlink(missing_ok=True)
        # From here on the run counts as trained.
        _remove_checkpoints(folder)
    _wait_for_workers(model.distribute_strategy)
    if diverged:
        raise FloatingPointError(f"the training diverged; its history is in {folder / 'history.csv'}")


def history(folder: Path) -> dict[str, list[float]]:
    """The metrics of each epoch of a run, by name."""
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def _cut_history(folder: Path, epoch: int) -> list[float]:
    """Removes the epochs from `epoch` on, which are trained again, and returns the losses of those before."""
    path = folder / "history.csv"
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)[: epoch + 1]
    with files.replacing(path) as written:
        written.write_bytes(b"".join(lines) if epoch else b"")
    return history(folder)["loss"] if epoch else []


def _remove_checkpoints(folder: Path) -> None:
    """Removes them at once: a kill between two of them would leave what looks like a training that was cut."""
    if (folder / _CHECKPOINTS).exists():
        (folder / _CHECKPOINTS).rename(folder / f"{files.TEMPORARY}{_CHECKPOINTS}")
    files.remove_temporaries(folder)


def _wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Returns once all workers are here: if one of them were lost after another has ended, it could not go on."""

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
