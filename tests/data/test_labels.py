"""The classes of held-out examples are those of the examples that `load` holds out."""

import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tfvae.data import labels, loading


def held_out(source, **arguments):
    return np.concatenate(list(loading.load(source, **arguments).validation.as_numpy_iterator()))


@pytest.mark.parametrize("arguments", [{}, {"validation_fraction": 0.3, "seed": 5}])
def test_digits(arguments):
    x, found = held_out("digits", **arguments), labels.of_validation("digits", **arguments)
    digits = load_digits()
    by_pixels = {image.tobytes(): target for image, target in zip(digits.images, digits.target, strict=True)}
    assert [by_pixels[image.tobytes()] for image in (16 * x[..., 0]).astype(float)] == found.tolist()


@pytest.mark.parametrize("shape", [(30,), (30, 1)])
def test_a_file_with_y(shape, tmp_path):
    y = np.arange(30).reshape(shape)
    np.savez(tmp_path / "a.npz", x=np.arange(30.0, dtype="float32")[:, np.newaxis], y=y)
    x = held_out(tmp_path / "a.npz")
    np.testing.assert_array_equal(labels.of_validation(tmp_path / "a.npz"), x[:, 0])


def test_a_file_with_an_official_split(tmp_path):
    x = np.zeros((4, 2), "float32")
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x, y_train=np.arange(4), y_test=np.arange(4, 8))
    np.testing.assert_array_equal(labels.of_validation(tmp_path / "a.npz"), np.arange(4, 8))


def test_a_folder_of_classes(tmp_path):
    for number in range(12):
        path = tmp_path / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((3, 3), number, "uint8")).save(path)
    numbers = np.round(255 * held_out(tmp_path)[:, 0, 0, 0]).astype(int)
    np.testing.assert_array_equal(labels.of_validation(tmp_path), np.where(numbers % 2, "odd", "even"))


def test_what_has_no_classes(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 2), "float32"))
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2), "float32"), y=np.zeros((5, 3)))
    Image.fromarray(np.zeros((3, 3), "uint8")).save(tmp_path / "0.png")
    for source in (tmp_path / "a.npy", tmp_path / "a.npz", tmp_path, np.zeros((5, 2))):
        assert labels.of_validation(source) is None


@pytest.mark.parametrize(
    "y",
    [
        {"y": np.arange(9)},
        {"y_train": np.arange(5)},
        {"x_train": np.zeros((5, 2)), "x_test": np.zeros((3, 2)), "y_train": np.arange(5)},
        {"x_train": np.zeros((5, 2)), "x_test": np.zeros((3, 2)), "y_train": np.arange(5), "y_test": np.arange(5)},
    ],
    ids=["another length", "no x_train", "no y_test", "another length of y_test"],
)
def test_classes_that_do_not_fit_the_examples_are_none(y, tmp_path):
    np.savez(tmp_path / "a.npz", **{"x": np.zeros((5, 2), "float32"), **y} if "x_train" not in y else y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labels.of_validation(tmp_path / "a.npz") is None


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([f"class {number}" for number in range(400)]), "Received: [0-9]+ classes"),
        (np.full(400, np.nan), "Received: classes that are NaN or infinite"),
        (np.array([None] * 400, object), "pickled objects"),
    ],
    ids=["many", "NaN", "objects"],
)
def test_classes_that_cannot_be_shown_are_warned_of(y, message, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((400, 2), "float32"), y=y)
    with pytest.warns(UserWarning, match=message):
        assert labels.of_validation(tmp_path / "a.npz") is None
