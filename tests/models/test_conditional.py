"""The conditional VAE: against a linear model whose log p(x|c) is known; its data, files and exports."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfvae import ConditionalVAE, export, impute, networks
from tfvae.elbo import Sampling
from tfvae.likelihoods import Bernoulli, Normal
from tfvae.objectives import IWAE
from tfvae.posteriors import DiagonalNormal
from tfvae.priors import StandardNormal, VampPrior

D, C, SCALE = 3, 2, 0.5
# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)


def data(n=40):
    generator = np.random.default_rng(0)
    x, condition = (generator.normal(size=(n, size)).astype("float32") for size in (D, C))
    return {"x": x, "condition": condition}


def build(latent_dim=1, hidden=(), **arguments):
    return ConditionalVAE(
        networks.dense_encoder((D,), hidden, condition_dim=C),
        networks.dense_decoder(latent_dim, (D,), hidden, condition_dim=C),
        latent_dim,
        condition_dim=C,
        likelihood=Normal(SCALE),
        **arguments,
    )


def linear(prior_depends_on_condition, **arguments):
    """A linear model of one latent dimension with its exact posterior, and log p(x|c) as a function of data.

    z|c ~ N(m c + n, s^2) and x|z,c ~ N(W z + A c + b, SCALE^2 I), so that x|c is normal with the mean
    W (m c + n) + A c + b and the covariance W s^2 W^T + SCALE^2 I.
    """
    generator = np.random.default_rng(1)
    w, a, b = generator.normal(size=(1, D)), generator.normal(size=(C, D)), generator.normal(size=D)
    m, n, s = np.zeros((C, 1)), np.zeros(1), 1.0
    prior = StandardNormal()
    if prior_depends_on_condition:
        m, n, s = generator.normal(size=(C, 1)), generator.normal(size=1), 0.6
        prior = DiagonalNormal()
    vae = build(prior=prior, **arguments)
    vae.decoder.set_weights([np.concatenate([w, a]), b])
    if prior_depends_on_condition:
        vae.prior.loc_head.set_weights([m, n])
        vae.prior.scale_head.set_weights([np.zeros((C, 1)), np.array([np.log(np.expm1(s)) - SHIFT])])
    variance = 1 / ((w @ w.T).item() / SCALE**2 + 1 / s**2)
    kernel = np.concatenate([w.T / SCALE**2, -a @ w.T / SCALE**2 + m / s**2]) * variance
    vae.posterior.loc_head.set_weights([kernel, variance * (-(b @ w.T) / SCALE**2 + n / s**2)])
    raw = np.log(np.expm1(np.sqrt(variance))) - SHIFT
    vae.posterior.scale_head.set_weights([np.zeros((D + C, 1)), np.array([raw])])

    def log_prob(x, condition):
        loc = (condition @ m + n) @ w + condition @ a + b
        return stats.multivariate_normal(np.zeros(D), w.T @ w * s**2 + SCALE**2 * np.eye(D)).logpdf(x - loc)

    return vae, log_prob


@pytest.mark.parametrize("depends", [False, True], ids=["p(z)", "p(z|c)"])
@pytest.mark.parametrize("num_samples", [1, 7])
def test_the_bound_is_the_exact_log_prob_given_the_condition_under_the_exact_posterior(depends, num_samples):
    vae, log_prob = linear(depends)
    given = data()
    expected = log_prob(**given)
    np.testing.assert_allclose(vae.log_likelihood(given, num_samples), expected, rtol=1e-4)
    terms = vae.elbo_terms(
        {name: tf.constant(array) for name, array in given.items()},
        Sampling(num_samples=num_samples, seed=tf.constant([0, 1]), analytic_kl=False),
    )
    np.testing.assert_allclose(terms.elbo, expected, rtol=1e-4)
    # Each row is used with its own condition.
    swapped = {**given, "condition": given["condition"][::-1]}
    assert np.abs(vae.log_likelihood(swapped, num_samples) - expected).min() > 1e-3


@pytest.mark.parametrize("depends", [pytest.param(False, marks=pytest.mark.slow), True], ids=["p(z)", "p(z|c)"])
def test_the_importance_weighted_estimate_tends_to_the_exact_log_prob(depends):
    vae, log_prob = linear(depends)
    bias = vae.posterior.loc_head.bias
    bias.assign(bias + 0.3)
    given = data()
    exact = log_prob(**given)
    bounds = [vae.log_likelihood(given, k, seed=0).mean() for k in (1, 10, 2000)]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[0] < exact.mean() - 0.1
    np.testing.assert_allclose(bounds[2], exact.mean(), atol=0.01)


def test_score_and_the_metrics_are_of_the_same_bound():
    vae, log_prob = linear(True)
    given = data()
    for epsilon in (None, np.random.default_rng(2).normal(size=(40, 1))):
        score = vae.score(given, epsilon)
        np.testing.assert_allclose(score["elbo"], score["reconstruction_log_likelihood"] - score["kl"], rtol=1e-5)
    vae.compile("sgd")
    metrics = vae.evaluate(given, verbose=0, return_dict=True)
    # The KL is in closed form, so the noise is that of log p(x|z): 40 examples with a standard deviation of about 1.
    np.testing.assert_allclose(metrics["elbo"], log_prob(**given).mean(), atol=0.5)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("arrays", "not shuffled", "PyDataset", "generator")]


# The other default tests of `fit` here have arrays.
@pytest.mark.parametrize("kind", ["dataset", *SLOW])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_takes_dictionaries_in_every_form(kind):
    given = data(21)
    vae = build(latent_dim=2, hidden=(4,), prior=DiagonalNormal())
    vae.compile(keras.optimizers.SGD(0.01))
    before = [weight.numpy() for weight in vae.trainable_weights]
    batches = [{name: array[start : start + 5] for name, array in given.items()} for start in range(0, 21, 5)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return (batches[index],)

    source = {
        "arrays": given,
        "not shuffled": given,
        "dataset": tf.data.Dataset.from_tensor_slices(given).batch(5),
        "PyDataset": Batches(),
        "generator": ((batch,) for batch in batches),
    }[kind]
    arguments = {"batch_size": 5} if source is given else {}
    history = vae.fit(source, verbose=0, shuffle=kind != "not shuffled", **arguments).history
    assert np.isfinite(history["loss"]).all()
    for weight, old in zip(vae.trainable_weights, before, strict=True):
        assert not np.array_equal(weight, old), weight.path


def test_validation_data_and_sample_weights_go_with_the_rows():
    given = data(20)
    vae, log_prob = linear(False, objective=IWAE(50))
    vae.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    weight = np.linspace(0, 2, 20)
    history = vae.fit(given, sample_weight=weight, validation_split=0.25, batch_size=4, verbose=0).history
    exact = log_prob(**given)
    # Under the exact posterior every importance weight is p(x|c).
    np.testing.assert_allclose(history["loss"][0], -np.mean(exact[:15] * weight[:15]), rtol=1e-4)
    np.testing.assert_allclose(history["val_loss"][0], -np.mean(exact[15:] * weight[15:]), rtol=1e-4)
    for validation in (given, (given,), tf.data.Dataset.from_tensor_slices(given).batch(7)):
        history = vae.fit(given, validation_data=validation, verbose=0).history
        np.testing.assert_allclose(history["val_loss"][0], -exact.mean(), rtol=1e-4)


@pytest.mark.slow
def test_it_learns_what_the_condition_says_and_generates_by_it():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, C, size=600)
    centers = np.array([[-1.0, 0.0, 1.0], [1.0, 2.0, -1.0]])
    x = (centers[labels] + 0.5 * generator.normal(size=(600, D))).astype("float32")
    given = {"x": x, "condition": keras.utils.to_categorical(labels, C)}
    vae = build(prior=DiagonalNormal())
    vae.compile(keras.optimizers.Adam(0.02))
    vae.fit(given, epochs=30, batch_size=60, verbose=0)
    generated = vae.generate(np.eye(C)[[0] * 500 + [1] * 500], seed=0)
    for label in range(C):
        mean = x[labels == label].mean(axis=0)
        # Three standard errors of a mean of 300 examples, and as much again because the training is short.
        np.testing.assert_allclose(generated[500 * label :][:500].mean(axis=0), mean, atol=0.18)


def test_methods_agree_with_each_other_whatever_the_batch_size():
    vae = build(latent_dim=2, hidden=(4,), prior=DiagonalNormal(), prior_network=networks.dense_encoder((C,), (4,)))
    given = data(9)
    reconstruction = vae.reconstruct(given)
    np.testing.assert_allclose(vae.reconstruct(given, batch_size=4), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.decode(vae.encode(given)["loc"], given["condition"]), reconstruction, atol=1e-5)
    np.testing.assert_allclose(vae.predict(given, verbose=0), reconstruction, rtol=1e-5, atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices(given).batch(4)
    np.testing.assert_allclose(vae.reconstruct(dataset), reconstruction, rtol=1e-5, atol=1e-6)
    first, second = (vae.generate(given["condition"], seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(vae.generate(given["condition"], seed=1, batch_size=2).shape, (9, D))
    np.testing.assert_allclose(vae.generate(given["condition"], seed=1, batch_size=2), first, rtol=1e-5, atol=1e-6)
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("network", ["dense", "convolutional"])
def test_the_ready_networks_read_the_condition(network):
    make = {"dense": {"hidden": (8,)}, "convolutional": {"filters": (4,), "hidden": (8,)}}[network]
    encoder = getattr(networks, f"{network}_encoder")((4, 5, 1), condition_dim=C, **make)
    decoder = getattr(networks, f"{network}_decoder")(3, (4, 5, 1), condition_dim=C, **make)
    x, z = np.ones((2, 4, 5, 1)), np.ones((2, 3))
    for model, first in ((encoder, x), (decoder, z)):
        outputs = np.asarray(model([first, np.eye(C)]))
        assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    assert decoder.output_shape == (None, 4, 5, 1)
    with pytest.raises(ValueError, match="`condition_dim` must be an integer of at least 1"):
        getattr(networks, f"{network}_encoder")((4, 5, 1), condition_dim=0, **make)


# Errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (data()["x"], '`x` must be a dictionary with the keys "x" and "condition". Received: x of type ndarray'),
        ({"x": data()["x"]}, "Received: the keys ['x']"),
        ({**data(), "condition": [[1.0, 2.0]] * 40}, "`condition` must be one array or tensor. Received: a list"),
        ({**data(), "condition": np.arange(40) % 2}, "for classes, use keras.utils.to_categorical(labels)"),
        ({**data(), "condition": np.ones((40, 3))}, "`condition` must have the shape [N, 2]"),
        ({**data(), "condition": np.full((40, 2), np.nan)}, "`condition` must be finite"),
        ({**data(), "condition": np.ones((39, 2))}, "`x` and `condition` must have the same number of examples"),
        ({**data(), "x": np.ones((40, 4))}, "`x` must have the shape [N, 3]"),
        ({**data(), "x": np.full((40, 3), np.inf, "float32")}, "`x` must be finite"),
        ({**data(), "x": np.full((40, 3), 1e300)}, "`x` must be finite in float32, in which models compute"),
    ],
    ids=["array", "no condition", "list", "labels", "dimension", "NaN", "rows", "x", "infinite x", "huge x"],
)
def test_wrong_data_are_refused_before_any_step(wrong, message):
    vae = build()
    vae.compile("sgd")
    for method in (vae.fit, vae.evaluate, vae.encode, vae.reconstruct, vae.log_likelihood, vae.score):
        with pytest.raises(ValueError, match=re.escape(message)):
            method(wrong)
    assert int(vae.optimizer.iterations) == 0


def test_impute_is_refused_by_name():
    with pytest.raises(ValueError, match="`model` must be a VAE of x alone"):
        impute(build(), data())


def test_a_call_without_the_condition_is_refused():
    with pytest.raises(ValueError, match="`x` must be a dictionary with the keys"):
        build()(data()["x"])


def test_wrong_conditions_are_refused_by_decode_and_generate():
    vae = build()
    for wrong in (np.ones((2, 3)), np.ones(2), np.array([0, 1])):
        with pytest.raises(ValueError, match=r"`condition` must have the shape \[N, 2\]"):
            vae.generate(wrong)
    with pytest.raises(ValueError, match="`z` and `condition` must have the same number of examples"):
        vae.decode(np.ones((3, 1)), np.ones((2, 2)))


def parts(**other):
    return {
        "encoder": networks.dense_encoder((D,), (4,), condition_dim=C),
        "decoder": networks.dense_decoder(2, (D,), (4,), condition_dim=C),
        "latent_dim": 2,
        "condition_dim": C,
        **other,
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"encoder": networks.dense_encoder((D,), (4,))}, "`encoder` must take the list of x and the condition [B, 2]"),
        ({"encoder": networks.dense_encoder((D,), (4,), condition_dim=3)}, "`encoder` must take the list of x"),
        ({"decoder": networks.dense_decoder(2, (D,))}, "`decoder` must take z of shape [B, 2] and condition [B, 2]"),
        ({"condition_dim": 0}, "`condition_dim` must be an integer of at least 1"),
        ({"prior": Normal()}, "`prior` must be a Prior or a Posterior"),
        ({"posterior": (one := DiagonalNormal()), "prior": one}, "`prior` and `posterior` must be two different parts"),
        ({"prior": VampPrior()}, "`prior` must not be built from q(z|x), which a ConditionalVAE does not have as"),
        ({"prior": DiagonalNormal(5)}, "`prior` must have the model's latent_dim, 2"),
        ({"prior_network": networks.dense_encoder((C,))}, "`prior_network` needs a `prior` that reads its features"),
        ({"prior_network": 3, "prior": DiagonalNormal()}, "`prior_network` must be a Keras model"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_refused(other, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ConditionalVAE(**parts(**other))


# Export


def images(n=20):
    generator = np.random.default_rng(3)
    return {
        "x": generator.integers(0, 2, size=(n, 4, 4, 1)).astype("float32"),
        "condition": generator.normal(size=(n, C)).astype("float32"),
    }


def image_model(network="dense", **arguments):
    make = {"dense": {"hidden": (8,)}, "convolutional": {"filters": (4,), "hidden": (8,)}}[network]
    encoder = getattr(networks, f"{network}_encoder")((4, 4, 1), condition_dim=C, **make)
    decoder = getattr(networks, f"{network}_decoder")(3, (4, 4, 1), condition_dim=C, **make)
    arguments.setdefault("prior", DiagonalNormal())
    vae = ConditionalVAE(encoder, decoder, 3, C, likelihood=Bernoulli(), **arguments)
    generator = np.random.default_rng(2)
    vae.set_weights([w + 0.2 * generator.standard_normal(w.shape).astype("float32") for w in vae.get_weights()])
    return vae


def assert_answers_agree(exported, vae, given, epsilon):
    condition = given["condition"]
    expected = {
        "encode": vae.encode(given),
        "decode": {"mean": vae.decode(epsilon, condition)},
        "reconstruct": {"mean": vae.reconstruct(given)},
        "score": vae.score(given, epsilon),
        "serving_default": {"mean": vae.reconstruct(given), **vae.score(given)},
    }
    received = {
        "encode": exported.encode(**given),
        "decode": {"mean": exported.decode(epsilon, condition=condition)},
        "reconstruct": {"mean": exported.reconstruct(**given)},
        "score": exported.score(**given, epsilon=epsilon),
        "serving_default": exported.run("serving_default", **given),
    }
    prior = {"loc": 0.0, "scale": 1.0}
    if isinstance(vae.prior, DiagonalNormal):
        prior = vae.prior(condition if vae.prior_network is None else vae.prior_network(condition))
    z = np.asarray(prior["loc"] + prior["scale"] * epsilon)
    expected["generate"] = {"mean": vae.decode(z, condition)}
    received["generate"] = {"mean": exported.generate(epsilon, condition=condition)}
    assert set(exported.signatures) == {*expected, "generate_sample", "reconstruct_sample"}
    for signature, outputs in expected.items():
        for name, value in outputs.items():
            np.testing.assert_allclose(received[signature][name], value, rtol=1e-4, atol=1e-4, err_msg=signature)


@pytest.mark.parametrize("file_format", [pytest.param("saved_model", marks=pytest.mark.slow), "tflite"])
@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("dense", lambda: {"prior_network": networks.dense_encoder((C,), (4,))}),
        pytest.param("convolutional", lambda: {"prior": StandardNormal()}, marks=pytest.mark.slow),
    ],
    ids=["dense, p(z|c)", "convolutional, p(z)"],
)
def test_an_export_takes_the_condition_as_an_input(network, arguments, file_format, tmp_path):
    vae = image_model(network, **arguments())
    path = getattr(export, file_format)(vae, tmp_path / "model.tflite")
    exported = export.load(path)
    assert exported.metadata["condition_shape"] == [C]
    assert_answers_agree(exported, vae, images(7), np.random.default_rng(4).normal(size=(7, 3)).astype("float32"))
    with pytest.raises(ValueError, match="The inputs of reconstruct must be"):
        exported.reconstruct(images(7)["x"])
    report = export.verify(vae, **{file_format: path}, x=images(20), timed_calls=1)
    assert report.num_examples == 20
    assert max(row.max_difference for row in report.agreements) < 1e-4


@pytest.mark.slow
def test_the_warm_up_requests_and_the_documents_hold_the_condition(tmp_path):
    path = export.saved_model(image_model(), tmp_path / "model")
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(path))
    records = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.signature_name for request in requests} == set(loaded.signatures)
    for request in requests:
        assert "condition" in request.inputs
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        loaded.signatures[request.model_spec.signature_name](**{name: tf.constant(a) for name, a in inputs.items()})
    table = (tmp_path / "model" / "README.md").read_text().split("## Signatures")[1]
    assert table.count("condition [B, 2]") == len(loaded.signatures)
    assert '"condition": [0.0, 0.0]' in (tmp_path / "model" / "requests" / "serving_default.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_a_quantized_file_takes_the_condition_too(quantize, tmp_path):
    vae = image_model()
    exported = export.load(export.tflite(vae, tmp_path / "model.tflite", quantize=quantize, x=images(64)))
    given = images(7)
    assert np.abs(exported.reconstruct(**given) - vae.reconstruct(given)).mean() < 0.02


@pytest.mark.slow
def test_half_precision_is_exported_in_float32(tmp_path, dtype_policy):
    reference = image_model()
    dtype_policy("mixed_bfloat16")
    vae = image_model()
    vae.set_weights(reference.get_weights())
    exported = export.load(export.tflite(vae, tmp_path / "model.tflite"))
    assert_answers_agree(exported, reference, images(7), np.ones((7, 3), "float32"))


def test_a_plain_vae_refuses_a_prior_that_reads_a_condition(tiny_vae):
    with pytest.raises(ValueError, match=r"`prior` must be a Prior\. Received"):
        tiny_vae(prior=DiagonalNormal())
