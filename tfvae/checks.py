"""Checks of arrays and numbers that come from the user; they need nothing but NumPy."""

import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfvae import chunks

# The number of elements checked at a time, so that checking a memory-mapped array takes little memory.
_CHECK_ELEMENTS = 2**24


def to_numpy(x: Any, argument: str = "x") -> np.ndarray:
    """Converts data that come from the user to an array.

    Raises:
        ValueError: the data are not numeric, or are empty.
    """
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"`{argument}` must be one numeric array or tensor. Received: {type(x).__name__}") from error
    # A bfloat16 tensor becomes an array of a special dtype, which NumPy does not count as floating point.
    if x.dtype.kind == "V" and x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"`{argument}` must hold real numbers. Received: {argument} of dtype {x.dtype}")
    if x.ndim and len(x) == 0:
        raise ValueError(f"`{argument}` must hold at least one example. Received: {argument} of shape {x.shape}")
    return x


def check_shape(x: np.ndarray, shape: tuple[int | None, ...], argument: str = "x") -> None:
    """Raises ValueError unless x is [N, *shape]."""
    if x.ndim == 0 or x.shape[1:] != shape:
        expected = ", ".join(["N", *map(str, shape)])
        hint = "; add the batch axis" if x.shape == shape else ""
        raise ValueError(
            f"`{argument}` must have the shape [{expected}]{hint}. Received: {argument} of shape {list(x.shape)}"
        )


def check_same_length(**arrays: np.ndarray) -> None:
    """Raises ValueError unless all arrays have the same number of rows."""
    if len({len(array) for array in arrays.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in arrays)
        received = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
        raise ValueError(f"{names} must have the same number of examples. Received: {received}")


def check_finite(x: np.ndarray, argument: str = "x", *, allow_nan: bool = False, advice: str = "") -> None:
    """Raises ValueError, with advice, if x holds NaN or infinity; with `allow_nan`, only if it holds infinity."""
    is_wrong = np.isinf if allow_nan else lambda part: ~np.isfinite(part)
    first = find(x, is_wrong)
    if first is not None:
        count = sum(np.count_nonzero(is_wrong(part)) for _, part in _parts(x))
        what, but = ("infinite", " or NaN, which marks a missing value") if allow_nan else ("NaN or infinite", advice)
        raise ValueError(
            f"`{argument}` must be finite{but}. Received: {count} values that are {what}, the first at index "
            f"{list(first)}"
        )


def find(x: np.ndarray, condition: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The index of the first element of x that satisfies an elementwise condition, or None."""
    for start, part in _parts(x):
        holds = condition(part)
        if holds.any():
            row, *rest = np.unravel_index(holds.argmax(), holds.shape)
            return (start + int(row), *map(int, rest))
    return None


def check_elements(
    x: np.ndarray, is_wrong: Callable[[np.ndarray], np.ndarray], expected: str, argument: str = "x"
) -> None:
    """Raises ValueError, saying what x must do (`expected`), if any element satisfies an elementwise condition."""
    first = find(x, is_wrong)
    if first is not None:
        raise ValueError(
            f"`{argument}` must {expected}. Received: {argument} with the value {x[first]!s} at index {list(first)}"
        )


def check_integers(x: np.ndarray, low: int, high: int, expected: str, argument: str) -> None:
    """Raises ValueError, saying what x must do (`expected`), unless x holds integers from `low` to `high` - 1."""
    if not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"`{argument}` must {expected}. Received: {argument} of dtype {x.dtype}")
    check_elements(x, lambda part: (part < low) | (part >= high), expected, argument)


def positive_integer(argument: str, value: Any, minimum: int = 1) -> int:
    """Returns the value as an int.

    Raises:
        ValueError: the value is not an integer of at least `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"`{argument}` must be an integer of at least {minimum}. Received: {argument}={value!r}")
    return int(value)


def boolean(argument: str, value: Any) -> bool:
    """Returns the value.

    Raises:
        ValueError: the value is not True or False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{argument}` must be True or False. Received: {argument}={value!r}")
    return value


def number(argument: str, value: Any, minimum: float = -math.inf) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: the value is not a finite number of at least `minimum`.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and minimum <= value < math.inf and value > -math.inf):
        least = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"`{argument}` must be a finite number{least}. Received: {argument}={value!r}")
    return float(value)


def positive_number(argument: str, value: Any) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: the value is not a finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"`{argument}` must be a finite number above 0. Received: {argument}={value!r}")
    return float(value)


def seed_number(seed: Any) -> int:
    """Returns the seed as an int.

    Raises:
        ValueError: the seed is not an integer of 32 bits.
    """
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not (is_integer and -(2**31) <= seed < 2**31):
        raise ValueError(f"`seed` must be an integer of 32 bits, or None. Received: seed={seed!r}")
    return int(seed)


def _parts(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts x along its first axis into parts of moderate size; yields each with the index of its first row."""
    for part in chunks.slices(len(x), chunks.rows_within(_CHECK_ELEMENTS, math.prod(x.shape[1:]))):
        yield part.start, x[part]
