"""How far float32 may put an output of an export from the model's, for each of its columns.

The columns are the elements of the last axis. One tolerance for all of them would hide a wrong column of small numbers
beside one of large numbers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfvae.export.units import Units
from tfvae.exportable import Exportable

_EPSILON = float(np.finfo(np.float32).eps)
# The absolute tolerance, for outputs close to 0, for each of the terms that the output is the sum of.
_FLOOR = 1e-6
# The largest difference of a column relative to its spread, in tolerances. Float32 loses far less than the 0.1% that
# this makes of the tolerance of 1e-4, and what is wrong is seldom wrong by less.
_SPREAD = 10
# How many roundings of its largest value a column may differ by: as many as a sum of a thousand terms makes.
_ROUNDINGS = 32
# The same for raw units, into which the export and the model each bring a value by a multiplication and an addition.
_RAW_ROUNDINGS = 4


class Sizes(NamedTuple):
    """How large the columns of an output [N, ...] are, from which follows how exact they can be.

    All but `scale` are in the model's units, with an entry for each column [C]; an output [N] is one column.

    Attributes:
        scale: what differences of the output are divided by, to have them in the model's units; it broadcasts to one
            example.
        spread: the standard deviation of the output, or of the data that it is the mean of if that is larger; where
            nothing varies, 1 for what is scaled, and otherwise the largest value.
        largest: the largest absolute value.
        rounding: the most by which float32 rounds a value in raw units.
    """

    scale: np.ndarray
    spread: np.ndarray
    largest: np.ndarray
    rounding: np.ndarray

    def differences(self, received: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """The largest absolute difference in each column [C], in the model's units."""
        with np.errstate(invalid="ignore"):
            return _by_column(np.abs(received - expected.astype(float)) / np.abs(self.scale)).max(axis=0)

    def allowed(self, tolerance: float, terms: float = 1, by_column: bool = True) -> np.ndarray:
        """The largest differences [C] that the arithmetic explains.

        Args:
            tolerance: relative to the largest value of all columns.
            terms: the number of terms that the output is the sum of.
            by_column: whether a column must also agree for its own size, which is right for float32.
        """
        together = tolerance * self.largest.max() + _FLOOR * terms + self.rounding
        if not by_column:
            return together
        # A column of zeros has no size of its own.
        floor = np.where(self.largest > 0, np.minimum(_FLOOR, _SPREAD * tolerance * self.largest), _FLOOR)
        alone = _SPREAD * tolerance * self.spread + _ROUNDINGS * _EPSILON * self.largest + floor * terms
        return np.minimum(together, alone + self.rounding)


def spread_of_data(model: Exportable, x: Any, is_table: bool = False) -> dict[str, np.ndarray]:
    """The standard deviation of the data, in the units of the model's signatures, for each output that is in those.

    Args:
        model: the model.
        x: the result of its `export_data`; of a model of a table, numbers and codes.
        is_table: whether it is a model of a table.

    Returns:
        By the name of the output, an array that broadcasts to the output for one example.
    """
    data = x.get("x") if isinstance(x, Mapping) else x
    if not (model.takes_units or is_table) or data is None:
        return {}
    spread = _spread(np.asarray(data, np.float32)).astype(np.float32)
    units = model.export_units(np.zeros_like(spread), spread)
    return {name: own[1] for name, own in units.items() if own is not None}


def sizes(name: str, output: np.ndarray, scaling: Units | None, spread: Mapping[str, np.ndarray]) -> Sizes:
    """Measures an output of the model.

    Args:
        name: the name of the output.
        output: [N, ...], with as many examples as there are.
        scaling: the units of the output; None means that it is in the model's units.
        spread: the result of `spread_of_data`.
    """
    own = None if scaling is None else scaling.of.get(name)
    is_scaled = own is not None
    offset, scale = (np.asarray(part, float) for part in own or (0.0, 1.0))
    with np.errstate(invalid="ignore"):
        values = (output - offset) / scale
        # NaN has no size. Where it is right, it is compared as it is.
        values = np.where(np.isnan(values), 0.0, values)
        largest = np.abs(_by_column(values)).max(axis=0)
        of_data = _by_column(np.broadcast_to(spread.get(name, 0.0), (1, *output.shape[1:]))).max(axis=0)
        varies = np.maximum(_spread(values).reshape(-1), of_data)
        rounding = _by_column(_RAW_ROUNDINGS * _EPSILON * np.abs(values + offset / scale)).max(axis=0)
    return Sizes(
        scale,
        np.where(varies > 0, varies, 1.0 if is_scaled else largest),
        largest,
        rounding if is_scaled else np.zeros_like(rounding),
    )


def _by_column(array: np.ndarray) -> np.ndarray:
    """[N, ..., C] as [M, C]; [N] as [N, 1]."""
    return array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)


def _spread(array: np.ndarray) -> np.ndarray:
    """The standard deviation along all axes but the last one, which an array [N] lacks; 0 where no value is finite."""
    finite = np.ma.masked_invalid(array.astype(float))
    return np.ma.filled(finite.std(axis=tuple(range(max(array.ndim - 1, 1)))), 0.0)
