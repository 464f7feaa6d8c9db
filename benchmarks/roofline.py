"""How near training comes to this machine's speed of matrix multiplication, and how its cost grows.

    python benchmarks/roofline.py [--json PATH]

First the speed of float32 matrix products is measured in TensorFlow and NumPy. Then tfvae trains dense models, compiled
with an optimizer and nothing else, in which one thing is varied at a time: the batch size, the draws of z per example,
the width of the hidden layers, and the number of examples. Only the matrix products of a step count as work: per weight
and example, two operations forward and four backward, except two backward in the first layer, whose input needs no
gradient. The column "share" is relative to the fastest matrix product measured.

A row for each model is appended to PATH; an interrupted run, started again with the same PATH, measures only the
missing models.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from peers import architectures, keras_fit, tfvae_vae
from peers.worker import PACKAGES
from records import Records

SIZES = (1024, 2048)
SHAPE = "dense 784-512-512-32"
# The setting around which one thing is varied.
BASE = {"batch_size": 128, "k": 1, "width": 512, "examples": 60_000}
VARIED = {
    "batch_size": (32, 128, 512, 1024, 4096),
    "k": (1, 5, 50),
    "width": (128, 256, 512, 1024, 2048),
    "examples": (6_000, 60_000, 600_000),
}
# The examples of an epoch at the base setting. Other settings use as many as cost the same, unless the number of
# examples itself is varied.
PATIENCE = BASE["examples"]
EPOCHS = 3


def rate_of(product: Callable[[], Any], operations: float) -> float:
    """The operations per second of a function, the median of several calls."""
    times = []
    product()
    for _ in range(20):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return operations / statistics.median(times)


def matmul_rates() -> dict[str, float]:
    """The operations per second of products of square matrices in float32, by library and size."""
    rates = {}
    for size in SIZES:
        array = np.random.default_rng(0).random((size, size), dtype=np.float32)
        tensor = tf.constant(array)
        rates[f"TensorFlow, {size}"] = rate_of(lambda tensor=tensor: tf.matmul(tensor, tensor), 2 * size**3)
        rates[f"NumPy, {size}"] = rate_of(lambda array=array: array @ array, 2 * size**3)
    return rates


def operations(architecture: architectures.Architecture, k: int) -> float:
    """The number of operations in the matrix products of a training step, per example."""

    def weights(layers: list[architectures.Layer]) -> int:
        return sum(math.prod(layer.kernel) for layer in layers)

    encoder, decoder = architecture.encoder, architecture.decoder
    return 6 * (weights(encoder) + 2 * weights([architecture.head]) + k * weights(decoder)) - 2 * weights(encoder[:1])


def measure(setting: dict[str, int]) -> dict[str, Any]:
    """Trains a model.

    Args:
        setting: has the keys of `BASE`.

    Returns:
        The median rate of its epochs, in examples and in operations per second.
    """
    base = architectures.ARCHITECTURES[SHAPE]
    architecture = base._replace(hidden=(setting["width"],) * len(base.hidden))
    cost = operations(architecture, setting["k"])
    examples = setting["examples"]
    if examples == BASE["examples"]:
        examples = PATIENCE * operations(base, 1) / cost
    # Whole batches, so that each step costs the same.
    examples = max(10, round(examples / setting["batch_size"])) * setting["batch_size"]
    model = tfvae_vae.build(architecture, setting["k"])
    model.compile("adam")
    training = keras_fit.Epochs(model, architectures.data(architecture, examples), setting["batch_size"])
    # The first epoch compiles, and does not count.
    _, *times = [training.run() for _ in range(1 + EPOCHS)]
    training.stop()
    rate = examples / statistics.median(times)
    return {"load": os.getloadavg()[0], "rate": rate, "operations": cost, "operations_per_second": rate * cost}


def show(matmul: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Prints the tables."""
    for name, rate in matmul.items():
        print(f"{'products of matrices, ' + name:<46}{rate / 1e9:>10.0f} 10^9 operations a second")
    best = max(matmul.values())
    print(f"\n{'varied':<12}{'':>10}{'examples per second':>22}{'10^9 operations a second':>28}{'share':>8}")
    for row in rows:
        rate = row["operations_per_second"]
        share = rate / best
        print(f"{row['varied']:<12}{row[row['varied']]:>10}{row['rate']:>22.0f}{rate / 1e9:>28.0f}{share:>8.0%}")


def main() -> None:
    """Prints the tables, and appends the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    records = Records(parser.parse_args().json, PACKAGES)
    if not records.find({"varied": "matmul"}):
        records.append([{"varied": "matmul", "rates": matmul_rates()}])
    rows = []
    for varied, values in VARIED.items():
        for value in values:
            setting = {**BASE, varied: value, "varied": varied}
            if not records.find(setting):
                keras.backend.clear_session()
                records.append([{**setting, **measure(setting)}])
            rows += records.find(setting)
    show(records.find({"varied": "matmul"})[0]["rates"], rows)


if __name__ == "__main__":
    main()
