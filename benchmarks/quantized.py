"""How the codes of a small convolutional VQVAE of MNIST are best learned, and what a learned prior of them is worth.

    python benchmarks/quantized.py MNIST.npz [--train 60000] [--epochs 20] [--prior-epochs 20] [--json PATH]
        [--folder PATH]

The pixels are binarised once, each 1 with the probability that its grey value is. 7 x 7 vectors of 16 dimensions are
quantised:

- gradient: by one codebook of 256 codes, trained by the gradient;
- averages: by one of moving averages;
- restarts: the same, and codes that are hardly used are moved to outputs of the encoder;
- levels: by two levels of 16 codes, which have as many bits;
- groups: by two groups of 16 codes.

A `CodePrior` is then fitted to the codes of the training pictures. The figures are those of the test pictures: nats of
the reconstruction, the perplexity, the number of codes in use, and bits of a picture by the bound, an upper bound of
-log2 p(x), with the uniform prior and with the learned one. Results are added to the file of --json, one line of JSON
each, and what is there is not computed again; --folder is for checkpoints, from which an interrupted training goes on.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from records import resumed

import tfvae

WIDTH, BATCH_SIZE = 16, 128
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {"num_codes": 256, "decay": None},
    "averages": {"num_codes": 256, "restart_below": 0.0},
    "restarts": {"num_codes": 256, "restart_below": 0.1},
    "levels": {"num_codes": 16, "restart_below": 0.1, "num_levels": 2},
    "groups": {"num_codes": 16, "restart_below": 0.1, "num_groups": 2},
}


def build(**arguments: Any) -> tfvae.VQVAE:
    """A model of 28 x 28 bits with 7 x 7 vectors."""
    layers = keras.layers
    encoder = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(WIDTH, 1),
        ],
        name="encoder",
    )
    decoder = keras.Sequential(
        [
            keras.Input((7, 7, WIDTH)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2DTranspose(16, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(1, 4, strides=2, padding="same"),
        ],
        name="decoder",
    )
    return tfvae.VQVAE(encoder, decoder, likelihood=tfvae.likelihoods.Bernoulli(), **arguments)


def pictures(path: Path, num_train: int, num_test: int) -> tuple[np.ndarray, np.ndarray]:
    """The binarised pictures for the training and for the test, each [N, 28, 28, 1]."""
    with np.load(path) as file:
        both = file["x_train"][:num_train], file["x_test"][:num_test]
    rng = np.random.default_rng(0)
    train, test = ((rng.random(part.shape) < part / 255).astype(np.float32)[..., None] for part in both)
    return train, test


def checkpoints(folder: Path | None, *names: str) -> list[keras.callbacks.Callback]:
    """The callback that writes checkpoints, if there is a folder for them."""
    return [] if folder is None else [tfvae.callbacks.Checkpoints(folder / "-".join(names))]


def measure(setting: dict[str, Any], train: np.ndarray, test: np.ndarray, folder: Path | None) -> dict[str, Any]:
    """Trains a model and its prior, and returns the row of the setting."""
    keras.utils.set_random_seed(setting["seed"])
    name = f"{setting['method']}-{setting['seed']}"
    model = build(**METHODS[setting["method"]])
    model.compile(keras.optimizers.Adam(1e-3))
    start = time.perf_counter()
    model.fit(
        train, epochs=setting["epochs"], batch_size=BATCH_SIZE, verbose=0, callbacks=checkpoints(folder, name, "model")
    )
    seconds = time.perf_counter() - start
    uniform = model.evaluate(test, verbose=0, return_dict=True)
    codes = model.encode(test).reshape(-1, model.num_levels * model.num_groups)
    start = time.perf_counter()
    model.fit_prior(
        train,
        tfvae.CodePrior(width=64, num_blocks=2),
        epochs=setting["prior_epochs"],
        verbose=0,
        callbacks=checkpoints(folder, name, "prior"),
    )
    of_prior = time.perf_counter() - start
    learned = model.evaluate(test, verbose=0, return_dict=True)
    return {
        **setting,
        "reconstruction": uniform["reconstruction_log_likelihood"],
        "perplexity": uniform["perplexity"],
        "used": [len(np.unique(each)) for each in codes.T],
        "bits_uniform": -uniform["elbo"] / math.log(2),
        "bits_learned": -learned["elbo"] / math.log(2),
        "seconds": seconds,
        "seconds_of_prior": of_prior,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table: means over the seeds."""
    print(
        f"{'method':<10}{'log p(x|z)':>12}{'perplexity':>12}{'used':>8}{'bits, uniform':>15}{'bits, learned':>15}"
        f"{'seconds':>9}"
    )
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        names = ("reconstruction", "perplexity", "used", "bits_uniform", "bits_learned", "seconds")
        means = [np.mean([np.mean(row[name]) for row in own]) for name in names]
        print("{:<10}{:>12.2f}{:>12.1f}{:>8.1f}{:>15.1f}{:>15.1f}{:>9.0f}".format(method, *means))


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a file with x_train and x_test, as Keras has it")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--prior-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    train, test = pictures(arguments.data, arguments.train, arguments.test)
    sizes = {name: getattr(arguments, name) for name in ("train", "test", "epochs", "prior_epochs")}
    settings = [
        {"method": method, "seed": seed, **sizes} for seed in range(arguments.seeds) for method in arguments.methods
    ]
    show(resumed(arguments.json, settings, lambda setting: measure(setting, train, test, arguments.folder)))


if __name__ == "__main__":
    main()
