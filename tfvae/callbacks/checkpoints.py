"""Checkpoints that a training goes on from."""

import hashlib
import os
import pathlib
import re
import warnings
from typing import Any, Literal, NamedTuple

import keras

from tfvae import checks, files
from tfvae.distribute import strategies

_SUFFIX = ".weights.h5"
_DAMAGED = "damaged-"
# Epoch, step and the digest of the content: a name that says whether the file is whole.
_NAME = re.compile(r"(\d{6})-(\d{9})-([0-9a-f]{16})" + re.escape(_SUFFIX))


class Checkpoint(NamedTuple):
    """A checkpoint.

    Attributes:
        path: its file.
        epoch: the epoch that a training goes on with.
    """

    path: pathlib.Path
    epoch: int


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints during a training, which goes on from the newest one where it was cut.

    A checkpoint holds the weights, the optimizer, the state of every random number, the epoch and the step. It is
    written aside and moved in by one rename, so that a kill at any time leaves those from before. A damaged one is
    passed over, with a warning. Training that goes on ends with the weights of one that was not cut, bit for bit on the
    same CPUs, when the order of the data does not depend on a state of its own: that of arrays, `tfvae.data` and
    `tfvae.epochs.ordered` does not.

    With several workers the first one reads and writes the folder, and the others get from it what it has read.

    Args:
        folder: where the checkpoints are; it belongs to one training.
        save_freq: "epoch", or a number of steps; checkpoints are written at the end of an execution of
            `steps_per_execution` steps.
        keep: how many checkpoints to keep, at least 1; more than 1 to survive a damaged one.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, folder: str | os.PathLike[str], save_freq: int | Literal["epoch"] = "epoch", keep: int = 2
    ) -> None:
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.save_freq = save_freq if save_freq == "epoch" else checks.positive_integer("save_freq", save_freq)
        self.keep = checks.positive_integer("keep", keep)
        self._saved_at = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the newest checkpoint that is whole.

        Raises:
            ValueError: none is whole, or it is that of another model.
        """
        self._saved_at = 0
        if strategies.workers(self.model.distribute_strategy)[0] > 0:
            return
        newest = self.newest()
        if newest is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # From here a training that is cut early starts with the same random numbers.
            self._save(*self.model.progress)
        else:
            self.model.optimizer.build(self.model.trainable_variables)
            try:
                self.model.load_weights(newest.path)
            except ValueError as error:
                raise ValueError(
                    f"`folder` must hold checkpoints of this model. Received: {newest.path}: {error}"
                ) from error

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None where there is none at all.

        One that is damaged is renamed, with a warning.

        Raises:
            ValueError: none is whole.
        """
        for path in reversed(self._paths()):
            epoch, _, digest = path.name.removesuffix(_SUFFIX).split("-")
            if _digest(path) == digest:
                return Checkpoint(path, int(epoch))
            damaged = path.rename(path.with_name(_DAMAGED + path.name))
            warnings.warn(f"A checkpoint is damaged, and the one before it is used. Received: {damaged}", stacklevel=2)
        if any(self.folder.glob(f"{_DAMAGED}*")):
            raise ValueError(f"`folder` must hold a checkpoint that is whole, or none. Received: {self.folder}")
        return None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint where `save_freq` steps have been taken since the last."""
        if self.save_freq != "epoch":
            epoch, step = self.model.progress
            if step - self._saved_at >= self.save_freq:
                self._save(epoch, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint."""
        self._save(*self.model.progress)

    def _save(self, epoch: int, step: int) -> None:
        self._saved_at = step
        if strategies.workers(self.model.distribute_strategy)[0] > 0:
            return
        files.remove_temporaries(self.folder)
        # The name is known when the file is written.
        written = self.folder / f"{files.TEMPORARY}{_SUFFIX}"
        self.model.save_weights(written)
        os.replace(written, self.folder / f"{epoch:06d}-{step:09d}-{_digest(written)}{_SUFFIX}")
        for path in self._paths()[: -self.keep]:
            path.unlink()

    def _paths(self) -> list[pathlib.Path]:
        """The checkpoints, from the oldest on."""
        return sorted(path for path in self.folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name))


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
