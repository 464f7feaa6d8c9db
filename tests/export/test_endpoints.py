"""The exported signatures against NumPy, SciPy and TFP; and `VAE.score`."""

import re

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tfvae import export, likelihoods, networks, posteriors, priors

EVENT_SHAPE = (4, 4, 1)
LATENT_DIM = 3
OF_MEANS = {"encode", "decode", "reconstruct", "generate", "score", "serving_default"}
SIGNATURES = OF_MEANS | {"generate_sample", "reconstruct_sample"}


def binary_images(n):
    """Images that are valid under every likelihood."""
    return np.random.default_rng(0).integers(0, 2, size=(n, *EVENT_SHAPE)).astype(np.float32)


def noise(n):
    return np.random.default_rng(1).standard_normal((n, LATENT_DIM), np.float32)


def disturb(model):
    """Moves every weight, including biases and a learned scale, away from its initial value."""
    rng = np.random.default_rng(2)
    model.set_weights([w + 0.2 * rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def build(network="dense", likelihood=None):
    make = {"dense": {"hidden": (8,)}, "convolutional": {"filters": (4,), "hidden": (8,)}}[network]
    encoder = getattr(networks, f"{network}_encoder")(EVENT_SHAPE, **make)
    decoder = getattr(networks, f"{network}_decoder")(LATENT_DIM, EVENT_SHAPE, **make)
    return disturb(tfvae.VAE(encoder, decoder, LATENT_DIM, likelihood=likelihood))


def call(endpoints, signature, *inputs):
    outputs = endpoints.signatures_by_name[signature](*map(tf.constant, inputs))
    return {name: output.numpy() for name, output in outputs.items()}


def softplus_posterior(model, x):
    """loc and scale, computed by NumPy from the encoder's features and the weights of the heads."""
    features = model.encoder(x, training=False).numpy().astype(np.float64)
    loc, raw = (
        features @ head.kernel.numpy() + head.bias.numpy()
        for head in (model.posterior.loc_head, model.posterior.scale_head)
    )
    return loc, np.logaddexp(0, raw + np.log(np.e - 1)) + 1e-6


def network_output(model, z):
    return model.decoder(np.asarray(z, np.float32), training=False).numpy().astype(np.float64)


def log_continuous_bernoulli(x, logits):
    """The log-density of Loaiza-Ganem & Cunningham 2019, equations 6 and 8, in float64."""
    p = scipy.special.expit(logits)
    return x * np.log(p) + (1 - x) * np.log1p(-p) + np.log(2 * np.arctanh(1 - 2 * p) / (1 - 2 * p))


def continuous_bernoulli_mean(logits):
    """The mean, equation 9 of the same paper, in float64."""
    p = scipy.special.expit(logits)
    return p / (2 * p - 1) + 1 / (2 * np.arctanh(1 - 2 * p))


# For each: a constructor, log p of each element and the mean, as functions of x, the decoder's outputs and a Normal's
# scale.
CASES = {
    "Normal(0.5)": (
        lambda: likelihoods.Normal(scale=0.5),
        lambda x, f, scale: scipy.stats.norm.logpdf(x, f, 0.5),
        lambda f: f,
    ),
    "Normal(learned)": (
        lambda: likelihoods.Normal(scale="learned"),
        lambda x, f, scale: scipy.stats.norm.logpdf(x, f, scale),
        lambda f: f,
    ),
    "Bernoulli": (
        likelihoods.Bernoulli,
        lambda x, f, scale: scipy.stats.bernoulli.logpmf(x, scipy.special.expit(f)),
        scipy.special.expit,
    ),
    "ContinuousBernoulli": (
        likelihoods.ContinuousBernoulli,
        lambda x, f, scale: log_continuous_bernoulli(x, f),
        continuous_bernoulli_mean,
    ),
}


@pytest.mark.parametrize("network", ["dense", pytest.param("convolutional", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case", [case if case == "Normal(learned)" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_every_signature_is_what_numpy_scipy_and_tfp_compute_from_the_networks(case, network):
    make, log_prob, mean = CASES[case]
    model = build(network, make())
    endpoints = export.Endpoints(model)
    x, epsilon = binary_images(7), noise(7)
    loc, scale = softplus_posterior(model, x)
    learned = np.exp(model.likelihood._log_scale.numpy()) if case == "Normal(learned)" else None
    kl = tfp.distributions.MultivariateNormalDiag(loc, scale).kl_divergence(
        tfp.distributions.MultivariateNormalDiag(np.zeros_like(loc), np.ones_like(loc))
    )

    def scores_at(z):
        log_likelihood = log_prob(x, network_output(model, z), learned).sum(axis=(1, 2, 3))
        return {"elbo": log_likelihood - kl, "reconstruction_log_likelihood": log_likelihood, "kl": kl}

    def means_at(z):
        return {"mean": mean(network_output(model, z))}

    # At this noise, a draw is the median, or for the normal distribution 2 standard deviations above the mean.
    uniform = np.tile(np.float32([0.5, 0.0]), (7, *EVENT_SHAPE))
    if isinstance(model.likelihood, likelihoods.Normal):
        uniform[..., ::2] = np.exp(-2)

    def draws_at(z):
        center = mean(network_output(model, z))
        if isinstance(model.likelihood, likelihoods.Normal):
            return {"sample": center + 2 * model.likelihood.scale.numpy()}
        if isinstance(model.likelihood, likelihoods.Bernoulli):
            return {"sample": (center > 0.5).astype(np.float32)}
        logits = network_output(model, z)
        return {"sample": np.log1p(0.5 * np.expm1(logits)) / logits}

    expected = {
        "encode": ((x,), {"loc": loc, "scale": scale}),
        "decode": ((epsilon,), means_at(epsilon)),
        "reconstruct": ((x,), means_at(loc)),
        "generate": ((epsilon,), means_at(epsilon)),
        "score": ((x, epsilon), scores_at(loc + scale * epsilon)),
        "serving_default": ((x,), {**means_at(loc), **scores_at(loc)}),
        "generate_sample": ((epsilon, uniform), draws_at(epsilon)),
        "reconstruct_sample": ((x, epsilon, uniform), draws_at(loc + scale * epsilon)),
    }
    assert set(expected) == SIGNATURES == set(endpoints.signatures_by_name)
    for signature, (inputs, outputs) in expected.items():
        received = call(endpoints, signature, *inputs)
        assert set(received) == set(outputs)
        for name, value in outputs.items():
            assert received[name].dtype == np.float32
            np.testing.assert_allclose(received[name], value, rtol=2e-5, atol=2e-5, err_msg=f"{signature} {name}")


@pytest.mark.parametrize("batch_size", [None, 1])
def test_inputs_and_outputs_lead_with_the_batch(batch_size):
    event, latent = (batch_size, *EVENT_SHAPE), (batch_size, LATENT_DIM)
    inputs = {"x": event, "z": latent, "epsilon": latent, "uniform": (*event[:-1], 2 * event[-1])}
    scores = dict.fromkeys(("elbo", "reconstruction_log_likelihood", "kl"), (batch_size,))
    expected = {
        "encode": (["x"], {"loc": latent, "scale": latent}),
        "decode": (["z"], {"mean": event}),
        "reconstruct": (["x"], {"mean": event}),
        "generate": (["epsilon"], {"mean": event}),
        "score": (["x", "epsilon"], scores),
        "serving_default": (["x"], {"mean": event, **scores}),
        "generate_sample": (["epsilon", "uniform"], {"sample": event}),
        "reconstruct_sample": (["x", "epsilon", "uniform"], {"sample": event}),
    }
    for signature, function in export.Endpoints(build("convolutional"), batch_size).signatures_by_name.items():
        names, outputs = expected[signature]
        specs = function.structured_input_signature[0]
        assert {spec.name: tuple(spec.shape) for spec in specs} == {name: inputs[name] for name in names}
        assert {name: tuple(output.shape) for name, output in function.structured_outputs.items()} == outputs


def test_no_endpoint_is_named_serve(exported):
    assert not hasattr(export.Endpoints(exported("linear").model), "serve")
    loaded = exported("linear").loaded
    assert not hasattr(loaded, "serve")
    assert set(loaded.signatures) == SIGNATURES


# VAE.score


def test_score_without_epsilon_is_at_the_mean_of_the_posterior():
    model = build()
    x = binary_images(5)
    at_mean, at_zero = model.score(x), model.score(x, np.zeros((5, LATENT_DIM)))
    for name in ("elbo", "reconstruction_log_likelihood", "kl"):
        np.testing.assert_allclose(at_mean[name], at_zero[name], rtol=1e-6)
    assert np.all(model.score(x, noise(5))["reconstruction_log_likelihood"] != at_mean["reconstruction_log_likelihood"])


@pytest.mark.parametrize("epsilon", [None, noise(7)], ids=["at the mean", "with epsilon"])
def test_score_does_not_depend_on_the_batch_size(epsilon):
    model = build("convolutional")
    at_once, by_three = (model.score(binary_images(7), epsilon, batch_size=size) for size in (256, 3))
    for name in ("elbo", "reconstruction_log_likelihood", "kl"):
        assert at_once[name].shape == (7,)
        np.testing.assert_allclose(by_three[name], at_once[name], rtol=1e-5)
    np.testing.assert_allclose(at_once["elbo"], at_once["reconstruction_log_likelihood"] - at_once["kl"], rtol=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "message"),
    [
        (np.zeros((5, LATENT_DIM + 1)), "`epsilon` must have the shape [N, 3]. Received: epsilon of shape [5, 4]"),
        (
            np.zeros(LATENT_DIM),
            "`epsilon` must have the shape [N, 3]; add the batch axis. Received: epsilon of shape [3]",
        ),
        (
            np.zeros((4, LATENT_DIM)),
            "`x` and `epsilon` must have the same number of examples. Received: 5 of x, 4 of epsilon",
        ),
        (np.full((5, LATENT_DIM), np.nan), "`epsilon` must be finite. Received: 15 values that are NaN or infinite"),
        ("noise", "`epsilon` must hold real numbers. Received: epsilon of dtype <U5"),
    ],
    ids=["latent_dim", "no batch axis", "rows", "NaN", "a string"],
)
def test_score_names_epsilon_when_it_is_wrong(epsilon, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build().score(binary_images(5), epsilon)


# Half precision, parts without noise, user-defined networks


@keras.saving.register_keras_serializable("test_endpoints")
class Network(keras.Model):
    """A user-defined network, whose layers take the dtype policy in force when they are made."""

    def __init__(self, units, shape, **kwargs):
        super().__init__(**kwargs)
        self.units, self.shape_ = units, tuple(shape)
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(8)
        self.normalization = keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.5)
        self.last = keras.layers.Dense(units)
        self.reshape = keras.layers.Reshape(self.shape_)

    def build(self, input_shape):
        self.hidden.build((None, int(np.prod(input_shape[1:]))))
        self.normalization.build((None, 8))
        self.last.build((None, 8))

    def call(self, x, training=False):
        x = self.dropout(self.normalization(self.hidden(self.flatten(x)), training=training), training=training)
        return self.reshape(self.last(keras.ops.relu(x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units, "shape": self.shape_}


def build_of_own_networks():
    model = tfvae.VAE(Network(8, (8,)), Network(16, EVENT_SHAPE), LATENT_DIM, likelihood=likelihoods.Bernoulli())
    model.build((None, *EVENT_SHAPE))
    return model


def answers(model, x, epsilon):
    return {**model.encode(x), "decoded": model.decode(epsilon), **model.score(x, epsilon)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "file_format", "build_model"),
    [
        pytest.param("mixed_bfloat16", "saved_model", build, marks=pytest.mark.slow),
        ("mixed_float16", "saved_model", build_of_own_networks),
        pytest.param("mixed_bfloat16", "tflite", build_of_own_networks, marks=pytest.mark.slow),
        pytest.param("mixed_float16", "tflite", build, marks=pytest.mark.slow),
    ],
)
def test_half_precision_is_exported_in_float32_by_the_same_weights(
    tmp_path, dtype_policy, policy, build_model, file_format
):
    reference = disturb(build_model())
    reference.set_weights([abs(weight) for weight in reference.get_weights()])
    dtype_policy(policy)
    model = build_model()
    model.set_weights(reference.get_weights())
    x, epsilon = binary_images(9), noise(9)
    expected = answers(reference, x, epsilon)
    # Half precision makes a visible difference, so that the agreement with float32 below means something.
    assert np.abs(model.encode(x)["loc"] - expected["loc"]).max() > 1e-4
    exported = export.load(getattr(export, file_format)(model, tmp_path / "model.tflite"))
    received = {**exported.encode(x), "decoded": exported.decode(epsilon), **exported.score(x, epsilon)}
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # The model itself stays in half precision.
    assert model.posterior.compute_dtype == policy.removeprefix("mixed_")
    assert keras.config.dtype_policy().name == policy


def test_a_model_in_float32_is_not_copied():
    model = build()
    assert model.in_float32() is model


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_own_networks_with_batch_normalization_and_dropout_export_their_inference(tmp_path, file_format):
    model = build_of_own_networks()
    for _ in range(12):
        model.decoder(model.encoder(binary_images(16), training=True)[:, :LATENT_DIM], training=True)
    x, epsilon = binary_images(9), noise(9)
    assert np.abs(model.encoder.normalization.moving_mean.numpy()).max() > 0
    in_training = model.encoder(x, training=True).numpy()
    assert np.abs(in_training - model.encoder(x, training=False).numpy()).max() > 1e-2
    expected = answers(model, x, epsilon)
    exported = export.load(getattr(export, file_format)(model, tmp_path / "model.tflite"))
    received = {**exported.encode(x), "decoded": exported.decode(epsilon), **exported.score(x, epsilon)}
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


class SilentPosterior(posteriors.DiagonalNormal):
    sample_from = posteriors.Posterior.sample_from


class SilentPrior(priors.StandardNormal):
    sample_from = priors.Prior.sample_from


@pytest.mark.parametrize(("part", "cls"), [("posterior", SilentPosterior), ("prior", SilentPrior)])
@pytest.mark.parametrize("function", [export.saved_model, export.tflite], ids=lambda function: function.__name__)
def test_a_part_without_sample_from_is_named_before_anything_is_written(tmp_path, tiny_vae, part, cls, function):
    with pytest.raises(NotImplementedError, match=f"{cls.__name__} has no `sample_from`"):
        function(tiny_vae(**{part: cls()}), tmp_path / "folder" / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [export.saved_model, export.tflite], ids=lambda function: function.__name__)
def test_a_model_that_is_not_built_is_refused_before_anything_is_written(tmp_path, lazy_vae, function):
    with pytest.raises(ValueError, match="`model` must be built"):
        function(lazy_vae(), tmp_path / "folder" / "model.tflite")
    assert list(tmp_path.iterdir()) == []
