"""What a caller must know about an exported model, as JSON beside its weights."""

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks, files
from tfvae.export import expected_range, units
from tfvae.exportable import Exportable, Signature


def metadata(
    model: Exportable, scaling: units.Units | None = None, x: Any = None, takes_texts: bool = False
) -> dict[str, Any]:
    """Describes an export of a model.

    Args:
        model: the model.
        scaling: the units of the export, from `tfvae.export.units.make`.
        x: the data that were passed to the export, or None.
        takes_texts: whether the columns of a table are named inputs.

    Returns:
        Ready for JSON: the version of tfvae, the model's own description, what the inputs and outputs mean, and an
        example; if the model `takes_units`, also the units of x, how they become those of the model, and the range of
        the data, in the units of x; if the columns of a table are named inputs, `inputs`, their names by column.
    """
    signatures = units.signatures(model, scaling, x)
    columns = signatures["serving_default"].columns if takes_texts else None
    description = {
        "tfvae_version": importlib.metadata.version("tfvae"),
        **model.export_description(),
        "meanings": dict(model.export_meanings()),
    }
    if model.takes_units:
        description["units"] = "model" if scaling is None else "raw"
        description["scaling"] = None if scaling is None else scaling.describe()
        description["expected_range"] = _range(scaling, x)
    if columns is not None:
        description["inputs"] = dict(columns.arguments)
        description["meanings"] |= columns.meanings
    return {
        **description,
        "axes": _axes(signatures, takes_texts, model.export_axes),
        "example": _example(model, scaling, signatures, takes_texts),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file for people to read, which appears complete or not at all; an array of numbers is one line."""
    text = json.dumps(content, indent=2)
    # Only where a line ends in the bracket, because there may be brackets in a string.
    text = re.sub(r"\[\n[^\"{}]*\]", lambda array: re.sub(r"\s*\n\s*", "", array[0]).replace(",", ", "), text)
    files.write_text(path, text + "\n")


def _range(scaling: units.Units | None, x: Any) -> dict[str, Any] | None:
    given = x.get("x") if isinstance(x, dict) else x
    if given is None:
        return None
    array = checks.to_numpy(given).astype(np.float32)
    return expected_range.of(array if scaling is None else scaling.to_raw({"x": array})["x"])


def _axes(
    signatures: Mapping[str, Signature], takes_texts: bool, names: Mapping[int, tuple[str, ...]]
) -> dict[str, str]:
    """The names of the axes of each input, from the slowest to the fastest."""
    specs = {
        spec.name: spec
        for signature in signatures.values()
        for spec in (signature.named_inputs if takes_texts else signature.inputs)
    }
    return {name: ", ".join(("example", *_axes_of(len(spec.shape) - 1, names))) for name, spec in specs.items()}


def _axes_of(number: int, names: Mapping[int, tuple[str, ...]]) -> Sequence[str]:
    return names.get(number, [f"axis {index + 1}" for index in range(number)])


def _example(
    model: Exportable, scaling: units.Units | None, signatures: Mapping[str, Signature], takes_texts: bool
) -> dict[str, Any]:
    """One row of inputs of `serving_default`, and its outputs."""
    inputs = model.export_example(signatures)
    if scaling is not None:
        inputs = scaling.to_raw(inputs)
    signature = signatures["serving_default"]
    outputs = signature.of_model(inputs)
    if takes_texts:
        inputs = signature.named(inputs)
    return {
        "signature": "serving_default",
        **{
            kind: {name: _short(np.asarray(array)) for name, array in arrays.items()}
            for kind, arrays in (("inputs", inputs), ("outputs", outputs))
        },
    }


def _short(array: np.ndarray) -> Any:
    """Nested lists of texts, or of float32 numbers with no more digits than needed; None for NaN, which JSON lacks."""
    if array.dtype == object:
        return array.tolist()
    if array.ndim:
        return [_short(part) for part in array]
    return float(str(np.float32(array))) if np.isfinite(array) else None
