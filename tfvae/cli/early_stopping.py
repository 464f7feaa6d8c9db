"""`--early_stopping`: ends a training that gets no better on held-out data, and restores the best epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tfvae import files

_BEST = "best.weights.h5"


class EarlyStopping(keras.callbacks.Callback):
    """Ends a training after `patience` epochs in which `val_elbo`, or without a bound -`val_loss`, has not risen.

    `keras.callbacks.EarlyStopping` would count from 0 again in a training that is resumed, and would lose the weights
    of the best epoch. This reads the count from the history, and keeps these weights in a file of the run.

    Args:
        patience: the number of epochs.
        folder: the folder of the run.
        history: the metrics of the epochs before an interruption, by epoch.
        has_bound: whether the model has a bound.

    Attributes:
        best_epoch: the best epoch so far, counted from 0; -1 before the first.
        is_over: whether the training is to end.
    """

    def __init__(
        self, patience: int, folder: Path, history: Mapping[int, Mapping[str, float]], has_bound: bool
    ) -> None:
        super().__init__()
        self._patience = patience
        self._folder = folder
        self._metric, self._sign = ("val_elbo", 1.0) if has_bound else ("val_loss", -1.0)
        self._best = -float("inf")
        self.best_epoch = -1
        self.is_over = False
        for epoch, row in sorted(history.items()):
            self._note(epoch, row)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the weights if the epoch is the best so far, or ends the training."""
        if self._note(epoch, logs or {}):
            # Before the checkpoint of this epoch: if that is never written, the epoch is trained again, as it was.
            with files.replacing(self._folder / _BEST) as written:
                self.model.save_weights(written)
        self.model.stop_training = self.model.stop_training or self.is_over

    def restore(self) -> None:
        """Gives the model the weights of the best epoch, if there is one."""
        if self.best_epoch >= 0:
            self.model.load_weights(self._folder / _BEST)

    def _note(self, epoch: int, row: Mapping[str, Any]) -> bool:
        """Takes the metrics of an epoch into account; returns whether it is the best."""
        value = self._sign * float(row[self._metric])
        if is_best := value > self._best:
            self._best, self.best_epoch = value, epoch
        self.is_over = epoch - self.best_epoch >= self._patience
        return is_best


def forget(folder: Path) -> None:
    """Removes the weights of the best epoch."""
    (folder / _BEST).unlink(missing_ok=True)
