"""`--early_stopping`: ends a training whose held-out bound rises no more, and restores the best epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tfvae import files

_BEST = "best.weights.h5"


class EarlyStopping(keras.callbacks.Callback):
    """Ends a training after `patience` epochs in which `val_elbo` has not risen above its best.

    `keras.callbacks.EarlyStopping` would count from 0 again in a training that is resumed, and would lose the weights
    of the best epoch. This reads the count from the history, and keeps these weights in a file of the run.

    Args:
        patience: the number of epochs.
        folder: the folder of the run.
        history: `val_elbo` of the epochs before an interruption, by epoch.

    Attributes:
        best_epoch: the best epoch so far, counted from 0; -1 before the first.
        is_over: whether the training is to end.
    """

    def __init__(self, patience: int, folder: Path, history: Mapping[int, float]) -> None:
        super().__init__()
        self._patience = patience
        self._folder = folder
        self._best = -float("inf")
        self.best_epoch = -1
        self.is_over = False
        for epoch, value in sorted(history.items()):
            self._note(epoch, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the weights if the epoch is the best so far, or ends the training."""
        if self._note(epoch, float((logs or {})["val_elbo"])):
            # Before the checkpoint of this epoch: if that is never written, the epoch is trained again, as it was.
            with files.replacing(self._folder / _BEST) as written:
                self.model.save_weights(written)
        self.model.stop_training = self.model.stop_training or self.is_over

    def restore(self) -> None:
        """Gives the model the weights of the best epoch, if there is one."""
        if self.best_epoch >= 0:
            self.model.load_weights(self._folder / _BEST)

    def _note(self, epoch: int, value: float) -> bool:
        """Takes the value of an epoch into account; returns whether it is the best."""
        if is_best := value > self._best:
            self._best, self.best_epoch = value, epoch
        self.is_over = epoch - self.best_epoch >= self._patience
        return is_best


def forget(folder: Path) -> None:
    """Removes the weights of the best epoch."""
    (folder / _BEST).unlink(missing_ok=True)
