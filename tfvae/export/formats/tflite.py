"""TFLite files, which LiteRT runs on a device."""

import hashlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfvae import files
from tfvae.export.formats import compiled_model, tflite_metadata, tflite_refusals
from tfvae.export.formats.format import Call, Format, Opened

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

    # Beside the file, because what a killed process leaves there is found by the next export.
    with files.temporary_folder(path.parent) as folder:
        tf.saved_model.save(endpoints, str(folder), signatures=endpoints.signatures_by_name)
        names = list(endpoints.signatures_by_name)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=names)
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


def _open_interpreter(path: Path, num_threads: int | None) -> Opened:
    from ai_edge_litert.interpreter import Interpreter

    # All interpreters share these bytes.
    content = path.read_bytes()

    def runners() -> dict[str, Any]:
        interpreter = Interpreter(model_content=content, num_threads=num_threads)
        return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}

    try:
        first = runners()
    except ValueError as error:
        raise _not_tflite(path, error) from error
    shapes = {
        name: {
            argument: tuple(None if size == -1 else int(size) for size in details["shape_signature"])
            for argument, details in runner.get_input_details().items()
        }
        for name, runner in first.items()
    }
    # Two threads that share an interpreter crash the process. More interpreters than cores make it no faster.
    call = _taking_turns(first, runners, os.cpu_count() or 1)
    return Opened(call, shapes, hashlib.sha256(content).hexdigest())


def _open_compiled(path: Path, num_threads: int | None) -> Opened:
    content = path.read_bytes()
    try:
        functions, shapes = compiled_model.functions(content, num_threads)
    except RuntimeError as error:
        raise _not_tflite(path, error) from error
    # A second one would make it no faster, because Python's global lock is held during a call.
    call = _taking_turns(functions, lambda: functions, 1)
    return Opened(call, shapes, hashlib.sha256(content).hexdigest())


def _taking_turns(first: dict[str, Any], make: Callable[[], dict[str, Any]], number: int) -> Call:
    """Makes a call that threads can share of functions that only one thread at a time may use.

    Args:
        first: the functions by signature.
        make: makes functions like the first, for a thread that finds the others in use.
        number: how many there may be; a thread that finds all of them in use waits.
    """
    # The last to be put back is the first to be taken, so that none is made before it is needed.
    free: queue.LifoQueue[dict[str, Any] | None] = queue.LifoQueue()
    for functions in (*[None] * (number - 1), first):
        free.put(functions)

    def call(signature: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        functions = free.get()
        try:
            functions = functions or make()
            return functions[signature](**arrays)
        finally:
            free.put(functions)

    return call


def _not_tflite(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(f"`path` must be a .tflite file. Received: path={str(path)!r}, {reason}")


def _description(path: Path) -> Path:
    return path.with_suffix(".json")


def _run_compiled(path: Path, inputs: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Calls signatures by LiteRT's `CompiledModel`, in another process, because it logs to stderr and may crash."""
    with files.temporary_folder(path.parent) as folder:
        given, received = folder / "inputs.npz", folder / "outputs.npz"
        np.savez(given, allow_pickle=False, **compiled_model.flat(inputs))
        command = [sys.executable, compiled_model.__file__, *map(str, (path, given, received))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("INFO")]
            said = lines[-1] if lines else ""
            raise RuntimeError(f"exit code {done.returncode} and {said!r}")
        with np.load(received) as outputs:
            return compiled_model.nested(outputs)


FORMAT = Format(
    "TFLite",
    _write,
    _find,
    _open_interpreter,
    _description,
    describe=tflite_metadata.describe,
    other_runtimes={"CompiledModel": _run_compiled},
    runtimes={"interpreter": _open_interpreter, "compiled_model": _open_compiled},
)
