"""Calls signatures of a .tflite file by LiteRT's `CompiledModel`: a script, which imports nothing of tfvae.

python compiled_model.py model.tflite inputs.npz outputs.npz
"""

import math
import sys
from collections.abc import Mapping

import numpy as np

Nested = dict[str, dict[str, np.ndarray]]


def flat(arrays: Nested) -> dict[str, np.ndarray]:
    """Arrays by signature and name, as arrays by "signature/name"."""
    return {f"{signature}/{name}": array for signature, named in arrays.items() for name, array in named.items()}


def nested(arrays: Mapping[str, np.ndarray]) -> Nested:
    """The inverse of `flat`."""
    result: Nested = {}
    for key in arrays:
        signature, name = key.split("/", 1)
        result.setdefault(signature, {})[name] = arrays[key]
    return result


def run(path: str, inputs: Nested) -> Nested:
    """Calls signatures.

    Args:
        path: the .tflite file.
        inputs: for each signature, its inputs by name, each with one row.

    Returns:
        For each signature, its outputs by name, as the file says that their shapes are.
    """
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(path)
    outputs: Nested = {}
    for signature, arrays in inputs.items():
        index = model.get_signature_index(signature)
        names = model.get_signature_by_index(index)
        given, received = model.create_input_buffers(index), model.create_output_buffers(index)
        types = model.get_input_tensor_details(signature)
        for name, buffer in zip(names["inputs"], given, strict=True):
            buffer.write(np.ascontiguousarray(arrays[name], types[name]["dtype"]))
        details = model.get_output_tensor_details(signature)
        shapes = [[abs(size) for size in details[name]["shape"]] for name in names["outputs"]]
        for buffer, shape in zip(received, shapes, strict=True):
            # What the model does not write is seen by this, and not taken for what another signature left in memory.
            buffer.write(np.full(shape, np.nan, np.float32))
        model.run_by_index(index, given, received)
        outputs[signature] = {
            name: buffer.read(math.prod(shape), np.float32).reshape(shape)
            for name, buffer, shape in zip(names["outputs"], received, shapes, strict=True)
        }
    return outputs


if __name__ == "__main__":
    _, file, given, received = sys.argv
    with np.load(given) as arrays:
        answers = run(file, nested(arrays))
    np.savez(received, allow_pickle=False, **flat(answers))
