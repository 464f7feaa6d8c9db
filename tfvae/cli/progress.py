"""The progress of a training, as one line for each epoch, and the time that it takes."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras

from tfvae.cli import record

# How often the line of the current epoch is written anew in a terminal.
_SECONDS = 0.2


class ProgressLine(keras.callbacks.Callback):
    """Prints one line for each epoch: its steps, time and metrics, and the time left for the whole training.

    In a terminal the line of the current epoch is updated; elsewhere it is printed once, at the end of the epoch,
    without control codes.

    Attributes:
        reads_each_batch: False, so that `fit` may run many steps in one execution.
    """

    reads_each_batch = False

    def __init__(self) -> None:
        super().__init__()
        self._since: tuple[float, float] | None = None
        self._epoch = self._step = 0
        self._epoch_began = self._written = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the time."""
        self._epoch, self._step, self._epoch_began = epoch, 0, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Updates the line, if it is in a terminal."""
        self._step, now = batch + 1, time.monotonic()
        if self._since is None:
            # Later than the start, because the first execution is preceded by tracing.
            self._since = now, self._position()
        if sys.stdout.isatty() and now - self._written > _SECONDS:
            self._written = now
            self._write(logs, end="")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the line of the epoch."""
        self._write(logs, end="\n")

    def _position(self) -> float:
        """How many epochs are done, with a fraction."""
        steps = self.params["steps"]
        return self._epoch + (self._step / steps if steps else 0.0)

    def _write(self, logs: dict[str, Any] | None, end: str) -> None:
        epochs, steps = self.params["epochs"], self.params["steps"]
        parts = [f"Epoch {self._epoch + 1}/{epochs}", f"step {self._step}" + (f"/{steps}" if steps else "")]
        parts.append(duration(time.monotonic() - self._epoch_began))
        parts += [f"{name} {float(value):.4g}" for name, value in (logs or {}).items()]
        left = self._left(epochs)
        if left:
            # Before the metrics, because a narrow terminal cuts the end.
            parts.insert(3, f"{duration(left)} left")
        line = "  ".join(parts)
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = "\r" + line[:width].ljust(width)
        print(line, end=end, flush=True)

    def _left(self, epochs: int) -> float | None:
        """The seconds that the rest of the training takes; None before that can be estimated."""
        if self._since is None:
            return None
        began, at = self._since
        done = self._position() - at
        return (time.monotonic() - began) / done * (epochs - self._position()) if done > 0 else None


class RecordTime(keras.callbacks.Callback):
    """Records how many epochs were trained, and for how many seconds, those before an interruption included.

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._began = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes the time."""
        self._began = time.monotonic() - float(record.read(self._folder).get("seconds", 0.0))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the record."""
        record.add(self._folder, epochs=epoch + 1, seconds=round(time.monotonic() - self._began, 3))


def duration(seconds: float) -> str:
    """Seconds in words, such as 5.2 s or 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
