"""Times the epochs of `keras.Model.fit`, or runs them one at a time on request."""

import queue
import threading
import time
from typing import Any

import keras
import numpy as np


class _StopError(Exception):
    """Raised by a callback to end `fit` before its next step."""


class Seconds(keras.callbacks.Callback):
    """Measures the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._start)


class Epochs(keras.callbacks.Callback):
    """One long `fit` in a thread of its own, which runs an epoch at each request.

    An epoch is timed from its beginning to the beginning of the next, with everything that `fit` and callbacks do.

    Args:
        model: a compiled model.
        x: the data.
        batch_size: B.
    """

    def __init__(self, model: keras.Model, x: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self._requests, self._answers = queue.Queue(), queue.Queue()
        self._start = None
        arguments = {"batch_size": batch_size, "epochs": 10**9, "verbose": 0, "callbacks": [self]}
        self._thread = threading.Thread(target=self._fit, args=(model, x, arguments), daemon=True)
        self._thread.start()

    def _fit(self, model: keras.Model, x: np.ndarray, arguments: dict[str, Any]) -> None:
        try:
            model.fit(x, **arguments)
        except _StopError:
            return
        except Exception as error:
            self._answers.put(error)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the clock, waits for the next request, and starts the clock again."""
        if self._start is not None:
            self._answers.put(time.perf_counter() - self._start)
        if not self._requests.get():
            raise _StopError
        self._start = time.perf_counter()

    def run(self) -> float:
        """Runs one epoch and returns its seconds.

        Raises:
            Exception: the error that `fit` raised.
        """
        self._requests.put(True)
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """Ends the `fit`."""
        self._requests.put(False)
        self._thread.join()
