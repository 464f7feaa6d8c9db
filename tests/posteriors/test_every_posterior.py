"""What every family of posteriors must do: start well, work without features, export, and reject wrong partners."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import VAE, LocalLatents, VariationalInference, export, posteriors, priors
from tfvae.networks import dense_decoder, dense_encoder

tfd = tfp.distributions


FAMILIES = {
    "DiagonalNormal": posteriors.DiagonalNormal,
    "FullCovarianceNormal": posteriors.FullCovarianceNormal,
    "LowRankNormal": functools.partial(posteriors.LowRankNormal, rank=2),
    "CouplingFlow": functools.partial(posteriors.CouplingFlow, num_couplings=2, hidden=4),
    "InverseAutoregressiveFlow": functools.partial(posteriors.InverseAutoregressiveFlow, num_flows=2, hidden=4),
    "SplineFlow": functools.partial(posteriors.SplineFlow, num_couplings=2, bins=4, hidden=4),
    "SylvesterFlow": functools.partial(posteriors.SylvesterFlow, num_flows=2),
    "Laplace": posteriors.Laplace,
}


@pytest.mark.parametrize("num_features", [0, 4])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Laplace"])
def test_every_family_starts_as_the_standard_normal_of_loc_0(name, num_features):
    posterior = FAMILIES[name](3)
    posterior.build((None, num_features))
    # With features of 0 only the biases count.
    parameters = posterior(tf.zeros([2, num_features]))
    np.testing.assert_array_equal(parameters["loc"], np.zeros((2, 3)))
    if "scale" in parameters:
        np.testing.assert_allclose(parameters["scale"], np.ones((2, 3)), rtol=3e-6)
    covariance = np.stack([np.eye(3)] * 2)
    if "factor" in parameters:
        factor = parameters["factor"].numpy()
        assert 0.02 < np.abs(factor).max() < 0.5
        covariance = covariance + factor @ factor.transpose(0, 2, 1)
    z = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    expected = [stats.multivariate_normal(np.zeros(3), covariance[i]).logpdf(z[:, i]) for i in range(2)]
    if posterior.has_log_prob:
        log_prob = posterior.distribution(parameters).log_prob(z)
        np.testing.assert_allclose(log_prob, np.transpose(expected), rtol=1e-4, atol=1e-5)
    if "factor" not in parameters:
        received, log_prob = posterior.sample_and_log_prob_from(parameters, z[0])
        np.testing.assert_allclose(received, z[0], rtol=1e-5)
        np.testing.assert_allclose(log_prob, np.transpose(expected)[0], rtol=1e-4, atol=1e-5)


# Families that differ in their heads; a fit of variational inference in its tests has no features with a low rank.
SOME = ("DiagonalNormal", "FullCovarianceNormal")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_works_without_features(name):
    posterior = FAMILIES[name](3)
    posterior.build((None, 0))
    generator = np.random.default_rng(0)
    posterior.set_weights([generator.normal(scale=0.5, size=weight.shape) for weight in posterior.get_weights()])
    noise = tf.constant(generator.normal(size=(5, 3)), tf.float32)
    point = tf.constant(generator.normal(size=(4, 5, 3)), tf.float32)

    # The noise is given, because XLA draws different numbers from the same seed.
    def evaluate(features):
        with tf.GradientTape() as tape:
            parameters = posterior(features)
            z, log_prob = posterior.sample_and_log_prob_from(parameters, noise)
            if posterior.has_log_prob:
                log_prob = posterior.distribution(parameters).log_prob(point)
            total = tf.reduce_sum(log_prob) + tf.reduce_sum(z**2)
        return parameters["loc"], z, log_prob, tape.gradient(total, posterior.trainable_variables)

    features = tf.zeros([5, 0])
    eager = evaluate(features)
    assert [tensor.shape for tensor in eager[:3]] == [(5, 3), (5, 3), (4, 5) if posterior.has_log_prob else (5,)]
    # Every row has the same distribution.
    np.testing.assert_array_equal(eager[0], np.broadcast_to(eager[0][:1], (5, 3)))
    assert all(np.any(gradient != 0) for gradient in eager[3])
    specification = [tf.TensorSpec([None, 0], tf.float32)]
    for compiled in (False, True):
        graph = tf.function(evaluate, input_signature=specification, jit_compile=compiled)(features)
        for tensor, expected in zip(tf.nest.flatten(graph), tf.nest.flatten(eager), strict=True):
            np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InverseAutoregressiveFlow", "Laplace"])
def test_variational_inference_comes_near_the_posterior(name):
    """z ~ N(0, I) in two dimensions and y | z ~ N(z_1 + z_2, 1): log p(y) = log N(y | 0, 3)."""
    joint = tfd.JointDistributionNamed(
        {"z": tfd.Sample(tfd.Normal(0.0, 1.0), 2), "y": lambda z: tfd.Normal(tf.reduce_sum(z, axis=-1), 1.0)}
    )
    model = VariationalInference(joint.experimental_pin(y=2.0), posterior=FAMILIES[name]())
    model.fit(epochs=10, verbose=0)
    draws = model.draw(5000, seed=0)
    np.testing.assert_allclose(draws["z"].mean(axis=0), [2 / 3, 2 / 3], atol=0.1)
    # A flow can represent the correlation of -1/2; independent Laplace distributions cannot, and have heavier tails.
    elbo = model.evaluate(verbose=0, return_dict=True)["elbo"]
    gap = stats.norm(0, np.sqrt(3)).logpdf(2.0) - elbo
    assert -0.1 < gap < (0.1 if name == "InverseAutoregressiveFlow" else 0.6)


# Supports

RELAXED = functools.partial(posteriors.RelaxedOneHotCategorical, num_categories=2)


@pytest.mark.parametrize(
    ("posterior", "prior", "message"),
    [
        (posteriors.PowerSpherical, None, r"PowerSpherical, sphere. Received: StandardNormal, whose support is real$"),
        (posteriors.VonMisesFisher, priors.Normal, r"VonMisesFisher, sphere. Received: Normal, .* real$"),
        (None, priors.HypersphericalUniform, r"DiagonalNormal, real. Received: HypersphericalUniform, .* sphere$"),
        (RELAXED, priors.Flow, r"simplex of 2 categories. Received: Flow, whose support is real$"),
        (
            RELAXED,
            functools.partial(priors.RelaxedOneHotCategorical, num_categories=4),
            r"simplex of 2 categories. Received: RelaxedOneHotCategorical, whose support is simplex of 4 categories$",
        ),
    ],
)
def test_a_prior_with_another_support_is_refused_when_the_model_is_made(posterior, prior, message):
    with pytest.raises(ValueError, match=rf"^`prior` must have the support of .*{message}"):
        VAE(
            keras.Sequential([keras.layers.Dense(8)]),
            keras.Sequential([keras.layers.Dense(4)]),
            4,
            posterior=posterior and posterior(),
            prior=prior and prior(),
        )


@pytest.mark.parametrize("posterior", [posteriors.PowerSpherical, RELAXED])
def test_variational_inference_refuses_posteriors_that_are_not_of_all_real_numbers(posterior):
    model = tfd.JointDistributionNamed({"z": tfd.Sample(tfd.Normal(0.0, 1.0), 2), "y": lambda z: tfd.Normal(z[0], 1.0)})
    message = r'^`posterior` must have the support "real".*Received: \w+, whose support is (sphere|simplex)'
    with pytest.raises(ValueError, match=message):
        VariationalInference(model.experimental_pin(y=1.0), posterior=posterior())
    with pytest.raises(ValueError, match=message):
        LocalLatents({"z": (2,)}, dense_encoder((4,)), posterior=posterior())


# Exports

EXPORTED = {
    "FullCovarianceNormal": (posteriors.FullCovarianceNormal, priors.Normal),
    "LowRankNormal": (functools.partial(posteriors.LowRankNormal, rank=2), None),
    "Laplace": (posteriors.Laplace, functools.partial(priors.SplineFlow, num_couplings=3, bins=4, hidden=4)),
    "VonMisesFisher": (posteriors.VonMisesFisher, priors.HypersphericalUniform),
    "PowerSpherical": (posteriors.PowerSpherical, priors.HypersphericalUniform),
    "CouplingFlow": (
        functools.partial(posteriors.CouplingFlow, num_couplings=2, hidden=4),
        functools.partial(priors.Flow, num_couplings=2, hidden=4),
    ),
    "InverseAutoregressiveFlow": (
        functools.partial(posteriors.InverseAutoregressiveFlow, num_flows=2, hidden=4),
        priors.Normal,
    ),
    "SplineFlow": (functools.partial(posteriors.SplineFlow, num_couplings=2, bins=4, hidden=4), None),
    "SylvesterFlow": (functools.partial(posteriors.SylvesterFlow, num_flows=2), None),
    "RelaxedOneHotCategorical": (
        functools.partial(RELAXED, temperature=0.2),
        functools.partial(priors.RelaxedOneHotCategorical, num_categories=2, probabilities="learned"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_a_family_is_encoded_exported_and_scored_as_the_keras_model_does(name, tmp_path):
    posterior, prior = EXPORTED[name]
    vae = VAE(
        dense_encoder((4,), hidden=(6,), activation="tanh"),
        dense_decoder(4, (4,), hidden=(6,), activation="tanh"),
        4,
        posterior=posterior(),
        prior=prior and prior(),
    )
    generator = np.random.default_rng(0)
    vae.set_weights([w + generator.normal(scale=0.4, size=w.shape) for w in vae.get_weights()])
    x = generator.normal(size=(9, 4)).astype("float32")
    epsilon = generator.normal(size=(9, 4)).astype("float32")
    for file in (
        export.tflite(vae, tmp_path / "model.tflite", x=x),
        export.saved_model(vae, tmp_path / "saved", x=x),
    ):
        exported = export.load(file)
        for received, expected in (
            (exported.encode(x), vae.encode(x)),
            (exported.score(x, epsilon), vae.score(x, epsilon)),
            (exported.run("serving_default", x=x), {"mean": vae.reconstruct(x), **vae.score(x)}),
            (exported.run("generate", epsilon=epsilon), {"mean": vae.decode(vae.prior.sample_from(epsilon))}),
        ):
            assert set(received) == set(expected)
            for key, value in expected.items():
                np.testing.assert_allclose(received[key], value, rtol=1e-4, atol=2e-5, err_msg=f"{file} {key}")
    # The density of the draw is that of the distribution, where that can be evaluated.
    parameters = {key: tf.constant(value) for key, value in vae.encode(x).items()}
    for noise in (tf.constant(epsilon), None):
        z, log_prob = vae.posterior.sample_and_log_prob_from(parameters, noise)
        if vae.posterior.has_log_prob:
            # Where a flow is steep, its inverse depends on the rounding of z: log_prob must lie between the densities
            # at z and one float32 to each side.
            around = [z.numpy(), *(np.nextafter(z.numpy(), np.float32(side)) for side in (-np.inf, np.inf))]
            densities = [vae.posterior.distribution(parameters).log_prob(tf.constant(each)) for each in around]
            nearest = np.clip(log_prob, np.min(densities, axis=0), np.max(densities, axis=0))
            np.testing.assert_allclose(log_prob, nearest, rtol=1e-4, atol=1e-4)
