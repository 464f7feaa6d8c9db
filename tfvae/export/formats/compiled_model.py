"""Calls signatures of a .tflite file by LiteRT's `CompiledModel`: a script, which imports nothing of tfvae.

python compiled_model.py model.tflite inputs.npz outputs.npz
"""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Nested = dict[str, dict[str, np.ndarray]]

# A NaN of these bits is in each output before a call, so that an output that is not written is noticed.
_UNWRITTEN = np.uint32(0x7FC0_0BAD)


def flat(arrays: Nested) -> dict[str, Any]:
    """Arrays by signature and name, as arrays by "signature/name"."""
    return {f"{signature}/{name}": array for signature, named in arrays.items() for name, array in named.items()}


def nested(arrays: Mapping[str, np.ndarray]) -> Nested:
    """The inverse of `flat`."""
    result: Nested = {}
    for key in arrays:
        signature, name = key.split("/", 1)
        result.setdefault(signature, {})[name] = arrays[key]
    return result


def functions(
    content: bytes, num_threads: int | None = None
) -> tuple[dict[str, Callable[..., dict[str, np.ndarray]]], dict[str, dict[str, tuple[int | None, ...]]]]:
    """Opens a file.

    Args:
        content: the bytes of the .tflite file.
        num_threads: how many threads to use; None means 1.

    Returns:
        For each signature, a function from its inputs by name, each with one row, to its outputs by name; and the
        shapes of its inputs by name.

    Raises:
        RuntimeError: the content is no .tflite file. The functions raise it if the model does not run.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    options = Options(cpu_options=CpuOptions(num_threads=num_threads or 1))
    model = CompiledModel.from_buffer(content, options=options)
    shapes: dict[str, dict[str, tuple[int | None, ...]]] = {
        signature: {
            name: _of_one_row(details["shape"]) for name, details in model.get_input_tensor_details(signature).items()
        }
        for signature in model.get_signature_list()
    }
    return {signature: _Function(model, content, signature) for signature in shapes}, shapes


class _Function:
    """One signature of an opened file, and the buffers for its inputs and outputs.

    Args:
        model: the `CompiledModel`.
        content: the bytes of the file, which must live as long as the model.
        signature: the name of the signature.
    """

    def __init__(self, model: Any, content: bytes, signature: str) -> None:
        self._model, self._content, self._signature = model, content, signature
        self._index = model.get_signature_index(signature)
        names = model.get_signature_by_index(self._index)
        self._given = dict(zip(names["inputs"], model.create_input_buffers(self._index), strict=True))
        self._received = dict(zip(names["outputs"], model.create_output_buffers(self._index), strict=True))
        given = model.get_input_tensor_details(signature)
        self._dtypes = {name: given[name]["dtype"] for name in self._given}
        details = model.get_output_tensor_details(signature)
        self._shapes = {name: _of_one_row(details[name]["shape"]) for name in self._received}

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        for name, buffer in self._given.items():
            buffer.write(np.ascontiguousarray(arrays[name], self._dtypes[name]))
        for name, buffer in self._received.items():
            buffer.write(np.full(self._shapes[name], _UNWRITTEN).view(np.float32))
        try:
            self._model.run_by_index(self._index, list(self._given.values()), list(self._received.values()))
        except RuntimeError as error:
            raise self._error(str(error).splitlines()[0]) from error
        outputs = {}
        for name, buffer in self._received.items():
            shape = self._shapes[name]
            outputs[name] = np.array(buffer.read(math.prod(shape), np.float32)).reshape(shape)
            if np.all(outputs[name].view(np.uint32) == _UNWRITTEN):
                raise self._error(f"the output {name!r} is not written")
        return outputs

    def _error(self, reason: str) -> RuntimeError:
        return RuntimeError(
            f"LiteRT's CompiledModel cannot run the signature {self._signature!r} of this file: {reason}. Export the "
            "model again, or use the Interpreter"
        )


def _of_one_row(shape: list[int]) -> tuple[int, ...]:
    """The shape of a batch of one row, where the file says -1 or 1 for the batch."""
    return tuple(abs(int(size)) for size in shape)


if __name__ == "__main__":
    _, file, given, received = sys.argv
    by_signature = functions(Path(file).read_bytes())[0]
    with np.load(given) as arrays:
        answers = {name: by_signature[name](**inputs) for name, inputs in nested(arrays).items()}
    np.savez(received, allow_pickle=False, **flat(answers))
