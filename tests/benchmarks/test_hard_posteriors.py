"""The models of benchmarks/hard_models.py, their exact moments, and what the table says of a row."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield {name: importlib.import_module(name) for name in ("exact_moments", "hard_models", "hard_posteriors")}


def weighted(log_weights, values):
    """The mean and the standard deviation of values [S, ...] under weights, and the error of that mean."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = np.tensordot(weights, values, axes=1)
    squares = (values - mean) ** 2
    return mean, np.sqrt(np.tensordot(weights, squares, axes=1)), np.sqrt(np.tensordot(weights**2, squares, axes=1))


def test_the_moments_of_groups_are_those_of_draws_of_the_prior(benchmarks):
    numbers, estimates, variances = np.random.default_rng(0), np.array([1.0, -0.5, 0.7]), np.array([0.5, 1.0, 0.8])
    mu, tau = numbers.normal(0.0, 5.0, 400_000), abs(numbers.normal(0.0, 2.0, 400_000))
    theta = mu[:, None] + tau[:, None] * numbers.normal(size=(400_000, 3))
    log_weights = stats.norm(theta, np.sqrt(variances)).logpdf(estimates).sum(axis=1)
    exact = benchmarks["exact_moments"].hierarchy(estimates, variances, 5.0, lambda tau: -0.5 * (tau / 2.0) ** 2)
    for name, values in {"mu": mu, "tau": tau, "theta": theta}.items():
        mean, sd, error = weighted(log_weights, values)
        assert np.all(abs(exact[name][0] - mean) < 5 * error), name
        np.testing.assert_allclose(exact[name][1], sd, rtol=0.03)


def test_the_moments_of_a_walk_are_those_of_draws_of_the_prior(benchmarks):
    numbers, y = np.random.default_rng(0), np.array([0.4, 0.1, -0.6])
    tau = abs(numbers.normal(size=400_000))
    x = np.cumsum(tau[:, None] * numbers.normal(size=(400_000, 3)), axis=1)
    exact = benchmarks["exact_moments"].random_walk(y, 0.5, lambda tau: -0.5 * tau**2)
    for name, values in {"tau": tau, "x": x}.items():
        mean, sd, error = weighted(stats.norm(x, 0.5).logpdf(y).sum(axis=1), values)
        assert np.all(abs(exact[name][0] - mean) < 5 * error), name
        np.testing.assert_allclose(exact[name][1], sd, rtol=0.03)


def test_the_moments_of_a_cubic_are_those_of_the_centred_regression(benchmarks):
    model = benchmarks["hard_models"].cubic(0)
    # At the exact mean the gradient in beta is 0, relative to what it is one standard deviation away.
    mean, sd = model.exact["beta"]
    sigma = tf.fill([5], tf.constant(model.exact["sigma"][0], tf.float64))
    beta = tf.constant(np.concatenate([mean[None], mean + np.diag(sd)]))
    with tf.GradientTape() as tape:
        tape.watch(beta)
        value = model.log_joint({"beta": beta, "sigma": sigma})
    gradient = abs(tape.gradient(value, beta).numpy())
    assert np.all(gradient[0] < 1e-3 * gradient[1:].min(axis=0))
    # A step of one marginal standard deviation along one coefficient alone is far from the ridge of the others.
    assert np.all(value[0] > value[1:])


def point(shape, support, dtype):
    values = 0.3 * np.random.default_rng(0).normal(size=(3, *shape))
    kinds = {
        "positive": np.exp(values),
        "unit": 1 / (1 + np.exp(-values)),
        "ordered": np.sort(values),
        "simplex": np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True),
    }
    return tf.constant(kinds.get(support, values), dtype)


SLOW = ["centred 500", "non-centred 500", "random walk 300", "random walk 1000", "ODE", "ARMA", "5000 groups"]
NAMES = [
    *("cubic", "unequal modes", "equal modes", "label switching", "centred 10", "centred 60", "Poisson rate"),
    *("mean and sd", "logistic", "Poisson GP", "funnel", "banana", "eight schools centred", "horseshoe"),
    *("GP classification", "Dirichlet-multinomial", "ordinal"),
]


@pytest.mark.parametrize("name", NAMES + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW])
def test_a_model_is_the_same_in_both_precisions(benchmarks, name):
    model = benchmarks["hard_models"].MODELS[name](0)
    values = []
    for dtype in ("float32", "float64"):
        latents = {key: point(shape, support, dtype) for key, (shape, support) in model.latents.items()}
        values.append(model.log_joint(latents).numpy())
        assert values[-1].dtype == dtype
        if model.exact:
            compared = model.compared({key: each.numpy() for key, each in latents.items()})
            assert {key: np.shape(mean) for key, (mean, _) in model.exact.items()} == {
                key: each.shape[1:] for key, each in compared.items()
            }
    assert values[0].shape == (3,)
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)


def test_every_model_is_tested(benchmarks):
    assert set(NAMES + SLOW) == set(benchmarks["hard_models"].MODELS)


GOOD = {"mean_error": 0.1, "sd_ratio": [0.9, 1.1]}
FAR, NARROW = {"mean_error": 0.4, "sd_ratio": [0.9, 1.1]}, {"mean_error": 0.1, "sd_ratio": [0.6, 1.1]}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"warnings": [], "psis": GOOD}, "right"),
        ({"warnings": ["q is far"], "psis": GOOD}, "right, warned"),
        ({"warnings": ["q is far"], "psis": FAR}, "flagged"),
        ({"warnings": [], "psis": FAR}, "SILENT"),
        ({"warnings": [], "psis": NARROW}, "SILENT"),
        ({"warnings": [], "psis": {"mean_error": np.nan, "sd_ratio": [np.nan, np.nan]}}, "SILENT"),
        ({"warnings": []}, "no reference"),
        ({"error": "ValueError: `model` must"}, "refused"),
        ({"error": "the process ended with the exit code 1"}, "FAILED"),
        ({"time_limit": 3.0}, "time limit"),
    ],
)
def test_the_verdict_of_a_row(benchmarks, row, verdict):
    assert benchmarks["hard_posteriors"].verdict(row) == verdict


def test_moments_are_compared_in_true_standard_deviations(benchmarks):
    truth = {"a": (1.0, 2.0), "b": ([0.0, 0.0], [1.0, 4.0])}
    found = {"a": (2.0, 2.0), "b": (np.array([0.1, 4.0]), np.array([0.5, 4.4]))}
    compared = benchmarks["hard_posteriors"].compare(found, truth)
    assert compared == {"mean_error": 1.0, "worst": "b", "sd_ratio": pytest.approx([0.5, 1.1])}
    with pytest.raises(ValueError, match="`found` must hold the quantities"):
        benchmarks["hard_posteriors"].compare({"a": (0.0, 1.0)}, truth)
