"""TFLite files of built-in ops only, which LiteRT runs on a device."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import files, private_apis
from tfvae.export.endpoints import Endpoints, in_float32
from tfvae.export.metadata import metadata, write_json
from tfvae.export.verification import check_agreement, conditions_of, data_of, named
from tfvae.models.autoencoder import Autoencoder

# Examples that calibrate the ranges of int8: more change little and take long.
_CALIBRATION_EXAMPLES = 256


def tflite(
    model: Autoencoder,
    path: str | os.PathLike[str],
    *,
    quantize: Literal["float16", "dynamic", "int8"] | None = None,
    x: ArrayLike | None = None,
    batch_size: Literal[1] | None = None,
    offset: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Path:
    """Writes the model as one .tflite file, and what a caller must know of it as <path without suffix>.json.

    The file has the signatures of `tfvae.export.Endpoints`, the weights once, and built-in ops only.

    Args:
        model: a model that is built.
        path: the file to write, *.tflite; it appears complete, or not at all.
        quantize: None for float32, which is compared with the Keras model; "float16" halves the weights; "dynamic"
            makes them int8; "int8" makes the activations int8 too, and the scores coarse.
        x: data as for `fit`: needed for "int8", which takes the ranges of the activations from it (give training data,
            and verify with other), and used for the comparison of float32, which without it draws from the model.
        batch_size: 1 fixes B to 1, which makes convolutions up to twice as fast; None takes any B.
        offset: with `scale`, how to bring raw data into the model's units: x = (raw - offset) / scale;
            None leaves it unsaid.
        scale: see `offset`.

    Returns:
        The file.

    Raises:
        ValueError: the model is not built, an argument is out of its range, or the file does not agree with the model.
        NotImplementedError: a part of the model cannot be exported.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(f"`path` must be a file that ends in .tflite. Received: path={str(path)!r}")
    if quantize not in (None, "float16", "dynamic", "int8"):
        raise ValueError(f'`quantize` must be None, "float16", "dynamic" or "int8". Received: quantize={quantize!r}')
    if quantize == "int8" and x is None:
        raise ValueError('`x` must hold examples for quantize="int8", to calibrate it. Received: x=None')
    if x is not None and isinstance(model, Autoencoder):
        x = data_of(model, x)
    if batch_size not in (None, 1):
        raise ValueError(f"`batch_size` must be 1 or None. Received: batch_size={batch_size!r}")
    model = in_float32(model)
    if quantize == "int8" and model.likelihood.allows_missing:
        raise NotImplementedError('quantize="int8" has no number for NaN, which marks what is missing in x')
    endpoints = Endpoints(model, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(endpoints, folder, signatures=endpoints.signatures_by_name)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(endpoints.signatures_by_name))
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif quantize == "int8":
            calibrating = tf.nest.map_structure(lambda array: array[:_CALIBRATION_EXAMPLES], x)
            converter.representative_dataset = lambda: _calibration(model, calibrating)
        try:
            content = converter.convert()
        except private_apis.converter_error() as error:
            raise NotImplementedError(f"TFLite cannot run this model with its built-in ops: {error}") from error
        if quantize is None:
            converted = Path(folder) / "model.tflite"
            converted.write_bytes(content)
            check_agreement(model, tflite=converted, x=x)
    # Written beside and moved in, so that a reader never sees a part.
    with files.temporary_folder(path.parent) as folder:
        description, written = folder / "description.json", folder / "model.tflite"
        write_json(description, {**metadata(model, offset, scale), "quantize": quantize, "batch_size": batch_size})
        written.write_bytes(content)
        files.move_in(description, path.with_suffix(".json"))
        files.move_in(written, path)
    return path


def _calibration(model: Autoencoder, x: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Inputs for each signature, one example at a time, as the converter takes them."""
    given = named(x)
    noise = np.random.default_rng(0).standard_normal([len(given["x"]), model._epsilon_dim], np.float32)
    tensors = tf.nest.map_structure(lambda array: tf.constant(array, tf.float32), x)
    draws = model._from_posterior(tensors, tf.constant(noise)).numpy()
    for row in range(len(noise)):
        epsilon, z = (array[row : row + 1] for array in (noise, draws))
        example = {name: array[row : row + 1].astype(np.float32) for name, array in given.items()}
        conditions = conditions_of(model, example)
        yield "encode", example
        yield "decode", {"z": z, **conditions}
        yield "reconstruct", example
        yield "generate", {"epsilon": epsilon, **conditions}
        yield "score", {**example, "epsilon": epsilon}
        yield "serving_default", example
        for name in model._functions_of_x:
            yield name, {"x": example["x"]}
