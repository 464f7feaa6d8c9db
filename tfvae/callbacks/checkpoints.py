"""Checkpoints from which an interrupted training resumes."""

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
# Epoch, step and a digest of the content, by which a damaged file is recognised.
_NAME = re.compile(r"(\d{6})-(\d{9})-([0-9a-f]{16})" + re.escape(_SUFFIX))


class Checkpoint(NamedTuple):
    """A checkpoint that is whole.

    Attributes:
        path: the checkpoint's file.
        epoch: the epoch, counted from 0, at which training resumes.
    """

    path: pathlib.Path
    epoch: int


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints during training, and resumes an interrupted training from the newest one.

    A checkpoint holds the weights, the optimizer, the state of the random numbers, the epoch and the step. It is
    written to a temporary file and then renamed, so that a process killed at any time leaves the earlier checkpoints
    whole. A damaged checkpoint is skipped with a warning. A resumed training ends with the same weights as an
    uninterrupted one, bit for bit on the same CPUs, provided that the order of the data does not depend on hidden
    state: the order of arrays, of `tfvae.data` and of `tfvae.epochs.ordered` does not.

    The epoch and the step are saved with the weights; `tfvae/training/resume.py` makes `fit` go on from them.

    With several workers, the first one reads and writes the folder, and sends the state that it reads to the others.

    Args:
        folder: the folder of the checkpoints; it must not be shared by two trainings.
        save_freq: "epoch", or a number of steps. Checkpoints are written only at the end of an execution of
            `steps_per_execution` steps.
        keep: how many checkpoints to keep, at least 1; keep more than 1 so that a damaged one can be replaced.

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
        """Restores the newest checkpoint that is whole; writes a first one if there is none.

        Raises:
            ValueError: all checkpoints are damaged, or the newest is of another model.
        """
        self._saved_at = 0
        if strategies.workers(self.model.distribute_strategy)[0] > 0:
            return
        newest = self.newest()
        if newest is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # So that a training cut before its first regular checkpoint starts again with the same random numbers.
            self._save(*self.model.progress)
        else:
            try:
                self.model.load_weights(newest.path)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"`folder` must hold checkpoints of this model. Received: {newest.path}: {error}"
                ) from error

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None if the folder has no checkpoints.

        A damaged checkpoint is renamed, with a warning.

        Raises:
            ValueError: all checkpoints are damaged.
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

    def path_for(self, written: pathlib.Path, epoch: int, step: int) -> pathlib.Path:
        """The place of a checkpoint in the folder.

        Args:
            written: a file of the weights, in any place.
            epoch: the epoch at which training resumes, counted from 0.
            step: the number of steps that this epoch has completed.
        """
        return self.folder / f"{epoch:06d}-{step:09d}-{_digest(written)}{_SUFFIX}"

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint if at least `save_freq` steps have been taken since the last one."""
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
        with files.temporary_folder(self.folder) as temporary:
            # The final name contains the digest, which is known only once the file is written.
            written = temporary / f"written{_SUFFIX}"
            self.model.save_weights(written)
            files.move_in(written, self.path_for(written, epoch, step))
        for path in self._paths()[: -self.keep]:
            path.unlink()

    def _paths(self) -> list[pathlib.Path]:
        """The checkpoints, oldest first."""
        named = (path for path in self.folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name))
        # A pipe would never be read to its end.
        return sorted(path for path in named if path.is_file())


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
