"""Streams: one step of a series at a time, with a state that goes from call to call. It needs NumPy alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfvae import checks


def initial_state(n: int, shape: tuple[int, ...]) -> np.ndarray:
    """The state before the first step: NaN [n, *shape], float32.

    Args:
        n: the number of streams.
        shape: the shape of the state of one.

    Raises:
        ValueError: n is not a positive integer.
    """
    return np.full([checks.positive_integer("n", n), *shape], np.nan, np.float32)


class Stream:
    """Streams that a model is given one step at a time: it calls `step`, and keeps the state between the calls.

    Made by `stream(n)` of a model or of an export. Calls must follow each other, so threads cannot share it.

    Args:
        step: a function of x_t [n, C], the state and what else the model is given, to its outputs by name and the new
            state, as `state`.
        state: the state before the first step, [n, ...].

    Attributes:
        state: the present state, which may be kept, and set to go on from there.
    """

    def __init__(self, step: Callable[..., Mapping[str, np.ndarray]], state: np.ndarray) -> None:
        self._step = step
        self.state = state

    def __call__(self, x_t: Any, **given: Any) -> dict[str, np.ndarray]:
        """Takes the next step of each stream.

        Args:
            x_t: the data of the step [n, C].
            given: what else the model is given, such as `condition`, by name.

        Returns:
            What `step` returns, without the state. If it raises an error, the state is as it was before.
        """
        outputs = dict(self._step(x_t, self.state, **given))
        self.state = outputs.pop("state")
        return outputs

    def restart(self, which: Any = slice(None)) -> None:
        """Lets streams begin again, as if no step had been taken.

        Args:
            which: their indices, or a mask, bool [n]; by default all.
        """
        state = self.state.copy()
        state[which] = np.nan
        self.state = state

    def __repr__(self) -> str:
        """The number of streams, and the shape of the state of one."""
        return f"<Stream: {len(self.state)} streams, each with a state of the shape {list(self.state.shape[1:])}>"
