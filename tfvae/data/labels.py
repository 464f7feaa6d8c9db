"""The classes of examples, where a data set has them: they are not learned from, but colour the latent space."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfvae.data import loading, numpy_files, pictures


def of_validation(source: Any, *, validation_fraction: float = 0.2, seed: int = 0) -> np.ndarray | None:
    """The classes of the examples that `tfvae.data.load` holds out of a data set.

    They are the target of a named data set; the arrays y_train and y_test, or y, of an `.npz` file; or the subfolders
    of a folder of pictures, if all of these are in subfolders.

    Args:
        source: as for `tfvae.data.load`; of a folder, all pictures must have been read.
        validation_fraction: as for `tfvae.data.load`.
        seed: as for `tfvae.data.load`.

    Returns:
        The class of each held-out example [M]; None if it is not known.
    """
    train, validation = _labels(source)
    if validation is not None or train is None:
        return validation
    return train[loading.split(len(train), validation_fraction, np.random.default_rng(seed))[1]]


def _labels(source: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The classes of all examples, and those of the official test split if there is one."""
    if not isinstance(source, str | Path):
        return None, None
    if source == "digits":
        from sklearn.datasets import load_digits

        return load_digits().target, None
    if source in loading.NAMES:
        (_, train), (_, test) = getattr(keras.datasets, str(source)).load_data()
        return np.ravel(train), np.ravel(test)
    path = Path(source)
    if path.is_dir():
        return _subfolders(path), None
    if path.suffix.lower() == ".npz" and path.is_file():
        train, test = (_of_file(path, names) for names in (("y_train", "y"), ("y_test",)))
        return train, test
    return None, None


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
