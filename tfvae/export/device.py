"""Exports models to TFLite files of built-in ops only, which LiteRT runs on a device."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae.export import one_file, units
from tfvae.export.endpoints import Endpoints, check_kind, fixed_steps
from tfvae.export.formats import FORMATS, tflite_refusals
from tfvae.export.metadata import metadata
from tfvae.export.verification import DisagreementError
from tfvae.exportable import Exportable

# The most examples that calibrate the ranges of int8: more would change little and take long.
_CALIBRATION_EXAMPLES = 256
# How far a quantised file may be from itself, at other batch sizes and in other runtimes: None compares with the Keras
# model. In float16 only the weights are coarse, and the arithmetic is that of float32. Where activations are int8, one
# that falls between two integers may be rounded to either, which is 1 of the 127 steps of its range.
_OWN_TOLERANCES = {None: None, "float16": 1e-4, "dynamic": 1 / 127, "int8": 1 / 127}
# The largest step of int8 in x, relative to the scale of an element: standardised data have some 30 steps then.
_LARGEST_STEP = 0.2


def tflite(
    model: Exportable,
    path: str | os.PathLike[str],
    *,
    quantize: Literal["float16", "dynamic", "int8"] | None = None,
    x: ArrayLike | None = None,
    batch_size: Literal[1] | None = None,
    offset: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Path:
    """Writes the model as one .tflite file, and what a caller must know about it as <path without suffix>.json.

    The file has the signatures of `tfvae.export.Endpoints`, the weights once, and built-in ops only.

    Args:
        model: a model that is built.
        path: the file to write, *.tflite; it appears complete, or not at all.
        quantize: None for float32; "float16" stores the weights in half the size; "dynamic" makes the weights int8;
            "int8" makes the activations int8 too, and the scores coarse.
        x: data as for `fit`. A float32 file is compared with the Keras model on them, by each interface of LiteRT and
            for several B, and a quantised file with itself; None draws data from the model. "int8" requires them to
            calibrate the ranges of the activations: pass training data, and verify the file with other data.
        batch_size: 1 fixes B to 1, which GPUs and browsers need, and makes convolutions up to twice as fast; None
            allows any B, except that models which TFLite can only run with B = 1, such as those with an LSTM or GRU,
            are written so, with a warning.
        offset: with `scale`, how raw data become those of the model, x = (raw - offset) / scale: numbers, or arrays
            that broadcast to the event shape. The file then takes and gives raw data: see `Endpoints`. None means that
            it takes x as it is.
        scale: see `offset`.

    Returns:
        The file.

    Raises:
        ValueError: the model is not built, an argument is out of its range, or the file does not agree with the model,
            or, quantised, with itself.
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
    if batch_size not in (None, 1):
        raise ValueError(f"`batch_size` must be 1 or None. Received: batch_size={batch_size!r}")
    check_kind(model, FORMATS["tflite"].name)
    if x is not None:
        x = model.export_data(x)
    model.check_exportable()
    scaling = units.make(model, offset, scale, x)
    if quantize == "int8" and scaling is not None:
        _check_int8_steps(scaling, x)
    if quantize == "int8" and "num_codes" in model.export_description():
        raise NotImplementedError('quantize="int8" would round codes, which are integers; use "float16"')
    if quantize == "int8" and model.export_description().get("missing_values", False):
        raise NotImplementedError('quantize="int8" has no number for NaN, which marks missing values in x')
    model = model.in_float32()
    num_steps = fixed_steps(model, x)
    description = {**metadata(model, scaling, x), "quantize": quantize}

    def write(batch_size: int | None) -> Path:
        endpoints = Endpoints(
            model,
            batch_size,
            x,
            scaling,
            marks_wrong_rows=quantize != "int8",
            is_coarse=quantize in ("dynamic", "int8"),
            num_steps=num_steps,
        )
        if quantize == "int8" and endpoints.have_loops():
            # The converter's calibration of a loop ends the process by a segmentation fault.
            raise NotImplementedError(
                'quantize="int8" cannot calibrate a loop, which recurrent layers such as LSTM and GRU have unless they '
                'are given `unroll=True`; use "dynamic" or "float16"'
            )
        open_list = None if batch_size else endpoints.list_of_open_shape()
        if open_list is not None:
            # The converter would say so on many pages.
            raise tflite_refusals.of_list(open_list)
        try:
            return one_file.write(
                "tflite",
                model,
                endpoints,
                path,
                {**description, "batch_size": batch_size},
                x=x,
                own_tolerance=_OWN_TOLERANCES[quantize],
                quantize=quantize,
                calibration=lambda: _calibration(model, x, scaling, endpoints),
            )
        except NotImplementedError:
            raise
        except RuntimeError as error:
            # LiteRT's, when the written file is compared with the model.
            raise tflite_refusals.of_runtime(str(error)) from error

    if batch_size is not None:
        return write(batch_size)
    try:
        return write(None)
    except (tflite_refusals.BatchSizeError, DisagreementError) as refusal:
        write(1)
        warnings.warn(
            f"`batch_size` is 1 in {path}, which takes one example at a time. For any batch: "
            f"{str(refusal).splitlines()[0]}",
            stacklevel=2,
        )
        return path


def _check_int8_steps(scaling: units.Units, x: Any) -> None:
    """Raises NotImplementedError if int8, which has one range for all of x, is too coarse for some of its elements."""
    raw = scaling.to_raw({"x": x["x"] if isinstance(x, dict) else x})["x"]
    step, smallest = np.ptp(raw) / 255, np.abs(scaling.scale).min()
    if step > _LARGEST_STEP * smallest:
        raise NotImplementedError(
            'quantize="int8" has one range for all elements of x, which is too coarse where their units differ as much '
            f'as here; use "dynamic" or "float16". Received: `scale` of {smallest:g} where a step of int8 is {step:g}'
        )


def _calibration(
    model: Exportable, x: Any, scaling: units.Units | None, endpoints: Endpoints
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields inputs for each signature, one example at a time, in the form that the converter takes."""
    x = tf.nest.map_structure(lambda array: array[:_CALIBRATION_EXAMPLES], x)
    made = units.examples(model, scaling, x, calibrating=True)
    examples = {name: made[name] for name in endpoints.signatures_by_name}
    for row in range(len(tf.nest.flatten(x)[0])):
        for signature, inputs in examples.items():
            yield signature, {name: array[row : row + 1].astype(np.float32) for name, array in inputs.items()}
