"""Scores, decisions and reasons of autoencoders, against SciPy and on planted anomalies."""

import pickle

import keras
import numpy as np
import pytest
import scipy.stats

import tfvae
from tfvae import likelihoods, networks

KINDS = {"amount": 0, "clicks": 1, "paid": 2, "channel": 3}


def table(rows, seed=0):
    """A number, a count, a bool and one of 100 equally probable codes."""
    rng = np.random.default_rng(seed)
    columns = (rng.normal(size=rows), rng.poisson(3, rows), rng.random(rows) < 0.3, rng.integers(0, 100, rows))
    return np.stack(columns, axis=1).astype(np.float32)


def mixed():
    return likelihoods.Columns(
        {
            "amount": (likelihoods.Normal(1.0), 1),
            "clicks": (likelihoods.Poisson(), 1),
            "paid": (likelihoods.Bernoulli(), 1),
            "channel": (likelihoods.Categorical(100), 1),
        }
    )


def knowing(likelihood):
    """A VAE whose decoder ignores z and gives the true parameters of `table`."""
    outputs = likelihood.parameter_shape((4,))[0]
    parameters = np.concatenate([[0.0], [np.log(3.0)], [np.log(0.3 / 0.7)], np.zeros(100)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(outputs, kernel_initializer="zeros")])
    decoder.layers[-1].bias.assign(parameters)
    model = tfvae.VAE(networks.dense_encoder((4,), hidden=(8,)), decoder, 2, likelihood=likelihood)
    # So that q(z|x) hardly depends on x, as it would after a training.
    model.encoder.set_weights([0.01 * weight for weight in model.encoder.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    model = knowing(mixed())
    model.calibrate(table(1000), false_alarm_rate=0.01)
    return model


def log_probs(model, x):
    """log p(x_d|z) [N, 4] by SciPy."""
    return np.stack(
        [
            scipy.stats.norm.logpdf(x[:, 0], 0, 1),
            scipy.stats.poisson.logpmf(x[:, 1], 3),
            scipy.stats.bernoulli.logpmf(x[:, 2], 0.3),
            np.full(len(x), -np.log(100)),
        ],
        axis=1,
    )


def test_contributions_are_what_scipy_computes_less_their_mean(model):
    reference, x = table(1000), table(50, seed=1)
    expected = -log_probs(model, x) + log_probs(model, reference).mean(axis=0)
    kl = model.score(x)["kl"] - model.score(reference)["kl"].mean()
    outputs = model.detect(x)
    np.testing.assert_allclose(outputs["contributions"], expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(outputs["kl"], kl, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(outputs["score"], expected.sum(axis=1) + kl, rtol=2e-5, atol=1e-4)
    assert outputs["is_anomaly"].dtype == bool


def test_the_score_is_the_negative_elbo_but_for_a_constant_and_0_on_average(model):
    x = table(1000)
    outputs, elbo = model.detect(x), model.score(x)["elbo"]
    np.testing.assert_allclose(outputs["score"], elbo.mean() - elbo, atol=1e-4)
    assert outputs["score"].mean() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(
        outputs["contributions"].sum(axis=1) + outputs["kl"], outputs["score"], rtol=1e-5, atol=1e-5
    )
    # A column of a uniform code costs 4.6 nats in every row, and says nothing.
    np.testing.assert_allclose(outputs["contributions"][:, KINDS["channel"]], 0, atol=1e-5)


@pytest.mark.parametrize(("column", "planted"), [("amount", 5.5), ("clicks", 25.0)])
def test_a_planted_column_is_the_top_reason(model, column, planted):
    x = table(200, seed=1)
    x[:, KINDS[column]] = planted
    outputs = model.detect(x)
    assert outputs["is_anomaly"].mean() > 0.99
    assert (outputs["contributions"].argmax(axis=1) == KINDS[column]).mean() > 0.99


@pytest.mark.slow
def test_columns_planted_in_rows_that_a_trained_model_relates_are_the_top_reasons():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 2))
    x = (z @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(3000, 8))).astype(np.float32)
    model = tfvae.VAE(
        networks.dense_encoder((8,), hidden=(32,)),
        networks.dense_decoder(2, (8,), hidden=(32,)),
        2,
        likelihood=likelihoods.Normal("learned"),
    )
    model.compile("adam")
    model.fit(x[:2000], epochs=60, batch_size=64, verbose=0)
    model.calibrate(x[2000:2500], false_alarm_rate=0.01)
    clean, planted = x[2500:], x[2500:].copy()
    columns = rng.integers(0, 8, 500)
    # A value that the column has in another row, in the wrong place.
    planted[np.arange(500), columns] += np.where(rng.random(500) < 0.5, -3, 3).astype(np.float32)
    assert model.detect(clean)["is_anomaly"].mean() < 0.03
    outputs = model.detect(planted)
    assert outputs["is_anomaly"].mean() > 0.95
    assert (outputs["contributions"].argmax(axis=1) == columns).mean() > 0.9


def test_a_missing_element_contributes_exactly_0():
    model = knowing(likelihoods.Missing(mixed()))
    reference = table(500)
    reference[::3, KINDS["amount"]] = np.nan
    model.calibrate(reference, false_alarm_rate=0.01)
    x = table(50, seed=1)
    full = model.detect(x)["contributions"]
    x[:, KINDS["amount"]] = np.nan
    outputs = model.detect(x)
    assert not outputs["contributions"][:, KINDS["amount"]].any()
    np.testing.assert_array_equal(outputs["contributions"][:, 1:], full[:, 1:])
    # The mean is that of what is observed.
    observed = reference[np.isfinite(reference[:, 0]), 0]
    expected = -scipy.stats.norm.logpdf(observed, 0, 1).mean()
    assert model.decision.expected_contributions[0] == pytest.approx(expected, rel=1e-5)


def test_anomalies_in_the_data_do_not_count_for_what_is_typical():
    model, clean = knowing(mixed()), table(1000)
    model.calibrate(clean, contamination=0.05)
    before = model.decision
    x = clean.copy()
    x[:50, KINDS["amount"]] = 1000
    found = model.calibrate(x, contamination=0.05)
    assert model.detect(x)["is_anomaly"].nonzero()[0].tolist() == list(range(50))
    assert (found.method, found.rate, found.rows) == ("contamination", 0.05, 1000)
    # With them the mean of the column would be 100,000 nats.
    np.testing.assert_allclose(model.decision.expected_contributions, before.expected_contributions, atol=0.2, rtol=0)


def test_a_threshold_may_be_given(model):
    other = knowing(mixed())
    found = other.calibrate(table(100), threshold=3)
    assert (found.value, found.method, found.rate, found.rows) == (3.0, "given", None, 100)
    outputs = other.detect(table(100))
    np.testing.assert_array_equal(outputs["is_anomaly"], outputs["score"] > 3)


def test_data_sets_and_batches_give_the_same(model):
    import tensorflow as tf

    x, other = table(100), knowing(mixed())
    other.set_weights(model.get_weights())
    other.calibrate(tf.data.Dataset.from_tensor_slices(table(1000)).batch(64), false_alarm_rate=0.01)
    for name, output in other.detect(tf.data.Dataset.from_tensor_slices(x).batch(7)).items():
        np.testing.assert_allclose(output, model.detect(x, batch_size=33)[name], rtol=1e-4, atol=1e-4)


def test_files_hold_the_calibration(model, tmp_path):
    x = table(50)
    expected = model.detect(x)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    uncalibrated = knowing(mixed())
    uncalibrated.load_weights(tmp_path / "model.weights.h5")
    for copy in (
        keras.saving.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
        uncalibrated,
    ):
        assert copy.decision.threshold == model.decision.threshold
        for name, output in copy.detect(x).items():
            np.testing.assert_array_equal(output, expected[name])
    # And weights without one are of a model that is not calibrated.
    knowing(mixed()).save_weights(tmp_path / "other.weights.h5")
    uncalibrated.load_weights(tmp_path / "other.weights.h5")
    assert uncalibrated.decision is None


def test_a_clone_has_new_weights_and_so_no_calibration(model):
    with pytest.raises(ValueError, match=r"^The model must be calibrated before `detect\(\)`.*Received: a model that"):
        keras.models.clone_model(model).detect(table(5))


def test_training_undoes_the_calibration(x, tiny_vae):
    model = tiny_vae()
    model.compile("sgd")
    model.calibrate(x, threshold=1.0)
    assert len(model.detect(x)["score"]) == 20
    model.train_on_batch(x)
    with pytest.raises(ValueError, match="was trained after it"):
        model.detect(x)


def conditional(x):
    model = tfvae.ConditionalVAE(
        networks.dense_encoder((4,), (8,), condition_dim=3),
        networks.dense_decoder(2, (4,), (8,), condition_dim=3),
        2,
        3,
    )
    return model, {"x": x, "condition": np.eye(3, dtype=np.float32)[np.arange(len(x)) % 3]}


def semi_supervised(x):
    model = tfvae.SemiSupervisedVAE(
        networks.dense_encoder((4,), (8,), condition_dim=3),
        networks.dense_decoder(2, (4,), (8,), condition_dim=3),
        networks.dense_decoder(4, (3,), (8,)),
        2,
        3,
    )
    return model, {"x": x, "label": np.arange(len(x)) % 4 - 1}


def hierarchical(x):
    encoders = [networks.dense_encoder((4,), (8,)), networks.dense_encoder((2,), (8,))]
    decoders = [networks.dense_decoder(2, (4,), (8,)), networks.dense_encoder((1,), (8,))]
    return tfvae.HierarchicalVAE(encoders, decoders, (2, 1)), x


@pytest.mark.parametrize(
    "make", [conditional, *(pytest.param(make, marks=pytest.mark.slow) for make in (semi_supervised, hierarchical))]
)
def test_other_autoencoders_detect_too(make, x):
    model, data = make(x)
    model.calibrate(data, threshold=1.0)
    outputs, elbo = model.detect(data), model.score(data)["elbo"]
    np.testing.assert_allclose(outputs["score"], elbo.mean() - elbo, atol=1e-4)
    assert outputs["contributions"].shape == (20, 4)


def test_bits_are_judged_too(x, tiny_vae):
    model, bits = tiny_vae(likelihood=likelihoods.Bernoulli()), np.float32(x > 0)
    model.calibrate(bits, threshold=1.0)
    elbo = model.score(bits)["elbo"]
    np.testing.assert_allclose(model.detect(bits)["score"], elbo.mean() - elbo, atol=1e-4)


class Joint(likelihoods.Normal):
    """A likelihood that is no product over the elements of x."""

    def log_prob(self, x, parameters, training=False):
        return -(super().log_prob(x, parameters, training) ** 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "^Exactly one of `contamination`, `false_alarm_rate`, `tail`, `threshold` must be given"),
        ({"tail": 0.1, "threshold": 1.0}, "^Exactly one of"),
        ({"contamination": 1.5}, "^`contamination` must be between 0 and 1"),
        ({"threshold": np.nan}, "^`threshold` must be a finite number"),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.calibrate("no data", **arguments)


def test_models_without_a_sum_over_elements_are_refused(tiny_vae, x):
    with pytest.raises(NotImplementedError, match=r"^`likelihood` must be a product.*Received: a Joint"):
        tiny_vae(likelihood=Joint()).calibrate(x, threshold=1.0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Reshape((2, 2))])
    decoder = keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(NotImplementedError, match=r"^VQVAE does not detect anomalies"):
        tfvae.VQVAE(encoder, decoder, 3).calibrate(x, threshold=1.0)


def test_a_score_that_is_not_finite_is_refused(tiny_vae, x):
    model = tiny_vae()
    model.decoder.set_weights([np.full_like(weight, np.inf) for weight in model.decoder.get_weights()])
    with pytest.raises(ValueError, match=r"^`x` must have finite scores under the model. Received: .* index 0, and 20"):
        model.calibrate(x, threshold=1.0)
