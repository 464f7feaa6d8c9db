"""TFLite files of built-in ops only, which LiteRT runs on a device."""

import os
import tempfile
from pathlib import Path

import tensorflow as tf

from tfvae.export.saved_model import SIGNATURES, make_endpoints
from tfvae.vae import VAE


def tflite(model: VAE, path: str | os.PathLike[str]) -> Path:
    """Writes the model as one .tflite file with the signatures of the SavedModel, and the weights once.

    Args:
        model: a model that is built.
        path: the file to write; it appears complete, or not at all.

    Returns:
        The file.

    Raises:
        ValueError: the model is not built.
    """
    endpoints, signatures = make_endpoints(model)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as temporary:
        folder = Path(temporary) / "model"
        tf.saved_model.save(endpoints, str(folder), signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(SIGNATURES))
        content = Path(temporary) / path.name
        content.write_bytes(converter.convert())
        os.replace(content, path)
    return path
