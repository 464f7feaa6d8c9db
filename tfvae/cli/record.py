"""training.json, what is known of a run beside its metrics: how its training went, and what was measured after it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import files

FILE = "training.json"
_MAX_BYTES = 1_000_000


def read(folder: Path) -> dict[str, Any]:
    """Reads the record of a run; it is empty for a run of an earlier version, or one that has not begun.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / FILE
    try:
        content = json.loads(files.read_text(path, _MAX_BYTES))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"A training.json that is whole was expected, or none. Received: {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"A training.json that `tfvae train` wrote was expected, or none. Received: {path}")
    return content


def add(folder: Path, **values: Any) -> None:
    """Adds values to the record of a run."""
    files.write_text(folder / FILE, json.dumps(read(folder) | values, indent=2) + "\n")


def digest(x: np.ndarray) -> str:
    """A digest of held-out data [N, ...], which tells whether two runs were evaluated on the same."""
    hashed = hashlib.sha256(repr(x.shape).encode())
    hashed.update(np.ascontiguousarray(x, np.float32).tobytes())
    return hashed.hexdigest()
