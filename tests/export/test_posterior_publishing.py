"""How the SavedModel of a posterior is published, and the errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.export.test_posterior import assert_close, drawn_by, of_family
from tests.helpers.grouped_regression import GROUP, SIGMA, X, location, log_joint, predictive
from tfvae import LocalLatents, VariationalInference, export, posteriors
from tfvae.inference import newton

tfb = tfp.bijectors
tfd = tfp.distributions


# Publishing


def small(function=None):
    """A model of two numbers with the initial q, with or without predictions."""
    model = VariationalInference(log_joint, {"b": (2,)}, predictive=function)
    model.approximation.set_coordinates(newton.Gaussian(np.zeros(2), np.eye(2), np.nan))
    return model


@pytest.mark.slow
def test_a_second_export_is_version_2_and_the_newest_is_opened(tmp_path):
    model = small()
    first = export.saved_model(model, tmp_path / "model")
    noise = np.ones([1, 2])
    before = export.load(tmp_path / "model").sample(noise)
    model.approximation.loc.assign_add(tf.ones([2]))
    second = export.saved_model(model, tmp_path / "model")
    assert (first.name, second.name) == ("1", "2")
    assert_close(export.load(tmp_path / "model").sample(noise), drawn_by(model, noise))
    np.testing.assert_allclose(export.load(second).sample(noise)["b"] - before["b"], 1.0, rtol=1e-5)


def test_one_that_does_not_agree_is_not_published(tmp_path, monkeypatch):
    model = small()
    save = tf.saved_model.save

    def save_other_weights(endpoints, *arguments, **options):
        model.approximation.loc.assign_add([1e-2, 0.0])
        save(endpoints, *arguments, **options)
        model.approximation.loc.assign_sub([1e-2, 0.0])

    monkeypatch.setattr(tf.saved_model, "save", save_other_weights)
    with pytest.raises(ValueError, match="The SavedModel must agree with the Keras model"):
        export.saved_model(model, tmp_path / "model")
    assert not list((tmp_path / "model").glob("[0-9]*"))


@pytest.mark.slow
def test_few_rows_of_large_data_are_compared(tmp_path):
    rows = []

    def counted(latents, x):
        if isinstance(x, tf.Tensor) and hasattr(x, "numpy"):
            rows.append(len(x))
        return predictive(latents, x)

    model = small(counted)
    export.saved_model(model, tmp_path / "model", x=np.ones([5000, 2]))
    assert rows
    assert max(rows) <= 64


@pytest.mark.slow
def test_what_a_client_sends_in_doubles_or_booleans_is_what_the_model_takes(tmp_path):
    def of_flag(latents, x):
        assert (x["x"].dtype, x["flag"].dtype) == (tf.float32, tf.bool)
        return tfd.Normal(tf.where(x["flag"], location(latents, x["x"]), 7.0), SIGMA)

    model = small(of_flag)
    x = {"x": np.ones([2, 2]), "flag": np.array([True, False])}
    version = export.saved_model(model, tmp_path / "model", x=x)
    received = export.load(version).predict(**x)
    assert_close(received, model.predict_moments(x))
    assert received["mean"][1] == 7.0


def test_draws_and_predictions_are_verified(tmp_path):
    model, x = small(predictive), np.random.default_rng(0).normal(size=[5, 2])
    version = export.saved_model(model, tmp_path / "model", x=x)
    result = export.verify(model, saved_model=version, x=x, timed_calls=1)
    assert [(row.signature, row.output) for row in result.agreements] == [
        ("sample", "b"),
        ("predict", "mean"),
        ("predict", "stddev"),
        ("serving_default", "mean"),
        ("serving_default", "stddev"),
    ]
    assert max(row.max_difference for row in result.agreements) < 1e-5
    assert [(cost.format, cost.elbo_difference) for cost in result.costs] == [("Keras", None), ("SavedModel", None)]
    with pytest.raises(ValueError, match=r"^`x` must be None for a model without `predictive`"):
        export.verify(small(), saved_model=version, x=x)


# Errors


def assert_nothing_is_written(folder):
    assert list(folder.iterdir()) == []


def test_a_model_that_is_not_fitted_is_refused(tmp_path):
    model = VariationalInference(log_joint, {"b": (2,)})
    with pytest.raises(ValueError, match=r"^`model` must be fitted before it is exported"):
        export.saved_model(model, tmp_path / "model")
    assert_nothing_is_written(tmp_path)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, r"^`x` must hold new data as `predictive` takes them.*Received: NoneType$"),
        ([1.0, 2.0], r"^`x` must hold new data.*Received: list$"),
        ((X, X), r"^`x` must hold new data.*Received: tuple$"),
        (tf.data.Dataset.from_tensors(X), r"^`x` must hold new data.*Received: "),
        (np.zeros([0, 2]), r"^`x` must hold at least one example"),
        (np.array(["a", "b"]), r"^`x` must hold real numbers"),
        (np.float32(3.0), r"^`x` must hold arrays with one row"),
        ({}, r"^`x` must hold arrays with one row.*Received: no arrays$"),
        ({"x": X, "group": GROUP[:3]}, r"^`x` must hold arrays with one row.*\[3\].*\[12, 2\]"),
        (np.full([3, 2], np.nan), r"^`x` must be finite"),
    ],
)
def test_x_that_predictive_cannot_take_is_refused(x, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.saved_model(small(predictive), tmp_path / "model", x=x)
    assert not list((tmp_path / "model").glob("[0-9]*"))


def test_what_is_not_needed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`x` must be None for a model without `predictive`"):
        export.saved_model(small(), tmp_path / "model", x=X)
    for name in ("offset", "scale"):
        with pytest.raises(ValueError, match=r"^`offset` and `scale` must be None"):
            export.saved_model(small(), tmp_path / "model", **{name: 1.0})
    assert_nothing_is_written(tmp_path)


def test_local_latents_and_tflite_are_refused(tmp_path):
    encoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model = VariationalInference(log_joint, {"b": (2,)}, local=LocalLatents({"z": ()}, encoder))
    model.approximation.standardized.assign(1.0)
    with pytest.raises(NotImplementedError, match="local latent variables"):
        export.saved_model(model, tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"^`model` must be of another kind: models of the class VariationalInference can only"
    ):
        export.tflite(small(), tmp_path / "model.tflite")
    assert_nothing_is_written(tmp_path)


def test_a_family_whose_draws_are_no_function_of_noise_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(posteriors.DiagonalNormal, "sample_from", posteriors.Posterior.sample_from)
    with pytest.raises(NotImplementedError, match="DiagonalNormal has no `sample_from`"):
        export.saved_model(of_family("DiagonalNormal"), tmp_path / "model")
    assert_nothing_is_written(tmp_path)
