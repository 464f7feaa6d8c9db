"""Files that are damaged, or made to exhaust the memory: refused in one line, before anything large is allocated."""

import os
import zipfile

import numpy as np
import pandas as pd
import pyarrow
import pytest
import scipy.sparse
import tensorflow as tf
from pyarrow import parquet

from tests.data.test_loading_of_files import example
from tfvae.data import load, numpy_files, read, records

X = np.arange(12.0).reshape(4, 3)


def npy(path, shape):
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        file.write(X.tobytes())


def npz(path, shape):
    npy(path.with_suffix(".npy"), shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".npy"), "x.npy")
    path.with_suffix(".npy").unlink()


def sparse_file(path):
    npy(path, (10**12, 1))
    os.truncate(path, 8 * 10**12 + 10_000)


def encrypted(path):
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    # The first bit of the flags, in the header of the array and in the directory of the archive.
    for start, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(start) + offset] |= 1
    path.write_bytes(content)


def unknown_compression(path):
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    for start, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(start) + offset] = 99
    path.write_bytes(content)


def zip_bomb(path):
    np.savez_compressed(path, x=np.zeros((2**14, 2)))


def parquet_of_runs(path):
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(10**6, np.int8)), pyarrow.array([0.0]))
    parquet.write_table(pyarrow.table({"a": column}), path)


def write_records(path, *contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)


def long_record(path):
    """A record that says that it is 10^12 bytes long; the checksum of this length is right."""
    write_records(path, example(x=tf.io.serialize_tensor(X[0]).numpy()))
    path.write_bytes((10**12).to_bytes(8, "little") + bytes.fromhex("4a60fd0a") + path.read_bytes()[12:])


DAMAGED = {
    "long.npy": (lambda path: npy(path, (10**12, 3)), "but 96 bytes follow"),
    "negative.npy": (lambda path: npy(path, (-1, 3)), "but 96 bytes follow"),
    "overflow.npy": (lambda path: npy(path, (2**62, 2**62)), "but 96 bytes follow"),
    "short.npy": (lambda path: path.write_bytes(b"\x93NUMPY\1"), "a readable"),
    "brackets.npy": (lambda path: path.write_bytes(b"\x93NUMPY\1\0\x10\x27" + b"[" * 10_000), "a readable"),
    "sparse.npy": (sparse_file, r"fit in memory twice.*sparse.npy' of shape \[1000000000000, 1\], 8e\+03 GB"),
    "long.npz": (lambda path: npz(path, (10**12, 3)), "but 96 bytes follow"),
    "negative.npz": (lambda path: npz(path, (4, -3)), "but 96 bytes follow"),
    "encrypted.npz": (encrypted, "encrypted"),
    "unknown.npz": (unknown_compression, "ompression"),
    "bomb.npz": (zip_bomb, "MB would expand to .* GB; save the array as .npy"),
    "runs.parquet": (parquet_of_runs, r"fit in memory twice.*runs.parquet' of shape \[1000000, 1\]"),
    "long.tfrecord": (long_record, "truncated or corrupt"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, monkeypatch):
    make, reason = DAMAGED[name]
    make(tmp_path / name)
    if name == "bomb.npz":
        monkeypatch.setattr(numpy_files, "_BOMB_BYTES", 2**16)
    elif name == "runs.parquet":
        monkeypatch.setattr(os, "sysconf", lambda name: 2**11)
    with pytest.raises(ValueError, match=f"`source` must .*{reason}") as error:
        load(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("name", ["long.npy", "negative.npy", "long.npz", "encrypted.npz"])
def test_a_damaged_file_among_several_is_named(tmp_path, name):
    np.save(tmp_path / "a.npy", X)
    DAMAGED[name][0](tmp_path / name)
    with pytest.raises(ValueError, match=f"`source` must be a readable .* Received: source='.*{name}': "):
        load(tmp_path)


def test_a_row_that_expands_to_terabytes_is_refused(tmp_path):
    proto = tf.make_tensor_proto(0.0)
    proto.tensor_shape.dim.add(size=10**12)
    with pytest.raises(ValueError, match=r"'.*a.tfrecord': \d+ bytes cannot be a tensor of shape \[1000000000000\]"):
        records.tensor(proto.SerializeToString(), tmp_path / "a.tfrecord", "source")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet", "a"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"a regular file or a folder. Received: source='.*{name}'"):
        read(tmp_path / name)


def test_a_sparse_matrix_that_is_too_large_when_dense_is_refused():
    x = scipy.sparse.csr_matrix((10**7, 10**6), dtype=np.float32)
    with pytest.raises(ValueError, match=r"`source` must fit in memory twice.* a csr_matrix of shape \[10000000"):
        read(x)


def test_a_table_of_many_wrong_columns_gives_a_short_message(tmp_path):
    pd.DataFrame({f"column{i}": ["a", "b"] for i in range(500)}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"column0 \(str\), column1 .*, \.\.\. \(500 in all\)$") as error:
        read(tmp_path / "a.csv")
    assert len(str(error.value)) < 800


def test_a_path_of_a_million_characters_gives_a_short_message():
    with pytest.raises(FileNotFoundError, match=r"which is neither a name nor an existing path$") as error:
        read("a" * 10**6)
    assert len(str(error.value)) < 500
