"""What a caller must know of an exported model, as JSON beside its weights."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfvae import files
from tfvae.models.autoencoder import Autoencoder


def metadata(model: Autoencoder, offset: ArrayLike | None = None, scale: ArrayLike | None = None) -> dict[str, Any]:
    """Describes a model that is built.

    Args:
        model: the model.
        offset: with `scale`, how to bring raw data into the model's units: x = (raw - offset) / scale; None
            leaves it unsaid.
        scale: see `offset`.

    Returns:
        The event shape, latent dimension, shape of a condition, parts, whether NaN may mark what is missing in x,
        normalisation and the version of tfvae, ready for JSON.

    Raises:
        ValueError: one of `offset` and `scale` is given without the other.
    """
    if (offset is None) != (scale is None):
        raise ValueError(f"`offset` and `scale` must be given together. Received: offset={offset!r}, scale={scale!r}")
    normalization = {
        "formula": "x = (raw - offset) / scale",
        "offset": np.asarray(offset, float).tolist(),
        "scale": np.asarray(scale, float).tolist(),
    }
    return {
        "tfvae_version": importlib.metadata.version("tfvae"),
        "event_shape": list(model.event_shape),
        **{f"{name}_shape": list(shape) for name, shape in model._given_shapes.items()},
        **model._description,
        "missing_values": model.likelihood.allows_missing,
        "normalization": None if offset is None else normalization,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that a person can read; it appears complete."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")
