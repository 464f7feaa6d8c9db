"""How well missing values are imputed: a VAE trained on incomplete data, column means and scikit-learn's imputers.

    python benchmarks/imputation.py [--json PATH]

The data are scikit-learn's breast cancer (569 examples of 30 numbers) and wine (178 of 13), standardised before half of
their values are removed completely at random. Each method sees the remaining values, with the same settings for both
data sets. The figure is the mean squared error of the removed values, divided by that of imputing column means. Its
mean and standard deviation are over seeds, which set both the removal and the training:

- column means: the means of the observed values, so 1 by definition;
- IterativeImputer: scikit-learn's, chained Bayesian ridge regressions with its defaults, but 30 rounds;
- KNNImputer: scikit-learn's, the mean of 5 neighbours;
- tfvae: the MIWAE of Mattei & Frellsen (2019): `Missing(StudentT)` trained with the `IWAE` objective, and
  `tfvae.impute`.

The steps and the weight decay of the last were chosen by its error with seed 0, which is not among those reported.
"""

import argparse
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import tfvae
from tfvae import likelihoods, networks, objectives

DATASETS = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
MISSING = 0.5
PACKAGES = ("tfvae", "tensorflow", "keras", "scikit-learn")


def miwae(x: np.ndarray, seed: int, options: argparse.Namespace) -> np.ndarray:
    """Trains a VAE on the observed values of x [N, D], and fills in the missing ones."""
    keras.utils.set_random_seed(seed)
    num_columns, hidden = x.shape[1], (options.hidden,) * options.layers
    likelihood = likelihoods.Missing(likelihoods.StudentT(scale="per_dimension"), fill=not options.mask)
    vae = tfvae.VAE(
        networks.dense_encoder((num_columns,), hidden, "tanh", missing_mask=options.mask),
        networks.dense_decoder(options.latent_dim, (num_columns,), hidden, "tanh"),
        options.latent_dim,
        likelihood=likelihood,
        objective=objectives.IWAE(options.num_samples, doubly_reparameterized=True),
    )
    steps = options.steps
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=options.weight_decay)
    vae.compile(optimizer, jit_compile=False, steps_per_execution=100)
    batches = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=seed).repeat().batch(options.batch_size)
    vae.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)
    return tfvae.impute(vae, x, num_samples=options.draws, seed=seed)


def methods(options: argparse.Namespace) -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    """The methods by name: each a function of x [N, D], with NaN for missing values, and a seed, that fills x in."""
    return {
        "column means": lambda x, _: SimpleImputer().fit_transform(x),
        "KNNImputer": lambda x, _: KNNImputer().fit_transform(x),
        "IterativeImputer": lambda x, seed: IterativeImputer(max_iter=30, random_state=seed).fit_transform(x),
        "tfvae": lambda x, seed: miwae(x, seed, options),
    }


def incomplete(load: Callable[[], Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The standardised data [N, D], and a copy in which the removed values are NaN."""
    x = load().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    is_missing = np.random.default_rng(seed).uniform(size=x.shape) < MISSING
    return x, np.where(is_missing, np.float32(np.nan), x)


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--only", nargs="+", default=list(DATASETS), help="names of data sets")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=64, help="width of each hidden layer")
    parser.add_argument("--layers", type=int, default=2, help="hidden layers of each network")
    parser.add_argument("--num-samples", type=int, default=20, help="draws of z per example in training")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=5000, help="draws of z per example for imputation")
    parser.add_argument("--mask", action="store_true", help="tell the encoder which values are missing")
    parser.add_argument("--json", type=Path, help="a file for the rows, rewritten after each")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    rows = []
    print(f"{'':<16}{'':<18}{'error':>8}{'sd':>8}{'seconds':>9}")
    for dataset in options.only:
        for method, fill in methods(options).items():
            errors, seconds = [], []
            for seed in range(1, options.seeds + 1):
                complete, x = incomplete(DATASETS[dataset], seed)
                start = time.perf_counter()
                filled = fill(x, seed)
                seconds.append(time.perf_counter() - start)
                is_missing = np.isnan(x)
                of_means = SimpleImputer().fit_transform(x)
                error, reference = (np.mean((f - complete)[is_missing] ** 2) for f in (filled, of_means))
                errors.append(float(error / reference))
            row = {"dataset": dataset, "method": method, "errors": errors, "seconds": seconds}
            rows.append(row)
            deviation = np.std(errors, ddof=1) if len(errors) > 1 else 0.0
            print(
                f"{dataset:<16}{method:<18}{np.mean(errors):>8.4f}{deviation:>8.4f}{np.mean(seconds):>9.1f}", flush=True
            )
            if options.json:
                content = {"versions": versions, "settings": settings, "rows": rows}
                options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
