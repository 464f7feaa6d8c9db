"""Amortised inference on tasks of the simulation-based inference benchmark, against reference posteriors.

    python benchmarks/simulation_tasks.py FOLDER [--simulations 10000] [--tasks two_moons ...] [--seed 0]

FOLDER holds, for each task, a file `<task>.npz` with observations `observation_i`, and draws of their posteriors,
`reference_i [10000, D]`. q(theta | x) is trained on the given number of simulations, with the defaults of
`tfvae.AmortizedInference`, and then drawn from for each observation. What is printed is the accuracy of a classifier
that tells these draws from the reference draws, by five-fold cross-validation (C2ST): 0.5 where it cannot, 1 where it
always does. The classifier is the better of scikit-learn's MLP with two layers of 10 D units, as in the benchmark, and
of its gradient-boosted trees.

Reference: Lueckmann et al. 2021, Benchmarking Simulation-Based Inference.
"""

import argparse
import math
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

import tfvae

tfd = tfp.distributions


def uniform(bound: float, dim: int) -> tfd.Distribution:
    """The uniform distribution of a vector."""
    return tfd.Sample(tfd.Uniform(-bound, bound), dim)


def gaussian_linear_uniform(theta: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Adds noise of variance 0.1."""
    return theta + math.sqrt(0.1) * tf.random.stateless_normal(tf.shape(theta), seed)


def gaussian_mixture(theta: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Adds noise of standard deviation 1 or 0.1."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    is_wide = tf.random.stateless_uniform([tf.shape(theta)[0], 1], seeds[0]) < 0.5
    return theta + tf.where(is_wide, 1.0, 0.1) * tf.random.stateless_normal(tf.shape(theta), seeds[1])


def two_moons(theta: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A point on a noisy half circle, moved by theta."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    angle = tf.random.stateless_uniform([tf.shape(theta)[0]], seeds[0], -math.pi / 2, math.pi / 2)
    radius = tf.random.stateless_normal([tf.shape(theta)[0]], seeds[1], 0.1, 0.01)
    point = tf.stack([radius * tf.cos(angle) + 0.25, radius * tf.sin(angle)], axis=1)
    return point + tf.stack([-tf.abs(theta[:, 0] + theta[:, 1]), theta[:, 1] - theta[:, 0]], axis=1) / math.sqrt(2)


def slcp(theta: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Four draws of a normal distribution in two dimensions, whose mean and covariance are functions of theta."""
    mean, first, second = theta[:, tf.newaxis, :2], theta[:, 2, tf.newaxis] ** 2, theta[:, 3, tf.newaxis] ** 2
    correlation = tf.tanh(theta[:, 4, tf.newaxis])
    noise = tf.random.stateless_normal([tf.shape(theta)[0], 4, 2], seed)
    rest = tf.sqrt(1.0 - correlation**2)
    draws = tf.stack(
        [first * noise[..., 0], second * (correlation * noise[..., 0] + rest * noise[..., 1])],
        axis=-1,
    )
    return tf.reshape(mean + draws, [-1, 8])


TASKS: dict[str, tuple[tfd.Distribution, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]] = {
    "gaussian_linear_uniform": (uniform(1.0, 10), gaussian_linear_uniform),
    "gaussian_mixture": (uniform(10.0, 2), gaussian_mixture),
    "two_moons": (uniform(1.0, 2), two_moons),
    "slcp": (uniform(3.0, 5), slcp),
}


def classifier_accuracy(reference: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    """The accuracy with which each classifier tells draws from reference draws, both [N, D]."""
    x = np.concatenate([reference, draws])
    x = (x - reference.mean(axis=0)) / reference.std(axis=0)
    label = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * x.shape[1]
    classifiers: dict[str, Any] = {
        "mlp": MLPClassifier((width, width), max_iter=200, early_stopping=True, random_state=0),
        "trees": HistGradientBoostingClassifier(random_state=0),
    }
    folds = KFold(5, shuffle=True, random_state=0)
    return {name: float(cross_val_score(each, x, label, cv=folds).mean()) for name, each in classifiers.items()}


def cpu_seconds() -> float:
    """The processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(task: str, folder: pathlib.Path, simulations: int, seed: int) -> None:
    """Trains on one task, and prints a line for each of its observations."""
    prior, simulator = TASKS[task]
    keras.utils.set_random_seed(seed)
    model = tfvae.AmortizedInference(prior, simulator)
    began, cpu_began = time.perf_counter(), cpu_seconds()
    history = model.fit(model.simulate(simulations, seed=seed), verbose=0)
    epochs, cpu = len(history.epoch), cpu_seconds() - cpu_began
    best = max(history.history["val_log_posterior"])
    print(
        f"{task}: {simulations} simulations, {epochs} epochs, held-out log q {best:.3f}, {cpu:.0f} s of CPU, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    data = np.load(folder / f"{task}.npz")
    numbers = sorted(int(name.split("_")[1]) for name in data.files if name.startswith("observation_"))
    accuracies = []
    for number in numbers:
        reference = data[f"reference_{number}"]
        observation = data[f"observation_{number}"].reshape(-1)
        draws = model.sample(observation, len(reference), seed=seed)["theta"]
        found = classifier_accuracy(reference, draws)
        accuracies.append(max(found.values()))
        each = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"  observation {number}: C2ST {accuracies[-1]:.3f} ({each})", flush=True)
    print(f"  mean C2ST {np.mean(accuracies):.3f}", flush=True)


def main() -> None:
    """Runs the tasks of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for task in arguments.tasks:
        run(task, arguments.folder, arguments.simulations, arguments.seed)


if __name__ == "__main__":
    main()
