"""Rows streamed from files: against NumPy, in other processes, and shared among real workers."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from tfvae.data import epochs
from tfvae.data.shards import look, stream, write_tfrecords

# The first column identifies the row.
X = np.arange(23 * 6, dtype=np.float32).reshape(23, 3, 2) / 4


def rows(dataset):
    """One pass over a dataset, as one array."""
    return np.concatenate(list(dataset.as_numpy_iterator()))


SAVE = {
    "npy": np.save,
    "fortran npy": lambda path, x: np.save(path, np.asfortranarray(x)),
    "npz": lambda path, x: np.savez(path, x_train=x, x=x[:1], y=np.arange(3)),
    "compressed npz": lambda path, x: np.savez_compressed(path, x=x, y=np.arange(3)),
    "fortran npz": lambda path, x: np.savez(path, np.asfortranarray(x)),
}


def save(folder, kind, x=X, rows_per_file=10):
    """Writes x to files of one kind."""
    if kind == "tfrecord":
        return write_tfrecords(x, folder, rows_per_file=rows_per_file)
    folder.mkdir(exist_ok=True)
    starts = range(0, len(x), rows_per_file)
    paths = [folder / f"{start:05}.{kind.split()[-1]}" for start in starts]
    for path, start in zip(paths, starts, strict=True):
        SAVE[kind](path, x[start : start + rows_per_file])
    return paths


def example(**features):
    """A serialized example with bytes features."""
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[x])) for name, x in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, *records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def serialized(x):
    return tf.io.serialize_tensor(x).numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float16, np.float32, np.float64, np.int64, ">f4"])
@pytest.mark.parametrize("shape", [(1,), (3, 2)])
def test_a_record_is_an_example_with_the_serialized_row(tmp_path, dtype, shape):
    x = np.arange(7 * np.prod(shape)).reshape(7, *shape).astype(dtype)
    paths = write_tfrecords(x, tmp_path / "new" / "folder", rows_per_file=3)
    assert [path.name for path in paths] == [f"0000{i}-of-00003.tfrecord" for i in range(3)]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    for start, path in zip((0, 3, 6), paths, strict=True):
        records = [example(x=serialized(row)) for row in x[start : start + 3].astype(x.dtype.newbyteorder("="))]
        assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == records


def test_parts_are_written_like_the_whole(tmp_path):
    whole = save(tmp_path / "whole", "tfrecord")
    parts = write_tfrecords((X[i : i + 4] for i in range(0, 23, 4)), tmp_path / "parts", rows_per_file=10)
    assert [path.read_bytes() for path in parts] == [path.read_bytes() for path in whole]


def test_writing_that_fails_leaves_nothing(tmp_path):
    def parts():
        yield X
        raise OSError("the disk of x is gone")

    with pytest.raises(OSError, match="gone"):
        write_tfrecords(parts(), tmp_path, rows_per_file=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([["a"]]), "`x` must hold real numbers. Received: x of dtype <U1"),
        (np.zeros((0, 2)), r"`x` must hold at least one example. Received: x of shape \(0, 2\)"),
        ([], "`x` must hold at least one example. Received: none"),
        (3, r"`x` must be an array \[N, ...event\], or an iterable of such. Received: int64 \[\]"),
        ([[1.0, 2.0]], r"`x` must be an array .* Received: float64 \[2\]"),
        (np.zeros((2, 2), np.longdouble), r"`x` must be an array .* Received: float128 \[2, 2\]"),
        (np.array([[1.0], [np.nan]]), r"`x` must be finite. Received: 1 values .* at index \[1, 0\]"),
        ([X, X[..., :1]], r"of one dtype and event shape, float32 \[3, 2\]. Received: float32 \[3, 1\]"),
        ([X, X.astype(int)], r"of one dtype and event shape, float32 \[3, 2\]. Received: int64 \[3, 2\]"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path, x, message):
    with pytest.raises(ValueError, match=message):
        write_tfrecords(x, tmp_path, rows_per_file=3)


def test_a_folder_of_other_records_is_not_mixed_with_new_ones(tmp_path):
    save(tmp_path, "tfrecord")
    with pytest.raises(ValueError, match=r"`folder` must have no .tfrecord files in it. Received: folder="):
        save(tmp_path, "tfrecord")


# What is read.


DTYPES = [np.uint8, np.bool_, np.float16, np.float32, np.float64, np.int32, ">f4"]


# Every dtype of records, and every kind of file with the dtype whose bytes are swapped.
SOME = [*(("tfrecord", dtype) for dtype in DTYPES), *((kind, ">f4") for kind in SAVE)]
OTHERS = [(kind, dtype) for kind in SAVE for dtype in DTYPES if (kind, dtype) not in SOME]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]


@pytest.mark.parametrize(("kind", "dtype"), [*SOME, *SLOW])
def test_rows_come_as_they_are_in_the_files(tmp_path, kind, dtype):
    x = X.astype(dtype)
    dataset = stream(save(tmp_path, kind, x), batch_size=4, shuffle=False)
    assert dataset.element_spec == tf.TensorSpec((None, 3, 2), x.dtype.newbyteorder("="))
    assert [len(batch) for batch in dataset] == [4, 4, 4, 4, 4, 3]
    assert len(dataset) == 6
    for _ in range(2):
        np.testing.assert_array_equal(rows(dataset), x)


@pytest.mark.parametrize("kind", ["tfrecord", *SAVE])
def test_rows_that_take_several_chunks(tmp_path, kind):
    # Rows of 400 KB, two to a chunk; and many small rows.
    large = np.random.default_rng(0).normal(size=(7, 50_000)).astype(np.float32)
    np.testing.assert_array_equal(rows(stream(save(tmp_path / "a", kind, large), batch_size=2, shuffle=False)), large)
    small = np.arange(2000).reshape(1000, 2)
    paths = save(tmp_path / "b", kind, small, rows_per_file=600)
    np.testing.assert_array_equal(rows(stream(paths, batch_size=7, shuffle=False)), small)


def test_a_pattern_and_a_folder_are_sorted_and_a_list_is_not(tmp_path):
    paths = tuple(save(tmp_path, "npy"))
    for name in ("readme.txt", ".hidden.npy"):
        (tmp_path / name).write_text("no rows")
    for files in (str(tmp_path / "*.npy"), tmp_path / "000?0.npy", tmp_path, str(tmp_path)):
        assert look(files).paths == paths
    assert look([str(path) for path in reversed(paths)]).paths == paths[::-1]
    assert look(paths[1]).paths == paths[1:2]
    assert look(paths).rows == (10, 10, 3)


def test_another_serial_form_of_a_tensor_is_read(tmp_path):
    # With float_val instead of tensor_content.
    form = TensorProto(dtype=1, tensor_shape=tf.TensorShape([2]).as_proto(), float_val=[1.5, 2.5])
    write_records(
        tmp_path / "a.tfrecord", example(x=form.SerializeToString()), example(x=serialized(np.float32([3.5, 4.5])))
    )
    np.testing.assert_array_equal(
        rows(stream(tmp_path / "a.tfrecord", batch_size=9, shuffle=False)), [[1.5, 2.5], [3.5, 4.5]]
    )


# The order.


# Both kinds give the same chunks of rows, from which the order is made.
@pytest.fixture(params=[pytest.param("tfrecord", marks=pytest.mark.slow), "npz"])
def files(request, tmp_path):
    """400 rows of one number, 0 to 399, in 8 files."""
    return save(tmp_path / "files", request.param, np.arange(400.0).reshape(400, 1), rows_per_file=50)


def test_each_epoch_has_every_row_once_in_a_new_order(files):
    dataset = stream(files, batch_size=32)
    passes = [rows(dataset)[:, 0] for _ in range(3)]
    assert len({tuple(one) for one in passes}) == 3
    for one in passes:
        np.testing.assert_array_equal(np.sort(one), np.arange(400))


def test_a_small_buffer_mixes_files_that_are_in_a_random_order(files):
    batches = [next(iter(stream(files, batch_size=32, shuffle_rows=64, seed=seed)))[:, 0] for seed in range(8)]
    sources = [set((batch.numpy() // 50).tolist()) for batch in batches]
    assert min(map(len, sources)) >= 2
    assert len(set.union(*sources)) >= 6
    # And a large file is not read to its end before the next one.
    paths = save(files[0].parent / "large", "npy", np.arange(2400).reshape(-1, 1), rows_per_file=600)
    first = next(iter(stream(paths, batch_size=600, shuffle_rows=1)))
    assert len(np.unique(first // 600)) == 3


def noisy(x, seed):
    """A transform whose output shows the seed it was given."""
    return tf.concat([tf.cast(x, tf.float64), tf.random.stateless_uniform(tf.shape(x), seed, dtype=tf.float64)], axis=1)


def two_passes(files, seed, global_seed):
    tf.random.set_seed(global_seed)
    dataset = stream(files, batch_size=32, seed=seed, shuffle_rows=60, transform=noisy)
    return [batch.tolist() for _ in range(2) for batch in dataset.as_numpy_iterator()]


# test_loading.py has a default test of this for arrays.
@pytest.mark.slow
def test_a_seed_gives_the_same_batches_whatever_the_global_seed(files, run_python):
    expected = two_passes(files, 3, 0)
    assert two_passes(files, 3, 1) == two_passes(files, 3, 2**31) == expected
    assert two_passes(files, 4, 0) != expected
    imports = "import sys\nimport tensorflow as tf\nfrom tfvae.shards import stream\n"
    functions = inspect.getsource(noisy) + inspect.getsource(two_passes)
    assert json.loads(run_python(f"{imports}{functions}print(two_passes(sys.argv[1:], 3, 77))", *files)) == expected


@pytest.mark.parametrize("global_seed", [None, 7])
def test_the_seed_of_no_other_graph_is_changed(files, global_seed):
    tf.random.set_seed(global_seed)
    outer, seeds = tf.compat.v1.get_default_graph(), []

    def transform(x, seed):
        seeds.append(tf.compat.v1.get_default_graph().seed)
        return x

    for _ in stream(files, batch_size=4, transform=transform):
        pass
    assert set(seeds) == {global_seed}
    assert outer is tf.compat.v1.get_default_graph()
    assert outer.seed is None


def test_an_epoch_that_is_repeated_has_the_same_batches(files):
    dataset = stream(files, batch_size=32, shuffle_rows=60, transform=noisy)
    first, second = rows(dataset), rows(dataset)
    try:
        epochs.set_epoch(1)
        np.testing.assert_array_equal(rows(dataset), second)
        epochs.set_epoch(0)
        np.testing.assert_array_equal(rows(dataset), first)
    finally:
        epochs.set_epoch(None)
    # The noise is new in each epoch and in each batch.
    assert len(np.unique(np.concatenate([first, second])[:, 1])) == 800


def test_without_a_shuffle_the_noise_is_that_of_the_first_pass(files):
    dataset = stream(files, batch_size=32, shuffle=False, transform=noisy)
    first = rows(dataset)
    np.testing.assert_array_equal(rows(dataset), first)
    np.testing.assert_array_equal(first[:, 0], np.arange(400))
    assert len(np.unique(first[:, 1])) == 400


# Errors.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape.tfrecord", r"`files` must .*float32 \[3, 2\] as in .* Received: float32 \[2\] in '.*shape"),
        ("dtype.tfrecord", r"`files` must .*float32 \[3, 2\] as in .* Received: float64 \[3, 2\] in '.*dtype"),
        ("missing.tfrecord", r'`files` must .* a feature "x".* Received: the features \[\] in .*missing'),
        ("nan.tfrecord", "`files` must hold finite numbers, as float32. Received: NaN or infinity in '.*nan.tf"),
        ("inf.npy", "`files` must hold finite numbers, as float32. Received: NaN or infinity in '.*inf.npy'"),
        ("large.npz", "`files` must hold finite numbers, as float32. Received: NaN or infinity in '.*large.npz'"),
        ("cut.npy", r"`files` must be a readable .npy or .npz file .* Received: files='.*cut.npy'"),
        ("cut.npz", r"`files` must be a readable .npy or .npz file .* Received: files='.*cut.npz': Bad CRC-32"),
    ],
)
def test_a_fault_far_into_a_file_is_found_before_any_step_and_names_the_file(tmp_path, name, message):
    # So long that the error comes neither with the header nor in the first chunk.
    path, x = tmp_path / name, np.tile(X, (200, 1, 1))
    last = {"shape": X[0, 0], "dtype": np.float64(X[0]), "nan": X[0] * np.nan}
    if path.suffix == ".tfrecord":
        value = {"x": serialized(last[path.stem])} if path.stem in last else {}
        write_records(path, *[example(x=serialized(row)) for row in x], example(**value))
    else:
        bad = np.concatenate([x.astype(np.float64), np.full((1, 3, 2), 1e300 if path.stem == "large" else np.inf)])
        (np.save if path.suffix == ".npy" else np.savez)(path, x if path.stem == "cut" else bad)
    if path.name == "cut.npy":
        path.write_bytes(path.read_bytes()[:-4])
    elif path.name == "cut.npz":
        path.write_bytes(path.read_bytes()[:100_000] + bytes(9) + path.read_bytes()[100_009:])
    with pytest.raises(ValueError, match=message):
        stream(path, batch_size=4)


@pytest.mark.parametrize("shuffle", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_file_that_is_damaged_later_is_named_while_it_is_read(tmp_path, shuffle):
    np.save(tmp_path / "a.npy", X)
    dataset = stream(tmp_path / "a.npy", batch_size=4, shuffle=shuffle)
    np.save(tmp_path / "a.npy", X * np.nan)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"finite numbers, as float32. Received: NaN or .*a.npy'"):
        rows(dataset)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"shuffle_rows": 0}, {"seed": -1}, {"seed": 2**31}, {"seed": True}, {"seed": 1.0}]
)
def test_an_argument_out_of_its_range(tmp_path, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be an integer .* Received: {name}={arguments[name]}"):
        stream(save(tmp_path, "npy"), **{"batch_size": 4, **arguments})


# Several workers.

WORKER = """
    import json, os, sys
    from pathlib import Path
    import numpy as np, tensorflow as tf
    import tfvae
    from tfvae.shards import stream

    cases = json.loads(sys.argv[1])
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tfvae.strategy("multi_worker", timeout=60)
    results = []
    with strategy.scope():
        for number, (counts, batch_size, shuffle) in enumerate(cases):
            paths = [Path(f"{index}-{number}-{i}.npy") for i in range(len(counts))]
            parts = np.split(np.arange(sum(counts)).reshape(-1, 1), np.cumsum(counts)[:-1])
            for path, part in zip(paths, parts):
                np.save(path, part)
            dataset = stream(paths, batch_size=batch_size, shuffle=shuffle, transform=lambda x, _: x + 100)
            # Files of the other worker cannot be read any more.
            for path in paths[1 - index :: 2] if len(paths) > 1 else []:
                path.write_bytes(b"")
            distributed = strategy.experimental_distribute_dataset(dataset)
            local = strategy.experimental_local_results
            passes = [[local(batch)[0].numpy()[:, 0].tolist() for batch in distributed] for _ in range(2)]
            results.append({"length": len(dataset), "passes": passes, "own": sum(counts[index::2])})
    print(json.dumps(results))
"""

# The number of rows of each file, the batch size, and whether to shuffle.
CASES = [
    ([10, 3, 9], 8, True),
    ([5, 5], 8, False),
    ([17, 4, 6, 2], 5, True),
    ([1, 1, 1], 2, True),
    # The second worker takes 2 and 3 rows alternately, the first 3 and 2.
    ([4, 18], 5, False),
    # Fewer files than workers.
    ([23], 7, True),
    ([23], 7, False),
]


@pytest.fixture(scope="module")
def two_workers(run_workers):
    """For each case, what each of the two workers got; each worker is a process."""
    outputs = run_workers(WORKER, 2, json.dumps(CASES), timeout=120)
    return list(zip(*(json.loads(output.splitlines()[-1]) for output in outputs), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=map(str, CASES))
def test_two_workers_read_each_row_once_in_as_many_steps(two_workers, case):
    (counts, batch_size, shuffle), workers = CASES[case], two_workers[case]
    for number in range(2):
        steps = [worker["passes"][number] for worker in workers]
        got = [[row for step in worker for row in step] for worker in steps]
        assert sorted(got[0] + got[1]) == list(range(100, 100 + sum(counts)))
        if len(counts) > 1:
            assert [len(one) for one in got] == [worker["own"] for worker in workers]
        assert [len(worker) for worker in steps] == [worker["length"] for worker in workers]
        sizes = [len(first) + len(second) for first, second in zip(*steps, strict=True)]
        assert min(sizes) > 0
        assert max(sizes) <= batch_size
    if sum(counts) > 3:
        assert (workers[0]["passes"][0] != workers[0]["passes"][1]) == shuffle
