"""The training of a run, which can be interrupted at any point and resumed, and the files in its folder meanwhile."""

import contextlib
import csv
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
import yaml

from tfvae import files, networks, renamed
from tfvae.callbacks import Checkpoints
from tfvae.data import Pipelines
from tfvae.distribute import strategies
from tfvae.likelihoods import Likelihood
from tfvae.models.vae import VAE

_CHECKPOINTS = "checkpoints"
# The arguments that may differ when a run is resumed, because they do not affect the trained model.
_FREE = {"strategy", "devices", "worker_timeout", "save_freq", "resume", "overwrite", "runs", "saved_models"}
_FREE |= {"allow_import", "evaluate", "pictures", "export", "latency"}


def is_trained(folder: Path) -> bool:
    """Whether the training in a run's folder was completed and did not diverge."""
    if not (folder / "model.keras").exists() or (folder / _CHECKPOINTS).exists():
        return False
    return bool(np.isfinite(history(folder)["loss"][-1]))


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
    if cut and resume:
        _check_same(yaml.safe_load((folder / "config.yaml").read_text()), yaml.safe_load(config), folder)
        Checkpoints(folder / _CHECKPOINTS).newest()
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
    (folder / "history.csv").unlink(missing_ok=True)
    files.write_text(folder / "config.yaml", config)


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
    """
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
    callbacks = [keras.callbacks.TerminateOnNaN()]
    cleanup = contextlib.ExitStack()
    if chief:
        newest = checkpoints.newest()
        losses = _cut_history(folder, epoch=0 if newest is None else newest.epoch)
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
        ]
    with cleanup:
        model.fit(
            pipelines.train,
            validation_data=pipelines.validation,
            epochs=epochs,
            verbose="auto" if chief else 0,
            # Checkpoints last, so that the other files already contain every epoch that a checkpoint covers.
            callbacks=[*callbacks, checkpoints],
        )
    losses = history(folder)["loss"] if chief else []
    diverged = chief and not np.isfinite(losses[-1])
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
    """Reads the metrics of a run from its history.csv: by name, one value for each epoch."""
    rows = _rows(folder)
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def _rows(folder: Path) -> list[dict[str, str]]:
    """The rows of history.csv, by the present names of the metrics."""
    with open(folder / "history.csv", newline="") as file:
        return [{renamed.metric(name): value for name, value in row.items()} for row in csv.DictReader(file)]


def _cut_history(folder: Path, epoch: int) -> list[float]:
    """Removes from history.csv the epochs from `epoch` on, which are trained again; returns the losses of the rest."""
    path = folder / "history.csv"
    if not path.exists():
        return []
    rows = _rows(folder)[:epoch]
    with files.replacing(path) as written, open(written, "w", newline="") as file:
        if rows:
            # The order in which Keras will append the other rows, whatever the names were when these were written.
            writer = csv.DictWriter(file, ["epoch", *sorted(rows[0].keys() - {"epoch"})])
            writer.writeheader()
            writer.writerows(rows)
    return history(folder)["loss"] if epoch else []


def _remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints by one rename: if only some were removed, the run would look interrupted."""
    if (folder / _CHECKPOINTS).exists():
        (folder / _CHECKPOINTS).rename(folder / f"{files.TEMPORARY}{_CHECKPOINTS}")
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
