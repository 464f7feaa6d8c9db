"""Mixtures as priors: densities against scikit-learn and SciPy, draws, training and exports."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.mixture import GaussianMixture

from tfvae import VAE, export, likelihoods, posteriors, priors
from tfvae.elbo import Sampling
from tfvae.networks import dense_decoder, dense_encoder

RNG = np.random.default_rng(0)
WEIGHTS = np.array([0.2, 0.5, 0.3])
LOC = np.array([[-2.0, 1.0], [0.5, 0.0], [3.0, -1.5]])
SCALE = np.array([[0.5, 1.0], [0.8, 0.3], [0.4, 2.0]])
PAIRS = list(zip(LOC.T, SCALE.T, strict=True))
X = RNG.uniform(size=(32, 4)).astype("float32")


def known_mixture():
    prior = priors.NormalMixture(2, num_components=3)
    prior.build((None, 2))
    raw = np.log(np.expm1(SCALE - 1e-6)) - np.log(np.e - 1)
    prior.set_weights([np.log(WEIGHTS) + 5, LOC, raw])
    return prior


def vae_with(prior, latent_dim=2, **parts):
    keras.utils.set_random_seed(0)
    networks = dense_encoder((4,), hidden=(8,)), dense_decoder(latent_dim, (4,), hidden=(8,))
    vae = VAE(*networks, latent_dim, prior=prior, likelihood=likelihoods.Normal(0.1), **parts)
    vae.compile(keras.optimizers.Adam(0.01))
    return vae


def test_log_prob_against_scikit_learn():
    reference = GaussianMixture(3, covariance_type="diag")
    reference.weights_, reference.means_, reference.covariances_ = WEIGHTS, LOC, SCALE**2
    reference.precisions_cholesky_ = 1 / SCALE
    z = 3 * RNG.normal(size=(5, 7, 2))
    distribution = known_mixture().distribution()
    assert distribution.batch_shape == ()
    assert distribution.event_shape == (2,)
    log_prob = distribution.log_prob(z.astype("float32"))
    assert log_prob.dtype == tf.float32
    np.testing.assert_allclose(log_prob, reference.score_samples(z.reshape(-1, 2)).reshape(5, 7), rtol=1e-4, atol=1e-4)


def mixture_cdf(column):
    return lambda z: sum(w * stats.norm.cdf(z, m, s) for w, m, s in zip(WEIGHTS, *PAIRS[column], strict=True))


@pytest.mark.parametrize("draw", ["sample", "sample_from"])
def test_draws_follow_the_mixture(draw):
    prior = known_mixture()
    if draw == "sample":
        z = prior.distribution().sample(20000, seed=[1, 2]).numpy()
    else:
        z = prior.sample_from(tf.random.stateless_normal([20000, 2], [3, 4])).numpy()
    for column in range(2):
        assert stats.kstest(z[:, column], mixture_cdf(column)).pvalue > 1e-3
    # The columns of a mixture depend on each other; the variance of their product is below 60.
    expected = WEIGHTS @ (LOC[:, 0] * LOC[:, 1])
    assert abs((z[:, 0] * z[:, 1]).mean() - expected) < 4 * np.sqrt(60 / 20000)


def test_the_first_column_is_normal_within_its_component():
    epsilon = tf.random.stateless_normal([20000, 2], [3, 4])
    z = known_mixture().sample_from(epsilon).numpy()
    place = stats.norm.cdf(np.float64(epsilon[:, 0]))
    second = (place > 0.2) & (place < 0.7)
    assert second.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(20000))
    standard = (z[second] - LOC[1]) / SCALE[1]
    for column in standard.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(standard, rowvar=False)[0, 1]) < 4 / np.sqrt(10000)


def test_extreme_noise_gives_finite_draws():
    epsilon = tf.constant([[-40.0, 0.0], [-6.0, 0.0], [6.0, 0.0], [40.0, 0.0]])
    assert np.all(np.isfinite(known_mixture().sample_from(epsilon)))


@pytest.mark.parametrize("family", [posteriors.DiagonalNormal, posteriors.FullCovarianceNormal])
def test_the_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(family):
    vae = vae_with(priors.VampPrior(num_components=5), posterior=family())
    vae.prior.pseudo_inputs.assign(X[:5])
    parameters = vae.encode(X[:5])
    if "scale" in parameters:
        covariances = [np.diag(scale.astype("float64") ** 2) for scale in parameters["scale"]]
    else:
        covariances = [t @ t.T for t in np.float64(parameters["scale_tril"])]
    z = RNG.normal(size=(6, 2))
    densities = [
        stats.multivariate_normal(loc, covariance).pdf(z)
        for loc, covariance in zip(np.float64(parameters["loc"]), covariances, strict=True)
    ]
    log_prob = vae.prior.distribution().log_prob(z.astype("float32"))
    np.testing.assert_allclose(log_prob, np.log(np.mean(densities, axis=0)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", [posteriors.CouplingFlow, posteriors.InverseAutoregressiveFlow])
def test_a_vampprior_of_flows_is_exported(family, tmp_path):
    vae = vae_with(priors.VampPrior(num_components=3), posterior=family(hidden=4))
    # Scales other than 1, and different from each other.
    vae.posterior.scale_head.bias.assign([0.5, -1.0])
    # The export compares the file with the model.
    assert export.tflite(vae, tmp_path / "model.tflite", x=X).exists()


def test_the_vampprior_of_all_examples_is_the_aggregate_posterior():
    """The KL divergence from it, averaged over the examples, is the mutual information, at most log N."""
    vae = vae_with(priors.VampPrior(num_components=32))
    vae.prior.pseudo_inputs.assign(X)
    standard = vae_with(priors.StandardNormal())
    standard.encoder.set_weights(vae.encoder.get_weights())
    standard.posterior.set_weights(vae.posterior.get_weights())
    arguments = {"num_samples": 500, "seed": tf.constant([1, 2])}
    kl, kl_standard = (np.mean(each.elbo_terms(tf.constant(X), Sampling(**arguments)).kl) for each in (vae, standard))
    assert 0 < kl < np.log(32)
    assert kl < kl_standard


def test_pseudo_inputs_are_cut_at_their_bounds():
    vae = vae_with(priors.VampPrior(num_components=3, bounds=(0.0, 1.0)))
    inputs = vae.prior.pseudo_inputs
    assert inputs.numpy().min() >= 0
    assert inputs.numpy().max() <= 1
    inputs.assign(np.full((3, 4), 7.0))
    np.testing.assert_allclose(vae.prior.components()["loc"], vae.encode(np.ones((3, 4)))["loc"], rtol=1e-6)


def test_the_weights_of_the_encoder_are_not_those_of_the_prior():
    vae = vae_with(priors.VampPrior(num_components=3))
    assert [weight.name for weight in vae.prior.weights] == ["pseudo_inputs"]
    assert len({id(weight) for weight in vae.weights}) == len(vae.weights)


def two_clusters():
    generator = np.random.default_rng(1)
    which = generator.integers(2, size=400)
    return (np.array([[-2.0], [2.0]])[which] * np.ones(4) + 0.3 * generator.normal(size=(400, 4))).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("make", [priors.NormalMixture, priors.VampPrior])
def test_a_mixture_gains_on_the_standard_normal_where_the_data_have_clusters(make):
    x = two_clusters()
    elbos = {}
    for prior in (make(num_components=4), priors.StandardNormal()):
        vae = vae_with(prior, latent_dim=1)
        if isinstance(prior, priors.VampPrior):
            prior.pseudo_inputs.assign(x[:4])
        vae.compile(keras.optimizers.Adam(0.01), jit_compile=True, steps_per_execution=100)
        vae.fit(tf.data.Dataset.from_tensors(x).repeat(), steps_per_epoch=400, verbose=0)
        elbos[type(prior)] = vae.evaluate(x, verbose=0, return_dict=True)["elbo"]
    assert elbos[make] > elbos[priors.StandardNormal] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("make", [priors.NormalMixture, priors.VampPrior])
def test_exports_agree(make, tmp_path):
    vae = vae_with(make(num_components=5))
    export.saved_model(vae, tmp_path / "model", x=X)
    export.tflite(vae, tmp_path / "model.tflite", x=X)
    epsilon = RNG.normal(size=(7, 2)).astype("float32")
    expected = vae.decode(np.asarray(vae.prior.sample_from(epsilon)))
    for path in ("model", "model.tflite"):
        np.testing.assert_allclose(export.load(tmp_path / path).generate(epsilon), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_lazy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_model_with_a_vampprior_is_the_same_when_loaded(lazy_vae, tmp_path, is_lazy):
    prior = priors.VampPrior(num_components=3)
    vae = lazy_vae(prior=prior) if is_lazy else vae_with(prior)
    vae.compile(keras.optimizers.Adam(0.001), jit_compile=False)
    x = RNG.uniform(size=(8, *vae.decoder.output_shape[1:])).astype("float32")
    vae.train_on_batch(x)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.prior.pseudo_inputs, prior.pseudo_inputs)
    np.testing.assert_array_equal(
        loaded.log_likelihood(x, num_samples=5, seed=0), vae.log_likelihood(x, num_samples=5, seed=0)
    )


@pytest.mark.slow
def test_draws_of_many_components_hardly_depend_on_the_runtime():
    """Or exports would not agree with the model: float32 has few digits for the position within one of 500 shares."""
    vae = vae_with(priors.VampPrior(num_components=500))
    epsilon = tf.constant(RNG.normal(size=(2000, 2)).astype("float32"))
    eager = vae.prior.sample_from(epsilon)
    graph = tf.function(vae.prior.sample_from)(epsilon)
    np.testing.assert_allclose(graph, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_components", [0, -1, 1.5, True, None])
@pytest.mark.parametrize("make", [priors.NormalMixture, priors.VampPrior])
def test_the_number_of_components_is_a_positive_integer(make, num_components):
    with pytest.raises(ValueError, match=r"`num_components` must be an integer of at least 1\. Received: "):
        make(num_components=num_components)


@pytest.mark.parametrize("bounds", [1, (0,), (1.0, 0.0), (0, float("nan")), "ab", (0, 1, 2)])
def test_bounds_are_a_low_and_a_high_number(bounds):
    with pytest.raises(ValueError, match=r"`bounds` must be .* Received: bounds="):
        priors.VampPrior(bounds=bounds)
