"""Reproduces table 1 of Burda et al. 2016, one stochastic layer on MNIST, and measures what other priors gain.

    python benchmarks/burda.py --data mnist.npz --objective vae|iwae --k K --epochs N [--prior NAME] [--json PATH]

The set-up is that of the paper: networks 784-200-200-50 with tanh, Adam with epsilon 1e-4, pixels drawn anew from their
gray values in each epoch, log p(x) of the 10,000 test images from 5000 importance samples. The paper trains for 3280
epochs with batches of 20 and a falling learning rate; here the number of epochs is an argument, the batches are larger,
and the learning rate falls to 0 along a cosine.

An interrupted training, started again with the same `--folder`, resumes. The results are appended to PATH, one line of
JSON for each run.

Reference: Burda, Grosse, Salakhutdinov 2016, Importance Weighted Autoencoders, table 1; Tomczak & Welling 2018, VAE
with a VampPrior.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import time
from pathlib import Path

import keras
import numpy as np
from peers.keras_fit import Seconds

import tfvae

PACKAGES = ("tfvae", "tensorflow", "keras")
PRIORS = {
    "standard": tfvae.priors.StandardNormal,
    "mixture": functools.partial(tfvae.priors.NormalMixture, num_components=500),
    "vamp": functools.partial(tfvae.priors.VampPrior, num_components=500, bounds=(0.0, 1.0)),
}


class Log(Seconds):
    """Measures the seconds of each epoch, and prints a line for each at once, so that a log keeps what was done."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the clock and prints the line."""
        super().on_epoch_end(epoch, logs)
        print(f"epoch {epoch + 1} loss {logs['loss']:.3f} elbo {logs['elbo']:.3f} {self.seconds[-1]:.2f} s", flush=True)


def build(mean: np.ndarray, objective: str, k: int, prior: str) -> tfvae.VAE:
    """The model of the paper. As there, the output biases start at the log odds of the mean pixels."""
    networks = {"hidden": (200, 200), "activation": "tanh"}
    model = tfvae.VAE(
        tfvae.networks.dense_encoder((28, 28, 1), **networks),
        tfvae.networks.dense_decoder(50, (28, 28, 1), **networks),
        latent_dim=50,
        prior=PRIORS[prior](),
        likelihood=tfvae.likelihoods.Bernoulli(),
        objective=tfvae.objectives.ELBO(num_samples=k) if objective == "vae" else tfvae.objectives.IWAE(k),
    )
    mean = np.clip(mean, 1e-3, 1 - 1e-3)
    (bias,) = (weight for weight in model.decoder.weights if weight.shape == (784,))
    bias.assign(np.log(mean / (1 - mean)).ravel())
    return model


def main() -> None:
    """Trains one model and prints its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz file with x_train and x_test, uint8")
    parser.add_argument("--objective", choices=("vae", "iwae"), required=True)
    parser.add_argument("--k", type=int, required=True, help="samples of z for each image in training")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--prior", choices=PRIORS, default="standard")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=5000, help="importance samples of the test")
    parser.add_argument("--folder", help="a folder for the checkpoints of the training")
    parser.add_argument("--json", help="a file to which the row is appended")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    # The loader's seed is fixed, so that all seeds are tested on the same binarised images.
    train, test, _, _ = tfvae.data.load(arguments.data, batch_size=arguments.batch_size, binarize="dynamic")
    with np.load(arguments.data) as arrays:
        num_examples, mean = len(arrays["x_train"]), arrays["x_train"].mean(axis=0) / 255
    model = build(mean, arguments.objective, arguments.k, arguments.prior)
    if arguments.prior == "vamp":
        model.prior.pseudo_inputs.assign(next(iter(train.unbatch().batch(500))))
    steps = math.ceil(num_examples / arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, steps * arguments.epochs)
    model.compile(keras.optimizers.Adam(rate, epsilon=1e-4))
    clock = Log()
    callbacks = [clock]
    if arguments.folder:
        callbacks.append(tfvae.callbacks.Checkpoints(arguments.folder))
    model.fit(train, epochs=arguments.epochs, verbose=0, callbacks=callbacks)
    start = time.perf_counter()
    log_likelihood = model.log_likelihood(test, num_samples=arguments.num_samples, seed=0)
    metrics = model.evaluate(test, verbose=0, return_dict=True)
    row = {
        **vars(arguments),
        "data": Path(arguments.data).name,
        "negative_log_likelihood": -float(log_likelihood.mean()),
        "standard_error": float(log_likelihood.std() / math.sqrt(len(log_likelihood))),
        "elbo": metrics["elbo"],
        "kl": metrics["kl"],
        "seconds_per_epoch": float(np.median(clock.seconds)) if clock.seconds else None,
        "seconds_of_the_test": time.perf_counter() - start,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    print(json.dumps(row, indent=1))
    if arguments.json:
        with open(arguments.json, "a") as file:
            file.write(json.dumps(row) + "\n")
    if arguments.folder:
        model.save(Path(arguments.folder) / "model.keras")


if __name__ == "__main__":
    main()
