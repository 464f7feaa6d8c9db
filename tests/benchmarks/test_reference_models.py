"""The log joint densities of benchmarks/reference_models.py against sums of SciPy's, on made-up data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

PATH = Path(__file__).parents[2] / "benchmarks" / "reference_models.py"
spec = importlib.util.spec_from_file_location("reference_models", PATH)
reference_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference_models)

numbers = np.random.default_rng(0)
Y = numbers.normal(size=12)
X = numbers.normal(size=(12, 2))


def eight_schools(mu, tau, z):
    prior = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(0, 5).logpdf(tau) + stats.norm.logpdf(z).sum()
    return prior + stats.norm(mu + tau * z, np.exp(Y)).logpdf(Y).sum()


def garch(mu, alpha0, weights):
    variance, total = 0.5**2, 0.0
    for previous, now in zip([None, *Y[:-1]], Y, strict=True):
        if previous is not None:
            variance = alpha0 + weights[0] * (previous - mu) ** 2 + weights[1] * variance
        total += stats.norm(mu, variance**0.5).logpdf(now)
    return total


def mixture(mu, sigma, theta):
    first, second = (stats.norm(*each).pdf(Y) for each in zip(mu, sigma, strict=True))
    # The prior of mu is that of two sorted draws, hence log(2).
    prior = np.log(2) + stats.norm(0, 2).logpdf(mu).sum() + stats.halfnorm(0, 2).logpdf(sigma).sum()
    return prior + stats.beta(5, 5).logpdf(theta) + np.log(theta * first + (1 - theta) * second).sum()


def blr(beta, sigma):
    prior = stats.norm(0, 10).logpdf(beta).sum() + stats.halfnorm(0, 10).logpdf(sigma)
    return prior + stats.norm(X @ beta, sigma).logpdf(Y).sum()


def ark(beta, sigma):
    prior = stats.norm(0, 10).logpdf(beta).sum() + stats.halfcauchy(0, 2.5).logpdf(sigma)
    means = [beta[0] + beta[1] * Y[t - 1] + beta[2] * Y[t - 2] for t in range(2, len(Y))]
    return prior + stats.norm(means, sigma).logpdf(Y[2:]).sum()


CASES = {
    "eight_schools-eight_schools_noncentered": ({"y": Y, "sigma": np.exp(Y)}, eight_schools),
    "garch-garch11": ({"y": Y, "sigma1": 0.5}, garch),
    "low_dim_gauss_mix-low_dim_gauss_mix": ({"y": Y}, mixture),
    "sblri-blr": ({"y": Y, "X": X}, blr),
    "arK-arK": ({"y": Y, "K": 2}, ark),
}


@pytest.mark.parametrize("name", CASES)
def test_log_joint_and_jacobian(name):
    data, log_joint = CASES[name]
    model = reference_models.MODELS[name](data)
    vector = tf.constant(numbers.normal(size=(3, model.size)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(vector)
        latents, log_jacobian = model.constrain(vector)
        # The last weight of a point of the simplex follows from the others.
        columns = [tf.reshape(value, (3, -1))[:, : 2 if key == "weights" else None] for key, value in latents.items()]
        flat = tf.concat(columns, axis=1)
    determinant = np.linalg.det(tape.batch_jacobian(flat, vector))
    np.testing.assert_allclose(log_jacobian, np.log(np.abs(determinant)), rtol=1e-4, atol=1e-4)

    points = [{key: value[row].numpy().astype(float) for key, value in latents.items()} for row in range(3)]
    expected = [log_joint(**point) for point in points]
    np.testing.assert_allclose(model.log_joint(latents), expected, rtol=1e-5)
    np.testing.assert_allclose(model.unconstrained_log_density(vector), expected + log_jacobian, rtol=1e-5)


def test_the_errors_are_in_standard_deviations_of_the_reference():
    draws = {"a": np.array([1.0, 3.0]), "b": np.array([0.0, 4.0])}
    reference = {"a": {"mean": 1.0, "sd": 2.0}, "b": {"mean": 2.0, "sd": 1.0}}
    assert reference_models.compare(draws, reference) == (0.5, 0.5, 2.0)
    with pytest.raises(ValueError, match=r"the parameters \['a'\]. Received: \['a', 'b'\]"):
        reference_models.compare(draws, {"a": reference["a"]})
