"""Loads a data set, given by name, path or array, into `tf.data` pipelines of float32 batches."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks
from tfvae.data import epochs, numpy_files, pictures, shards, tables

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
IMAGE_SUFFIXES = pictures.SUFFIXES

_IN_UNIT_INTERVAL = "`binarize` must be None unless the scaled data lie in [0, 1]"


class Arrays(NamedTuple):
    """Data in memory, one example per row.

    Attributes:
        train: `[N, ...event]`, uint8, bool or float32; uint16 for 16-bit images, float64 for a table.
        validation: the official test split `[M, ...event]`, or None if there is none.
        scale: the value that becomes 1 in the model's units: 255 for uint8, 65535 for 16-bit images, 16 for the
            digits, 1 for bool and float. None for a table, whose columns must be standardised after the split.
    """

    train: np.ndarray
    validation: np.ndarray | None
    scale: float | None


class Pipelines(NamedTuple):
    """Training and validation batches, and how to bring new data into the same units: `x = (raw - offset) / scale`.

    Attributes:
        train: batches `[B, ...event]`, float32, in a new order at each iteration.
        validation: batches `[B, ...event]`, float32, the same at each iteration.
        offset: float32: 0, or for a table the mean `[D]` of each column of the training split.
        scale: float32: one number, or for a table the standard deviation `[D]` of each column of the training split.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    offset: np.ndarray
    scale: np.ndarray


def load(
    source: str | Path | Sequence[str | Path] | ArrayLike = "digits",
    *,
    batch_size: int = 128,
    validation_fraction: float = 0.2,
    binarize: Literal["dynamic", "threshold"] | None = None,
    image_size: tuple[int, int] | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
) -> Pipelines:
    """Reads `source`, splits it and returns batches in the model's units, `x = (raw - offset) / scale`.

    When `source` is several files, together they may be larger than memory: `shards.stream` reads them as they are
    needed, and the validation set is whole files, at least one.

    Args:
        source: a single source as for `read`; or several files, either all `.tfrecord` or each `.npy` or `.npz`, given
            as a pattern with `*` or `?`, a list of paths, or a folder that holds such files and no images.
        batch_size: the number of examples in a batch, B; the last batch of a pass may be smaller.
        validation_fraction: the share of the examples, or of the files, that is held out at random. Ignored if the data
            set has an official test split.
        binarize: None; "dynamic", `x ~ Bernoulli(p = scaled value)`, drawn anew in each epoch for training and once for
            validation; or "threshold", `x = 1 if scaled value >= 0.5 else 0`.
        image_size: see `read`.
        skip_unreadable: see `read`.
        seed: from 0 to 2**32 - 1. The same seed gives the same batches in every run, whatever the global seeds.

    Returns:
        The training and validation batches `[B, ...event]`, float32, with `offset` and `scale`.

    Raises:
        ValueError: an argument is out of its range, or `source` cannot be split or binarised; also as for `read`.
            Several files are read once to check their values.

    Reference:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016, section 5 (dynamic binarisation).
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise _invalid("`seed` must be an integer from 0 to 2**32 - 1", f"seed={checks.shown(seed)}")
    if not (binarize is None or (isinstance(binarize, str) and binarize in ("dynamic", "threshold"))):
        raise _invalid('`binarize` must be None, "dynamic" or "threshold"', f"binarize={checks.shown(binarize)}")
    rng = np.random.default_rng(seed)
    if _is_sharded(source):
        _check_no_images(image_size, skip_unreadable)
        return _stream(shards.look(source, "source"), batch_size, validation_fraction, binarize, rng)
    source = cast("str | Path | ArrayLike", source)
    train, validation, unit = read(source, image_size=image_size, skip_unreadable=skip_unreadable)
    if validation is None:
        kept, held_out = split(len(train), validation_fraction, rng)
        train, validation = train[kept], train[held_out]
    order_seed = int(rng.integers(2**31 - 1))
    if unit is None:
        offset = train.mean(axis=0).astype(np.float32)
        # The computed deviation of a constant column may be a rounding error rather than exactly zero.
        scale = np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0).astype(np.float32)
        train, validation = (((x - offset) / scale).astype(np.float32) for x in (train, validation))
        unit = 1.0
    else:
        offset, scale = np.zeros((), np.float32), np.asarray(unit, np.float32)
    if binarize is not None:
        _check_unit_interval(
            binarize, min(train.min(), validation.min()) / unit, max(train.max(), validation.max()) / unit
        )
    # Binary values are stored as 0 and `unit`, so that all data is divided by `unit` below.
    if binarize == "threshold":
        train, validation = ((x >= 0.5 * unit) * x.dtype.type(unit) for x in (train, validation))
    elif binarize == "dynamic":
        probability = validation / np.float32(unit)
        validation = (rng.random(validation.shape, np.float32) < probability) * validation.dtype.type(unit)
    batches = batches_in_memory(
        train, validation, batch_size=batch_size, seed=order_seed, unit=unit, is_random=binarize == "dynamic"
    )
    return Pipelines(*batches, offset, scale)


def batches_in_memory(
    train: np.ndarray,
    validation: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    unit: float = 1.0,
    is_random: bool = False,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Makes the training batches, in an order that depends on the seed and the epoch alone, and those of validation.

    Args:
        train: the training data `[N, ...event]`.
        validation: the validation data `[M, ...event]`.
        batch_size: the number of examples in a batch.
        seed: of the order.
        unit: the value that becomes 1.
        is_random: whether the training batches are drawn, x ~ Bernoulli(p = train / unit).
    """
    order = epochs.shuffled_batches(len(train), batch_size, seed=seed)
    # Otherwise TensorFlow would place the data on a GPU and copy each batch back to the CPU for the pipeline.
    with tf.device("CPU:0"):
        train_rows, validation_rows = tf.constant(train), tf.constant(validation)

    def train_batch(indices: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
        x = tf.cast(tf.gather(train_rows, indices), tf.float32) / unit
        if is_random:
            x = tf.cast(tf.random.stateless_uniform(tf.shape(x), noise_seed) < x, tf.float32)
        return x

    in_order = tf.data.Dataset.from_tensor_slices(validation_rows).batch(batch_size)
    return (
        epochs.read_ahead(order, train_batch),
        epochs.read_ahead(in_order, lambda rows: tf.cast(rows, tf.float32) / unit),
    )


def read(
    source: str | Path | ArrayLike, *, image_size: tuple[int, int] | None = None, skip_unreadable: bool = False
) -> Arrays:
    """Reads a named data set, a file, a folder of images or an array into memory.

    Args:
        source: a name ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100"); an `.npz` file with the key x_train
            and optionally x_test, or the key x, or a single array; an `.npy` file; a `.csv` (with a header row, every
            column a feature) or `.parquet` table of numbers, or a data frame; a folder of images, searched with its
            subfolders, of which a warning counts the files that are not images; or an array `[N, ...event]`, a sparse
            matrix or an AnnData object, whose `.X` is read. Any other string is taken as a path. uint8 and bool
            `[N, H, W]` become `[N, H, W, 1]`; other dtypes become float32.
        image_size: (height, width) to which the images of a folder are resized. None: they must all have one size.
        skip_unreadable: whether images of a folder that cannot be read are left out, with a warning that counts them;
            otherwise the first one is an error.

    Returns:
        The arrays, in the units of the source, and their scale.

    Raises:
        FileNotFoundError: `source` is not found or cannot be downloaded.
        ImportError: `source` is a table and the extra `tables` is not installed.
        ValueError: `source` does not hold finite numbers `[N, ...event]`, N > 0, or does not fit in memory.
    """
    checks.boolean("skip_unreadable", skip_unreadable)
    path = Path(source) if isinstance(source, (str, Path)) and source not in NAMES else None
    if path is not None and os.path.isdir(path):
        if image_size is not None:
            _check_size(image_size)
        images = pictures.read(path, image_size, skip_unreadable)
        return Arrays(images, None, 65535.0) if images.dtype == np.uint16 else _arrays(images)
    _check_no_images(image_size, skip_unreadable)
    if path is not None:
        return _read_file(path)
    if not isinstance(source, (str, Path)):
        if checks.is_frame(source):
            return Arrays(_finite(tables.from_frame(source)), None, None)
        if isinstance(source, (list, tuple)) and any(hasattr(part, "shape") for part in source):
            checks.check_one_array(source, "source")
        return _arrays(checks.unwrap(source, "source"))
    if source == "digits":
        from sklearn.datasets import load_digits

        return Arrays(load_digits().images.astype(np.uint8)[..., np.newaxis], None, 16.0)
    return _arrays(*_download(str(source)))


def _invalid(expected: str, received: str) -> ValueError:
    return ValueError(f"{expected}. Received: {received}")


def _check_no_images(image_size: Any, skip_unreadable: bool) -> None:
    for name, value, default in (("image_size", image_size, None), ("skip_unreadable", skip_unreadable, False)):
        if value is not default:
            expected = f"`{name}` must be {default} unless `source` is a folder of images"
            raise _invalid(expected, f"{name}={checks.shown(value)}")


def _check_size(image_size: Any) -> None:
    is_pair = isinstance(image_size, (list, tuple)) and len(image_size) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in image_size):
        expected = "`image_size` must be two integers above 0, (height, width)"
        raise _invalid(expected, f"image_size={checks.shown(image_size)}")


def _is_sharded(source: Any) -> TypeGuard[str | Path | Sequence[str | Path]]:
    if isinstance(source, (list, tuple)):
        return bool(source) and all(isinstance(path, (str, Path)) for path in source)
    if not isinstance(source, (str, Path)) or source in NAMES:
        return False
    if shards.is_pattern(source) or Path(source).suffix.lower() == ".tfrecord":
        return True
    folder = Path(source)
    return (
        os.path.isdir(folder)
        and any(path.suffix.lower() in shards.SUFFIXES for path in folder.iterdir())
        and not pictures.find(folder)[0]
    )


def _stream(
    files: shards.Shards, batch_size: int, fraction: float, binarize: str | None, rng: np.random.Generator
) -> Pipelines:
    count = len(files.paths)
    if count < 2:
        expected = "`source` must be at least two files, so that whole files can be held out"
        raise _invalid(expected, f"source='{files.paths[0]}'")
    if not 0 < fraction < 1:
        raise _invalid("`validation_fraction` must be between 0 and 1", f"validation_fraction={fraction}")
    num_validation = min(max(round(fraction * count), 1), count - 1)
    permutation = rng.permutation(count).tolist()
    unit = 255.0 if files.dtype == np.uint8 else 1.0
    is_image = files.dtype in (np.uint8, np.bool_) and len(files.shape) == 2
    _warn_of_bits(next(shards.read(files.paths[0], files)))
    if binarize is not None:
        files = files._replace(unit=unit)

    def in_units(rows: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
        x = tf.cast(rows[..., tf.newaxis] if is_image else rows, tf.float32) / unit
        if binarize == "dynamic":
            return tf.cast(tf.random.stateless_uniform(tf.shape(x), noise_seed) < x, tf.float32)
        return x if binarize is None else tf.cast(x >= 0.5, tf.float32)

    def batches(part: list[int], shuffle: bool) -> tf.data.Dataset:
        seed = int(rng.integers(2**31 - 1))
        return shards.stream(files.subset(part), batch_size=batch_size, seed=seed, shuffle=shuffle, transform=in_units)

    train = batches(permutation[num_validation:], shuffle=True)
    validation = batches(permutation[:num_validation], shuffle=False)
    return Pipelines(train, validation, np.zeros((), np.float32), np.asarray(unit, np.float32))


def _read_file(path: Path) -> Arrays:
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"`source` must be an array, an existing file or folder, or one of the names {', '.join(NAMES)}. "
            f"Received: source={checks.shown(str(path))}, which is neither a name nor an existing path"
        )
    # Opening a pipe would wait for a writer.
    if not path.is_file():
        raise _invalid("`source` must be a regular file or a folder", f"source='{path}'")
    if path.suffix.lower() in (".npy", ".npz"):
        return _arrays(*numpy_files.read(path, "source"))
    if path.suffix.lower() in tables.SUFFIXES:
        return Arrays(_finite(tables.read(path)), None, None)
    raise _invalid("`source` must be a folder or a file .npy, .npz, .csv or .parquet", f"source='{path}'")


def _download(name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        (train, _), (test, _) = getattr(keras.datasets, name).load_data()
    except Exception as error:
        # keras.utils.get_file raises network errors as a plain Exception; any other error is not a failed download.
        if not isinstance(error.__context__ or error, OSError):
            raise
        message = "The download failed; `source` may also be the path of a local .npz file."
        raise FileNotFoundError(f"{message} Received: source={name!r}") from error
    return train, test


def _arrays(train: ArrayLike, validation: ArrayLike | None = None) -> Arrays:
    train = _numeric(train)
    validation = None if validation is None else _numeric(validation)
    if validation is not None and (validation.shape[1:], validation.dtype) != (train.shape[1:], train.dtype):
        received = f"x_train {train.shape} {train.dtype}, x_test {validation.shape} {validation.dtype}"
        raise _invalid("`source` must have one event shape and one dtype in both splits", received)
    _warn_of_bits(train)
    return Arrays(train, validation, 255.0 if train.dtype == np.uint8 else 1.0)


def _warn_of_bits(x: np.ndarray) -> None:
    if x.dtype == np.uint8 and x.max() <= 1:
        warnings.warn(f"uint8 is divided by 255: pass binary data as bool. Received: max={x.max()}", stacklevel=4)


def _check_unit_interval(binarize: str, lowest: float, highest: float) -> None:
    if lowest < 0 or highest > 1:
        received = f"binarize={checks.shown(binarize)} with scaled data from {lowest:.6g} to {highest:.6g}"
        raise _invalid(_IN_UNIT_INTERVAL, received)


def _numeric(values: ArrayLike) -> np.ndarray:
    try:
        x = np.asarray(values)
    except ValueError as error:
        raise _invalid("`source` must be one array, of rows of one shape", type(values).__name__) from error
    if x.dtype.kind not in "biuf":
        raise _invalid("`source` must hold real numbers (bool, integer or float)", f"dtype={x.dtype}")
    if x.ndim < 2 or x.size == 0:
        expected = "`source` must have the shape [N, ...event], N > 0; reshape(-1, 1) makes each number an example"
        raise _invalid(expected, f"shape={x.shape}")
    if x.dtype in (np.uint8, np.bool_):
        return x[..., np.newaxis] if x.ndim == 3 else x
    with np.errstate(over="ignore"):
        return _finite(x.astype(np.float32))


def _finite(x: np.ndarray) -> np.ndarray:
    """Returns x, whose values must be finite as float32."""
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(x.astype(np.float32, copy=False)))
    if len(bad):
        received = f"{len(bad)} of {x.size} NaN or infinite, the first at index {tuple(bad[0].tolist())}"
        raise _invalid("`source` must hold finite numbers, as float32", received)
    return x


def split(count: int, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws which of `count` examples are for training and which are held out.

    Raises:
        ValueError: there would be none of the one or of the other.
    """
    num_validation = round(fraction * count)
    if not 0 < num_validation < count:
        expected = "`validation_fraction` must leave at least one example for training and one for validation"
        raise _invalid(expected, f"validation_fraction={fraction} of {count} examples")
    permutation = rng.permutation(count)
    return permutation[num_validation:], permutation[:num_validation]
