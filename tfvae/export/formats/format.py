"""What a format of exported files is."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Calls a signature, by name, with arrays by name, and gives arrays by name.
Call = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]
# Of each signature the shape of each input, with None for a batch of any size.
Shapes = dict[str, dict[str, tuple[int | None, ...]]]


class Format(NamedTuple):
    """A kind of file, or of folder, that holds an exported model.

    A module that defines one imports neither Keras nor TensorFlow before they are needed: a client opens files where
    they are not installed.

    Attributes:
        name: the name that is printed, and that stands in messages.
        write: writes `tfvae.export.Endpoints` to a path where nothing is; further arguments are the format's own.
        find: the file or folder of this format that a path stands for, or None.
        open: opens it, with a number of threads or None, to be called; also gives the shapes of the inputs.
        description: where its description in JSON is.
        tolerance: how far a float32 file may be from the Keras model, relative to the largest value of an output.
    """

    name: str
    write: Callable[..., None]
    find: Callable[[Path], Path | None]
    open: Callable[[Path, int | None], tuple[Call, Shapes]]
    description: Callable[[Path], Path]
    tolerance: float = 1e-4
