"""Data larger than memory: rows in several files (shards), streamed in an order set by a seed and the epoch number.

So that training does not follow the order on disk, each epoch visits the files in a new order, interleaves a few at a
time and passes their rows through a shuffle buffer. Workers that train together divide the files among themselves.
"""

import collections
import contextlib
import functools
import glob
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks, chunks, files
from tfvae.data import epochs, numpy_files, records
from tfvae.distribute import strategies

SUFFIXES = (".npy", ".npz", ".tfrecord")

# How many files are interleaved, and how much is read from one at a time: this many rows, or fewer if rows are large.
_FILES_AT_ONCE = 4
_CHUNK_ROWS = 256
_CHUNK_BYTES = 2**20


class Shards(NamedTuple):
    """Files of rows of one shape and dtype.

    Attributes:
        paths: the files, either all `.tfrecord` or each `.npy` or `.npz`.
        rows: the number of rows in each file.
        shape: the shape of a row.
        dtype: the dtype of a row, in this machine's byte order.
        argument: the name of the caller's argument, for error messages.
        unit: if the rows are to be binarised, the value that becomes 1: they must lie in [0, unit]. Otherwise None.
    """

    paths: tuple[Path, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    argument: str
    unit: float | None = None

    def subset(self, indices: Sequence[int]) -> "Shards":
        """The files at these indices."""
        return self._replace(paths=tuple(self.paths[i] for i in indices), rows=tuple(self.rows[i] for i in indices))


def look(files: str | Path | Sequence[str | Path], argument: str = "files") -> Shards:
    """Finds files and counts their rows: from the headers of NumPy files, or by reading all TFRecords once.

    Args:
        files: see `stream`.
        argument: the name of the caller's argument, for error messages.

    Returns:
        The files, sorted if they were given as a pattern or a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see `stream`.
    """
    if is_pattern(files):
        paths = sorted(Path(path) for path in glob.glob(str(files)))
    elif isinstance(files, (str, Path)) and Path(files).is_dir():
        paths = sorted(path for path in Path(files).glob("[!.]*") if path.suffix.lower() in SUFFIXES)
    else:
        paths = [Path(path) for path in ([files] if isinstance(files, (str, Path)) else files)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        received = checks.shown_names(missing) or str(files)
        raise FileNotFoundError(f"`{argument}` must be existing files. Received: {received}")
    kinds = {path.suffix.lower() for path in paths}
    if kinds != {".tfrecord"} and not kinds <= {".npy", ".npz"}:
        suffixes = checks.shown_names(sorted(kinds))
        raise _invalid(argument, "be files that are all .tfrecord, or each .npy or .npz", f"the suffixes {suffixes}")
    heads = [(_record_head if kinds == {".tfrecord"} else _numpy_head)(path, argument) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        _check_like_the_first(head.shape, head.dtype, path, heads[0])
    return heads[0]._replace(paths=tuple(paths), rows=tuple(head.rows[0] for head in heads))


def is_pattern(files: Any) -> bool:
    """Whether `files` is a path with `*` or `?` in it, and no file has that very name."""
    return isinstance(files, (str, Path)) and bool({"*", "?"} & set(str(files))) and not os.path.exists(files)


def stream(
    files: str | Path | Sequence[str | Path] | Shards,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    shuffle_rows: int = 10_000,
    transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Makes batches of rows that are read from files as they are needed.

    All rows are read once to check them before the dataset is returned, so that no training ends at a bad value.
    Memory holds `shuffle_rows` rows, a few batches, and a few chunks of 1 MB each, or of one row if a row is larger.

    In the scope of a strategy with several workers, each worker reads its own share of the files, provided that there
    are at least as many files as workers; otherwise every worker reads all files, and `tf.distribute` divides the rows.
    Either way a step has `batch_size` rows over all replicas, and an epoch has each row once. `len` is the number of
    steps in an epoch, the same on all workers; when workers divide the files, one batch serves several steps.

    Args:
        files: a pattern with `*` or `?`, a path, a folder or a list of paths, either all `.tfrecord` as written by
            `write_tfrecords`, or each `.npy` or `.npz` (key x_train, key x, or a single array); or a result of `look`.
        batch_size: B, the number of rows in a batch, over all replicas; the last batch may be smaller.
        seed: from 0 to 2**31 - 1. The order depends on this seed and the epoch number, not on the global seeds.
        shuffle: whether the rows come in a new order at each epoch; otherwise they come in the order of the files.
        shuffle_rows: the size of the buffer from which rows are drawn at random.
        transform: maps a batch [B, ...event] and a stateless seed int32 [2], which differs by batch and, with
            `shuffle`, by epoch, to a new batch. Use this, not `map`, which loses rows when workers divide the files.

    Returns:
        A dataset of batches [B, ...event], in the dtype of the files if there is no `transform`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, is empty, has rows unlike those of the first file or values that are not
            finite, or an argument is out of its range. A file that changes later is a
            `tf.errors.InvalidArgumentError` that names it.
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    shuffle_rows = checks.positive_integer("shuffle_rows", shuffle_rows)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise _invalid("seed", "be an integer from 0 to 2**31 - 1", f"seed={checks.shown(seed)}")
    shards = files if isinstance(files, Shards) else look(files)
    index, count = strategies.workers()
    divided = 1 < count <= len(shards.paths)
    own = shards.subset(range(index, len(shards.paths), count)) if divided else shards
    for path in own.paths:
        # Reading checks the values.
        collections.deque(read(path, own), maxlen=0)

    def one_pass(seed: tf.Tensor) -> tf.data.Dataset:
        seed = tf.random.fold_in(seed, index if divided else 0)
        order = tf.range(len(own.paths))
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        paths = tf.data.Dataset.from_tensor_slices(tf.gather([str(path) for path in own.paths], order))
        parts = paths.interleave(lambda path: _chunks(path, own), cycle_length=_FILES_AT_ONCE if shuffle else 1)
        rows = parts.prefetch(2).unbatch()
        if shuffle:
            with epochs.regardless_of_global_seed():
                rows = rows.shuffle(shuffle_rows, seed=tf.cast(seed[0], tf.int64))
        batches = rows.batch(batch_size)
        if transform is None:
            return batches
        return batches.enumerate().map(
            lambda i, x: transform(x, tf.random.fold_in(seed, i)), num_parallel_calls=tf.data.AUTOTUNE
        )

    dataset = epochs.ordered(one_pass, seed=seed) if shuffle else one_pass(tf.constant([seed, 0], tf.int32))
    if divided:
        dataset = _divided(dataset, shards.rows, batch_size, count)
    else:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-sum(shards.rows) // batch_size)))
    options = tf.data.Options()
    policies = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policies.OFF if divided else policies.DATA
    return dataset.prefetch(2).with_options(options)


def write_tfrecords(x: ArrayLike | Iterable[ArrayLike], folder: str | Path, *, rows_per_file: int) -> list[Path]:
    """Writes rows as TFRecords of `tf.train.Example`, whose feature "x" is the `tf.io.serialize_tensor` of the row.

    The files appear in the folder only once all of them are written.

    Args:
        x: an array [N, ...event]; or, if it does not fit in memory, an iterable of its parts [n, ...event].
        folder: the folder, which is created if it does not exist.
        rows_per_file: the number of rows in each file; the last file may have fewer.

    Returns:
        The files, named like 00000-of-00004.tfrecord.

    Raises:
        ValueError: x is not one array of finite numbers, or the folder already has TFRecords in it.
    """
    rows_per_file = checks.positive_integer("rows_per_file", rows_per_file)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tfrecord")):
        raise _invalid("folder", "have no .tfrecord files in it", f"folder='{folder}'")
    rows = itertools.chain.from_iterable(_parts(x))
    written: list[Path] = []
    with files.temporary_folder(folder) as temporary:
        for first in rows:
            written.append(temporary / str(len(written)))
            with tf.io.TFRecordWriter(str(written[-1])) as writer:
                for row in itertools.chain([first], itertools.islice(rows, rows_per_file - 1)):
                    value = tf.train.BytesList(value=[records.prefix(row.shape, row.dtype) + row.tobytes()])
                    feature = {"x": tf.train.Feature(bytes_list=value)}
                    writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        if not written:
            raise _invalid("x", "hold at least one example", "none")
        return [files.move_in(path, folder / f"{i:05}-of-{len(written):05}.tfrecord") for i, path in enumerate(written)]


def read(path: Path, shards: Shards) -> Iterator[np.ndarray]:
    """Reads a file, one of `shards`, as checked chunks of rows [C, ...event].

    Raises:
        ValueError: the file cannot be read, or has rows that `shards` must not have.
    """
    rows = _chunk_rows(shards)
    if path.suffix.lower() != ".tfrecord":
        yield from _numpy_chunks(os.fsencode(path), rows, shards)
        return
    for examples in tf.data.TFRecordDataset(str(path)).batch(rows).as_numpy_iterator():
        yield _decode(examples, os.fsencode(path), shards)


def _invalid(argument: str, expected: str, received: str) -> ValueError:
    return ValueError(f"`{argument}` must {expected}. Received: {received}")


def _numpy_head(path: Path, argument: str) -> Shards:
    with contextlib.ExitStack() as stack:
        _, shape, _, dtype = numpy_files.open_array(path, argument, stack)
    return _check_head(shape[0] if shape else 0, shape[1:], dtype, path, argument)


def _record_head(path: Path, argument: str) -> Shards:
    rows, first = records.look(path, argument)
    return _check_head(rows, first.shape, first.dtype, path, argument)


def _check_head(rows: int, shape: tuple[int, ...], dtype: np.dtype, path: Path, argument: str) -> Shards:
    if not shape or rows * math.prod(shape) == 0:
        expected = "hold rows of the shape [...event], at least one in each file"
        raise _invalid(argument, expected, f"{rows} rows of the shape {list(shape)} in '{path}'")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise _invalid(argument, "hold real numbers (bool, integer or float)", f"{dtype} in '{path}'")
    return Shards((path,), (rows,), shape, dtype.newbyteorder("="), argument)


def _check_like_the_first(shape: tuple[int, ...], dtype: np.dtype, path: Path, shards: Shards) -> None:
    if (shape, dtype) != (shards.shape, shards.dtype):
        expected = f"hold rows of one dtype and shape, {shards.dtype} {list(shards.shape)} as in '{shards.paths[0]}'"
        raise _invalid(shards.argument, expected, f"{dtype} {list(shape)} in '{path}'")


def _check_values(rows: np.ndarray, path: Path, shards: Shards) -> None:
    # Models compute in float32, where large float64 values become infinite.
    with np.errstate(over="ignore"):
        if rows.dtype.kind == "f" and not np.isfinite(rows.astype(np.float32, copy=False)).all():
            raise _invalid(shards.argument, "hold finite numbers, as float32", f"NaN or infinity in '{path}'")
    if shards.unit is not None and (rows.min() < 0 or rows.max() > shards.unit):
        scaled = f"scaled data from {rows.min() / shards.unit:.6g} to {rows.max() / shards.unit:.6g} in '{path}'"
        raise _invalid("binarize", "be None unless the scaled data lie in [0, 1]", scaled)


def _chunk_rows(shards: Shards) -> int:
    return min(_CHUNK_ROWS, chunks.rows_within(_CHUNK_BYTES, math.prod(shards.shape) * shards.dtype.itemsize))


def _chunks(path: tf.Tensor, shards: Shards) -> tf.data.Dataset:
    """The rows of a file, in chunks [C, ...event]."""
    spec = tf.TensorSpec([None, *shards.shape], shards.dtype)
    rows = _chunk_rows(shards)
    if shards.paths[0].suffix.lower() != ".tfrecord":
        read = functools.partial(_numpy_chunks, rows=rows, shards=shards)
        return tf.data.Dataset.from_generator(read, output_signature=spec, args=(path,))
    decode = functools.partial(_decode, shards=shards)
    return (
        tf.data.TFRecordDataset(path)
        .batch(rows)
        .map(lambda examples: tf.ensure_shape(tf.numpy_function(decode, [examples, path], spec.dtype), spec.shape))
    )


def _numpy_chunks(file_name: bytes, rows: int, shards: Shards) -> Iterator[np.ndarray]:
    path = Path(os.fsdecode(file_name))
    with contextlib.ExitStack() as stack:
        file, shape, fortran_order, dtype = numpy_files.open_array(path, shards.argument, stack)
        # In Fortran order each row is spread over the whole file, so the file is read at once.
        order: Literal["C", "F"] = "F" if fortran_order else "C"
        rows = shape[0] if fortran_order else rows
        for part in chunks.slices(shape[0], rows):
            count = part.stop - part.start
            with numpy_files.readable(path, shards.argument):
                content = file.read(count * math.prod(shape[1:]) * dtype.itemsize)
                chunk = np.frombuffer(content, dtype).reshape((count, *shape[1:]), order=order)
            _check_values(chunk, path, shards)
            yield chunk


def _decode(examples: Iterable[bytes], file_name: bytes, shards: Shards) -> np.ndarray:
    """Parses serialized examples into rows [C, ...event]."""
    path = Path(os.fsdecode(file_name))
    prefix = records.prefix(shards.shape, shards.dtype)
    length = len(prefix) + math.prod(shards.shape) * shards.dtype.itemsize
    values = [records.feature(record, path, shards.argument) for record in examples]
    # A TensorProto can be encoded in several ways; the encoding of `tf.io.serialize_tensor` has this fast path.
    if all(len(value) == length and value.startswith(prefix) for value in values):
        content = b"".join(value[len(prefix) :] for value in values)
        rows = np.frombuffer(content, shards.dtype).reshape(len(values), *shards.shape)
    else:
        tensors = [records.tensor(value, path, shards.argument) for value in values]
        for tensor in tensors:
            _check_like_the_first(tensor.shape, tensor.dtype, path, shards)
        rows = np.stack(tensors)
    _check_values(rows, path, shards)
    return rows


def _divided(dataset: tf.data.Dataset, rows: Sequence[int], batch_size: int, count: int) -> tf.data.Dataset:
    """The batches of one of `count` workers; the dataset's length is the number of steps that all workers take."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if batch_size < replicas:
        expected = f"be at least the number of replicas, {replicas}, when workers divide the files"
        raise _invalid("batch_size", expected, f"batch_size={batch_size}")
    # When the last transformation is `batch`, `tf.distribute` knows the batch size and fills the replicas' parts one
    # after the other; otherwise it would split the smaller last batch into many parts, and a step might get no row.
    batches = dataset.unbatch().batch(batch_size)
    steps = max(_steps(sum(rows[worker::count]), batch_size, replicas, worker, count) for worker in range(count))
    # `fit` takes the length for the number of steps. An endless but empty tail makes `take` report `steps`.
    return batches.concatenate(batches.take(0).repeat()).take(steps)


def _steps(rows: int, batch_size: int, replicas: int, worker: int, count: int) -> int:
    """The number of steps that `tf.distribute` needs to hand a worker its rows."""
    parts = [batch_size // replicas + (replica < batch_size % replicas) for replica in range(replicas)]
    own = replicas // count
    parts = parts[worker * own :] + parts[: worker * own]
    starts = itertools.accumulate((sum(parts[i : i + own]) for i in range(0, replicas, own)), initial=0)
    return rows // batch_size * count + sum(start < rows % batch_size for start in itertools.islice(starts, count))


def _parts(x: Any) -> Iterator[np.ndarray]:
    """The parts of x as checked arrays: x itself if it is an array, else its elements."""
    x, first = checks.unwrap(x), None
    for part in [x] if hasattr(x, "__array__") or not isinstance(x, Iterable) else x:
        part = checks.to_numpy(part)
        if part.ndim < 2 or part.size == 0 or part.dtype.itemsize > 8:
            raise _invalid("x", "be an array [N, ...event], or an iterable of such", f"{part.dtype} {list(part.shape)}")
        checks.check_finite(part)
        part = part.astype(part.dtype.newbyteorder("="), copy=False)
        event = f"{part.dtype} {list(part.shape[1:])}"
        if event != (first := first or event):
            raise _invalid("x", f"have parts of one dtype and event shape, {first}", event)
        yield part
