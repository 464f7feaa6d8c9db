"""TFLite files, which LiteRT runs on a device."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfvae.export.formats import compiled_model, tflite_refusals
from tfvae.export.formats.format import Call, Format, Shapes

if TYPE_CHECKING:
    from tfvae.export.endpoints import Endpoints


def _write(
    endpoints: "Endpoints",
    path: Path,
    *,
    quantize: str | None = None,
    calibration: Callable[[], Iterable[tuple[str, Any]]] | None = None,
) -> None:
    """Writes a file of built-in ops only.

    Args:
        endpoints: the functions to write.
        path: the file.
        quantize: see `tfvae.export.tflite`.
        calibration: returns examples, each with the name of its signature, that calibrate the ranges of int8.

    Raises:
        NotImplementedError: the functions need an op that is not built into TFLite; `BatchSizeError` if functions of a
            batch of 1 may not need it.
    """
    import tensorflow as tf

    from tfvae import private_apis

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(endpoints, folder, signatures=endpoints.signatures_by_name)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(endpoints.signatures_by_name))
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif quantize == "int8":
            converter.representative_dataset = calibration
        try:
            path.write_bytes(converter.convert())
        except private_apis.converter_error() as error:
            # Not chained, because the converter's own text would bury the few lines that matter.
            raise tflite_refusals.of_converter(str(error)) from None
        except RuntimeError as error:
            # The interpreter that calibrates int8 cannot run the model.
            raise tflite_refusals.of_runtime(str(error)) from error


def _find(path: Path) -> Path | None:
    return path if path.is_file() else None


def _open(path: Path, num_threads: int | None) -> tuple[Call, Shapes]:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=num_threads)
    except ValueError as error:
        raise ValueError(f"`path` must be a .tflite file. Received: path={str(path)!r}, {error}") from error
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    shapes = {
        name: {
            argument: tuple(None if size == -1 else int(size) for size in details["shape_signature"])
            for argument, details in runner.get_input_details().items()
        }
        for name, runner in runners.items()
    }
    return lambda signature, arrays: runners[signature](**arrays), shapes


def _description(path: Path) -> Path:
    return path.with_suffix(".json")


def _run_compiled(path: Path, inputs: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Calls signatures by LiteRT's `CompiledModel`, in another process, because it logs to stderr and may crash."""
    with tempfile.TemporaryDirectory() as folder:
        given, received = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **compiled_model.flat(inputs))
        command = [sys.executable, compiled_model.__file__, path, given, received]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("INFO")]
            said = lines[-1] if lines else ""
            raise ValueError(
                "LiteRT's CompiledModel must run the file before it is published. Received: exit code "
                f"{done.returncode} and {said!r}"
            )
        with np.load(received) as outputs:
            return compiled_model.nested(outputs)


FORMAT = Format("TFLite", _write, _find, _open, _description, other_runtimes={"CompiledModel": _run_compiled})
