"""The measure and the simulators of benchmarks/simulation_tasks.py; no other library is needed."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="module")
def tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("simulation_tasks")


def test_draws_of_the_same_distribution_are_not_told_apart_and_others_are(tasks):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(500, 2))
    assert abs(tasks.classifier_accuracy(reference, rng.normal(size=(500, 2))) - 0.5) < 0.08
    # For a shift by 2 sd along one axis the best classifier is right with probability Phi(1).
    shifted = rng.normal([2.0, 0.0], 1.0, size=(500, 2))
    assert abs(tasks.classifier_accuracy(reference, shifted) - 0.841) < 0.05


@pytest.mark.parametrize(
    ("task", "theta", "mean", "sd"),
    [
        ("gaussian_linear_uniform", np.linspace(-1, 1, 10), np.linspace(-1, 1, 10), [np.sqrt(0.1)] * 10),
        ("gaussian_mixture", [1.0, 2.0], [1.0, 2.0], [np.sqrt(0.505)] * 2),
        # E[cos a] = 2 / pi; the variances are E[r^2] / 2 less the square of the mean, and E[r^2] / 2.
        (
            "two_moons",
            [0.4, 0.2],
            [0.25 + 0.2 / np.pi - 0.6 / np.sqrt(2), -0.2 / np.sqrt(2)],
            [np.sqrt(0.0101 / 2 - (0.2 / np.pi) ** 2), np.sqrt(0.0101 / 2)],
        ),
        ("slcp", [0.5, -0.5, 1.2, -0.8, 0.7], [0.5, -0.5] * 4, [1.44, 0.64] * 4),
    ],
)
def test_simulators_have_the_moments_of_their_tasks(tasks, task, theta, mean, sd):
    _, dim, simulator = tasks.TASKS[task]
    assert dim == len(theta)
    x = simulator(tf.tile(tf.constant([theta], tf.float32), [20_000, 1]), tf.constant([0, 1])).numpy()
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * max(sd) / np.sqrt(20_000))
    np.testing.assert_allclose(x.std(axis=0), sd, rtol=0.04)
    if task == "slcp":
        assert np.corrcoef(x[:, 0], x[:, 1])[0, 1] == pytest.approx(np.tanh(0.7), abs=0.02)
