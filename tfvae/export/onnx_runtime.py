"""Exports models to ONNX, which ONNX Runtime and many other runtimes run."""

import os
from pathlib import Path
from typing import Literal

from numpy.typing import ArrayLike

from tfvae.export import folders, units
from tfvae.export.endpoints import Endpoints, check_kind, fixed_steps
from tfvae.export.formats import FORMATS
from tfvae.export.metadata import metadata
from tfvae.exportable import Exportable


def onnx(
    model: Exportable,
    path: str | os.PathLike[str],
    *,
    x: ArrayLike | None = None,
    batch_size: Literal[1] | None = None,
    offset: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Path:
    """Writes the model as a folder of ONNX models, one for each signature, with a description in metadata.json.

    An ONNX model has a single function, so each signature of `tfvae.export.Endpoints` is a file of its own,
    `<signature>.onnx`, with its own copy of the weights that it uses: `encode` has those of the encoder, `decode` those
    of the decoder, `score` both. Copy only those that you call, and metadata.json for its checks and units. The `state`
    that `step` gives is called `state_after`. The folder is compared with the Keras model in ONNX Runtime before it is
    published. Requires `pip install 'tfvae[onnx]'`.

    Args:
        model: a model that is built.
        path: the folder to write. It appears complete, or not at all, and replaces an earlier ONNX export.
        x: data as for `fit`, for the comparison; None draws them from the model.
        batch_size: 1 fixes B to 1; None allows any B.
        offset: with `scale`, how raw data become those of the model, x = (raw - offset) / scale: numbers, or arrays
            that broadcast to the event shape. The models then take and give raw data: see `tfvae.export.Endpoints`.
            None means that they take x as it is.
        scale: see `offset`.

    Returns:
        The folder.

    Raises:
        ImportError: tf2onnx, ONNX or ONNX Runtime is not installed.
        ValueError: the model is not built, an argument is out of its range, or the export does not agree with the
            model.
        NotImplementedError: a part of the model cannot be exported.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        raise ValueError(
            "`path` must be a folder, because ONNX has a file for each signature. Received: "
            f"path={str(path)!r}, the name of a file"
        )
    if batch_size not in (None, 1):
        raise ValueError(f"`batch_size` must be 1 or None. Received: batch_size={batch_size!r}")
    check_kind(model, FORMATS["onnx"].name)
    if x is not None:
        x = model.export_data(x)
    model.check_exportable()
    scaling = units.make(model, offset, scale, x)
    description = {**metadata(model, scaling, x), "batch_size": batch_size}
    model = model.in_float32()
    endpoints = Endpoints(model, batch_size, x, scaling, num_steps=fixed_steps(model, x))
    return folders.write("onnx", model, endpoints, path, description, x=x)
