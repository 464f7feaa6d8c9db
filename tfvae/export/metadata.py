"""What a caller must know of an exported model, as JSON beside its weights."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfvae.vae import VAE


def metadata(model: VAE, offset: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> dict[str, Any]:
    """Describes a model that is built.

    Args:
        model: the model.
        offset: with `scale`, how to bring raw data into the model's units: x = (raw - offset) / scale.
        scale: see `offset`.

    Returns:
        The event shape, latent dimension, parts, normalisation and the version of tfvae, ready for JSON.
    """
    parts = {name: getattr(model, name) for name in ("posterior", "prior", "likelihood")}
    return {
        "tfvae_version": importlib.metadata.version("tfvae"),
        "event_shape": list(model.event_shape),
        "latent_dim": model.latent_dim,
        **{name: type(part).__name__ for name, part in parts.items()},
        "normalization": {
            "formula": "x = (raw - offset) / scale",
            "offset": np.asarray(offset, float).tolist(),
            "scale": np.asarray(scale, float).tolist(),
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that a person can read."""
    path.write_text(json.dumps(content, indent=2) + "\n")
