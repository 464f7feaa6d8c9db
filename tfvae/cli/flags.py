"""What the flags of the commands accept: each kind of value is read and checked before anything else is imported."""

import argparse
import csv
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

# Beyond these a value is a slip, and would only fail, or never end, long after the command has started.
MOST = 10**6
_MOST_UNITS = 10**5
_MOST_LATENT = 10**4
_MOST_LAYERS = 100
_MOST_PIXELS = 10**4
_MOST_DEVICES = 64
# What reading a value raises: AttributeError for a number where text is needed.
_NOT_OF_THIS_KIND = (AttributeError, OverflowError, TypeError, ValueError, csv.Error)


class FlagError(argparse.ArgumentTypeError, ValueError):
    """A flag has a value that it does not accept. jsonargparse shows its text for a flag and for an entry of a file."""


class Kind:
    """How the value of a flag is read, from the text after the flag or from an entry of a YAML file.

    Args:
        expected: what the value must be, as the help and the errors say it.
        read: returns the value, or raises an error of `_NOT_OF_THIS_KIND`.
    """

    def __init__(self, expected: str, read: Callable[[Any], Any]) -> None:
        self.expected = expected
        # How the parser's help names it.
        self.__name__ = expected
        self.read = read

    def __repr__(self) -> str:
        """What the value must be."""
        return self.expected

    def __call__(self, value: Any) -> Any:
        """Reads a value.

        Raises:
            FlagError: it is not of this kind.
        """
        try:
            return self.read(value)
        except _NOT_OF_THIS_KIND as error:
            raise FlagError(f"must be {self.expected}. Received: {reprlib.repr(value)}") from error


def integer(low: int, high: int) -> Kind:
    """Integers from `low` to `high`."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"an integer from {low} to {high}", read)


def number(low: float, high: float) -> Kind:
    """Numbers between `low` and `high`, both excluded."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not low < (value := float(value)) < high:
            raise ValueError
        return value

    return Kind(f"a number above {low:g}" if high == math.inf else f"a number between {low:g} and {high:g}", read)


def choice(names: Sequence[str]) -> Kind:
    """One of several names."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError
        return value

    return Kind(" or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}", read)


def either(first: Kind, second: Kind) -> Kind:
    """Values of one kind or of another."""

    def read(value: Any) -> Any:
        try:
            return first.read(value)
        except _NOT_OF_THIS_KIND:
            return second.read(value)

    return Kind(f"{first.expected}, or {second.expected}", read)


def words(value: Any) -> list[str]:
    """The words in a list, or in a text such as [a,b], a,b or a."""
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").split(",") if value.strip("[] ") else []
    return [str(word).strip() for word in (value if isinstance(value, (list, tuple)) else [value])]


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _read_step(value: Any) -> str | float:
    if isinstance(value, bool) or not value:
        raise ValueError
    try:
        return POSITIVE.read(value)
    except ValueError:
        # What is not a number is read where it is known whether the times are dates.
        return _read_text(value)


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value.lower() not in ("true", "false"):
        raise ValueError
    return value.lower() == "true"


def _read_fraction(value: Any) -> float:
    # 0 is for data with a test split of their own, from whose training examples none need be held out.
    if isinstance(value, bool) or not 0 <= (value := float(value)) < 1:
        raise ValueError
    return value


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value := float(value)):
        raise ValueError
    return value


def _read_nothing(value: Any) -> None:
    if value not in (None, "null"):
        raise ValueError


def _read_widths(value: Any) -> list[int]:
    widths = [integer(1, _MOST_UNITS).read(word) for word in words(value)]
    if len(widths) > _MOST_LAYERS:
        raise ValueError
    return widths


def _read_image_size(value: Any) -> list[int]:
    size = [integer(1, _MOST_PIXELS).read(word) for word in words(value)]
    if len(size) not in (1, 2):
        raise ValueError
    return size if len(size) == 2 else size * 2


def _read_names(value: Any) -> list[str]:
    if isinstance(value, str):
        # Commas within quotation marks are part of a name.
        value = next(csv.reader([value.strip().removeprefix("[").removesuffix("]")], skipinitialspace=True))
    if not isinstance(value, list | tuple) or not value or not all(value):
        raise ValueError
    return [str(name) for name in value]


def _read_kinds(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        # The name of a column may have a "=" too.
        pairs = [pair.rpartition("=") for pair in _read_names(value)]
        value = {name: kind for name, _, kind in pairs}
        if len(value) < len(pairs):
            raise ValueError
    if not value or not all(value) or not all(value.values()):
        raise ValueError
    return {str(name): str(kind) for name, kind in value.items()}


def _read_seeds(value: Any) -> list[int]:
    seeds = [SEED.read(word) for word in words(value)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError
    return seeds


def _read_modules(value: Any) -> list[str]:
    modules = words(value)
    if not all(name.isidentifier() for module in modules for name in module.split(".")):
        raise ValueError
    return modules


# Read by `chosen_callbacks`; the parser appends one to another.
CALLBACKS = Kind("names of callbacks", lambda value: value)
COLUMN_KINDS = Kind("columns with their kinds, such as age=count,zip=category", _read_kinds)
COLUMN_NAMES = Kind("names of columns, such as age,zip", _read_names)
COUNT = integer(1, MOST)
DEVICES = integer(1, _MOST_DEVICES)
FRACTION = Kind("a number from 0 to below 1", _read_fraction)
IMAGE_SIZE = Kind(f"one or two integers from 1 to {_MOST_PIXELS}, such as 32 or 32,48", _read_image_size)
# A window has two steps at least.
LENGTH = integer(2, MOST)
LATENT_DIM = integer(1, _MOST_LATENT)
MODULES = Kind("names of modules, such as my_parts", _read_modules)
NUMBER = Kind("a finite number", _read_number)
PATHS = Kind("paths", words)
POSITIVE = number(0, math.inf)
RATE = number(0, 1)
# TensorFlow takes seeds of 32 bits, and NumPy none below 0.
SEED = integer(0, 2**31 - 1)
SEEDS = Kind("different seeds, such as 0,1,2", _read_seeds)
STEP = Kind("a time such as 10min, 1 month or a number", _read_step)
SWITCH = Kind("true or false", _read_switch)
TEXT = Kind("text", _read_text)
WIDTHS = Kind(f"integers from 1 to {_MOST_UNITS}, such as 64,32", _read_widths)

Count = typing.Annotated[int, COUNT]
Modules = typing.Annotated[Sequence[str], MODULES]
Seed = typing.Annotated[int, SEED]


def of(annotation: Any) -> Kind:
    """The kind of an argument, from its annotation: `Annotated[type, kind]`, str, bool or names; or None as well."""
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation.__metadata__[0]
    if typing.get_origin(annotation) is Literal:
        return choice(typing.get_args(annotation))
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (given,) = (each for each in typing.get_args(annotation) if each is not type(None))
        return optional(of(given))
    return {bool: SWITCH, str: TEXT}[annotation]


def optional(kind: Kind) -> Kind:
    """Values of a kind, or null."""
    return either(kind, Kind("null", _read_nothing))
