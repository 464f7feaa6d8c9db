"""Loads a data set, given by name, path or array, into `tf.data` pipelines of float32 batches."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks
from tfvae.data import epochs, shards

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")

_IN_UNIT_INTERVAL = "`binarize` must be None unless the scaled data lie in [0, 1]"


class Arrays(NamedTuple):
    """Data in memory, one example per row.

    Attributes:
        train: `[N, ...event]`, uint8, bool or float32; float64 for a table.
        validation: the official test split `[M, ...event]`, or None if there is none.
        scale: the value that becomes 1 in the model's units: 255 for uint8, 16 for the digits, 1 for bool and float.
            None for a table, whose columns must be standardised after the split.
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
        seed: from 0 to 2**32 - 1. The same seed gives the same batches in every run, whatever the global seeds.

    Returns:
        The training and validation batches `[B, ...event]`, float32, with `offset` and `scale`.

    Raises:
        ValueError: an argument is out of its range, or `source` cannot be split or binarised; also as for `read`.
            A fault in several files that shows only while they are read is a `tf.errors.InvalidArgumentError`.

    Reference:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016, section 5 (dynamic binarisation).
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise _invalid("`seed` must be an integer from 0 to 2**32 - 1", f"seed={seed!r}")
    if binarize not in (None, "dynamic", "threshold"):
        raise _invalid('`binarize` must be None, "dynamic" or "threshold"', f"binarize={binarize!r}")
    rng = np.random.default_rng(seed)
    if _is_sharded(source):
        if image_size is not None:
            raise _no_images(image_size)
        return _stream(shards.look(source, "source"), batch_size, validation_fraction, binarize, rng)
    train, validation, unit = read(cast("str | Path | ArrayLike", source), image_size=image_size)
    if validation is None:
        train, validation = _split(train, validation_fraction, rng)
    order = epochs.shuffled_batches(len(train), batch_size, seed=int(rng.integers(2**31 - 1)))
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
    # Otherwise TensorFlow would place the data on a GPU and copy each batch back to the CPU for the pipeline.
    with tf.device("CPU:0"):
        train_rows, validation_rows = tf.constant(train), tf.constant(validation)

    def train_batch(indices: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
        x = tf.cast(tf.gather(train_rows, indices), tf.float32) / unit
        if binarize == "dynamic":
            x = tf.cast(tf.random.stateless_uniform(tf.shape(x), noise_seed) < x, tf.float32)
        return x

    train_batches = epochs.read_ahead(order, train_batch)
    in_order = tf.data.Dataset.from_tensor_slices(validation_rows).batch(batch_size)
    validation_batches = epochs.read_ahead(in_order, lambda rows: tf.cast(rows, tf.float32) / unit)
    return Pipelines(train_batches, validation_batches, offset, scale)


def read(source: str | Path | ArrayLike, *, image_size: tuple[int, int] | None = None) -> Arrays:
    """Reads a named data set, a file, a folder of images or an array into memory.

    Args:
        source: a name ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100"); an `.npz` file with the key x_train
            and optionally x_test, or the key x, or a single array; an `.npy` file; a `.csv` (with a header row, every
            column a feature) or `.parquet` table of numbers; a folder of images, searched with its subfolders; or an
            array `[N, ...event]`. Any other string is taken as a path. uint8 and bool `[N, H, W]` become
            `[N, H, W, 1]`; other dtypes become float32.
        image_size: (height, width) to which the images of a folder are resized. None: they must all have one size.

    Returns:
        The arrays, in the units of the source, and their scale.

    Raises:
        FileNotFoundError: `source` is not found or cannot be downloaded.
        ImportError: `source` is a table and the extra `tables` is not installed.
        ValueError: `source` does not hold finite numbers `[N, ...event]`, N > 0.
    """
    path = Path(source) if isinstance(source, (str, Path)) and source not in NAMES else None
    if path is not None and path.is_dir():
        return _arrays(_read_images(path, image_size))
    if image_size is not None:
        raise _no_images(image_size)
    if path is not None:
        return _read_file(path)
    if not isinstance(source, (str, Path)):
        return _arrays(source)
    if source == "digits":
        from sklearn.datasets import load_digits

        return Arrays(load_digits().images.astype(np.uint8)[..., np.newaxis], None, 16.0)
    return _arrays(*_download(str(source)))


def _invalid(expected: str, received: str) -> ValueError:
    return ValueError(f"{expected}. Received: {received}")


def _no_images(image_size: tuple[int, int]) -> ValueError:
    return _invalid("`image_size` must be None unless `source` is a folder of images", f"image_size={image_size}")


def _is_sharded(source: Any) -> TypeGuard[str | Path | Sequence[str | Path]]:
    if isinstance(source, (list, tuple)):
        return bool(source) and all(isinstance(path, (str, Path)) for path in source)
    if not isinstance(source, (str, Path)) or source in NAMES:
        return False
    if shards.is_pattern(source) or Path(source).suffix.lower() == ".tfrecord":
        return True
    folder = Path(source)
    return (
        folder.is_dir()
        and any(path.suffix.lower() in shards.SUFFIXES for path in folder.iterdir())
        and not any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))
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
    first_rows = next(iter(shards.stream(files.subset([0]), batch_size=1000, shuffle=False))).numpy()
    _warn_of_bits(first_rows)
    if binarize is not None:
        _check_unit_interval(binarize, first_rows.min() / unit, first_rows.max() / unit)

    def in_units(rows: tf.Tensor, noise_seed: tf.Tensor) -> tf.Tensor:
        x = tf.cast(rows[..., tf.newaxis] if is_image else rows, tf.float32) / unit
        if binarize is None:
            return x
        lowest, highest = tf.reduce_min(x), tf.reduce_max(x)
        message = [f"{_IN_UNIT_INTERVAL}. Received: binarize={binarize} with scaled data from", lowest, "to", highest]
        with tf.control_dependencies([tf.debugging.Assert((lowest >= 0) & (highest <= 1), message)]):
            x = tf.identity(x)
        if binarize == "dynamic":
            return tf.cast(tf.random.stateless_uniform(tf.shape(x), noise_seed) < x, tf.float32)
        return tf.cast(x >= 0.5, tf.float32)

    def batches(part: list[int], shuffle: bool) -> tf.data.Dataset:
        seed = int(rng.integers(2**31 - 1))
        return shards.stream(files.subset(part), batch_size=batch_size, seed=seed, shuffle=shuffle, transform=in_units)

    train = batches(permutation[num_validation:], shuffle=True)
    validation = batches(permutation[:num_validation], shuffle=False)
    return Pipelines(train, validation, np.zeros((), np.float32), np.asarray(unit, np.float32))


def _read_file(path: Path) -> Arrays:
    if not path.exists():
        raise FileNotFoundError(
            f"`source` must be an array, an existing file or folder, or one of the names {', '.join(NAMES)}. "
            f"Received: source='{path}', which is neither a name nor an existing path"
        )
    if path.suffix.lower() in (".npy", ".npz"):
        return _arrays(*_read_numpy(path))
    if path.suffix.lower() in (".csv", ".parquet"):
        return Arrays(_read_table(path), None, None)
    raise _invalid("`source` must be a folder or a file .npy, .npz, .csv or .parquet", f"source='{path}'")


def _read_numpy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with shards.readable(path, "source"):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
    name = shards.array_name(loaded.files, path, "source")
    with shards.readable(path, "source"):
        return loaded[name], loaded.get("x_test") if name == "x_train" else None


def _read_table(path: Path) -> np.ndarray:
    try:
        import pandas as pd

        frame = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"Tables need pip install 'tfvae[tables]'. Received: source='{path}'") from error
    except (ValueError, OSError) as error:
        raise _invalid("`source` must be a readable table", f"source='{path}': {error}") from error
    if frame.empty:
        raise _invalid("`source` must be a table with rows and columns", f"source='{path}' of shape {frame.shape}")
    if text := list(frame.select_dtypes(exclude=["number", "bool"])):
        raise _invalid("`source` must be a table of numbers", f"source='{path}' with the non-numeric columns {text}")
    if missing := list(frame.columns[frame.isna().any()]):
        raise _invalid("`source` must be a table without missing values", f"source='{path}', missing in {missing}")
    # Kept in float64: large, close values, such as timestamps, become equal in float32. `load` standardises them first.
    table = frame.to_numpy(np.float64)
    _numeric(table)
    return table


def _read_images(folder: Path, image_size: tuple[int, int] | None) -> np.ndarray:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise _invalid(f"`source` must be a folder with {', '.join(IMAGE_SUFFIXES)} images in it", f"source='{folder}'")
    images = []
    for path in paths:
        try:
            image = tf.io.decode_image(tf.io.read_file(str(path)), expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise _invalid("`source` must be a folder of readable images", f"'{path}': {error.message}") from error
        if image_size is not None:
            image = tf.cast(tf.round(tf.image.resize(image, image_size, antialias=True)), tf.uint8)
        # Drops the alpha channel, which is the second of two (grey) or the fourth of four (RGB).
        images.append(image.numpy()[..., :1] if image.shape[-1] < 3 else image.numpy()[..., :3])
        if images[-1].shape[:2] != images[0].shape[:2]:
            received = f"{images[0].shape[:2]} in '{paths[0]}', {images[-1].shape[:2]} in '{path}'"
            raise _invalid("`image_size` must be (height, width) when the images differ in size", received)
    channels = max(image.shape[-1] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


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
        received = f"binarize={binarize!r} with scaled data from {lowest:.6g} to {highest:.6g}"
        raise _invalid(_IN_UNIT_INTERVAL, received)


def _numeric(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values)
    if x.dtype.kind not in "biuf":
        raise _invalid("`source` must hold real numbers (bool, integer or float)", f"dtype={x.dtype}")
    if x.ndim < 2 or x.size == 0:
        expected = "`source` must have the shape [N, ...event], N > 0; reshape(-1, 1) makes each number an example"
        raise _invalid(expected, f"shape={x.shape}")
    if x.dtype in (np.uint8, np.bool_):
        return x[..., np.newaxis] if x.ndim == 3 else x
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        received = f"{len(bad)} of {x.size} NaN or infinite, the first at index {tuple(bad[0].tolist())}"
        raise _invalid("`source` must hold finite numbers, as float32", received)
    return x


def _split(x: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    num_validation = round(fraction * len(x))
    if not 0 < num_validation < len(x):
        expected = "`validation_fraction` must leave at least one example for training and one for validation"
        raise _invalid(expected, f"validation_fraction={fraction} of {len(x)} examples")
    permutation = rng.permutation(len(x))
    return x[permutation[num_validation:]], x[permutation[:num_validation]]
