"""Reads the JSON that describes an exported model. TensorFlow is not needed here, because a client reads it."""

import json
import reprlib
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks


def read(path: Path) -> dict[str, Any]:
    """Reads a description.

    Args:
        path: the JSON file.

    Returns:
        Its content; empty if there is no such file.

    Raises:
        ValueError: the file holds no JSON object, or an entry that the client reads has the wrong type.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The description of an export must be JSON. Received: {str(path)!r}, {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"The description of an export must be a JSON object. Received: {str(path)!r} with {reprlib.repr(content)}"
        )
    for name, (is_right, expected) in _ENTRIES.items():
        if name in content and not is_right(content[name]):
            raise ValueError(
                f"`{name}` in the description of an export must be {expected}. Received: {str(path)!r} with "
                f"{name}={reprlib.repr(content[name])}"
            )
    return content


def may_be_nan(argument: str, description: Mapping[str, Any]) -> bool:
    """Whether an input of a signature may hold NaN, which marks a missing value, or a step before the first one.

    Args:
        argument: the name of the input.
        description: the description of the export, or that of its model.
    """
    if argument in ("x", "x_t"):
        return bool(description.get("missing_values", False))
    return is_state(argument, description)


def integers(argument: str, inputs: Container[str], description: Mapping[str, Any]) -> tuple[int, int] | None:
    """The smallest and the largest of the integers that an input of a signature must hold; None if it may hold others.

    Args:
        argument: the name of the input.
        inputs: the names of all inputs of the signature.
        description: the description of the export, or that of its model.
    """
    if argument == "label" and "num_classes" in description:
        # -1 stands for the most probable label, which can be inferred if the signature takes x.
        return (-1 if "x" in inputs else 0), description["num_classes"] - 1
    if argument == "codes" and "num_codes" in description:
        return 0, description["num_codes"] - 1
    return None


def check_integers(argument: str, array: np.ndarray, inputs: Container[str], description: Mapping[str, Any]) -> None:
    """Raises ValueError if an input of a signature holds others than the `integers` that it must.

    Args:
        argument: the name of the input.
        array: its value.
        inputs: the names of all inputs of the signature.
        description: the description of the export, or that of its model.
    """
    limits = integers(argument, inputs, description)
    if limits is None:
        return
    lowest, highest = limits
    wrong = checks.find(array, lambda part: (part < lowest) | (part > highest) | (part != np.floor(part)))
    if wrong is not None:
        expected = f"`{argument}` must hold integers from {lowest} to {highest}"
        raise ValueError(f"{expected}. Received: {argument} with the value {array[wrong]:g}")


def is_state(name: str, description: Mapping[str, Any]) -> bool:
    """Whether an input or output of a signature is the state of a stream.

    Args:
        name: the name of the input or output.
        description: the description of the export, or that of its model.
    """
    # Only beside a shape, because inputs of inference have names that a user chose.
    return name == "state" and "state_shape" in description


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_numbers(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "if"
    except ValueError:
        return False


def _is_normalization(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and _is_text(value.get("formula"))
        and all(_is_numbers(value.get(name)) for name in ("offset", "scale"))
    )


def _is_scaling(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not all(_is_numbers(value.get(name)) for name in ("offset", "scale")):
        return False
    offset, scale = (np.asarray(value[name], float) for name in ("offset", "scale"))
    return bool(np.isfinite(offset).all() and np.isfinite(scale).all() and scale.all())


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    # A column without any value has null.
    ends = [np.asarray(value.get(name), object) for name in ("low", "high")]
    numbers = (number for end in ends for number in end.flat)
    finite = all(number is None or (_is_numbers(number) and np.isfinite(number)) for number in numbers)
    return ends[0].shape == ends[1].shape and all(name in value for name in ("low", "high")) and finite


def _is_threshold(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("value")) in (int, float) and _is_text(value.get("method"))


def _is_step_decision(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(name)) in (int, float) and value[name] > 0 for name in ("own_scale", "around_scale"))
        and _is_threshold(value.get("threshold"))
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(column, dict) and _is_text(column.get("name")) and _is_text(column.get("kind")) for column in value
    )


def _is_series(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("channels"), list)
        and all(_is_numbers(value.get(name)) for name in ("offset", "scale"))
        and type(value.get("length")) is int
    )


# The entries that `tfvae.export` itself writes or reads: a check of each, and what it must be.
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tfvae_version": (_is_text, "a string"),
    "sha256": (_is_text, "a string"),
    "quantize": (lambda value: value is None or _is_text(value), "a string or null"),
    "batch_size": (lambda value: value is None or type(value) is int, "an integer or null"),
    "missing_values": (lambda value: isinstance(value, bool), "true or false"),
    "state_shape": (lambda value: isinstance(value, list) and _is_numbers(value), "a list of integers"),
    "num_classes": (lambda value: type(value) is int and value > 0, "a positive integer"),
    "num_codes": (lambda value: type(value) is int and value > 0, "a positive integer"),
    "units": (lambda value: value in ("raw", "model"), '"raw" or "model"'),
    "scaling": (_is_scaling, "null, or an object with the finite numbers offset and scale, of which scale is not 0"),
    "expected_range": (_is_range, "null, or an object with low and high, numbers or lists of the same length"),
    "threshold": (_is_threshold, "an object with the number value and the text method"),
    "decision_of_steps": (_is_step_decision, "an object with the numbers own_scale and around_scale, and a threshold"),
    "series": (_is_series, "an object with the channels, offset, scale and length of windows"),
    "table": (_is_table, "a list of columns, objects with the texts name and kind"),
    "inputs": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "an object of texts"),
    "normalization": (_is_normalization, "null, or an object with a formula and the numbers offset and scale"),
}
