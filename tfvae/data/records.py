"""TFRecords of `tf.train.Example`, whose feature "x" is the `tf.io.serialize_tensor` of a row."""

import functools
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfvae import checks
from tfvae.data import numpy_files

_TensorProto = type(tf.make_tensor_proto(0))


def look(path: Path, argument: str) -> tuple[int, np.ndarray]:
    """The number of records in a file, and the tensor of the first one, or an empty array if there is none.

    Raises:
        ValueError: the file is damaged, or its first record holds no tensor.
    """
    rows, first = 0, np.zeros(0)
    _check_lengths(path, argument)
    try:
        for examples in tf.data.TFRecordDataset(str(path)).batch(64):
            if rows == 0:
                first = tensor(feature(examples[0].numpy(), path, argument), path, argument)
            rows += len(examples)
    except tf.errors.DataLossError as error:
        raise _invalid(argument, "be readable TFRecords", f"'{path}', which is truncated or corrupt") from error
    return rows, first


def feature(record: bytes, path: Path, argument: str) -> bytes:
    """The bytes of the feature "x" of a serialized example; raises ValueError if it has none."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise _invalid(argument, "hold records of tf.train.Example", f"'{path}': {error}") from error
    values = list(features["x"].bytes_list.value) if "x" in features else []
    if len(values) != 1:
        expected = 'have in each record a feature "x", the bytes of one tensor'
        raise _invalid(argument, expected, f"the features {checks.shown(sorted(features))} in '{path}'")
    return values[0]


def tensor(value: bytes, path: Path, argument: str) -> np.ndarray:
    """The tensor whose `tf.io.serialize_tensor` these bytes are; raises ValueError if they are none."""
    try:
        proto = _TensorProto.FromString(value)
        shape = [dimension.size for dimension in proto.tensor_shape.dim]
        if min(shape, default=0) < 0 or numpy_files.is_bomb(8 * math.prod(shape), len(value)):
            # A tensor of equal numbers may be written as a single one.
            raise ValueError(f"{len(value)} bytes cannot be a tensor of shape {shape}")
        return tf.make_ndarray(proto)
    except (DecodeError, TypeError, ValueError) as error:
        raise _invalid(argument, 'have in "x" what `tf.io.serialize_tensor` gives', f"'{path}': {error}") from error


@functools.lru_cache
def prefix(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The bytes that `tf.io.serialize_tensor` writes before the numbers of a tensor."""
    content = np.zeros(shape, dtype).tobytes()
    kind, size = tf.as_dtype(dtype).as_datatype_enum, tf.TensorShape(shape).as_proto()
    return _TensorProto(dtype=kind, tensor_shape=size, tensor_content=content).SerializeToString()[: -len(content)]


def _check_lengths(path: Path, argument: str) -> None:
    """Checks that the records fill the file: TensorFlow allocates the length of a record before it looks for it."""
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            # Each record is its length, a checksum of the length, the record and a checksum of the record.
            at += int.from_bytes(file.read(8), "little") + 16
    if at != size:
        raise _invalid(argument, "be readable TFRecords", f"'{path}', which is truncated or corrupt")


def _invalid(argument: str, expected: str, received: str) -> ValueError:
    return ValueError(f"`{argument}` must {expected}. Received: {received}")
