"""The classes of examples, where a data set has them: they are not learned from, but colour the latent space."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfvae.data import numpy_files, pictures

_DIGITS = "digits"


class Labels(NamedTuple):
    """The class of each example, in the order of `tfvae.data.loading.read`.

    Attributes:
        train: of the examples [N], or None if it is not known.
        validation: of the official test split [M], or None if there is none or it is not known.
    """

    train: np.ndarray | None
    validation: np.ndarray | None


def labels(source: Any, names: tuple[str, ...]) -> Labels:
    """Finds the classes of a data set.

    They are the target of a named data set; the arrays y_train and y_test, or y, of an `.npz` file; or the subfolders
    of a folder of pictures, if all of these are in subfolders.

    Args:
        source: what `tfvae.data.loading.read` read.
        names: those of the data sets.
    """
    if not isinstance(source, str | Path):
        return Labels(None, None)
    if source == _DIGITS:
        from sklearn.datasets import load_digits

        return Labels(load_digits().target, None)
    if source in names:
        (_, train), (_, test) = getattr(keras.datasets, str(source)).load_data()
        return Labels(np.ravel(train), np.ravel(test))
    path = Path(source)
    if path.is_dir():
        return Labels(_subfolders(path), None)
    if path.suffix.lower() == ".npz":
        return Labels(*(_of_file(path, names) for names in (("y_train", "y"), ("y_test",))))
    return Labels(None, None)


def _subfolders(folder: Path) -> np.ndarray | None:
    inside = [path.relative_to(folder).parts for path in pictures.find(folder)[0]]
    if not all(len(parts) > 1 for parts in inside) or len({parts[0] for parts in inside}) < 2:
        return None
    return np.array([parts[0] for parts in inside])


def _of_file(path: Path, names: tuple[str, ...]) -> np.ndarray | None:
    """The first array of one of the names, if it has one number or text for each example."""
    found = numpy_files.read_named(path, names, "source")
    if found is None:
        return None
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    return found if found.ndim == 1 else None
