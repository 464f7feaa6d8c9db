"""The classes of examples, where a data set has them: they are not learned from, but colour the latent space."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfvae.data import loading, numpy_files, pictures, tables


def of_validation(
    source: Any, *, validation_fraction: float = 0.2, seed: int = 0, most_classes: int = tables.MOST_CLASSES
) -> np.ndarray | None:
    """The classes of the examples that `tfvae.data.load` holds out of a data set.

    They are the target of a named data set; the arrays y_train and y_test, or y, of an `.npz` file; or the subfolders
    of a folder of pictures, if all of these are in subfolders.

    Args:
        source: as for `tfvae.data.load`; of a folder, all pictures must have been read.
        validation_fraction: as for `tfvae.data.load`.
        seed: as for `tfvae.data.load`.
        most_classes: how many classes there may be.

    Returns:
        The class of each held-out example [M]; None if it is not known.

    Warns:
        UserWarning: there are classes that cannot be read, or too many.
    """
    train, validation = _labels(source)
    if validation is None and train is not None:
        validation = train[loading.split(len(train), validation_fraction, np.random.default_rng(seed))[1]]
    if validation is None:
        return None
    is_finite = validation.dtype.kind != "f" or np.isfinite(validation).all()
    if not is_finite or len(np.unique(validation)) > most_classes:
        what = f"{len(np.unique(validation))} classes" if is_finite else "classes that are NaN or infinite"
        warnings.warn(
            f"The classes of '{source}' are not shown: at most {most_classes} can be. Received: {what}", stacklevel=3
        )
        return None
    return validation


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
        if {"x_train", "x_test"} <= set(numpy_files.names(path, "source")):
            return None, _of_file(path, "x_test", "y_test")
        return _of_file(path, "x_train", "y_train", "x", "y"), None
    return None, None


def _subfolders(folder: Path) -> np.ndarray | None:
    inside = [path.relative_to(folder).parts for path in pictures.find(folder)[0]]
    if not all(len(parts) > 1 for parts in inside) or len({parts[0] for parts in inside}) < 2:
        return None
    return np.array([parts[0] for parts in inside])


def _of_file(path: Path, *names: str) -> np.ndarray | None:
    """The classes of the first of some arrays that is there, given as x, y, x, y; None if they do not fit it."""
    there = numpy_files.names(path, "source")
    for x, y in zip(names[::2], names[1::2], strict=True):
        if x not in there:
            continue
        if y not in there:
            return None
        try:
            found = numpy_files.read_named(path, y, "source")
        except ValueError as error:
            warnings.warn(f"The classes in '{path}' are not shown: {error}", stacklevel=5)
            return None
        found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
        return found if found.shape == (numpy_files.length(path, x, "source"),) else None
    return None
