"""The exports of amortised inference: their numbers against the model's, in every format."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import AmortizedInference, export, networks, posteriors

tfd = tfp.distributions

PRIOR = tfd.JointDistributionNamed({"rate": tfd.Gamma(2.0, 0.5), "effect": tfd.Sample(tfd.Normal(0.0, 1.0), 2)})


def simulator(latents, seed):
    noise = tf.random.stateless_normal([tf.shape(latents["rate"])[0], 6, 2], seed)
    return latents["effect"][:, None] + latents["rate"][:, None, None] * noise


def of_sets(num_items, posterior):
    """A model whose weights are random, not the initial ones, so that every op counts."""
    keras.utils.set_random_seed(0)
    encoder = networks.set_encoder((2,), num_items, item_hidden=(5,), hidden=(4,))
    model = AmortizedInference(PRIOR, simulator, encoder, posterior)
    pairs = model.simulate(400, seed=0)
    model.check_data(pairs)
    generator = np.random.default_rng(0)
    for weight in model.posterior.weights:
        weight.assign(generator.normal(scale=0.25, size=weight.shape))
    # What a fit does, without the time it takes.
    model._standardize(pairs)
    model._note_typical(pairs)
    return model


def compare(model, opened, rtol):
    x = model.simulate(5, seed=1)["x"]
    epsilon = np.random.default_rng(2).normal(size=(5, 3)).astype("float32")
    drawn = opened.sample(x=x, epsilon=epsilon)
    assert {name: value.shape for name, value in drawn.items()} == {"rate": (5,), "effect": (5, 2)}
    parameters = model.posterior(model._features(tf.constant(x)))
    expected, _ = model._constrained(model.posterior.sample_from(parameters, epsilon))
    for name, value in expected.items():
        np.testing.assert_allclose(drawn[name], value, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(
        opened.run("log_prob", x=x, **drawn)["log_prob"], model.log_prob(drawn, x), rtol=rtol, atol=10 * rtol
    )
    np.testing.assert_allclose(opened.run("unlikeness", x=x)["unlikeness"], model.unlikeness(x), rtol=rtol)


@pytest.fixture(scope="module")
def model():
    return of_sets(6, posteriors.SplineFlow(num_couplings=2, bins=3, hidden=4))


@pytest.mark.slow
def test_a_device_draws_as_the_model_does(model, tmp_path):
    path = export.tflite(model, tmp_path / "model.tflite")
    compare(model, export.load(path), 1e-3)


@pytest.mark.slow
def test_a_server_draws_as_the_model_does(model, tmp_path):
    export.saved_model(model, tmp_path / "model")
    compare(model, export.load(tmp_path / "model"), 1e-4)
    assert "effect [2], rate []" in next((tmp_path / "model").rglob("README.md")).read_text()


@pytest.mark.slow
def test_onnx_draws_as_the_model_does(model, tmp_path):
    compare(model, export.load(export.onnx(model, tmp_path / "model")), 1e-3)


def test_a_model_of_sets_of_any_size_is_not_exported(tmp_path):
    model = of_sets(None, posteriors.DiagonalNormal())
    with pytest.raises(NotImplementedError, match=r"must declare all sizes of x .* of shape \[None, None, 2\]$"):
        export.tflite(model, tmp_path / "model.tflite")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["saved_model", "tflite", "onnx"])
def test_proportions_are_exported(file_format, tmp_path):
    keras.utils.set_random_seed(0)
    prior = tfd.JointDistributionNamed({"share": tfd.Dirichlet([2.0, 3.0, 4.0])})
    model = AmortizedInference(prior, lambda latents, seed: latents["share"] ** 2)
    model.fit(model.simulate(64, seed=0), epochs=1, verbose=0)
    path = tmp_path / ("model.tflite" if file_format == "tflite" else "model")
    opened = export.load(getattr(export, file_format)(model, path))
    x = model.simulate(5, seed=1)["x"]
    epsilon = np.random.default_rng(2).normal(size=(5, 2)).astype("float32")
    drawn = opened.sample(x=x, epsilon=epsilon)["share"]
    expected, _ = model._constrained(model.posterior.sample_from(model.posterior(model._features(x)), epsilon))
    np.testing.assert_allclose(drawn, expected["share"], rtol=1e-4)
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0, rtol=1e-5)
