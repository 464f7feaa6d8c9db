"""What `export` of a Keras model does for a model of tfvae."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from tfvae.export import folders, units
from tfvae.export.device import tflite
from tfvae.export.endpoints import Endpoints
from tfvae.export.formats import FORMATS
from tfvae.export.metadata import metadata
from tfvae.export.onnx_runtime import onnx
from tfvae.exportable import Exportable


def _saved_model(
    model: Exportable,
    path: str | os.PathLike[str],
    *,
    x: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Path:
    """Writes a single SavedModel, with nothing beside it."""
    model.check_exportable()
    scaling = units.make(model, offset, scale, x)
    takes_texts = FORMATS["saved_model"].takes_texts
    description = metadata(model, scaling, x, takes_texts)
    model = model.in_float32()
    endpoints = Endpoints(model, x=x, scaling=scaling, takes_texts=takes_texts)
    return folders.write("saved_model", model, endpoints, Path(path), description, x=x)


_FORMATS: dict[str, Callable[..., Path]] = {"tf_saved_model": _saved_model, "litert": tflite, "onnx": onnx}
# The formats that Keras has and tfvae has not, with what to do instead.
_OTHERS = {
    "openvino": 'export a "tf_saved_model" and call openvino.convert_model(path), which reads its `serving_default`',
    "torch": 'PyTorch has no way to read a model of TensorFlow; onnxruntime runs the format "onnx" beside it',
}


def export(
    model: Exportable,
    filepath: str | os.PathLike[str],
    format: str,
    verbose: bool | None,
    input_signature: Any,
    **kwargs: Any,
) -> None:
    """Exports a model: see `Exportable.export`, which passes its arguments on."""
    if format in _OTHERS:
        raise ValueError(f"`format` must be one of {list(_FORMATS)}: {_OTHERS[format]}. Received: format={format!r}")
    if format not in _FORMATS:
        raise ValueError(f"`format` must be one of {list(_FORMATS)}. Received: format={format!r}")
    if input_signature is not None:
        raise ValueError(
            "`input_signature` must be None, because the signatures of this model are its own: see "
            f"tfvae.export.Endpoints. Received: input_signature={input_signature!r}"
        )
    expected = [name for name in inspect.signature(_FORMATS[format]).parameters if name not in ("model", "path")]
    unknown = [name for name in kwargs if name not in expected]
    if unknown:
        raise TypeError(
            f"The other arguments of `export` must be among {expected} for format={format!r}. Received: "
            f"{unknown[0]}={kwargs[unknown[0]]!r}"
        )
    written = _FORMATS[format](model, filepath, **kwargs)
    if verbose or verbose is None:
        print(f"Exported to {written}; tfvae.export.load({str(written)!r}) opens it")
