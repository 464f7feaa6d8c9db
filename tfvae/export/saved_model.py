"""SavedModels that TF Serving and plain TensorFlow load, with no tfvae, Keras or TFP at serving time."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfvae.vae import VAE

SIGNATURES = ("encode", "decode", "reconstruct", "serving_default")


def saved_model(model: VAE, path: str | os.PathLike[str]) -> Path:
    """Writes the model as the next version in a folder that TF Serving reads.

    Signatures, each with a dynamic batch, in float32:

    - `encode`: x [B, ...] to the parameters of q(z|x) by name (`loc` and `scale` [B, L] for `DiagonalNormal`);
    - `decode`: z [B, L] to `mean` [B, ...], the mean of p(x|z);
    - `reconstruct` and `serving_default`: x [B, ...] to `mean` [B, ...], at the mean of q(z|x).

    Args:
        model: a model that is built.
        path: the model's folder; versions are its subfolders 1, 2, ...

    Returns:
        The folder of the new version, one above the highest there. It appears complete: it is written beside and moved
        in by one rename.

    Raises:
        ValueError: the model is not built.
    """
    endpoints, signatures = make_endpoints(model)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    try:
        tf.saved_model.save(endpoints, str(temporary / "model"), signatures=signatures)
        version = folder / str(1 + max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0))
        os.rename(temporary / "model", version)
    finally:
        shutil.rmtree(temporary)
    return version


def make_endpoints(model: VAE) -> tuple[tf.Module, dict[str, Any]]:
    """Makes the module that is saved, and its signatures by name.

    Args:
        model: a model that is built.

    Returns:
        A module that holds the variables once, and a traced function for each of `SIGNATURES`.

    Raises:
        ValueError: the model is not built.
    """
    if not model.built:
        raise ValueError("`model` must be built before it is exported: fit it, or call it. Received: a new model")
    x_spec = tf.TensorSpec([None, *model.event_shape], tf.float32, name="x")
    z_spec = tf.TensorSpec([None, model.latent_dim], tf.float32, name="z")

    # A server hands on whatever a client sends, and a convolution given the wrong rank ends the server's process.
    def encode(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.posterior(model.encoder(tf.ensure_shape(x, x_spec.shape), training=False))

    def decode(z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mean": model.likelihood.mean(model.decoder(tf.ensure_shape(z, z_spec.shape), training=False))}

    def reconstruct(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return decode(model.posterior.distribution(encode(x)).mean())

    functions = {
        "encode": (encode, x_spec),
        "decode": (decode, z_spec),
        "reconstruct": (reconstruct, x_spec),
        "serving_default": (reconstruct, x_spec),
    }
    module = tf.Module()
    parts = (model.encoder, model.posterior, model.decoder, model.likelihood)
    module.parameters = [weight.value for part in parts for weight in part.weights]
    signatures = {
        name: tf.function(function, input_signature=[spec]).get_concrete_function()
        for name, (function, spec) in functions.items()
    }
    return module, signatures
