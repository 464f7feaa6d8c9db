"""Names, files and arrays as pipelines: against NumPy, scikit-learn and PIL, with no network."""

import builtins
import json
import pickle
import subprocess
import sys
import urllib.error

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from tfvae.data import load, read

TRAIN = np.arange(23 * 3, dtype=np.float32).reshape(23, 3)


def rows(dataset):
    """One pass over a dataset, as one array."""
    return np.concatenate(list(dataset.as_numpy_iterator()))


def grey(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def colour(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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
    # The first column names the row.
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])[:, 0]), TRAIN[:, 0])


def test_each_epoch_visits_every_row_once_in_a_new_order():
    train = load(TRAIN, batch_size=4).train
    epochs = [rows(train) for _ in range(4)]
    for epoch in epochs:
        assert len(np.unique(epoch[:, 0])) == len(epoch) == 18
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(epochs[0], axis=0))
    assert len({tuple(epoch[:, 0]) for epoch in epochs}) == 4


def test_the_order_is_uniform():
    # The place of each of 200 rows has the mean 99.5 and the variance (200^2 - 1) / 12; the bound is 4.5 standard
    # errors, for 200 rows are looked at.
    train = load(np.arange(250.0).reshape(250, 1), batch_size=64).train
    orders = np.stack([rows(train)[:, 0] for _ in range(40)])
    places = np.argsort(orders, axis=1)
    np.testing.assert_allclose(places.mean(axis=0), 99.5, atol=4.5 * np.sqrt((200**2 - 1) / 12 / 40))
    # Nor does an epoch depend on the one before.
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


@pytest.mark.parametrize("binarize", [None, "dynamic"])
def test_a_seed_gives_the_same_epochs_whatever_the_global_seed(binarize):
    x = np.random.default_rng(0).random((40, 6))

    def epochs(seed, global_seed):
        tf.random.set_seed(global_seed)
        pipelines = load(x, batch_size=8, binarize=binarize, seed=seed)
        return np.concatenate([rows(pipelines.validation), *(rows(pipelines.train) for _ in range(3))])

    np.testing.assert_array_equal(epochs(1, 10), epochs(1, 20))
    assert not np.array_equal(epochs(1, 10), epochs(2, 10))


@pytest.fixture(scope="module")
def second_process():
    """Two epochs in a new process with two devices: as they are, and split by a strategy between two replicas."""
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
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(process.stdout)


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
    p = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (250, 1))
    pipelines = load(p, batch_size=30, binarize="dynamic")
    epochs = np.stack([rows(pipelines.train) for _ in range(30)])
    assert set(np.unique(epochs)) == {0.0, 1.0}
    assert not np.array_equal(epochs[0], epochs[1])
    # 30 epochs of 200 equal rows; p = 0 and p = 1 are exact.
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

    # Only the network is replaced, so that what Keras makes of it is what is tested.
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


# Files.


def test_npz_with_an_official_split(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=TRAIN, y_train=np.arange(23), x_test=-TRAIN[:4], y_test=np.arange(4))
    pipelines = load(tmp_path / "a.npz", batch_size=3)
    np.testing.assert_array_equal(rows(pipelines.validation), -TRAIN[:4])
    np.testing.assert_array_equal(np.sort(rows(pipelines.train), axis=0), TRAIN)


@pytest.mark.parametrize("keys", [("x_train", "y"), ("x", "y"), ("anything",)])
def test_npz_without_a_test_split(tmp_path, keys):
    np.savez_compressed(tmp_path / "a.npz", **{keys[0]: TRAIN}, **dict.fromkeys(keys[1:], np.arange(23)))
    arrays = read(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(arrays.train, TRAIN)
    assert arrays.validation is None


def test_npy(tmp_path):
    np.save(tmp_path / "a.npy", np.full((6, 4, 4), 200, np.uint8))
    arrays = read(tmp_path / "a.npy")
    assert arrays.train.shape == (6, 4, 4, 1)
    assert arrays.scale == 255


def test_a_pickle_is_never_loaded(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    array = np.empty((2, 2), object)
    array[0, 0] = Touch()
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=array)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Touch()))
    for name in ("a.npy", "a.npz", "b.npy"):
        with pytest.raises(ValueError, match=rf"without pickled objects. Received: .*{name}'.*allow_pickle="):
            read(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped"])
def test_a_corrupt_file_is_told(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    np.save(path, TRAIN) if suffix == ".npy" else np.savez_compressed(path, x=TRAIN)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[3:60] = bytes(255 - byte for byte in flipped[3:60])
    path.write_bytes(
        {"empty": b"", "truncated": content[:-60], "text": b"a,b\n1,2\n", "flipped": bytes(flipped)}[damage]
    )
    with pytest.raises(
        ValueError, match=rf"`source` must be a readable .npy or .npz file.* Received: .*a{suffix}'"
    ) as e:
        read(path)
    assert e.value.__cause__ is not None


# Tables.


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_standardised_by_its_training_split(tmp_path, suffix):
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(5, 3, 50), rng.integers(0, 9, 50), np.full(50, 0.1), rng.random(50) < 0.5], axis=1)
    frame = pd.DataFrame(values, columns=list("abcd")).astype({"b": int, "d": bool})
    path = tmp_path / f"a{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    pipelines = load(path, batch_size=8, seed=4)
    permutation = np.random.default_rng(4).permutation(50)
    train, validation = values[permutation[10:]], values[permutation[:10]]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[2] = 1
    np.testing.assert_allclose(pipelines.offset, mean, rtol=1e-6)
    np.testing.assert_allclose(pipelines.scale, deviation, rtol=1e-6)
    assert pipelines.offset.dtype == pipelines.scale.dtype == np.float32
    np.testing.assert_allclose(rows(pipelines.validation), (validation - mean) / deviation, atol=1e-5)
    standardised = rows(pipelines.train)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(standardised.std(axis=0), [1, 1, 0, 1], atol=1e-6)


def test_a_table_keeps_small_differences_of_large_numbers(tmp_path):
    # In float32 these are one number.
    pd.DataFrame({"t": 1.7e9 + np.arange(50.0)}).to_csv(tmp_path / "a.csv", index=False)
    pipelines = load(tmp_path / "a.csv")
    assert len(np.unique(rows(pipelines.train))) == 40
    np.testing.assert_allclose(rows(pipelines.train).std(), 1, rtol=1e-5)


def test_a_table_keeps_float64_until_it_is_split(tmp_path):
    pd.DataFrame({"a": [1.0, 2.0]}).to_csv(tmp_path / "a.CSV", index=False)
    arrays = read(tmp_path / "a.CSV")
    assert arrays.train.dtype == np.float64
    assert arrays.scale is None
    np.testing.assert_array_equal(arrays.train, [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,x,2\n2,y,3\n", r"a table of numbers. Received: .*a.csv' with the non-numeric columns \['b'\]"),
        ("a,b,c\n1,,2\n2,3,\n", r"a table without missing values. Received: .*a.csv', missing in \['b', 'c'\]"),
        ("a,b\n", r"a table with rows and columns. Received: .*a.csv' of shape \(0, 2\)"),
        ("", "a readable table. Received: .*a.csv': No columns"),
        ("a,b\n1,2\n1,2,3\n", "a readable table. Received: .*a.csv': Error tokenizing"),
        ("a,b\n1,2\n1,inf\n", r"finite numbers, as float32. Received: 1 of 4 NaN or infinite, .* \(1, 1\)"),
    ],
)
def test_a_bad_table_is_told(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"`source` must (be|hold) " + message):
        read(tmp_path / "a.csv")


def test_a_corrupt_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match=r"`source` must be a readable table. Received: .*a.parquet"):
        read(tmp_path / "a.parquet")


def test_a_table_without_pandas_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    real_import = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError("No module named 'pandas'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match=r"pip install 'tfvae\[tables\]'. Received: .*a.csv") as error:
        read(tmp_path / "a.csv")
    assert "pandas" in str(error.value.__cause__)


# Folders of images.


def test_a_folder_of_grey_images_in_subfolders(tmp_path):
    images = [grey(seed=seed) for seed in range(4)]
    for name, image in zip(["a/1.png", "a/2.PNG", "b/c/3.bmp", "0.png"], images, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "readme.txt").write_text("not an image")
    arrays = read(tmp_path)
    assert arrays.train.dtype == np.uint8
    assert arrays.scale == 255
    # Sorted by path.
    np.testing.assert_array_equal(arrays.train[..., 0], np.stack([images[3], *images[:3]]))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_the_alpha_channel_is_dropped(tmp_path, mode):
    image = Image.fromarray(colour()).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image)[..., :1] if mode == "LA" else np.asarray(image)[..., :3]
    np.testing.assert_array_equal(read(tmp_path).train[0], expected)


def test_a_grey_image_among_coloured_ones_gets_three_channels(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "a.png")
    Image.fromarray(colour()).save(tmp_path / "b.png")
    train = read(tmp_path).train
    np.testing.assert_array_equal(train[0], np.repeat(grey()[..., np.newaxis], 3, axis=-1))
    np.testing.assert_array_equal(train[1], colour())


def test_a_jpeg_is_close_to_the_original(tmp_path):
    smooth = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    train = read(tmp_path).train
    assert train.shape == (1, 32, 32, 1)
    np.testing.assert_allclose(train[0, ..., 0].astype(int), smooth, atol=8)


def test_images_are_resized_as_pil_does(tmp_path):
    # PIL, too, averages when it makes an image smaller, and rounds.
    images = [Image.fromarray(grey(32, 40)), Image.fromarray(grey(64, 48))]
    for name, image in zip("ab", images, strict=True):
        image.save(tmp_path / f"{name}.png")
    train = read(tmp_path, image_size=(8, 10)).train
    assert train.dtype == np.uint8
    expected = [np.asarray(image.resize((10, 8), Image.Resampling.BILINEAR)) for image in images]
    difference = train[..., 0] - np.stack(expected).astype(float)
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.1


def test_images_of_two_sizes_ask_for_image_size(tmp_path):
    Image.fromarray(grey(4, 5)).save(tmp_path / "a.png")
    Image.fromarray(grey(6, 5)).save(tmp_path / "b.png")
    match = r"`image_size` must be \(height, width\).* Received: \(4, 5\) in '.*a.png', \(6, 5\) in '.*b.png'"
    with pytest.raises(ValueError, match=match):
        load(tmp_path)
    assert load(tmp_path, image_size=(4, 4), validation_fraction=0.5).train.element_spec.shape == (None, 4, 4, 1)


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"a folder with .bmp, .gif, .jpeg, .jpg, .png images in it. Received: source="
    ):
        read(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a folder of readable images. Received: '.*b.png': ") as error:
        read(tmp_path)
    assert isinstance(error.value.__cause__, tf.errors.InvalidArgumentError)


def test_image_size_without_a_folder_is_told():
    with pytest.raises(ValueError, match=r"`image_size` must be None unless .* Received: image_size=\(8, 8\)"):
        load("digits", image_size=(8, 8))


# What is refused.


@pytest.mark.parametrize("source", ["mnst", "no/such/file.npz"])
def test_neither_a_name_nor_a_path(source):
    match = rf"one of the names digits, mnist, .*cifar100. Received: source='{source}', which is neither a name nor"
    with pytest.raises(FileNotFoundError, match=match):
        load(source)


def test_a_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"existing file or folder.* Received: source='.*a.npy', which is neither"
    ):
        read(tmp_path / "a.npy")


def test_an_unsupported_extension(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a file .npy, .npz, .csv or .parquet. Received: source='.*a.h5'"):
        read(tmp_path / "a.h5")


def test_npz_with_other_keys_lists_them(tmp_path):
    np.savez(tmp_path / "a.npz", images=TRAIN, labels=np.arange(23))
    with pytest.raises(ValueError, match=r"the key x_train .* Received: .*a.npz' with the keys images, labels"):
        read(tmp_path / "a.npz")


def test_npz_whose_splits_differ(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=TRAIN, x_test=TRAIN[:, :2])
    with pytest.raises(ValueError, match=r"both splits. Received: x_train \(23, 3\) float32, x_test \(23, 2\) float32"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x_train=TRAIN, x_test=TRAIN.astype(np.uint8))
    with pytest.raises(ValueError, match=r"one dtype in both splits. Received: .* float32, .* uint8"):
        read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("values", "received"),
    [
        (np.array([["a"]]), "dtype=<U1"),
        (np.array([[1j]]), "dtype=complex128"),
        (np.array([[None]]), "dtype=object"),
        (np.array([["2026-01-01"]], "datetime64[D]"), r"dtype=datetime64\[D\]"),
    ],
)
def test_a_dtype_that_is_no_real_number(values, received):
    with pytest.raises(ValueError, match=r"`source` must hold real numbers .* Received: " + received):
        read(values)


@pytest.mark.parametrize(
    ("values", "received"),
    [(1.0, r"shape=\(\)"), (np.arange(3.0), r"shape=\(3,\)"), (np.zeros((0, 4)), r"shape=\(0, 4\)")],
)
def test_a_shape_that_holds_no_examples(values, received):
    with pytest.raises(ValueError, match=r"shape \[N, ...event\], N > 0; reshape\(-1, 1\) .* Received: " + received):
        read(values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_counted_and_located(value):
    x = np.zeros((4, 3, 2))
    x[1, 2, 0] = x[3, 0, 1] = value
    match = r"finite numbers, as float32. Received: 2 of 24 NaN or infinite, the first at index \(1, 2, 0\)"
    with pytest.raises(ValueError, match=match):
        load(x)


@pytest.mark.parametrize("fraction", [-0.5, 0.0, 0.01, 0.99, 1.0, 1.5])
def test_a_validation_fraction_that_leaves_one_side_empty(fraction):
    match = rf"`validation_fraction` must leave at least one .* Received: validation_fraction={fraction} of 23 examples"
    with pytest.raises(ValueError, match=match):
        load(TRAIN, validation_fraction=fraction)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one(batch_size):
    with pytest.raises(
        ValueError, match=f"`batch_size` must be an integer of at least 1. Received: batch_size={batch_size}"
    ):
        load(TRAIN, batch_size=batch_size)


def test_an_unknown_binarize():
    with pytest.raises(ValueError, match=r"`binarize` must be None, .* Received: binarize='static'"):
        load(binarize="static")


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_binarising_outside_the_unit_interval(binarize):
    match = rf"lie in \[0, 1\]. Received: binarize='{binarize}' with scaled data from -1 to 0.5"
    with pytest.raises(ValueError, match=match):
        load(np.linspace(-1, 0.5, 20).reshape(10, 2), binarize=binarize)
    with pytest.raises(ValueError, match="scaled data from 0 to 68"):
        load(TRAIN, binarize=binarize)
