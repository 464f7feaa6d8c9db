"""Amortised inference on tasks of the simulation-based inference benchmark, against reference posteriors.

    python benchmarks/simulation_tasks.py FOLDER [--simulations 10000] [--tasks two_moons ...] [--seed 0]
        [--methods tfvae sbi "sbi nsf" bayesflow --python PYTHON]

FOLDER holds, for each task, a file `<task>.npz` with observations `observation_i`, and draws of their posteriors,
`reference_i [10000, D]`. Each method trains q(theta | x) on the same simulations, in a process and with the defaults of
its own, and then draws for each observation: see `peers/posterior_estimators.py`. PYTHON is one that has sbi and
BayesFlow, where this one has not.

What is printed is the accuracy of a classifier that tells these draws from the reference draws (C2ST): 0.5 where it
cannot, 1 where it always does. As in the benchmark, it is scikit-learn's MLP with two layers of 10 D units, by
five-fold cross-validation; but its training stops early, which takes a tenth of the time.

Reference: Lueckmann et al. 2021, Benchmarking Simulation-Based Inference; its definition is `sbibm.metrics.c2st`.
"""

import argparse
import math
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

import tfvae

tfd = tfp.distributions

_WORKER = pathlib.Path(__file__).parent / "peers" / "posterior_estimators.py"
_METHODS = ("tfvae", "sbi", "sbi nsf", "bayesflow")


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


# The bound and the dimension D of the prior, U(-bound, bound)^D, and the simulator.
TASKS: dict[str, tuple[float, int, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]] = {
    "gaussian_linear_uniform": (1.0, 10, gaussian_linear_uniform),
    "gaussian_mixture": (10.0, 2, gaussian_mixture),
    "two_moons": (1.0, 2, two_moons),
    "slcp": (3.0, 5, slcp),
}


def classifier_accuracy(reference: np.ndarray, draws: np.ndarray) -> float:
    """The accuracy with which a classifier tells draws from reference draws, both [N, D]."""
    x = np.concatenate([reference, draws])
    x = (x - reference.mean(axis=0)) / reference.std(axis=0)
    label = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * x.shape[1]
    classifier = MLPClassifier((width, width), max_iter=200, early_stopping=True, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    return float(cross_val_score(classifier, x, label, cv=folds).mean())


def observations(folder: pathlib.Path, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The observations [M, K] of a task, and the draws of their posteriors [M, S, D]."""
    data = np.load(folder / f"{task}.npz")
    numbers = sorted(int(name.split("_")[1]) for name in data.files if name.startswith("observation_"))
    given, reference = ([data[f"{name}_{number}"] for number in numbers] for name in ("observation", "reference"))
    return np.stack(given).reshape(len(numbers), -1).astype(np.float32), np.stack(reference)


def run(task: str, folder: pathlib.Path, simulations: int, seed: int, methods: list[str], python: str) -> None:
    """Prints a line for each method on one task."""
    bound, dim, simulator = TASKS[task]
    prior = tfd.Sample(tfd.Uniform(-bound, bound), dim)
    pairs = tfvae.AmortizedInference(prior, simulator).simulate(simulations, seed=seed)
    given, reference = observations(folder, task)
    with tempfile.TemporaryDirectory() as temporary:
        source, target = pathlib.Path(temporary, "pairs.npz"), pathlib.Path(temporary, "draws.npz")
        box = {"low": np.full(dim, -bound, np.float32), "high": np.full(dim, bound, np.float32)}
        np.savez(source, **pairs, **box, observations=given, num_draws=reference.shape[1], seed=seed)
        for method in methods:
            # The libraries log to standard error without end.
            command = [sys.executable if method == "tfvae" else python, str(_WORKER), method, str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{task}: {method}: failed\n{done.stderr[-1000:]}", flush=True)
                continue
            found = np.load(target)
            each = [classifier_accuracy(*pair) for pair in zip(reference, found["draws"], strict=True)]
            print(
                f"{task}: {simulations} simulations: {method}: C2ST {np.mean(each):.3f} "
                f"({', '.join(f'{value:.3f}' for value in each)}), {found['cpu_seconds']:.0f} s of CPU",
                flush=True,
            )


def main() -> None:
    """Runs the tasks of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=["tfvae"])
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    for task in arguments.tasks:
        run(task, arguments.folder, arguments.simulations, arguments.seed, arguments.methods, arguments.python)


if __name__ == "__main__":
    main()
