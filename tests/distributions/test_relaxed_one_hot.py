"""Relaxed one-hot vectors: densities against TFP, and against float64 at low temperatures; posterior and prior."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from tfvae import posteriors, priors
from tfvae.distributions.relaxed_one_hot import RelaxedOneHot

tfd = tfp.distributions
SHARP = np.float32([[[0.0, -50.0, 20.0], [1.0, 1.0, 1.0]], [[-90.0, 0.0, 3.0], [30.0, 29.0, -60.0]]])


def log_prob_of_logarithms(y, logits, temperature):
    """The log-density of log z (Maddison et al. 2017, appendix C.3) in float64, summed over groups."""
    categories = y.shape[-1]
    scores = logits - temperature * y
    total = scores.sum(-1) - categories * special.logsumexp(scores, axis=-1)
    return (total + special.gammaln(categories) + (categories - 1) * np.log(temperature)).sum(-1)


def logarithms(logits, noise, temperature):
    return special.log_softmax((logits + noise) / temperature, axis=-1)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0])
def test_log_prob_is_that_of_tfp_where_float32_holds_z(temperature):
    logits = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    distribution = RelaxedOneHot(logits, temperature)
    assert distribution.batch_shape == (4,)
    assert distribution.event_shape == (6,)
    z = distribution.sample(50, seed=[1, 2]).numpy()
    groups = z.reshape(50, 4, 2, 3)
    np.testing.assert_allclose(groups.sum(-1), 1, rtol=1e-5)
    double = groups.astype(np.float64)
    expected = tfd.RelaxedOneHotCategorical(np.float64(temperature), logits=logits.astype(np.float64)).log_prob(
        double / double.sum(-1, keepdims=True)
    )
    np.testing.assert_allclose(distribution.log_prob(z), expected.numpy().sum(-1), rtol=1e-4, atol=1e-4)


def test_the_density_of_two_categories_integrates_to_1():
    # Integrated over the log-odds v of z = (sigmoid(v), sigmoid(-v)), where dz = z_1 z_2 dv.
    v = np.linspace(-25, 25, 4001)
    z = special.expit(np.stack([v, -v], axis=-1)).astype("float32")
    distribution = RelaxedOneHot(np.float32([[0.7, -0.4]]), 0.6)
    density = np.exp(distribution.log_prob(z).numpy().astype(np.float64)) * special.expit(v) * special.expit(-v)
    assert density.sum() * (v[1] - v[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_log_ratios_at_low_temperatures_are_those_of_logarithms_in_float64(temperature):
    noise = np.random.default_rng(0).gumbel(size=(200, 2, 2, 3)).astype("float32")
    posterior = RelaxedOneHot(SHARP, temperature)
    prior = RelaxedOneHot(np.zeros((2, 3), np.float32), 0.5)
    z = posterior.from_gumbel(noise.reshape(200, 2, 6))
    # Computed naively in float32, many elements would be 0 and their logarithms -inf.
    y = logarithms(SHARP.astype(np.float64), noise, temperature)
    assert np.mean(np.exp(y.astype(np.float32)) == 0) > 0.3
    assert z.numpy().min() > 0
    np.testing.assert_allclose(z.numpy().reshape(y.shape), np.exp(y), rtol=2e-3, atol=1e-25)
    expected = log_prob_of_logarithms(y, SHARP.astype(np.float64), temperature) - log_prob_of_logarithms(
        y, np.zeros((2, 3)), 0.5
    )
    received = posterior.log_prob(z) - prior.log_prob(z)
    # The logarithms are up to 5000, with seven digits.
    np.testing.assert_allclose(received, expected, rtol=2e-5, atol=5e-3)


def test_gradients_at_low_temperatures_are_finite_and_those_of_float64():
    noise = np.random.default_rng(0).gumbel(size=(20, 2, 6)).astype("float32")
    logits = tf.constant(SHARP)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        posterior = RelaxedOneHot(logits, 0.1)
        z = posterior.from_gumbel(noise)
        total = tf.reduce_mean(posterior.log_prob(z) - RelaxedOneHot(tf.zeros([2, 3]), 0.5).log_prob(z))
    received = tape.gradient(total, logits).numpy()
    assert np.all(np.isfinite(received))

    def kl(logits):
        y = logarithms(logits, noise.reshape(20, 2, 2, 3), 0.1)
        ratio = log_prob_of_logarithms(y, logits, 0.1) - log_prob_of_logarithms(y, np.zeros((2, 3)), 0.5)
        return ratio.mean()

    for index in np.ndindex(SHARP.shape):
        step = np.zeros(SHARP.shape)
        step[index] = 1e-4
        expected = (kl(SHARP + step) - kl(SHARP - step)) / 2e-4
        assert received[index] == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_a_one_hot_vector_itself_has_a_finite_density_and_gradient():
    z = tf.constant([[0.0, 1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        log_prob = RelaxedOneHot(np.zeros((1, 3), np.float32), 0.5).log_prob(z)
    assert np.all(np.isfinite(log_prob))
    assert np.all(np.isfinite(tape.gradient(log_prob, z)))


@pytest.mark.parametrize("from_noise", [False, True])
def test_the_largest_element_is_a_draw_of_the_categories(from_noise):
    posterior = posteriors.RelaxedOneHotCategorical(6, num_categories=3, temperature=0.1)
    logits = np.float32([[0.5, -1.0, 1.0, 0.0, 0.0, 2.0]])
    parameters = {"logits": tf.repeat(logits, 20_000, axis=0)}
    if from_noise:
        epsilon = np.random.default_rng(0).normal(size=(20_000, 6)).astype("float32")
        z = posterior.sample_from(parameters, tf.constant(epsilon)).numpy()
    else:
        z = posterior.distribution(parameters).sample(seed=[1, 2]).numpy()
    counts = np.eye(3)[z.reshape(-1, 2, 3).argmax(-1)].mean(0)
    expected = special.softmax(logits.reshape(2, 3), axis=-1)
    np.testing.assert_allclose(counts, expected, atol=5 * 0.5 / np.sqrt(20_000))


def test_the_center_is_the_softmax_and_its_density_that_of_the_distribution():
    posterior = posteriors.RelaxedOneHotCategorical(6, num_categories=3, temperature=0.5)
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    parameters = {"logits": tf.constant(logits)}
    expected = special.softmax(logits.reshape(4, 2, 3) / 0.5, axis=-1).reshape(4, 6)
    np.testing.assert_allclose(posterior.center(parameters), expected, rtol=1e-5)
    np.testing.assert_allclose(posterior.sample_from(parameters, tf.zeros([4, 6])), expected, rtol=1e-5)
    z, log_prob = posterior.sample_and_log_prob_from(parameters)
    np.testing.assert_allclose(z, expected, rtol=1e-5)
    np.testing.assert_allclose(log_prob, posterior.distribution(parameters).log_prob(z), rtol=1e-6)


def test_the_prior_is_uniform_or_has_the_probabilities_that_it_learns():
    for probabilities, expected in (("uniform", [1 / 3] * 3), ("learned", [0.6, 0.3, 0.1])):
        prior = priors.RelaxedOneHotCategorical(6, 3, 0.1, probabilities)
        prior.build((None, 6))
        assert len(prior.trainable_weights) == (probabilities == "learned")
        if probabilities == "learned":
            np.testing.assert_array_equal(prior.get_weights()[0], np.zeros((2, 3)))
            prior.set_weights([np.log([expected] * 2)])
        assert prior.distribution().batch_shape == ()
        epsilon = np.random.default_rng(0).normal(size=(20_000, 6)).astype("float32")
        for z in (prior.distribution().sample(20_000, seed=[1, 2]), prior.sample_from(tf.constant(epsilon))):
            counts = np.eye(3)[z.numpy().reshape(-1, 2, 3).argmax(-1)].mean(0)
            np.testing.assert_allclose(counts, [expected] * 2, atol=5 * 0.5 / np.sqrt(20_000))


@pytest.mark.slow
def test_the_bound_of_sharp_codes_is_finite_in_training(x, tiny_vae):
    vae = tiny_vae(
        posterior=posteriors.RelaxedOneHotCategorical(num_categories=2, temperature=0.1),
        prior=priors.RelaxedOneHotCategorical(num_categories=2, temperature=0.1, probabilities="learned"),
    )
    vae.posterior.logits_head.set_weights([np.full((8, 2), [200.0, -200.0]), np.zeros(2)])
    vae.compile("adam", jit_compile=False)
    history = vae.fit(x, epochs=3, batch_size=5, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    # The KL divergence stays positive even for codes that are almost certain.
    assert history["kl"][-1] > 0
    assert all(np.all(np.isfinite(weight)) for weight in vae.get_weights())


@pytest.mark.parametrize("part", [posteriors.RelaxedOneHotCategorical, priors.RelaxedOneHotCategorical])
@pytest.mark.parametrize(("latent_dim", "num_categories"), [(6, 4), (2, 3)])
def test_groups_must_fill_the_latent_space(part, latent_dim, num_categories):
    message = rf"^`num_categories` must divide latent_dim={latent_dim}. Received: num_categories={num_categories}$"
    with pytest.raises(ValueError, match=message):
        part(latent_dim, num_categories).build((None, latent_dim))


@pytest.mark.parametrize("part", [posteriors.RelaxedOneHotCategorical, priors.RelaxedOneHotCategorical])
def test_one_category_is_none(part):
    with pytest.raises(ValueError, match=r"^`num_categories` must be an integer of at least 2\. Received: num_cat"):
        part(num_categories=1)


@pytest.mark.parametrize("part", [posteriors.RelaxedOneHotCategorical, priors.RelaxedOneHotCategorical])
@pytest.mark.parametrize("value", [0, -1.0, True, np.inf, np.nan, "x", None])
def test_the_temperature_must_be_a_number_above_0(part, value):
    with pytest.raises(ValueError, match=rf"^`temperature` must be .*Received: temperature={value!r}$"):
        part(6, 3, value)


def test_the_probabilities_are_named():
    with pytest.raises(ValueError, match=r"^`probabilities` must be .*Received: probabilities='x'$"):
        priors.RelaxedOneHotCategorical(6, 3, 0.5, "x")
