"""What a caller must know about an exported model, as JSON beside its weights."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfvae import files
from tfvae.exportable import Exportable


def metadata(model: Exportable, offset: ArrayLike | None = None, scale: ArrayLike | None = None) -> dict[str, Any]:
    """Describes a model.

    Args:
        model: the model.
        offset: with `scale`, how raw data are normalised: x = (raw - offset) / scale; None records nothing.
        scale: see `offset`.

    Returns:
        The version of tfvae, the model's own description and, if it `takes_units`, the normalisation, ready for JSON.

    Raises:
        ValueError: only one of `offset` and `scale` is given, or the model takes neither.
    """
    description = {"tfvae_version": importlib.metadata.version("tfvae"), **model.export_description()}
    if not model.takes_units:
        if offset is not None or scale is not None:
            raise ValueError(
                "`offset` and `scale` must be None, because this model takes raw data. Received: "
                f"offset={offset!r}, scale={scale!r}"
            )
        return description
    if (offset is None) != (scale is None):
        raise ValueError(f"`offset` and `scale` must be given together. Received: offset={offset!r}, scale={scale!r}")
    normalization = {
        "formula": "x = (raw - offset) / scale",
        "offset": np.asarray(offset, float).tolist(),
        "scale": np.asarray(scale, float).tolist(),
    }
    return {**description, "normalization": None if offset is None else normalization}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, indented for people to read, which appears complete or not at all."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")
