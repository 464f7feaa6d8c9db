"""What a caller must know of an exported model, as JSON beside its weights."""

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
        offset: with `scale`, how to bring raw data into the model's units: x = (raw - offset) / scale; None
            leaves it unsaid.
        scale: see `offset`.

    Returns:
        The version of tfvae, what the model says of itself and, where it takes units, the normalisation, ready for
        JSON.

    Raises:
        ValueError: one of `offset` and `scale` is given without the other, or to a model that takes none.
    """
    description = {"tfvae_version": importlib.metadata.version("tfvae"), **model.export_description()}
    if not model.takes_units:
        if offset is not None or scale is not None:
            raise ValueError("`offset` and `scale` must be None: how to bring in data is the model's own part")
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
    """Writes a JSON file that a person can read; it appears complete."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")
