"""Latency of one step of a stream and of one window, of models of sequences in LiteRT beside ONNX Runtime.

    python benchmarks/stream_latency.py [--kinds GRU temporal transformer sequential] [--steps 128] [--channels 8]

Each model is untrained and calibrated, and exported for a batch of 1; both runtimes have one thread and are called in
turn, for several rounds, in this process. `step` gives a decision about the window that ends now, or, for `sequential`,
which is a `tfvae.SequentialVAE` with a GRU, about the step; `detect` about T steps that are given. "GRU unrolled" is
the GRU without a loop in its files, whose conversion takes minutes at 128 steps. Needs `pip install 'tfvae[onnx]'`.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import tfvae
from tfvae import export, likelihoods, networks

LATENT_DIM, WIDTH, ROWS = 8, 64, 64
SIGNATURES = ("step", "detect")


def build(kind: str, steps: int, channels: int) -> Any:
    """The model of a kind."""
    keras.utils.set_random_seed(0)
    likelihood = likelihoods.Missing(likelihoods.Normal(0.5), fill=False)
    if kind == "sequential":
        encoder = networks.recurrent_encoder((channels,), units=(WIDTH,), hidden=(WIDTH,), per_step=True)
        decoder = networks.dense_decoder(LATENT_DIM, (channels,), hidden=(WIDTH,))
        return tfvae.SequentialVAE(encoder, decoder, LATENT_DIM, likelihood=likelihood)
    make, *unrolled = {"GRU": "recurrent"}.get(kind.split()[0], kind), *kind.split()[1:]
    arguments = {"layer": functools.partial(keras.layers.GRU, unroll=True)} if unrolled else {}
    encoder = getattr(networks, f"{make}_encoder")((channels,), steps, **arguments)
    decoder = getattr(networks, f"{make}_decoder")(LATENT_DIM, steps, (channels,), **arguments)
    return tfvae.VAE(encoder, decoder, LATENT_DIM, likelihood=likelihood)


def runners(model: Any, x: np.ndarray, folder: Path) -> dict[str, dict[str, Callable[[], Any]]]:
    """Functions of no argument that call a signature, by signature and runtime; prints the sizes of the files."""
    file = export.tflite(model, folder / "model.tflite", x=x, batch_size=1)
    interpreter = Interpreter(str(file), num_threads=1)
    sizes = {".tflite": file.stat().st_size}
    onnx = None
    if "ONNX" in (model.export_formats or ("ONNX",)):
        onnx = export.onnx(model, folder / "onnx", x=x, batch_size=1)
        sizes |= {f"{name}.onnx": (onnx / f"{name}.onnx").stat().st_size for name in SIGNATURES}
    print("bytes:", ", ".join(f"{name} {size:,}" for name, size in sizes.items()), flush=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for name in SIGNATURES:
        inputs = {key: value[:1].astype(np.float32) for key, value in model.export_examples(x)[name].items()}
        found[name] = {"LiteRT": functools.partial(interpreter.get_signature_runner(name), **inputs)}
        if onnx is not None:
            session = onnxruntime.InferenceSession(onnx / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            found[name]["ONNX Runtime"] = functools.partial(session.run, None, inputs)
    return found


def microseconds(call: Callable[[], Any], seconds: float) -> float:
    """The median time of a call, of those that fit into some seconds."""
    call()
    times = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def main() -> None:
    """Prints a line for each model and signature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["GRU", "temporal", "transformer", "sequential"])
    parser.add_argument("--steps", type=int, default=128, help="T")
    parser.add_argument("--channels", type=int, default=8, help="C")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each runtime in each round")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        model = build(kind, arguments.steps, arguments.channels)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, arguments.steps, arguments.channels)).astype(np.float32)
        model.calibrate(x, threshold=1.0)
        print(f"\n{kind}, T={arguments.steps}, C={arguments.channels}")
        with tempfile.TemporaryDirectory() as folder:
            for signature, calls in runners(model, x, Path(folder)).items():
                times: dict[str, list[float]] = {runtime: [] for runtime in calls}
                for _ in range(arguments.rounds):
                    for runtime, call in calls.items():
                        times[runtime].append(microseconds(call, arguments.seconds))
                shown = ", ".join(f"{runtime} {statistics.median(each):,.0f} us" for runtime, each in times.items())
                if len(times) == 2:
                    ratios = [own / other for own, other in zip(*times.values(), strict=True)]
                    shown += f", ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"{signature:8s} {shown} (load {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main()
