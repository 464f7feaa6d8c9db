"""Checks of arrays and numbers that come from the user; they need nothing but NumPy."""

import collections
import contextlib
import difflib
import math
import numbers
import os
import pathlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tfvae import chunks

# The number of elements checked at a time, so that checking a memory-mapped array takes little memory.
_CHECK_ELEMENTS = 2**24

# How columns of a data frame become numbers, by the kind of their dtype.
_CONVERSIONS = {
    "M": "turn dates into numbers, as in (column - column.min()).dt.total_seconds()",
    "m": "turn durations into numbers with column.dt.total_seconds()",
    "O": "leave text out, or turn it into numbers with pandas.to_numeric, pandas.get_dummies or "
    'column.astype("category").cat.codes, and texts of dates into dates with pandas.to_datetime',
}

# The longest text in which a message shows a value.
_SHOWN = 200


def shown(value: Any) -> str:
    """The value as a message shows it: in one line of at most 200 characters, however large the value is."""
    if isinstance(value, str):
        # So that only the part of a long text that is shown is escaped.
        text = repr(value[:_SHOWN])
    elif isinstance(value, np.ndarray) and value.size > 10:
        text = f"an array of shape {list(value.shape)}, {value.dtype}"
    else:
        brief = reprlib.Repr()
        brief.maxother = brief.maxstring = brief.maxlong = _SHOWN
        text = brief.repr(value)
    return _in_one_line(text)


def brief(error: BaseException) -> str:
    """The text of an error that other code raised, or its class if it has none: one line of at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # AutoGraph puts a traceback before the text.
    return _in_one_line(lines[-1] if lines[0].startswith("in user code") else " ".join(lines))


def _in_one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def shown_names(names: Any, most: int = 10) -> str:
    """The first of several names, separated by commas, and how many there are in all if not all are shown."""
    names = list(names)
    first = ", ".join(str(name)[:_SHOWN] for name in names[:most])
    return first if len(names) <= most else f"{first}, ... ({len(names)} in all)"


def check_distinct(argument: str, names: Sequence[str]) -> None:
    """Raises ValueError if two columns of a table have one name."""
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"`{argument}` must be a table whose columns have different names. Received: several columns with the name "
            f"{shown_names(map(shown, repeated))}"
        )


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """A question that names, after a prefix, the one of several names that is most like another; "" if none is."""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {prefix}{by_lower[found[0]]}?)" if found else ""


def memory_bytes() -> int:
    """The memory of this machine, or of the container if that may have less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The limit of a container; the file is missing outside of one, and "max" means that there is no limit.
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def check_memory(size: int, argument: str, received: str) -> None:
    """Raises ValueError, before any of it is read, if an array of `size` bytes leaves no room for a copy of itself."""
    if 2 * size > (memory := memory_bytes()):
        raise ValueError(
            f"`{argument}` must fit in memory twice, which is {memory / 1e9:.3g} GB; data larger than memory are read "
            f"from several files. Received: {received}, {size / 1e9:.3g} GB"
        )


def is_frame(x: Any) -> bool:
    """Whether x is a data frame of pandas, or of a library that converts its own to pandas, such as polars."""
    return hasattr(x, "to_pandas") or (hasattr(x, "iloc") and hasattr(x, "columns"))


def frame_to_numpy(frame: Any, argument: str = "x", received: str = "") -> np.ndarray:
    """Converts a data frame of numbers and bools to an array of their common dtype.

    Args:
        frame: see `is_frame`.
        argument: the name of the caller's argument, for error messages.
        received: what error messages say was received; by default the name of the argument.

    Returns:
        The array [N, D]; float64 with NaN where a value is missing, if any is.

    Raises:
        ValueError: a column holds anything else; the message says which, and how to convert it.
    """
    if hasattr(frame, "to_pandas"):
        frame = frame.to_pandas()
    columns = list(zip(map(str, frame.columns), frame.dtypes, strict=True))
    if wrong := [f"{name} ({dtype})" for name, dtype in columns if dtype.kind not in "biuf"]:
        kinds = {dtype.kind for _, dtype in columns}
        advice = [_CONVERSIONS[kind] for kind in "Mm" if kind in kinds]
        if not kinds <= set("biufMm"):
            advice.append(_CONVERSIONS["O"])
        raise ValueError(
            f"`{argument}` must be a table of numbers: {'; '.join(advice)}. Received: {received or argument} with the "
            f"non-numeric columns {shown_names(wrong)}"
        )
    if not columns or frame.isna().to_numpy().any():
        return frame.to_numpy(np.float64, na_value=np.nan)
    # Nullable and sparse dtypes have the NumPy dtype of their values under these names.
    names = ("numpy_dtype", "subtype")
    dtypes = [next((getattr(d, n) for n in names if hasattr(d, n)), d) for _, d in columns]
    return frame.to_numpy(np.result_type(*dtypes))


def unwrap(x: Any, argument: str = "x") -> Any:
    """Converts data frames, sparse and masked arrays and AnnData objects to arrays; returns anything else as it is.

    Args:
        x: the data, or a dictionary of data.
        argument: the name of the caller's argument, for error messages.

    Raises:
        ValueError: the values are not numbers, or too many for an array.
    """
    if isinstance(x, dict):
        return {name: unwrap(value, argument) for name, value in x.items()}
    if hasattr(x, "X") and hasattr(x, "obs_names"):
        if x.X is None:
            raise ValueError(f"`{argument}` must have the matrix `.X`; or pass one of its layers. Received: .X is None")
        return unwrap(x.X, argument)
    if is_frame(x):
        return frame_to_numpy(x, argument)
    if hasattr(x, "iloc") and hasattr(x, "to_frame"):
        return frame_to_numpy(x.to_frame(), argument)[:, 0]
    if isinstance(x, np.ma.MaskedArray):
        # What is masked is missing, and np.asarray would give the values behind the mask.
        return np.ma.filled(x.astype(np.result_type(x, np.float32)), np.nan) if np.ma.is_masked(x) else x.data
    kind = type(x).__name__
    if kind == "RaggedTensor":
        raise ValueError(f"`{argument}` must have rows of one length; pad them with x.to_tensor(). Received: a {kind}")
    is_tensor = kind == "SparseTensor" and hasattr(x, "dense_shape")
    if is_tensor or (hasattr(x, "nnz") and hasattr(x, "toarray")):
        shape = [int(size) for size in (x.dense_shape if is_tensor else x.shape)]
        dtype = np.dtype(x.dtype.as_numpy_dtype if is_tensor else x.dtype)
        check_memory(math.prod(shape) * dtype.itemsize, argument, f"a {kind} of shape {shape}")
        if not is_tensor:
            return x.toarray()
        array = np.zeros(shape, dtype)
        array[tuple(np.asarray(x.indices).T)] = np.asarray(x.values)
        return array
    return x


def to_numpy(x: Any, argument: str = "x") -> np.ndarray:
    """Converts data that come from the user, in any form that `unwrap` knows, to an array.

    Raises:
        ValueError: the data are not numeric, or are empty.
    """
    x = unwrap(x, argument)
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"`{argument}` must be one numeric array or tensor. Received: {type(x).__name__}") from error
    # A bfloat16 tensor becomes an array of a special dtype, which NumPy does not count as floating point.
    if x.dtype.kind == "V" and x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    if x.dtype.kind not in "biuf":
        advice = ""
        if x.dtype.names:
            advice = "; pass pandas.DataFrame(x) for an array with named columns"
        elif x.dtype.kind == "O" and x.ndim:
            # As pandas gives for columns of numbers and bools together.
            advice = '; pass a data frame itself instead of its values, or x.astype("float32")'
        raise ValueError(f"`{argument}` must hold real numbers{advice}. Received: {argument} of dtype {x.dtype}")
    if x.ndim and len(x) == 0:
        raise ValueError(f"`{argument}` must hold at least one example. Received: {argument} of shape {x.shape}")
    return x


def check_one_array(x: list | tuple, argument: str = "x") -> None:
    """Raises ValueError, because x is a list or tuple, which Keras takes for several inputs."""
    shapes = ""
    if all(hasattr(part, "shape") for part in x):
        shapes = f" of the shapes {shown([list(part.shape) for part in x])}"
    raise ValueError(
        f"`{argument}` must be one array or tensor. Stack examples with np.stack; join columns of several kinds with "
        "np.concatenate(..., axis=-1), and give each kind its likelihood with tfvae.likelihoods.Columns. "
        f"Received: a {type(x).__name__} of {len(x)}{shapes}"
    )


def check_shape(x: np.ndarray, shape: tuple[int | None, ...], argument: str = "x") -> None:
    """Raises ValueError unless x is [N, *shape], where None is any size, as of the steps T of a sequence."""
    sizes = x.shape[1:]
    if x.ndim != len(shape) + 1 or any(size not in (None, own) for size, own in zip(shape, sizes, strict=True)):
        expected = ", ".join(["N", *("T" if size is None else str(size) for size in shape)])
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


def check_float32(x: np.ndarray, argument: str = "x") -> None:
    """Raises ValueError if finite x holds a number that is too large for float32."""
    if x.dtype == np.float64:
        largest = float(np.finfo(np.float32).max)
        expected = "be finite in float32, in which models compute"
        check_elements(x, lambda part: abs(part) > largest, expected, argument)


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


def positive_integer(argument: str, value: Any, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
    """Returns the value as an int.

    Args:
        argument: the name of the caller's argument, for error messages.
        value: what was passed.
        minimum: the smallest value that is allowed.
        maximum: the largest; by default that of 32 bits, because TensorFlow Probability cuts larger sizes to them.

    Raises:
        ValueError: the value is not an integer, or is too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"`{argument}` must be an integer of at least {minimum}. Received: {argument}={shown(value)}")
    if int(value) > maximum:
        raise ValueError(f"`{argument}` must be an integer of at most {maximum}. Received: {argument}={shown(value)}")
    return int(value)


def boolean(argument: str, value: Any) -> bool:
    """Returns the value.

    Raises:
        ValueError: the value is not True or False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{argument}` must be True or False. Received: {argument}={shown(value)}")
    return value


def number(argument: str, value: Any, minimum: float = -math.inf) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: the value is not a finite number of at least `minimum`.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and minimum <= value < math.inf and value > -math.inf):
        least = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"`{argument}` must be a finite number{least}. Received: {argument}={shown(value)}")
    return float(value)


def positive_number(argument: str, value: Any) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: the value is not a finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"`{argument}` must be a finite number above 0. Received: {argument}={shown(value)}")
    return float(value)


def seed_number(seed: Any) -> int:
    """Returns the seed as an int.

    Raises:
        ValueError: the seed is not an integer of 32 bits.
    """
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not (is_integer and -(2**31) <= seed < 2**31):
        raise ValueError(f"`seed` must be an integer of 32 bits, or None. Received: seed={shown(seed)}")
    return int(seed)


def _parts(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts x along its first axis into parts of moderate size; yields each with the index of its first row."""
    for part in chunks.slices(len(x), chunks.rows_within(_CHECK_ELEMENTS, math.prod(x.shape[1:]))):
        yield part.start, x[part]
