"""The range of the data that an export was given, and the warning of data far outside of it. It needs NumPy alone."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def of(x: np.ndarray) -> dict[str, Any]:
    """The range of data, ready for JSON.

    Args:
        x: [N, ...]; NaN marks missing values.

    Returns:
        `low` and `high`: for a table [N, D] lists with an entry for each column, which is None where all values are
        missing; otherwise numbers for all elements together.
    """
    axes = 0 if x.ndim == 2 else None
    low, high = np.fmin.reduce(x, axes), np.fmax.reduce(x, axes)
    return {"low": _json(low), "high": _json(high)}


class ExpectedRange:
    """Warns of data that are beyond the range by more than its width.

    Args:
        expected: the result of `of`.
        offset: the range is that of (x - offset) / scale, as for signatures in the model's units.
        scale: see `offset`.
    """

    def __init__(self, expected: Mapping[str, Any], offset: Any = 0.0, scale: Any = 1.0) -> None:
        ends = [
            (np.asarray(expected[name], float) - np.asarray(offset, float)) / np.asarray(scale, float)
            for name in ("low", "high")
        ]
        low, high = np.fmin(*ends), np.fmax(*ends)
        # What was constant may differ by its own size, because rounding alone would be beyond a width of 0.
        width = np.where(high > low, high - low, np.maximum(np.abs(high), 1))
        self._low, self._high = low, high
        self._least, self._most = (low - width).astype(np.float32), (high + width).astype(np.float32)

    def check(self, x: np.ndarray, argument: str = "x", names: Sequence[str] | None = None) -> None:
        """Warns if any value is far outside.

        Args:
            x: [N, ...]; NaN, which marks a missing value, is not outside.
            argument: its name.
            names: the names of the columns of x [N, D], which the warning then says.
        """
        is_far = (x < self._least) | (x > self._most)
        if not is_far.any():
            return
        first = tuple(int(index) for index in np.unravel_index(np.argmax(is_far), x.shape))
        low, high = (np.broadcast_to(end, x.shape[1:])[first[1:]] for end in (self._low, self._high))
        what, received = f"`{argument}`", argument
        if names is not None:
            what, received = f'Column "{names[first[1]]}"', "a row"
        warnings.warn(
            f"{what} should be like the data of the export, which lie from {low:g} to {high:g}; check its units. "
            f"Received: {received} with the value {x[first]:g} at index {list(first)}, and {np.count_nonzero(is_far)} "
            "such values in all",
            UserWarning,
            stacklevel=4,
        )


def _json(array: np.ndarray) -> Any:
    if array.ndim:
        return [_json(part) for part in array]
    # With no more digits than float32 has.
    return None if np.isnan(array) else float(str(np.float32(array)))
