"""Seconds from the start of a process to the first training step or the first answer, in every framework and runtime.

    python benchmarks/startup.py [--json PATH] [--rounds N]

Each measurement is a fresh process; the cases take turns. A dense VAE 784-512-512-32 is built, or loaded from a file.
The first step is one batch of 128; the first answer is `encode` or `predict` of one example; both include tracing and
compilation. The columns are medians and quartiles over the rounds, the peak memory of the process, and the frameworks
that it had imported by its end.

With --json, a row is appended to the file for each process; an interrupted run, started again, measures only the
missing rows.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHAPE = "dense 784-512-512-32"
BATCH_SIZE = 128
ROUNDS = 5
STAGES = ("import", "build or load", "first")
FRAMEWORKS = ("tensorflow", "keras", "torch", "jax", "onnxruntime", "ai_edge_litert")
PACKAGES = ("tfvae", "tensorflow", "keras", "ai-edge-litert", "onnxruntime", "torch", "jax", "numpy")


class Case(NamedTuple):
    """A case: what one process does.

    Attributes:
        run: runs the case, given the folder of the exported model, and yields the name of each stage when it ends.
        packages: the packages that must be installed.
        without: the frameworks that must not be imported.
    """

    run: Callable[[Path], Iterator[str]]
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def import_only(folder: Path, name: str) -> Iterator[str]:
    """Imports a package."""
    importlib.import_module(name)
    yield "import"


def build(folder: Path) -> Iterator[str]:
    """Builds the model with tfvae."""
    _import_tfvae()
    yield "import"
    _tfvae_model()
    yield "build or load"


def train(folder: Path, jit_compile: bool) -> Iterator[str]:
    """Takes the first training step with tfvae."""
    import keras

    _import_tfvae()
    yield "import"
    model = _tfvae_model()
    model.compile(keras.optimizers.Adam(), jit_compile=jit_compile)
    yield "build or load"
    model.fit(_examples(BATCH_SIZE), batch_size=BATCH_SIZE, verbose=0)
    yield "first"


def train_peer(folder: Path, peer: str) -> Iterator[str]:
    """Takes the first training step with a peer."""
    from peers import worker

    importlib.import_module(f"peers.{worker.PEERS[peer][0]}")
    yield "import"
    from peers import architectures

    weights = architectures.weights(architectures.ARCHITECTURES[SHAPE])
    # A stage that the table leaves out, because tfvae initialises its own weights.
    yield "weights"
    model = worker.build(peer, SHAPE, BATCH_SIZE, 1)
    model.load(weights)
    yield "build or load"
    model.epoch(1)
    yield "first"


def predict(folder: Path) -> Iterator[str]:
    """Calls `predict` of a new tfvae model."""
    _import_tfvae()
    yield "import"
    model = _tfvae_model()
    yield "build or load"
    model.predict(_examples(1), verbose=0)
    yield "first"


def load(folder: Path, file: str) -> Iterator[str]:
    """Loads an exported model with `tfvae.export.load`, and encodes."""
    from tfvae import export

    # What the client imports when it is first used counts as part of loading.
    yield "import"
    model = export.load(folder / file)
    yield "build or load"
    model.encode(_examples(1))
    yield "first"


def load_onnx(folder: Path) -> Iterator[str]:
    """Loads an exported model into ONNX Runtime, and encodes."""
    import onnxruntime

    yield "import"
    session = onnxruntime.InferenceSession(folder / "encode.onnx", providers=["CPUExecutionProvider"])
    yield "build or load"
    session.run(None, {"x": _examples(1)})
    yield "first"


def encode_by_torch(folder: Path) -> Iterator[str]:
    """Encodes with a new PyTorch module."""
    import torch

    yield "import"
    from exported import torch_modules

    encode = torch_modules(SHAPE)["encode"]
    yield "build or load"
    with torch.inference_mode():
        encode(torch.from_numpy(_examples(1)))
    yield "first"


def _import_tfvae() -> None:
    import tfvae

    # `import tfvae` is lazy: the first use of a name imports the rest.
    assert tfvae.VAE


def _tfvae_model() -> Any:
    import tfvae

    return tfvae.VAE(
        tfvae.networks.dense_encoder((784,), (512, 512)),
        tfvae.networks.dense_decoder(32, (784,), (512, 512)),
        32,
        likelihood=tfvae.likelihoods.Bernoulli(),
    )


def _examples(rows: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 2, (rows, 784)).astype(np.float32)


CASES = {
    "import tfvae": Case(functools.partial(import_only, name="tfvae")),
    "import tensorflow": Case(functools.partial(import_only, name="tensorflow")),
    "import keras": Case(functools.partial(import_only, name="keras")),
    "import torch": Case(functools.partial(import_only, name="torch"), ("torch",)),
    "import jax": Case(functools.partial(import_only, name="jax"), ("jax",)),
    "tfvae: a VAE": Case(build),
    "tfvae: a step": Case(functools.partial(train, jit_compile=False)),
    "tfvae: a step, XLA": Case(functools.partial(train, jit_compile=True)),
    "Keras: a step": Case(functools.partial(train_peer, peer="keras")),
    "PyTorch: a step": Case(functools.partial(train_peer, peer="torch"), ("torch",)),
    "PyTorch: a step, compiled": Case(functools.partial(train_peer, peer="torch compiled"), ("torch",)),
    "JAX: a step": Case(functools.partial(train_peer, peer="jax"), ("jax",)),
    "tfvae: predict": Case(predict),
    "tfvae.export.load: SavedModel": Case(functools.partial(load, file="served")),
    "tfvae.export.load: .tflite": Case(
        functools.partial(load, file="float32.tflite"), without=("tensorflow", "keras", "tf_keras")
    ),
    "ONNX Runtime: .onnx": Case(load_onnx, ("onnxruntime", "torch")),
    "PyTorch: encode": Case(encode_by_torch, ("torch",)),
}


def measure(name: str, folder: Path) -> None:
    """Runs a case in this process, and prints its times, peak memory and imports as JSON.

    Raises:
        ImportError: the case imported a framework that it must not.
    """
    stages, start = {}, time.perf_counter()
    for stage in CASES[name].run(folder):
        now = time.perf_counter()
        stages[stage], start = now - start, now
    wrong = [module for module in CASES[name].without if module in sys.modules]
    if wrong:
        raise ImportError(f"{name} must import none of {list(CASES[name].without)}. Received: {wrong}")
    row = {
        "stages": stages,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imported": [module for module in FRAMEWORKS if module in sys.modules],
    }
    print(json.dumps(row))


def run(name: str, folder: Path) -> dict[str, Any]:
    """Runs a case in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # If the cache outlived the process, later rounds would not compile as the first did.
    with tempfile.TemporaryDirectory() as cache:
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """Formats a row of the table."""

    def spread(values: list[float]) -> str:
        if len(values) < 2:
            return "".join(f"{value:.3f}" for value in values)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return f"{median:.3f} ({lower:.3f} to {upper:.3f})"

    cells = [spread([row["stages"][stage] for row in rows if stage in row["stages"]]) for stage in STAGES]
    cells.append(spread([sum(row["stages"].values()) for row in rows]))
    megabytes = statistics.median(row["megabytes"] for row in rows)
    return f"{name:<30}{''.join(f'{cell:>27}' for cell in cells)}{megabytes:>7.0f}  {', '.join(rows[0]['imported'])}"


def main() -> None:
    """Prints the table, and appends the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    # Imported only here, because the imports of a measuring process are part of the measurement.
    import exported
    from records import Records

    records = Records(arguments.json, PACKAGES)
    missing = {
        name: [package for package in case.packages if importlib.util.find_spec(package) is None]
        for name, case in CASES.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        exported.write(SHAPE, Path(folder))
        for index in range(arguments.rounds):
            for name in CASES:
                setting = {"case": name, "round": index}
                if not missing[name] and not records.find(setting):
                    load = os.getloadavg()[0]
                    records.append([{**setting, "load": load, **run(name, Path(folder))}])
    header = "".join(f"{stage:>27}" for stage in (*STAGES, "total"))
    print(f"{'seconds: median (quartiles)':<30}{header}     MB  imported")
    for name in CASES:
        if missing[name]:
            print(f"{name:<30}  {missing[name][0]} is not installed")
        else:
            print(line(name, records.find({"case": name})))


if __name__ == "__main__":
    main()
