"""How far each runtime's answers are from Keras's, signature by signature; and latencies beside those of older files.

    python benchmarks/agreement.py [--rows 3] [--models dense-Normal ...]
    python benchmarks/agreement.py --older FOLDER [--newer FOLDER] [--rounds 20]
    python benchmarks/agreement.py --refused FOLDER

The first prints, for dense and convolutional VAEs with two likelihoods, trained briefly on the digits, the largest
difference of each signature in each runtime, relative to the largest value of the output. A runtime that is not
installed is named as not measured. LiteRT.js needs what `browser.py` names.

The second times `encode`, `score` and `serving_default` of the .tflite files in LiteRT's `Interpreter`, with one
thread, in turn with the files of the same names in the folder of older files. It prints the ratios of the medians of
each round, as their median, quartiles and range; below 1 is faster. The newer files, if they are not given, are written
to a temporary folder. Files are written by this or, with PYTHONPATH=OTHER_CHECKOUT, by another version of the code:

    python benchmarks/agreement.py --write FOLDER

Their models are not trained, which changes neither their ops nor the time that these take.

The third prints how many ops of each <model>_batch1.tflite in FOLDER the GPU delegate of LiteRT.js leaves to the CPU.
"""

import argparse
import functools
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import numpy as np

Nested = dict[str, dict[str, np.ndarray]]
MODELS = tuple(
    f"{network}-{likelihood}" for network in ("dense", "convolutional") for likelihood in ("Normal", "Bernoulli")
)
TIMED = ("encode", "score", "serving_default")
_LATENT_DIM = 8
_EPOCHS = 10
_SECONDS = 0.05


class MissingError(Exception):
    """A runtime is not installed; the message names what is missing."""


def build(name: str) -> tuple[Any, Any, np.ndarray]:
    """A VAE that is not trained, the data to train it on, and held-out data [N, 8, 8, 1]."""
    import keras

    import tfvae

    network, likelihood = name.split("-")
    keras.utils.set_random_seed(0)
    train, validation, *_ = tfvae.data.load("digits", binarize="threshold" if likelihood == "Bernoulli" else None)
    encoder = getattr(tfvae.networks, f"{network}_encoder")((8, 8, 1))
    decoder = getattr(tfvae.networks, f"{network}_decoder")(_LATENT_DIM, (8, 8, 1))
    arguments = {"scale": 0.3} if likelihood == "Normal" else {}
    model = tfvae.VAE(encoder, decoder, _LATENT_DIM, likelihood=getattr(tfvae.likelihoods, likelihood)(**arguments))
    return model, train, np.concatenate(list(validation.as_numpy_iterator()))


def train(name: str) -> tuple[Any, np.ndarray]:
    """A VAE that was trained for a few epochs, so that no output is all but 0, and held-out data [N, 8, 8, 1]."""
    import keras

    model, data, x = build(name)
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(data, epochs=_EPOCHS, verbose=0)
    return model, x


def write_tflite(model: Any, x: np.ndarray, folder: Path, name: str) -> None:
    """Writes <name>.tflite and <name>_batch1.tflite."""
    from tfvae import export

    for batch_size, suffix in ((None, ""), (1, "_batch1")):
        export.tflite(model, folder / f"{name}{suffix}.tflite", batch_size=batch_size, x=x)


def questions(model: Any, x: np.ndarray) -> tuple[Nested, Nested]:
    """The inputs of each signature, and the Keras model's answers."""
    inputs = model.export_examples(model.export_data(x))
    return inputs, {name: each.of_model(inputs[name]) for name, each in model.export_signatures().items()}


def client(path: Path, inputs: Nested) -> Nested:
    """`tfvae.export.load`: TensorFlow for a SavedModel, LiteRT's `Interpreter` for a .tflite file."""
    from tfvae import export

    exported = export.load(path)
    return {name: exported.run(name, **arrays) for name, arrays in inputs.items()}


def compiled_model(path: Path, inputs: Nested) -> Nested:
    """LiteRT's `CompiledModel`, for one row at a time."""
    from tfvae.export.formats import tflite

    run = tflite.FORMAT.other_runtimes["CompiledModel"]
    rows = len(next(iter(next(iter(inputs.values())).values())))
    answers = [
        run(path, {name: {each: array[i : i + 1] for each, array in arrays.items()} for name, arrays in inputs.items()})
        for i in range(rows)
    ]
    return {
        signature: {name: np.concatenate([answer[signature][name] for answer in answers]) for name in outputs}
        for signature, outputs in answers[0].items()
    }


def litert_js(path: Path, inputs: Nested, accelerator: str) -> Nested:
    """LiteRT.js in headless Chromium."""
    try:
        browser.check_installed()
    except browser.BrowserError as error:
        raise MissingError(str(error)) from error
    return browser.ask(path, inputs, accelerator)[0]


def c_api(path: Path, inputs: Nested) -> Nested:
    """TensorFlow's C API, in a process without TensorFlow's Python."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    sys.path.append(str(Path(__file__).parents[1]))
    from tests.helpers.c_api import C_CLIENT

    content = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    definitions = content.meta_graphs[0].signature_def
    requests = {
        signature: {
            "feeds": {
                definitions[signature].inputs[name].name: (array.dtype.name, array.shape, array.tolist())
                for name, array in arrays.items()
            },
            "fetches": {name: info.name for name, info in definitions[signature].outputs.items()},
        }
        for signature, arrays in inputs.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, received = Path(folder) / "requests.json", Path(folder) / "results.npz"
        asked.write_text(json.dumps(requests))
        arguments = map(str, (path, asked, received, Path(tf.__file__).parent))
        subprocess.run([sys.executable, "-c", textwrap.dedent(C_CLIENT), *arguments], check=True, capture_output=True)
        answers: Nested = {signature: {} for signature in inputs}
        with np.load(received) as results:
            for key in set(results) - {"codes"}:
                signature, name = key.split("/")
                answers[signature][name] = results[key]
    return answers


def onnx_runtime(path: Path, inputs: Nested) -> Nested:
    """ONNX Runtime, by the client."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingError("onnxruntime is not installed")
    return client(path, inputs)


def openvino(path: Path, inputs: Nested) -> Nested:
    """OpenVINO, which converts each signature of the SavedModel."""
    if importlib.util.find_spec("openvino") is None:
        raise MissingError("openvino is not installed")
    import openvino as ov
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    answers = {}
    for signature, arrays in inputs.items():
        # On processors that have bfloat16, it would be the default.
        precise = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(ov.convert_model(loaded.signatures[signature]), "CPU", precise)
        outputs = compiled(arrays)
        answers[signature] = {output.get_any_name(): value for output, value in outputs.items()}
    return answers


# For each runtime: the file that it reads, as a pattern of the model's name, and the function that calls it.
RUNTIMES: dict[str, tuple[str, Callable[[Path, Nested], Nested]]] = {
    "TensorFlow": ("{}", client),
    "TensorFlow, C API": ("{}/1", c_api),
    "OpenVINO": ("{}/1", openvino),
    "ONNX Runtime": ("{}-onnx", onnx_runtime),
    "LiteRT Interpreter, any batch": ("{}.tflite", client),
    "LiteRT Interpreter, batch 1": ("{}_batch1.tflite", client),
    "LiteRT CompiledModel, any batch": ("{}.tflite", compiled_model),
    "LiteRT CompiledModel, batch 1": ("{}_batch1.tflite", compiled_model),
    "LiteRT.js, CPU, batch 1": ("{}_batch1.tflite", functools.partial(litert_js, accelerator="wasm")),
    "LiteRT.js, WebGPU, batch 1": ("{}_batch1.tflite", functools.partial(litert_js, accelerator="webgpu")),
}


def largest(answers: Nested, expected: Nested) -> dict[str, float]:
    """The largest difference in each signature, relative to the largest value of the output."""
    return {
        signature: float(
            np.max(
                [
                    np.abs(np.reshape(answers[signature][name], value.shape) - value).max() / np.abs(value).max()
                    for name, value in outputs.items()
                ]
            )
        )
        for signature, outputs in expected.items()
    }


def show_agreement(models: tuple[str, ...], rows: int) -> None:
    """Prints a table for each model."""
    from tfvae import export

    for name in models:
        model, x = train(name)
        inputs, expected = questions(model, x[:rows])
        print(f"\n{name}, {rows} rows\n\n| runtime | {' | '.join(expected)} |\n| --- |{' --- |' * len(expected)}")
        with tempfile.TemporaryDirectory() as folder:
            export.saved_model(model, Path(folder) / name, x=x)
            write_tflite(model, x, Path(folder), name)
            if importlib.util.find_spec("onnxruntime"):
                export.onnx(model, Path(folder) / f"{name}-onnx", x=x)
            for runtime, (pattern, ask) in RUNTIMES.items():
                try:
                    differences = largest(ask(Path(folder) / pattern.format(name), inputs), expected)
                except MissingError as missing:
                    print(f"| {runtime} | not measured: {missing} |", flush=True)
                    continue
                print(f"| {runtime} | {' | '.join(f'{each:.0e}' for each in differences.values())} |", flush=True)


def seconds_per_call(call: Callable[[], Any]) -> float:
    """The median time of a call, over calls in a short time."""
    times = []
    end = time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def write(models: tuple[str, ...], folder: Path) -> None:
    """Writes the .tflite files of models that are not trained."""
    for name in models:
        model, _, x = build(name)
        write_tflite(model, x, folder, name)


def show_latencies(models: tuple[str, ...], older: Path, newer: Path, rounds: int) -> None:
    """Prints the latencies of new files, and their ratios to those of older files."""
    from ai_edge_litert.interpreter import Interpreter

    print("| file | signature | rows | microseconds | ratio | quartiles | range |\n|" + " --- |" * 7)
    generator = np.random.default_rng(0)
    for name in models:
        for file, batches in ((f"{name}.tflite", (1, 64)), (f"{name}_batch1.tflite", (1,))):
            interpreters = [Interpreter(str(each / file), num_threads=1) for each in (newer, older)]
            for signature in TIMED:
                runners = [each.get_signature_runner(signature) for each in interpreters]
                for batch in batches:
                    # Right for all models: a Bernoulli likelihood takes bits.
                    arrays = {
                        each: generator.integers(0, 2, (batch, *tensor["shape"][1:])).astype(np.float32)
                        for each, tensor in runners[0].get_input_details().items()
                    }
                    calls = [functools.partial(runner, **arrays) for runner in runners]
                    for call in calls:
                        seconds_per_call(call)
                    times = [tuple(map(seconds_per_call, calls)) for _ in range(rounds)]
                    ratios = [new / old for new, old in times]
                    microseconds = 1e6 * statistics.median(new for new, _ in times)
                    low, median, high = np.percentile(ratios, [25, 50, 75])
                    figures = f"{microseconds:.1f} | {median:.2f} | {low:.2f} to {high:.2f}"
                    interval = f"{min(ratios):.2f} to {max(ratios):.2f}"
                    print(f"| {file} | {signature} | {batch} | {figures} | {interval} |", flush=True)


def refused(said: str) -> tuple[int, set[str]]:
    """How many ops the GPU delegate of LiteRT.js leaves to the CPU, in the signature of which it leaves most.

    Also returns the names of the ops that it refuses, on account of which others may be left to the CPU too.

    Args:
        said: what LiteRT.js wrote to the console while it opened a file.
    """
    left = map(int, re.findall(r"remaining (\d+) operations will run on the CPU", said))
    lists = re.findall(r"not supported by GPU delegate:\n((?:[A-Z0-9_]+: .*\n)+)", said)
    return max(left, default=0), {line.split(":")[0] for each in lists for line in each.splitlines()}


def show_refused(models: tuple[str, ...], folder: Path) -> None:
    """Prints how many ops of each file for one row are not run by the GPU delegate."""
    print("| file | ops left to the CPU | refused |\n| --- | --- | --- |")
    for name in models:
        file = folder / f"{name}_batch1.tflite"
        _, said = browser.ask(file, {}, "webgpu")
        count, ops = refused(said)
        print(f"| {file.name} | {count} | {', '.join(sorted(ops))} |", flush=True)


def main() -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="all by default")
    parser.add_argument("--rows", type=int, default=3, help="examples that every signature is asked about")
    parser.add_argument("--older", type=Path, help="a folder of older files, to compare latencies with")
    parser.add_argument("--newer", type=Path, help="a folder of newer files; written by default")
    parser.add_argument("--rounds", type=int, default=20, help="how often each file is timed")
    parser.add_argument("--write", type=Path, help="a folder to which only the .tflite files are written")
    parser.add_argument("--refused", type=Path, help="a folder of files that are opened by LiteRT.js for the GPU")
    arguments = parser.parse_args()
    models = tuple(arguments.models)
    if arguments.write:
        write(models, arguments.write)
    elif arguments.refused:
        show_refused(models, arguments.refused)
    elif arguments.older:
        with tempfile.TemporaryDirectory() as folder:
            if not arguments.newer:
                write(models, Path(folder))
            show_latencies(models, arguments.older, arguments.newer or Path(folder), arguments.rounds)
    else:
        show_agreement(models, arguments.rows)


if __name__ == "__main__":
    main()
