"""training.json, what is known of a run beside its metrics: how its training went, and what was measured after it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import files

FILE = "training.json"
_MAX_BYTES = 10_000_000
# The most texts of a name, and the most characters of each, with which the file can be read again.
_MOST_TEXTS = 100
_MOST_CHARACTERS = 5_000


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


def texts(folder: Path, name: str) -> list[str]:
    """The texts that `add_texts` added to the record of a run, in their order.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    found = read(folder).get(name, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(
            f"A training.json with a list of texts as `{name}` was expected. Received: {folder / FILE}, with {found!r}"
        )
    return found


def add_texts(folder: Path, name: str, added: Sequence[str]) -> None:
    """Adds texts to those of a name in the record of a run: each once, and no more than 100 in all."""
    known = texts(folder, name)
    short = [text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..." for text in added]
    all_texts = list(dict.fromkeys([*known, *short]))[:_MOST_TEXTS]
    if all_texts != known:
        add(folder, **{name: all_texts})


class Warnings:
    """The warnings of a training: each is in the record of its run from the moment it is given.

    So the report of a training that is interrupted and resumed, by another process, has those of all its sessions.
    """

    def __init__(self) -> None:
        self._before: list[str] = []
        self._folder: Path | None = None

    def note(self, text: str) -> None:
        """Takes a warning, before or after it is known where the run is."""
        if self._folder is None:
            self._before.append(text)
        else:
            add_texts(self._folder, "warnings", [text])

    def keep_in(self, folder: Path) -> None:
        """Says which run the warnings are of, once its record has begun."""
        self._folder = folder
        add_texts(folder, "warnings", self._before)


def digest(x: np.ndarray) -> str:
    """A digest of held-out data [N, ...], which tells whether two runs were evaluated on the same."""
    hashed = hashlib.sha256(repr(x.shape).encode())
    hashed.update(np.ascontiguousarray(x, np.float32).tobytes())
    return hashed.hexdigest()
