"""What defines a format of exported files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

# A function that calls a signature, from its name and its inputs by name to its outputs by name.
Call = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]
# A function that calls several signatures of a file, from their inputs to their outputs, each by signature and name.
Answer = Callable[[Path, dict[str, dict[str, np.ndarray]]], dict[str, dict[str, np.ndarray]]]
# For each signature, the shape of each input; the first size is None for a batch of any size.
Shapes = dict[str, dict[str, tuple[int | None, ...]]]


class Opened(NamedTuple):
    """An exported model that is ready to be called.

    Attributes:
        call: a function that calls a signature; several threads may call it at once.
        shapes: the shape of each input of each signature.
        sha256: the SHA-256 of the content that was read, by which its description is recognised; None for a format
            whose description cannot be taken for that of another export.
        is_ours: whether the content itself says that tfvae exported it; otherwise its description or its signatures do.
    """

    call: Call
    shapes: Shapes
    sha256: str | None = None
    is_ours: bool = False


class Format(NamedTuple):
    """A kind of file or folder that contains an exported model.

    A module that defines a format imports Keras and TensorFlow only inside its functions, because a client may open
    files on a machine where they are not installed.

    Attributes:
        name: the name that is printed in tables and messages.
        write: writes `tfvae.export.Endpoints` to a path at which nothing exists; may take further arguments.
        find: returns the file or folder of this format that a path refers to, or None.
        open: opens a file or folder for a number of threads, or None.
        description: returns the path of the JSON description that belongs to a file or folder.
        describe: adds to a written file what its description says, where the format has a place for that; returns the
            description, with what only the file says.
        tolerance: how far an output of a float32 file may be from the Keras model's, relative to its largest value.
        other_runtimes: the runtimes, by name, with which a file is compared before it is published, besides that of
            `open`. Each is given a single row.
        runtimes: the runtimes among which a client may choose, by name, each a function like `open`.
        takes_texts: whether inputs may be texts, so that a model of a table takes its columns by name.
    """

    name: str
    write: Callable[..., None]
    find: Callable[[Path], Path | None]
    open: Callable[[Path, int | None], Opened]
    description: Callable[[Path], Path]
    describe: Callable[[Path, dict[str, Any]], dict[str, Any]] = lambda path, description: description
    tolerance: float = 1e-4
    other_runtimes: Mapping[str, Answer] = MappingProxyType({})
    runtimes: Mapping[str, Callable[[Path, int | None], Opened]] = MappingProxyType({})
    takes_texts: bool = False
