"""Folders of pictures, read by Pillow, and by TensorFlow where Pillow would cut 16 bits to 8."""

import collections
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tfvae import checks

# Only these are opened: other formats of Pillow start programs or have no pixels of their own.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files in a folder and its subfolders, also those behind links, except hidden ones.

    Returns:
        The pictures, by their suffix, and the other files, each sorted.

    Raises:
        OSError: a subfolder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    pictures: list[Path] = []
    others: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in visited:
            # A link to a folder that has been walked, perhaps to a parent.
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names + [name for name in folders if Path(name).suffix.lower() in SUFFIXES]:
            path = Path(parent, name)
            if not name.startswith("."):
                (pictures if path.suffix.lower() in SUFFIXES else others).append(path)
    return sorted(pictures), sorted(others)


def read(folder: Path, image_size: tuple[int, int] | None, skip_unreadable: bool) -> np.ndarray:
    """Reads the pictures of a folder; a warning counts the other files in it.

    Args:
        folder: the folder.
        image_size: (height, width) to which the pictures are resized. None: they must all have one size.
        skip_unreadable: whether pictures that cannot be read are left out, with a warning that counts them.

    Returns:
        The pictures [N, H, W, C], uint8, or uint16 or float32 if the files hold such; C is 1 or 3.

    Raises:
        ValueError: there are no pictures, one cannot be read, or they differ in size or dtype.
    """
    paths, others = find(folder)
    if not paths:
        raise _invalid(f"a folder with {', '.join(SUFFIXES)} images in it", f"source='{folder}'")
    if others:
        kinds = collections.Counter(path.suffix.lower() or "no suffix" for path in others)
        counted = checks.shown_names(f"{count} {kind}" for kind, count in kinds.most_common())
        warnings.warn(f"'{folder}' has other files than images, which are not read: {counted}", stacklevel=4)
    images: list[np.ndarray] = []
    read_paths: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        try:
            image = _read(path)
        # Damaged files make Pillow raise errors of a dozen classes, not all of which are documented.
        except Exception as error:
            reason = f"'{path}': {checks.brief(error)}"
            if not skip_unreadable:
                expected = "a folder of readable images; skip_unreadable=True leaves out those that are not"
                raise _invalid(expected, reason) from error
            left_out.append(reason)
            continue
        first = images[0] if images else image
        if image.dtype != first.dtype:
            received = f"{first.dtype} in '{read_paths[0]}', {image.dtype} in '{path}'"
            raise _invalid("a folder of images of one dtype", received)
        size = image_size or image.shape[:2]
        if not images:
            shape = [len(paths), *size, image.shape[-1]]
            checks.check_memory(int(np.prod(shape)) * image.itemsize, "source", f"'{folder}' of shape {shape}")
        if image_size is not None:
            resized = tf.image.resize(image, image_size, antialias=True).numpy()
            image = resized if image.dtype == np.float32 else np.round(resized).astype(image.dtype)
        elif size != first.shape[:2]:
            received = f"{first.shape[:2]} in '{read_paths[0]}', {size} in '{path}'"
            raise ValueError(
                f"`image_size` must be (height, width) when the images differ in size. Received: {received}"
            )
        images.append(image)
        read_paths.append(path)
    if left_out:
        message = f"{len(left_out)} of {len(paths)} images cannot be read and are left out: "
        if not images:
            raise _invalid("a folder of readable images", message + checks.shown_names(left_out, 3))
        warnings.warn(message + checks.shown_names(left_out, 3), stacklevel=4)
    channels = max(image.shape[-1] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _invalid(expected: str, received: str) -> ValueError:
    return ValueError(f"`source` must be {expected}. Received: {received}")


def _read(path: Path) -> np.ndarray:
    """The pixels of a file [H, W, 1 or 3], upright as EXIF says, and without the alpha channel."""
    # Opening a pipe would wait for a writer.
    if not path.is_file():
        raise ValueError("it is a folder, a link to nothing or no regular file")
    with warnings.catch_warnings():
        # Pillow raises an error only for twice the number of pixels that it warns of.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path, formats=_FORMATS)
    with image:
        # The second picture in a photo of the format MPO is a preview, or the view of the other eye.
        count = getattr(image, "n_frames", 1)
        if image.format != "MPO" and count > 1:
            raise ValueError(f"it holds {count} images; write each to a file of its own")
        if _is_cut(image):
            pixels = _read_16_bits(path, image)
        else:
            image.load()
            pixels = np.asarray(_plain(ImageOps.exif_transpose(image), image.format))
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    # The alpha channel is the second of two (grey) or the fourth of four (RGB).
    return pixels[..., :1] if pixels.shape[-1] < 3 else pixels[..., :3]


def _plain(image: Image.Image, file_format: str | None) -> Image.Image:
    """The image in a mode whose array has all of its levels: grey or RGB, perhaps with alpha, 16-bit or float."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "F") or image.mode.startswith("I;16"):
        return image
    if image.mode == "I" and file_format == "PPM":
        # A .pgm of up to 16 bits, which Pillow scales to 65535.
        return image.convert("I;16")
    if image.mode == "I":
        raise ValueError("it holds integers of more than 16 bits; save it as a 16-bit .png, or as floats in a .tif")
    return image.convert("L" if image.mode == "1" else "RGB")


def _is_cut(image: Any) -> bool:
    """Whether Pillow reads an image of more than 8 bits a channel with 8."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8
    if image.format == "PPM":
        # The highest level, after the mode.
        return any(isinstance(tile.args, tuple) and tile.args[1] > 255 for tile in image.tile)
    return any("16" in str(tile.args) for tile in image.tile)


def _read_16_bits(path: Path, image: Image.Image) -> np.ndarray:
    if image.format != "PNG" or image.getexif().get(0x0112, 1) != 1:
        raise ValueError("it has 16 bits a channel in colour, which is read only from an upright .png")
    return tf.io.decode_png(path.read_bytes(), dtype=tf.uint16).numpy()
