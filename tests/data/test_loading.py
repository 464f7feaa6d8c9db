"""Pipelines from names, files and arrays: against NumPy, scikit-learn and PIL, without network access."""

import json
import urllib.error

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfvae.cli import run_folder
from tfvae.data import load, read

TRAIN = np.arange(23 * 3, dtype=np.float32).reshape(23, 3)


def rows(dataset):
    """One pass over a dataset, as one array."""
    return np.concatenate(list(dataset.as_numpy_iterator()))


# The split, the order and the batches.


def test_digits_are_the_default_and_match_scikit_learn():
    pipelines = load()
    images = load_digits().images[..., np.newaxis]
    permutation = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(rows(pipelines.validation), (images[permutation[:359]] / 16).astype(np.float32))
    train = rows(pipelines.train)
    assert train.shape == (1438, 8, 8, 1)
    np.testing.assert_allclose(train.mean(axis=0), (images[permutation[359:]] / 16).mean(axis=0), atol=1e-6)
    assert pipelines.scale == 16
    assert pipelines.offset == 0
    assert pipelines.scale.dtype == pipelines.offset.dtype == np.float32


def test_train_and_validation_are_disjoint_and_together_the_whole():
    pipelines = load(TRAIN, batch_size=4, validation_fraction=0.25)
    train, validation = rows(pipelines.train), rows(pipelines.validation)
    assert len(validation) == 6
    # The first column identifies the row.
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])[:, 0]), TRAIN[:, 0])


def test_each_epoch_visits_every_row_once_in_a_new_order():
    train = load(TRAIN, batch_size=4).train
    epochs = [rows(train) for _ in range(4)]
    for epoch in epochs:
        assert len(np.unique(epoch[:, 0])) == len(epoch) == 18
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(epochs[0], axis=0))
    assert len({tuple(epoch[:, 0]) for epoch in epochs}) == 4


@pytest.mark.slow
def test_the_order_is_uniform():
    # The position of each of the 200 rows has mean 99.5 and variance (200^2 - 1) / 12; the tolerance is 4.5 standard
    # errors because 200 rows are checked.
    train = load(np.arange(250.0).reshape(250, 1), batch_size=64).train
    orders = np.stack([rows(train)[:, 0] for _ in range(40)])
    places = np.argsort(orders, axis=1)
    np.testing.assert_allclose(places.mean(axis=0), 99.5, atol=4.5 * np.sqrt((200**2 - 1) / 12 / 40))
    # And the order of an epoch does not depend on the one before.
    correlations = [np.corrcoef(places[i], places[i + 1])[0, 1] for i in range(39)]
    np.testing.assert_allclose(correlations, 0, atol=4 / np.sqrt(199))


def test_batches_keep_the_partial_one_and_know_their_number():
    pipelines = load(TRAIN, batch_size=5)
    assert [len(batch) for batch in pipelines.train] == [5, 5, 5, 3]
    assert [len(batch) for batch in pipelines.validation] == [5]
    assert pipelines.train.cardinality() == 4
    assert pipelines.validation.cardinality() == 1
    for dataset in (pipelines.train, pipelines.validation):
        assert dataset.element_spec == tf.TensorSpec((None, 3), tf.float32)


def test_a_batch_larger_than_the_data():
    pipelines = load(TRAIN, batch_size=1000)
    assert [len(batch) for batch in pipelines.train] == [18]
    assert pipelines.train.cardinality() == 1


@pytest.mark.parametrize("binarize", [pytest.param(None, marks=pytest.mark.slow), "dynamic"])
def test_a_seed_gives_the_same_epochs_whatever_the_global_seed(binarize):
    x = np.random.default_rng(0).random((40, 6))

    def epochs(seed, global_seed):
        tf.random.set_seed(global_seed)
        pipelines = load(x, batch_size=8, binarize=binarize, seed=seed)
        return np.concatenate([rows(pipelines.validation), *(rows(pipelines.train) for _ in range(3))])

    np.testing.assert_array_equal(epochs(1, 10), epochs(1, 20))
    assert not np.array_equal(epochs(1, 10), epochs(2, 10))


@pytest.fixture(scope="module")
def second_process(run_python):
    """Two epochs in a new process with two devices: undistributed, and distributed to two replicas."""
    code = """
import json, numpy as np, tensorflow as tf
from tfvae.data import load
device = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device, device])
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.arange(46).reshape(23, 2) / 46
plain = load(x, batch_size=8, binarize="dynamic", seed=3).train
with strategy.scope():
    split = strategy.experimental_distribute_dataset(load(x, batch_size=8, seed=3).train)
print(json.dumps({
    "plain": [batch.tolist() for _ in range(2) for batch in plain.as_numpy_iterator()],
    "split": [[[part.numpy().tolist() for part in strategy.experimental_local_results(batch)] for batch in split]
              for _ in range(2)],
}))
"""
    return json.loads(run_python(code).splitlines()[-1])


def test_a_seed_gives_the_same_batches_in_a_second_process(second_process):
    train = load(np.arange(46).reshape(23, 2) / 46, batch_size=8, binarize="dynamic", seed=3).train
    assert second_process["plain"] == [batch.tolist() for _ in range(2) for batch in train.as_numpy_iterator()]


def test_a_strategy_splits_each_batch_between_its_replicas(second_process):
    train = load(np.arange(46).reshape(23, 2) / 46, batch_size=8, seed=3).train
    for epoch in second_process["split"]:
        assert [[len(part) for part in batch] for batch in epoch] == [[4, 4], [4, 4], [1, 1]]
        together = [row for batch in epoch for part in batch for row in part]
        np.testing.assert_array_equal(together, rows(train))


def test_load_leaves_the_global_random_state_alone():
    keras.utils.set_random_seed(5)
    expected = tf.random.uniform((3,)).numpy(), np.random.random(3)  # noqa: NPY002
    keras.utils.set_random_seed(5)
    rows(load(TRAIN / 100, binarize="dynamic").train)
    np.testing.assert_array_equal(tf.random.uniform((3,)).numpy(), expected[0])
    np.testing.assert_array_equal(np.random.random(3), expected[1])  # noqa: NPY002


def test_fit_takes_the_pipelines():
    pipelines = load(TRAIN / TRAIN.max(), batch_size=5)

    class MeanModel(keras.Model):
        def __init__(self):
            super().__init__()
            self.mean = self.add_weight(shape=(3,), initializer="zeros")

        def train_step(self, x):
            self.mean.assign_add(tf.reduce_sum(x, axis=0))
            return {"examples": tf.shape(x)[0]}

    model = MeanModel()
    model.compile()
    model.fit(pipelines.train, epochs=2, verbose=0, shuffle=False)
    np.testing.assert_allclose(model.mean.numpy(), 2 * rows(pipelines.train).sum(axis=0), rtol=1e-5)


# Binarisation.


def test_dynamic_binarisation_has_the_mean_p_and_differs_each_epoch():
    p = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (2500, 1))
    pipelines = load(p, batch_size=30, binarize="dynamic")
    epochs = np.stack([rows(pipelines.train) for _ in range(3)])
    assert set(np.unique(epochs)) == {0.0, 1.0}
    assert not np.array_equal(epochs[0], epochs[1])
    # 3 epochs of 2000 equal rows; at p = 0 and p = 1 the mean is exact.
    error = np.sqrt(p[0] * (1 - p[0]) / 6000)
    np.testing.assert_array_less(np.abs(epochs.mean(axis=(0, 1)) - p[0]), 4 * error + 1e-7)


def test_dynamic_noise_is_independent_between_rows_and_batches():
    p = np.full((320, 16), 0.5)
    epoch = rows(load(p, batch_size=16, binarize="dynamic").train)
    assert len(np.unique(epoch, axis=0)) > 250
    correlation = np.corrcoef(epoch.T)[np.triu_indices(16, 1)]
    np.testing.assert_array_less(np.abs(correlation), 4.5 / np.sqrt(256))


def test_dynamic_validation_is_drawn_once_with_mean_p():
    p = np.full((5000, 4), 0.3)
    validation = load(p, binarize="dynamic", validation_fraction=0.5).validation
    first = rows(validation)
    np.testing.assert_array_equal(first, rows(validation))
    np.testing.assert_array_equal(
        first, rows(load(p, binarize="dynamic", validation_fraction=0.5, batch_size=7).validation)
    )
    assert set(np.unique(first)) == {0.0, 1.0}
    assert abs(first.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / first.size)


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_binary_uint8_images_stay_what_they_are(binarize):
    x = 255 * np.random.default_rng(0).integers(0, 2, (30, 4, 4), dtype=np.uint8)
    pipelines = load(x, binarize=binarize)
    held_out = x[np.random.default_rng(0).permutation(30)[:6], ..., np.newaxis]
    np.testing.assert_array_equal(rows(pipelines.validation), held_out / 255)
    assert rows(pipelines.train).sum() == x.sum() / 255 - held_out.sum() / 255


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (np.tile(np.array([[0.0, 0.49, 0.5, 1.0]]), (10, 1)), [0, 0, 1, 1]),
        (np.tile(np.array([[0, 127, 128, 255]], np.uint8), (10, 1)), [0, 0, 1, 1]),
        (np.tile(np.array([[False, True]]), (10, 1)), [0, 1]),
    ],
)
def test_threshold_is_at_one_half_in_both_splits(x, bits):
    pipelines = load(x, binarize="threshold")
    np.testing.assert_array_equal(rows(pipelines.train), [bits] * 8)
    np.testing.assert_array_equal(rows(pipelines.validation), [bits] * 2)


def test_binarised_digits_keep_the_scale_of_the_raw_data():
    pipelines = load(binarize="threshold")
    assert pipelines.scale == 16
    held_out = load_digits().images[np.random.default_rng(0).permutation(1797)[:359]]
    np.testing.assert_array_equal(rows(pipelines.validation)[..., 0], held_out >= 8)


# Arrays and their scale.


@pytest.mark.parametrize(
    ("dtype", "stored", "scale"),
    [
        (np.uint8, np.uint8, 255),
        (np.bool_, np.bool_, 1),
        (np.float64, np.float32, 1),
        (np.float16, np.float32, 1),
        (np.int32, np.float32, 1),
        (np.uint16, np.float32, 1),
    ],
)
def test_dtype_and_scale(dtype, stored, scale):
    x = np.arange(20).reshape(10, 2).astype(dtype)
    arrays = read(x)
    assert arrays.train.dtype == stored
    assert arrays.validation is None
    assert arrays.scale == scale
    np.testing.assert_array_equal(arrays.train, x)
    pipelines = load(x)
    held_out = x[np.random.default_rng(0).permutation(10)[:2]]
    np.testing.assert_array_equal(rows(pipelines.validation), (held_out / np.float64(scale)).astype(np.float32))


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (6, 4, 5, 1)), (bool, (6, 4, 5, 1)), (float, (6, 4, 5))])
def test_images_of_rank_3_get_a_channel(dtype, shape):
    assert read(np.full((6, 4, 5), 7).astype(dtype)).train.shape == shape


def test_lists_and_tensors_are_arrays():
    np.testing.assert_array_equal(read([[1, 2], [3, 4]]).train, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read(tf.constant([[1.5]])).train, [[1.5]])


def test_binary_data_as_uint8_warn():
    with pytest.warns(UserWarning, match="pass binary data as bool. Received: max=1"):
        read(np.eye(4, dtype=np.uint8))


# Several files are streamed.


def shard(folder, x, count=5):
    """Writes x to the files 0.npy, 1.npy, ..."""
    for i, part in enumerate(np.array_split(x, count)):
        np.save(folder / f"{i}.npy", part)


def test_whole_files_are_held_out_by_the_seed(tmp_path):
    x = np.arange(40.0).reshape(40, 1)
    shard(tmp_path, x)
    held_out = set()
    for seed in range(2):
        pipelines = load(str(tmp_path / "*.npy"), batch_size=7, validation_fraction=0.4, seed=seed)
        train, validation = rows(pipelines.train), rows(pipelines.validation)
        assert set(np.unique(validation // 8, return_counts=True)[1]) == {8}
        assert len(validation) == 16
        np.testing.assert_array_equal(np.sort(np.concatenate([train, validation]), axis=0), x)
        assert not np.array_equal(rows(pipelines.train), train)
        np.testing.assert_array_equal(rows(pipelines.validation), validation)
        assert (len(pipelines.train), len(pipelines.validation)) == (4, 3)
        held_out.add(tuple(validation[::8, 0]))
    assert len(held_out) > 1
    # At least one file is held out, and at least one is not.
    assert [len(rows(load(tmp_path, validation_fraction=f).validation)) for f in (0.01, 0.99)] == [8, 32]
    with pytest.raises(ValueError, match=r"`validation_fraction` must be between 0 and 1. Received: .*=1.0"):
        load(tmp_path, validation_fraction=1.0)
    with pytest.raises(ValueError, match="`image_size` must be None unless"):
        load(tmp_path, image_size=(8, 8))


UNITS = [(np.uint8, None), (np.float64, "threshold")]
OTHER_UNITS = [(np.uint8, "threshold"), (np.bool_, None), (np.bool_, "threshold"), (np.float64, None)]
SLOW_UNITS = [pytest.param(*case, marks=pytest.mark.slow) for case in OTHER_UNITS]


@pytest.mark.parametrize(("dtype", "binarize"), [*UNITS, *SLOW_UNITS])
def test_streamed_files_are_in_the_units_of_arrays(tmp_path, dtype, binarize):
    # All rows are equal, so that it does not matter which are held out.
    x = np.tile((np.arange(20).reshape(4, 5) / 19 * (255 if dtype == np.uint8 else 1)).astype(dtype), (40, 1, 1))
    shard(tmp_path, x)
    streamed, expected = load(tmp_path, binarize=binarize), load(x, binarize=binarize)
    assert streamed.train.element_spec == expected.train.element_spec
    np.testing.assert_array_equal(rows(streamed.train), rows(expected.train))
    np.testing.assert_array_equal(rows(streamed.validation), rows(expected.validation))
    assert (streamed.scale, streamed.offset) == (expected.scale, expected.offset)


@pytest.mark.slow
def test_dynamic_binarisation_of_streamed_files(tmp_path):
    p = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (2500, 1))
    shard(tmp_path, p)
    pipelines = load(tmp_path, batch_size=30, binarize="dynamic")
    # 3 epochs of 2000 equal rows.
    passes, error = np.stack([rows(pipelines.train) for _ in range(3)]), np.sqrt(p[0] * (1 - p[0]) / 6000)
    assert set(np.unique(passes)) == {0.0, 1.0}
    np.testing.assert_array_less(np.abs(passes.mean(axis=(0, 1)) - p[0]), 4 * error + 1e-7)
    assert len(np.unique(passes[:2, :200, 1:7].reshape(400, 6), axis=0)) > 32
    assert not np.array_equal(passes[0], passes[1])
    np.testing.assert_array_equal(rows(load(tmp_path, batch_size=30, binarize="dynamic").train), passes[0])
    np.testing.assert_array_equal(rows(pipelines.validation), rows(pipelines.validation))
    assert set(np.unique(rows(pipelines.validation))) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("value", "binarize", "message"),
    [(2.0, "dynamic", r"`binarize` must .* Received: scaled data from 0 to 2 in '.*9.npy'"), (np.nan, None, "9.npy'")],
)
def test_a_bad_value_in_a_later_file_is_found_before_training(tmp_path, value, binarize, message):
    shard(tmp_path, np.concatenate([np.zeros((99, 2)), [[0.0, value]]]), count=10)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, binarize=binarize)


def test_held_out_examples_are_the_first_ones(tmp_path):
    shard(tmp_path, np.arange(30_000).reshape(-1, 2), count=2)
    for pipelines, count in ((load(tmp_path), 7500), (load(np.zeros((30_000, 1)), validation_fraction=0.5), 10_000)):
        np.testing.assert_array_equal(run_folder.held_out(pipelines), rows(pipelines.validation)[:count])


# Names.


def test_a_keras_name_keeps_its_official_split(monkeypatch):
    rng = np.random.default_rng(0)
    x_train = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    x_test = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((x_train, None), (x_test, None)))
    pipelines = load("mnist", batch_size=4)
    np.testing.assert_array_equal(rows(pipelines.validation), (x_test[..., np.newaxis] / 255.0).astype(np.float32))
    train = rows(pipelines.train)
    assert train.shape == (12, 28, 28, 1)
    sums = x_train.sum(axis=(1, 2)) / 255.0
    np.testing.assert_allclose(np.sort(train.sum(axis=(1, 2, 3))), np.sort(sums), rtol=1e-5)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_the_other_keras_names(monkeypatch, name):
    x = np.full((3, 32, 32, 3), 9, np.uint8)
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: ((x, None), (x[:2], None)))
    arrays = read(name)
    assert arrays.train.shape == (3, 32, 32, 3)
    assert len(arrays.validation) == 2
    assert arrays.scale == 255


def test_a_failed_download_is_told(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    # Only the download is replaced, so that Keras's own handling of the failure is tested.
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"download failed.*local .npz file.* Received: source='mnist'"
    ) as error:
        read("mnist")
    assert "no network" in str(error.value.__cause__)


def test_an_error_that_is_no_failed_download_is_not_called_one(monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        read("mnist")


def test_a_path_object_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("digits", TRAIN)
    (tmp_path / "digits.npy").rename(tmp_path / "mnist")
    with pytest.raises(ValueError, match=r"`source` must be a folder or a file .npy.* Received: source='mnist'"):
        read(tmp_path.joinpath("mnist").relative_to(tmp_path))
