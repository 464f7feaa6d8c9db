"""What `tfvae.data` reads from files and folders of images, and what it rejects."""

import pickle

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfvae.data import load, read

TRAIN = np.arange(23 * 3, dtype=np.float32).reshape(23, 3)


def rows(dataset):
    """One pass over a dataset, as one array."""
    return np.concatenate(list(dataset.as_numpy_iterator()))


def grey(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def colour(height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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
        with pytest.raises(ValueError, match=rf"without pickled objects. Received: .*{name}'"):
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


# Folders of images.


def test_a_folder_of_grey_images_in_subfolders(tmp_path):
    images = [grey(seed=seed) for seed in range(4)]
    for name, image in zip(["a/1.png", "a/2.PNG", "b/c/3.bmp", "0.png"], images, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_text("not an image")
    for name in ("readme.txt", "a/notes.txt", "b/photo.heic"):
        (tmp_path / name).write_text("not an image")
    with pytest.warns(UserWarning, match=r"other files than images, which are not read: 2 .txt, 1 .heic$"):
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
    # PIL also averages when it shrinks an image, and rounds.
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
        ValueError, match=r"a folder with .bmp, .gif, .jpeg, .jpg, .*.webp images in it. Received: source="
    ):
        read(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"skip_unreadable=True leaves out.* Received: '.*b.png': cannot identify"):
        read(tmp_path)


def test_image_size_without_a_folder_is_told():
    with pytest.raises(ValueError, match=r"`image_size` must be None unless .* Received: image_size=\(8, 8\)"):
        load("digits", image_size=(8, 8))


# Several files are streamed.


def example(**features):
    """A serialized example with bytes features."""
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[x])) for name, x in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("*.nothing", r"`source` must be existing files. Received: \*.nothing"),
        (["a.npy", "b.npy", "c.npy"], r"existing files. Received: b.npy, c.npy"),
        (["a.npy", "r.tfrecord"], r"all .tfrecord, or each .npy or .npz. Received: the suffixes .npy, .tfrecord"),
        (["a.npy", "other.npy"], r"rows of .*, float32 \[3\] as in 'a.npy'. Received: int64 \[3\] in 'other.npy'"),
        (["a.npy", "text.npy"], r"a readable .npy or .npz file without .* Received: source='text.npy': "),
        ("t*.npz", r"a readable .npy or .npz file without .* Received: source='text.npz': "),
        (["keys.npz"], r"the key x_train .* Received: source='keys.npz' with the keys a, b"),
        (["empty.npy"], r"at least one in each file. Received: 0 rows of the shape \[3\] in 'empty.npy'"),
        (["flat.npy"], r"of the shape \[...event\].* Received: 23 rows of the shape \[\] in 'flat.npy'"),
        ("text.tfrecord", "readable TFRecords. Received: 'text.tfrecord', which is truncated or corrupt"),
        (["r.tfrecord", "cut.tfrecord"], "readable TFRecords. Received: 'cut.tfrecord', which is truncated or corrupt"),
        (["r.tfrecord", "flipped.tfrecord"], "readable TFRecords. Received: 'flipped.tfrecord', which is truncated or"),
        ("empty.tfrecord", "at least one in each file. Received: 0 rows .* in 'empty.tfrecord'"),
        ("image.tfrecord", r'a feature "x".* Received: the features \[.image., .label.\] in .image.tfrecord'),
        ("raw.tfrecord", "records of tf.train.Example. Received: 'raw.tfrecord': "),
        ("bytes.tfrecord", r'have in "x" what `tf.io.serialize_tensor` gives. Received: .bytes.tfrecord.: '),
        ("string.tfrecord", "real numbers .* Received: object in 'string.tfrecord'"),
        ("r.tfrecord", "`source` must be at least two files, so that whole .* Received: source='r.tfrecord'"),
    ],
)
def test_bad_files_among_several_are_told(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    arrays = {"a": TRAIN, "other": TRAIN.astype(int), "empty": TRAIN[:0], "flat": TRAIN[:, 0]}
    for name, x in arrays.items():
        np.save(name, x)
    np.savez("keys.npz", a=TRAIN, b=TRAIN)
    row, text = (tf.io.serialize_tensor(x).numpy() for x in (TRAIN[0], [["a"]]))
    records = {"r": example(x=row), "bytes": example(x=b"no tensor"), "string": example(x=text), "raw": b"no example"}
    for name, record in {**records, "image": example(image=row, label=b"1")}.items():
        with tf.io.TFRecordWriter(f"{name}.tfrecord") as writer:
            writer.write(record)
    content = (tmp_path / "r.tfrecord").read_bytes()
    (tmp_path / "empty.tfrecord").touch()
    (tmp_path / "cut.tfrecord").write_bytes(content[:-9])
    (tmp_path / "flipped.tfrecord").write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    for suffix in ("npy", "npz", "tfrecord"):
        (tmp_path / f"text.{suffix}").write_text("a,b,c,d,e,f\n1,2,3,4,5,6\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(source)


# Errors.


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
