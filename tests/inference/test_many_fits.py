"""Data sets that are fitted together: each gets the density, the start and the q that it has alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import VariationalInference
from tfvae.inference import refitting as refitting_module
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.many_densities import ManyDensities
from tfvae.inference.many_fits import ManyFits, adam_change
from tfvae.inference.refitting import Refitting
from tfvae.inference.targets import target

tfd = tfp.distributions

SCALES = np.array([1.0, 2.0, 0.5], np.float32)
# For each of two data sets, the rows' mean.
DATA = np.array([[[1.0], [3.0]], [[-4.0], [-6.0]]], np.float32)


def log_joint(latents, y):
    """A density with the mean of z at y, and known derivatives."""
    return -0.5 * tf.reduce_sum(((latents["z"] - tf.reduce_mean(y)) / SCALES) ** 2, axis=1)


def densities(model=log_joint):
    return ManyDensities(JointDensity(target(model, {"z": (3,)}), None), tf.constant(DATA))


def test_each_search_gets_the_density_of_its_own_data_set():
    points = np.random.default_rng(0).normal(size=(70, 3))

    def search(density):
        # Searches ask for different things, of different sizes and different numbers of times.
        own = points[: 70 - 60 * density.index]
        found = [density(own)]
        for _ in range(density.index):
            found.append(density.derivatives(own, own + 1.0))
        return found

    (values,), (others, (again, gradients, products)) = densities().search(search)
    np.testing.assert_allclose(values, -0.5 * np.sum(((points - 2.0) / SCALES) ** 2, axis=1), rtol=1e-5)
    own = points[:10]
    np.testing.assert_allclose(others, -0.5 * np.sum(((own + 5.0) / SCALES) ** 2, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(again, others)
    np.testing.assert_allclose(gradients, -(own + 5.0) / SCALES**2, rtol=1e-5)
    np.testing.assert_allclose(products, -(own + 1.0) / SCALES**2, rtol=1e-5)


def test_the_error_of_one_search_does_not_stop_the_other():
    def search(density):
        if density.index:
            raise ValueError("improper")
        return density(np.zeros([1, 3]))[0], density(np.ones([1, 3]))[0]

    found, error = densities().search(search)
    np.testing.assert_allclose(found, [-0.5 * 4.0 * 5.25, -0.5 * 5.25], rtol=1e-5)
    assert str(error) == "improper"


def refused(latents, y):
    seed = tf.cast(y[:, 0], tf.int32)
    # TensorFlow cannot vectorise this operation.
    return log_joint(latents, y) + 0.0 * tf.random.stateless_normal([], seed)


@pytest.mark.parametrize("case", ["several shapes", "arguments", "not vectorised"])
def test_what_cannot_be_fitted_together_is_fitted_one_by_one(case, monkeypatch):
    fitted = []
    monkeypatch.setattr(VariationalInference, "fit", lambda self, x, y, **given: fitted.append((x, given)))
    refitting = Refitting(VariationalInference(refused if case == "not vectorised" else log_joint, {"z": (3,)}))
    data = [np.zeros([2 + (case == "several shapes" and index), 1], np.float32) for index in range(2)]
    arguments = {"epochs": 3} if case == "arguments" else {}
    found = list(refitting.fits(data, [0, 1], **arguments))
    assert found == [refitting.model, refitting.model]
    assert [x is own for (x, _), own in zip(fitted, data, strict=True)] == [True, True]
    assert fitted[0][1] == {"verbose": 0, **arguments}


def is_fitted_together(inference, monkeypatch):
    """Whether data sets are fitted by one program; and the numbers of those that are fitted together each time."""
    sizes = []

    def fit(self, data, seeds):
        sizes.append(len(data))
        return [ValueError("not fitted")] * len(data)

    monkeypatch.setattr(ManyFits, "__init__", lambda self, model, data: None)
    monkeypatch.setattr(ManyFits, "fit", fit)
    monkeypatch.setattr(VariationalInference, "fit", lambda self, x, y, **given: sizes.append(0))
    monkeypatch.setattr(refitting_module, "_MOST_ELEMENTS", 4)
    list(Refitting(inference).fits([np.zeros([2, 1], np.float32)] * 5, range(5)))
    return sizes


@pytest.mark.parametrize(
    ("compiled", "sizes"),
    [
        (None, [2, 2, 1]),
        ("by fit", [2, 2, 1]),
        ("by fit, and loaded", [2, 2, 1]),
        ("by the user", [0] * 5),
    ],
)
def test_a_model_that_fit_compiled_is_fitted_to_many_data_sets_at_once(compiled, sizes, monkeypatch):
    inference = VariationalInference(log_joint, {"z": (3,)})
    if compiled == "by the user":
        inference.compile(keras.optimizers.Adam(0.3))
    elif compiled:
        inference.compile_by_default()
    if compiled == "by fit, and loaded":
        given = inference.get_compile_config()
        inference = VariationalInference(log_joint, {"z": (3,)})
        inference.compile_from_config(given)
    # A last one alone takes the program of those before it.
    assert is_fitted_together(inference, monkeypatch) == sizes


def test_steps_are_those_of_the_adam_of_keras():
    adam = keras.optimizers.Adam(0.1)
    variable = keras.Variable(np.float32([1.0, -2.0, 0.5]))
    adam.build([variable])
    values = tf.constant(variable.numpy())
    first = second = tf.zeros_like(values)
    for count in range(1, 5):
        gradient = tf.constant(np.random.default_rng(count).normal(size=3).astype(np.float32))
        adam.apply([gradient])
        change, first, second = adam_change(adam, gradient, first, second, tf.constant(float(count)))
        values -= 0.1 * change
    np.testing.assert_allclose(values, variable.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_the_fits_are_those_of_each_data_set_alone():
    def log_joint(latents, y):
        eta = tf.einsum("sd,nd->sn", latents["z"], tf.constant(np.eye(6, 3, dtype=np.float32) + 0.3))
        log_prior = tf.reduce_sum(tfd.Normal(0.0, 2.0).log_prob(latents["z"]), axis=1)
        return log_prior, tfd.Poisson(log_rate=eta).log_prob(y)

    counts = np.random.default_rng(0).poisson(2.0, size=(3, 6)).astype("float32")
    refitting = Refitting(VariationalInference(log_joint, {"z": (3,)}))
    together = [model.draw(20_000, seed=0)["z"] for model in refitting.fits(list(counts), [0, 1, 2])]
    for y, draws in zip(counts, together, strict=True):
        model = VariationalInference(log_joint, {"z": (3,)})
        model.fit(y, verbose=0)
        alone = model.draw(20_000, seed=0)["z"]
        # Each fit is within 0.03 standard deviations of the optimum.
        np.testing.assert_allclose(draws.mean(axis=0), alone.mean(axis=0), atol=0.05 * alone.std())
        np.testing.assert_allclose(np.cov(draws.T), np.cov(alone.T), atol=0.05 * alone.var())
