"""Folders of pictures: every level, every orientation and every file is read, or told in one line."""

import contextlib
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image

from tfvae.cli import run_folder
from tfvae.data import load, read

GREY = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
SIXTEEN = np.random.default_rng(0).integers(0, 2**12, (6, 8, 3)).astype(np.uint16)


def save(path, image=GREY, **options):
    Image.fromarray(image).save(path, **options)


def png_of_60000_by_60000(path):
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
    ):
        chunks += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(chunks)


def two_frames(path):
    image = Image.fromarray(GREY)
    image.save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)])


def truncated(path):
    save(path)
    path.write_bytes(path.read_bytes()[:-60])


def colour_of_16_bits_in_ppm(path):
    path.write_bytes(b"P6 2 2 65535\n" + SIXTEEN.tobytes()[:24])


UNREADABLE = {
    "pipe.png": (os.mkfifo, "no regular file"),
    "link.png": (lambda path: path.symlink_to("nowhere.png"), "a link to nothing"),
    "folder.png": (lambda path: path.mkdir(), "it is a folder"),
    "text.png": (lambda path: path.write_text("no image"), "cannot identify image file"),
    "empty.jpg": (lambda path: path.touch(), "cannot identify image file"),
    "cut.jpg": (truncated, "runcated"),
    "bomb.png": (png_of_60000_by_60000, "3600000000 pixels"),
    "frames.gif": (two_frames, "it holds 2 images"),
    "pages.tif": (two_frames, "it holds 2 images"),
    "integers.tif": (lambda path: save(path, GREY.astype(np.int32)), "integers of more than 16 bits"),
    "colour.ppm": (colour_of_16_bits_in_ppm, "16 bits a channel in colour"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_image_that_cannot_be_read_is_named_in_one_line_or_counted(tmp_path, name):
    make, reason = UNREADABLE[name]
    make(tmp_path / name)
    save(tmp_path / "good.png")
    with pytest.raises(ValueError, match=f"`source` must be a folder of .* Received: '.*{name}': .*{reason}") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=f"^1 of 2 images cannot be read and are left out: '.*{name}': .*{reason}"):
        arrays = read(tmp_path, skip_unreadable=True)
    np.testing.assert_array_equal(arrays.train, GREY[np.newaxis, ..., np.newaxis])


def test_a_folder_without_one_readable_image(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").touch()
    message = r"readable images. Received: 20 of 20 images cannot .*0.png.*, \.\.\. \(20 in all\)$"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, skip_unreadable=True)


def test_every_kind_of_image_in_a_folder_is_read(tmp_path):
    suffixes = ("png", "webp", "tif", "tiff", "bmp", "jpg", "JPEG", "gif", "pgm", "ppm")
    for suffix in suffixes:
        options = {"lossless": True} if suffix == "webp" else {}
        save(
            tmp_path / f"a.{suffix}",
            np.full((8, 8, 3), 100, np.uint8)[..., 0 if suffix == "pgm" else slice(3)],
            **options,
        )
    arrays = read(tmp_path)
    assert arrays.train.shape == (len(suffixes), 8, 8, 3)
    np.testing.assert_allclose(arrays.train.astype(int), 100, atol=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_pngs_keep_their_levels(tmp_path, channels):
    x = np.dstack([SIXTEEN, SIXTEEN])[..., :channels]
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(x).numpy())
    arrays = read(tmp_path)
    np.testing.assert_array_equal(arrays.train[0], x[..., : 1 if channels < 3 else 3])
    assert arrays.scale == 65535


def test_16_bit_images_are_scaled_and_resized_with_their_levels(tmp_path):
    for name in ("a.png", "b.tif", "c.png"):
        save(tmp_path / name, SIXTEEN[..., 0])
    pipelines = load(tmp_path)
    assert pipelines.scale == 65535
    for batch in (*pipelines.train, *pipelines.validation):
        np.testing.assert_array_equal(batch[0, ..., 0], SIXTEEN[..., 0] / np.float32(65535))
    resized = read(tmp_path, image_size=(3, 4)).train
    assert resized.dtype == np.uint16
    # Each new pixel is a weighted mean of those around it.
    assert abs(resized.mean() / SIXTEEN[..., 0].mean() - 1) < 0.1


@pytest.mark.parametrize(("highest", "level"), [(255, 1), (4095, 65535 / 4095)])
def test_pgm_has_its_levels(tmp_path, highest, level):
    x = np.arange(200, 212).reshape(3, 4)
    (tmp_path / "a.pgm").write_bytes(
        b"P5 4 3 %d\n" % highest + x.astype(np.uint8 if highest < 256 else ">u2").tobytes()
    )
    np.testing.assert_allclose(read(tmp_path).train[0, ..., 0], x * level, atol=0.5)


def test_float_images_keep_their_values(tmp_path):
    x = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    save(tmp_path / "a.tif", x)
    arrays = read(tmp_path)
    np.testing.assert_array_equal(arrays.train[0, ..., 0], x)
    assert arrays.scale == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.png", exif=exif)
    # As EXIF 2.3, section 4.6.4, defines the row and the column that come first in the file.
    upright = [
        GREY,
        GREY[:, ::-1],
        GREY[::-1, ::-1],
        GREY[::-1],
        GREY.T,
        GREY[::-1].T,
        GREY[::-1, ::-1].T,
        GREY.T[::-1],
    ]
    np.testing.assert_array_equal(read(tmp_path).train[0, ..., 0], upright[orientation - 1])


def test_images_of_8_and_16_bits_are_not_mixed(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", SIXTEEN[..., 0])
    with pytest.raises(ValueError, match=r"one dtype. Received: uint8 in '.*a.png', uint16 in '.*b.png'"):
        read(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "source").mkdir()
    save(tmp_path / "source" / "b.png")
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "source")
    assert len(read(tmp_path / "source").train) == 2


@pytest.mark.parametrize("image_size", [(0, 4), (4,), (4.0, 4), 4, (True, 4)])
def test_an_image_size_that_is_none(tmp_path, image_size):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"`image_size` must be two integers above 0.* Received: image_size="):
        read(tmp_path, image_size=image_size)


def test_images_that_would_not_fit_in_memory_are_refused_before_they_are_resized(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"must fit in memory twice.*shape \[1, 1000000, 1000000, 1\], 1e\+03 GB"):
        read(tmp_path, image_size=(10**6, 10**6))


def test_skip_unreadable_is_for_folders_of_images():
    with pytest.raises(ValueError, match=r"`skip_unreadable` must be False unless .* Received: skip_unreadable=True"):
        load("digits", skip_unreadable=True)
    with pytest.raises(ValueError, match="`skip_unreadable` must be True or False"):
        load("digits", skip_unreadable="yes")


@pytest.mark.parametrize("skip", [True, None])
def test_a_run_reads_its_images_again_as_it_was_told_to(tmp_path, skip):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        save(tmp_path / "images" / name)
    config = {"data": str(tmp_path / "images"), "batch_size": 4, "validation_fraction": 0.5, "seed": 0}
    config |= {"binarize": None, "image_size": None}
    # Runs of earlier versions do not say whether to skip.
    if skip is not None:
        (tmp_path / "images" / "c.png").touch()
        config["skip_unreadable"] = skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.warns(UserWarning, match="1 of 3 images") if skip else contextlib.nullcontext():
        assert len(run_folder.held_out(run_folder.load_data(tmp_path))) == 1
