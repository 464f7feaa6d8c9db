"""Every likelihood in a SavedModel and a .tflite file of built-in ops, against the Keras model."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfvae
from tfvae import export, networks
from tfvae import likelihoods as lk

LATENT_DIM = 2
LIKELIHOODS = {
    "Normal(per_dimension)": (lambda: lk.Normal("per_dimension"), (5,)),
    "Normal(predicted)": (lambda: lk.Normal("predicted"), (4, 4, 2)),
    "Normal(optimal)": (lambda: lk.Normal("optimal"), (5,)),
    "Laplace": (lambda: lk.Laplace("learned"), (4, 4, 2)),
    "StudentT(learned)": (lambda: lk.StudentT(scale="predicted"), (4, 4, 2)),
    "StudentT(3)": (lambda: lk.StudentT(3.0, 0.5), (5,)),
    "Categorical": (lambda: lk.Categorical(4), (5,)),
    "Categorical image": (lambda: lk.Categorical(3), (4, 4, 2)),
    "DiscretizedLogistic": (lk.DiscretizedLogistic, (4, 4, 2)),
    "DiscretizedLogisticMixture": (lambda: lk.DiscretizedLogisticMixture(3), (4, 4, 2)),
    "Poisson": (lk.Poisson, (5,)),
    "NegativeBinomial": (lk.NegativeBinomial, (4, 4, 2)),
    "ZeroInflatedNegativeBinomial": (lk.ZeroInflatedNegativeBinomial, (4, 4, 2)),
    "Columns": (lambda: lk.Columns([(lk.Normal("predicted"), 2), (lk.Categorical(3), 2), (lk.Poisson(), 1)]), (5,)),
    "Missing": (lambda: lk.Missing(lk.StudentT(scale="per_dimension")), (5,)),
    "Missing image": (lambda: lk.Missing(lk.Normal("predicted"), fill=False), (4, 4, 2)),
    "Missing(Columns)": (lambda: lk.Missing(lk.Columns({"a": (lk.Bernoulli(), 2), "b": (lk.Laplace(), 3)})), (5,)),
}


def build(likelihood, event_shape):
    """A model whose weights are changed, so that none has a value, such as 0, that could hide a mistake."""
    keras.utils.set_random_seed(0)
    masked = isinstance(likelihood, lk.Missing) and not likelihood.fill
    encoder = networks.dense_encoder(event_shape, hidden=(8,), missing_mask=masked)
    decoder = networks.dense_decoder(LATENT_DIM, likelihood.parameter_shape(event_shape), hidden=(8,))
    model = tfvae.VAE(encoder, decoder, LATENT_DIM, likelihood=likelihood)
    rng = np.random.default_rng(2)
    # Positive changes, because a moving average of squares must stay positive.
    model.set_weights([w + 0.2 * np.abs(rng.standard_normal(w.shape)).astype(np.float32) for w in model.get_weights()])
    return model


def draw(model, n):
    z = np.random.default_rng(0).standard_normal((n, LATENT_DIM), np.float32)
    x = model.likelihood.distribution(model.decoder(z)).sample(seed=(0, 1)).numpy()
    if model.likelihood.allows_missing:
        x[np.random.default_rng(3).uniform(size=x.shape) < 0.4] = np.nan
        x[0] = np.nan
    return x


def assert_agrees(exported, model, rtol=1e-4):
    x = draw(model, 7)
    epsilon = np.random.default_rng(1).standard_normal((7, LATENT_DIM), np.float32)
    expected, received = model.score(x, epsilon), exported.score(x, epsilon)
    assert np.isfinite(expected["elbo"]).all()
    for term, value in expected.items():
        np.testing.assert_allclose(received[term], value, rtol=1e-4, atol=1e-4)
    reconstruction = exported.reconstruct(x)
    assert reconstruction.shape == (7, *model.likelihood.mean_shape(model.event_shape))
    np.testing.assert_allclose(reconstruction, model.reconstruct(x), rtol=rtol, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name == "Missing(Columns)" else pytest.param(name, marks=pytest.mark.slow) for name in LIKELIHOODS]
)
def test_a_device_agrees_with_keras(tmp_path, name):
    # Without x, the export itself compares with Keras on data that it draws.
    model = build(*(part() if callable(part) else part for part in LIKELIHOODS[name]))
    file = export.tflite(model, tmp_path / "model.tflite")
    assert_agrees(export.load(file), model)
    names = [op["op_name"] for op in Interpreter(model_path=str(file))._get_ops_details()]
    assert "FULLY_CONNECTED" in names
    assert not [name for name in names if name.startswith("Flex") or name == "CUSTOM"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_server_agrees_with_keras(tmp_path, name):
    model = build(*(part() if callable(part) else part for part in LIKELIHOODS[name]))
    assert_agrees(export.load(export.saved_model(model, tmp_path / "served")), model)


def test_int8_is_refused_where_there_are_missing_values(tmp_path):
    with pytest.raises(NotImplementedError, match='quantize="int8" has no number for NaN'):
        export.tflite(
            build(lk.Missing(lk.Normal()), (5,)), tmp_path / "model.tflite", quantize="int8", x=np.eye(5) + 0.1
        )


@pytest.mark.slow
def test_only_an_export_of_a_model_of_missing_values_takes_nan(tmp_path):
    x = np.full((1, 5), np.nan, np.float32)
    complete = export.tflite(build(lk.Normal(), (5,)), tmp_path / "complete.tflite")
    with pytest.raises(ValueError, match=r"`x` must be finite\. Received: 5 values that are NaN or infinite"):
        export.load(complete).reconstruct(x)
    incomplete = export.load(export.tflite(build(lk.Missing(lk.Normal()), (5,)), tmp_path / "incomplete.tflite"))
    assert incomplete.metadata["missing_values"] is True
    assert np.isfinite(incomplete.reconstruct(x)).all()
    with pytest.raises(ValueError, match=r"or NaN, which marks a missing value\. Received: 5 values that are infinite"):
        incomplete.reconstruct(np.full((1, 5), np.inf))
