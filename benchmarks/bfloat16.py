"""What `mixed_bfloat16` costs in nats, and what it gains in speed, against float32 with and without XLA.

    python benchmarks/bfloat16.py --data mnist.npz [--shapes NAME ...] [--seeds N] [--epochs N] [--json PATH]

The models are those of `benchmarks/training.py` for 28 x 28 images. For each seed they are trained in turn, from the
same weights, on images binarised at one half; then ELBO and log p(x) of the test images are estimated. The column
"difference" is log p(x) minus that of float32 with the same seed; "error" is the standard error of its mean over seeds.

A row for each training is appended to PATH; an interrupted run, started again with the same PATH, trains only the
missing ones.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import keras
import numpy as np
from peers import architectures, tfvae_vae
from peers.keras_fit import Seconds
from peers.peer import LEARNING_RATE
from peers.worker import PACKAGES
from records import Records

SHAPES = ("dense 784-512-512-32", "convolutional 28x28x1")
# By name, the dtype policy and the argument `jit_compile` of `compile`.
SETTINGS = {
    "float32": ("float32", "auto"),
    "float32, no XLA": ("float32", False),
    "mixed_bfloat16": ("mixed_bfloat16", "auto"),
}
REFERENCE = "float32"


def measure(name: str, setting: dict[str, Any], train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Trains a model.

    Args:
        name: one of `SETTINGS`.
        setting: has the keys `shape`, `seed`, `epochs`, `batch_size` and `num_samples`.
        train: binary images [N, 28, 28].
        test: other images of this kind.

    Returns:
        The median rate of the epochs, in examples per second, and the mean ELBO and log p(x) of the test images, in
        nats.
    """
    policy, jit_compile = SETTINGS[name]
    architecture = architectures.ARCHITECTURES[setting["shape"]]
    keras.backend.clear_session()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(setting["seed"])
    model = tfvae_vae.build(architecture, 1)
    tfvae_vae.load(model, architectures.weights(architecture, setting["seed"]))
    model.compile(keras.optimizers.Adam(LEARNING_RATE), jit_compile=jit_compile)
    clock = Seconds()
    train, test = (x.reshape(-1, *architecture.event_shape) for x in (train, test))
    model.fit(train, batch_size=setting["batch_size"], epochs=setting["epochs"], verbose=0, callbacks=[clock])
    return {
        # Without the first epoch, which compiles.
        "rate": len(train) / statistics.median(clock.seconds[1:]),
        "elbo": model.evaluate(test, verbose=0, return_dict=True)["elbo"],
        "log_likelihood": float(model.log_likelihood(test, num_samples=setting["num_samples"], seed=0).mean()),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table of one shape."""
    print(f"\n{rows[0]['shape']}, batch {rows[0]['batch_size']}, {rows[0]['epochs']} epochs")
    print(f"  {'':<18}{'examples per second':>20}{'ELBO':>10}{'log p(x)':>10}{'difference':>12}{'error':>8}")
    by_name = {name: [row for row in rows if row["name"] == name] for name in SETTINGS}
    for name, own in by_name.items():
        rate = statistics.median(row["rate"] for row in own)
        means = [statistics.mean(row[key] for row in own) for key in ("elbo", "log_likelihood")]
        line = f"  {name:<18}{rate:>20.0f}{means[0]:>10.2f}{means[1]:>10.2f}"
        pairs = zip(own, by_name[REFERENCE], strict=True)
        differences = [row["log_likelihood"] - other["log_likelihood"] for row, other in pairs]
        if name != REFERENCE and len(own) > 1:
            error = statistics.stdev(differences) / len(own) ** 0.5
            line += f"{statistics.mean(differences):>12.2f}{error:>8.2f}"
        print(line)


def main() -> None:
    """Prints a table for each shape, and appends the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with x_train and x_test, uint8")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES, help="all by default")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=100, help="importance samples of each test image")
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error(f"--epochs must be at least 2, because the first is not timed. Received: {arguments.epochs}")
    records = Records(arguments.json, PACKAGES)
    with np.load(arguments.data) as arrays:
        train, test = ((arrays[name] > 127).astype(np.float32) for name in ("x_train", "x_test"))
    for shape in arguments.shapes:
        rows = []
        for seed, name in itertools.product(range(arguments.seeds), SETTINGS):
            setting = {"shape": shape, "seed": seed, "epochs": arguments.epochs, "batch_size": arguments.batch_size}
            setting["num_samples"] = arguments.num_samples
            if not records.find({**setting, "name": name}):
                records.append([{**setting, "name": name, **measure(name, setting, train, test)}])
            rows += records.find({**setting, "name": name})
        show(rows)


if __name__ == "__main__":
    main()
