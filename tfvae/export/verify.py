"""The proof that exported files agree with the Keras model."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfvae.vae import VAE


class Agreement(NamedTuple):
    """How far one output of an exported file is from the Keras model's.

    Attributes:
        format: "SavedModel" or "TFLite".
        signature: the signature that was called.
        output: the output's name.
        max_difference: the largest absolute difference over all elements.
        mean_difference: the mean absolute difference.
        max_value: the largest absolute value of the Keras model's output, to compare with.
    """

    format: str
    signature: str
    output: str
    max_difference: float
    mean_difference: float
    max_value: float


def verify(
    model: VAE,
    *,
    saved_model: str | os.PathLike[str] | None = None,
    tflite: str | os.PathLike[str] | None = None,
    x: np.ndarray,
) -> list[Agreement]:
    """Calls every signature of the exported files on the same inputs as the Keras model.

    Args:
        model: the model that was exported.
        saved_model: the folder of one version.
        tflite: the .tflite file.
        x: data [N, ...].

    Returns:
        One row for each format, signature and output.
    """
    x = np.asarray(x, np.float32)
    encoded = model.encode(x)
    reconstruction = {"mean": model.reconstruct(x)}
    expected = {
        "encode": ({"x": x}, encoded),
        "decode": ({"z": encoded["loc"]}, {"mean": model.decode(encoded["loc"])}),
        "reconstruct": ({"x": x}, reconstruction),
        "serving_default": ({"x": x}, reconstruction),
    }
    rows = []
    for name, run in _runners(saved_model, tflite):
        for signature, (arguments, outputs) in expected.items():
            received = run(signature, arguments)
            for output, value in outputs.items():
                difference = np.abs(received[output] - value)
                rows.append(
                    Agreement(
                        name,
                        signature,
                        output,
                        float(difference.max()),
                        float(difference.mean()),
                        float(np.abs(value).max()),
                    )
                )
    return rows


def table(rows: list[Agreement]) -> str:
    """The rows as text, to print."""
    lines = [f"{'format':<12}{'signature':<18}{'output':<10}{'max |diff|':>12}{'mean |diff|':>13}{'max |value|':>13}"]
    lines += [
        f"{row.format:<12}{row.signature:<18}{row.output:<10}{row.max_difference:>12.2e}{row.mean_difference:>13.2e}"
        f"{row.max_value:>13.4g}"
        for row in rows
    ]
    return "\n".join(lines)


_Run = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def _runners(
    saved_model: str | os.PathLike[str] | None, tflite: str | os.PathLike[str] | None
) -> Iterator[tuple[str, _Run]]:
    """For each file that is given, its format and a function that calls a signature."""
    if saved_model is not None:
        loaded = tf.saved_model.load(str(saved_model))

        def run_saved_model(signature: str, arguments: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = loaded.signatures[signature](**{name: tf.constant(a) for name, a in arguments.items()})
            return {name: output.numpy() for name, output in outputs.items()}

        yield "SavedModel", run_saved_model
    if tflite is not None:
        # LiteRT opens a file that is not there with a message that does not name it.
        content = Path(tflite).read_bytes()
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content)

        def run_tflite(signature: str, arguments: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return interpreter.get_signature_runner(signature)(**arguments)

        yield "TFLite", run_tflite
