"""Distributions on the sphere, against TFP, SciPy and quadrature."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

from tfvae import VAE, posteriors, priors
from tfvae.distributions import spherical
from tfvae.networks import dense_decoder, dense_encoder

tfd = tfp.distributions
KINDS = {"PowerSpherical": spherical.PowerSpherical, "VonMisesFisher": spherical.VonMisesFisher}
DIMS = [2, 3, 4, 10, 65, 300]
CONCENTRATIONS = np.float32([1e-3, 0.5, 3.0, 40.0, 1000.0, 30000.0])


def directions(n, dim, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def at_all_concentrations(kind, dim):
    """A distribution for each concentration, each with its own direction."""
    return KINDS[kind](directions(len(CONCENTRATIONS), dim), CONCENTRATIONS)


def log_prob_in_float64(kind, dim, concentration, t):
    """The log-density by gamma and Bessel functions: De Cao & Aziz 2020; Davidson et al. 2018, section 3."""
    k = np.float64(concentration)
    if kind == "PowerSpherical":
        a, b = k + (dim - 1) / 2, (dim - 1) / 2
        log_normalizer = (a + b) * np.log(2) + b * np.log(np.pi) + special.gammaln(a) - special.gammaln(a + b)
        return k * np.log1p(t) - log_normalizer
    order = dim / 2 - 1
    # The series of the Bessel function, for where SciPy's function underflows in many dimensions.
    m = np.arange(400)[:, np.newaxis]
    series = special.logsumexp(
        (2 * m + order) * np.log(np.minimum(k, 100) / 2) - special.gammaln(m + 1) - special.gammaln(m + order + 1),
        axis=0,
    )
    log_bessel = np.where(k < 100, series, np.log(special.ive(order, np.maximum(k, 100))) + k)
    return order * np.log(k) - dim / 2 * np.log(2 * np.pi) - log_bessel + k * t


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_that_by_gamma_and_bessel_functions(kind, dim):
    distribution = at_all_concentrations(kind, dim)
    assert distribution.batch_shape == (len(CONCENTRATIONS),)
    assert distribution.event_shape == (dim,)
    # At draws, and at points anywhere on the sphere.
    draws = distribution.sample(20, seed=[1, 2]).numpy()
    anywhere = np.broadcast_to(directions(20, dim, seed=1)[:, None], draws.shape)
    for z in (draws, anywhere):
        t = (z.astype(np.float64) * distribution.loc.numpy()).sum(-1)
        expected = log_prob_in_float64(kind, dim, CONCENTRATIONS, t)
        # The error grows with the concentration times the rounding of z.
        tolerance = 2e-6 * CONCENTRATIONS + 2e-4 + 2e-6 * dim + 2e-5 * np.abs(expected) * (z is anywhere)
        np.testing.assert_array_less(np.abs(distribution.log_prob(z) - expected), tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_that_of_libraries(kind):
    z, loc = directions(50, 4, seed=1), directions(1, 4)[0]
    distribution = KINDS[kind](loc[None], np.float32([3.0]))
    if kind == "PowerSpherical":
        expected = tfd.PowerSpherical(loc, 3.0).log_prob(z)
    else:
        expected = stats.vonmises_fisher(loc.astype(float) / np.linalg.norm(loc.astype(float)), 3.0).logpdf(z)
    np.testing.assert_allclose(distribution.log_prob(z), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_1_over_the_circle(kind):
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype("float32")
    density = np.exp(at_all_concentrations(kind, 2).log_prob(circle[:, None]).numpy().astype(np.float64))
    np.testing.assert_allclose(density.mean(axis=0)[:-1] * 2 * np.pi, 1, rtol=1e-4)


def half_of_1_and_t(distribution, z):
    """(1 + t) / 2 for t = <loc, z>, from the distance to the nearer of loc and -loc, which is accurate at both ends."""
    far, near = (((z + sign * distribution.loc).numpy().astype(np.float64) ** 2).sum(-1) / 4 for sign in (1, -1))
    return np.where(far < near, far, 1 - near)


def noise_of(quantiles, dim):
    """Noise with one row for each quantile; the first column holds the normal variables at the quantiles."""
    epsilon = np.random.default_rng(2).normal(size=(len(quantiles), dim))
    epsilon[:, 0] = stats.norm.ppf(quantiles)
    return epsilon.astype("float32")


QUANTILES = np.concatenate([[1e-5, 1e-4, 1e-3], np.linspace(0.01, 0.99, 30), [0.999, 0.9999]])


@pytest.mark.parametrize("dim", DIMS)
def test_the_angle_of_a_power_spherical_draw_is_the_quantile_of_a_beta_variable(dim):
    distribution = at_all_concentrations("PowerSpherical", dim)
    z = distribution.from_noise(tf.constant(noise_of(QUANTILES, dim)[:, None]))
    b = (dim - 1) / 2
    received = stats.beta.cdf(half_of_1_and_t(distribution, z), CONCENTRATIONS.astype(float) + b, b)
    # At higher concentrations almost all of the mass is at t = 1 in float32, and z has too few digits to check.
    clear = slice(4 if dim == 2 else 5)
    expected = np.broadcast_to(QUANTILES[:, None], received.shape)
    np.testing.assert_allclose(received[:, clear], expected[:, clear], rtol=3e-3, atol=3e-5)


@pytest.mark.parametrize("dim", [2, 3, 4, 10, 65])
def test_the_angle_of_a_von_mises_fisher_draw_is_its_quantile_by_quadrature(dim):
    distribution = at_all_concentrations("VonMisesFisher", dim)
    quantiles = np.array([1e-3, 0.1, 0.5, 0.9, 0.999])
    z = distribution.from_noise(tf.constant(noise_of(quantiles, dim)[:, None]))
    t = 2 * half_of_1_and_t(distribution, z) - 1
    for i, concentration in enumerate(CONCENTRATIONS[:-2].astype(float)):

        def density(angle, concentration=concentration):
            return np.exp(concentration * (np.cos(angle) - 1)) * np.sin(angle) ** (dim - 2)

        peak = np.arccos(t[2, i])
        total = integrate.quad(density, 0, np.pi, points=[peak])[0]
        for quantile, angle in zip(quantiles, np.arccos(np.clip(t[:, i], -1, 1)), strict=True):
            found = integrate.quad(density, angle, np.pi, points=[max(peak, angle)])[0] / total
            assert found == pytest.approx(quantile, rel=3e-3, abs=3e-5)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_gradient_for_the_concentration_is_that_of_the_quantile_of_a_beta_variable(dim):
    quantiles = np.linspace(0.05, 0.95, 15)
    epsilon = tf.constant(noise_of(quantiles, dim)[:, None])
    concentration = tf.constant(CONCENTRATIONS[:4])
    loc = directions(4, dim)
    with tf.GradientTape() as tape:
        tape.watch(concentration)
        z = spherical.PowerSpherical(loc, concentration).from_noise(epsilon)
        t = tf.reduce_sum(z * loc, axis=-1)
    received = tape.jacobian(t, concentration).numpy().diagonal(axis1=1, axis2=2)
    b, k = (dim - 1) / 2, CONCENTRATIONS[:4].astype(float)
    step = 1e-4 * k
    high, low = (2 * stats.beta.ppf(quantiles[:, None], k + sign * step + b, b) for sign in (1, -1))
    np.testing.assert_allclose(received, (high - low) / (2 * step), rtol=5e-3, atol=2e-4)


def test_the_gradient_for_the_concentration_is_that_of_the_closed_form_in_three_dimensions():
    quantiles, k = np.linspace(0.05, 0.95, 15), CONCENTRATIONS[1:4].astype(float)
    concentration, loc = tf.constant(k, tf.float32), directions(3, 3)
    with tf.GradientTape() as tape:
        tape.watch(concentration)
        z = spherical.VonMisesFisher(loc, concentration).from_noise(tf.constant(noise_of(quantiles, 3)[:, None]))
        t = tf.reduce_sum(z * loc, axis=-1)

    def closed_form(k):
        u = quantiles[:, None]
        return 1 + np.log(u + (1 - u) * np.exp(-2 * k)) / k

    np.testing.assert_allclose(t, closed_form(k), rtol=1e-4, atol=1e-4)
    step = 1e-5 * k
    expected = (closed_form(k + step) - closed_form(k - step)) / (2 * step)
    received = tape.jacobian(t, concentration).numpy().diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(received, expected, rtol=5e-3, atol=2e-4)


@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_lie_on_the_sphere_around_loc_evenly_in_all_directions(kind, dim):
    # With both poles, because the reflection that rotates the draws is undefined at one of them.
    loc = np.concatenate([np.eye(dim)[:1], -np.eye(dim)[:1], directions(2, dim)]).astype("float32")
    distribution = KINDS[kind](loc, np.full(4, 3.0, np.float32))
    z = distribution.sample(20_000, seed=[1, 2]).numpy().astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, atol=1e-6)
    if kind == "PowerSpherical":
        mean = 3.0 / (3.0 + dim - 1)
    else:
        mean = special.ive(dim / 2, 3.0) / special.ive(dim / 2 - 1, 3.0)
    np.testing.assert_allclose(z.mean(axis=0), mean * loc, atol=5 / np.sqrt(20_000))
    around = z - (z * loc).sum(-1, keepdims=True) * loc
    for i in range(4):
        spread = np.linalg.eigvalsh(np.cov(around[:, i].T))
        assert spread[0] < 1e-6
        assert spread[-1] < 1.1 * spread[1]


@pytest.mark.parametrize("dim", [2, 3, 10, 65])
@pytest.mark.parametrize("kind", KINDS)
def test_kl_from_the_uniform_distribution_is_that_of_libraries_and_of_monte_carlo(kind, dim):
    distribution = at_all_concentrations(kind, dim)
    uniform = priors.HypersphericalUniform(dim).distribution()
    kl = distribution.kl_divergence(uniform).numpy()
    k, area = CONCENTRATIONS.astype(float), np.log(2) + dim / 2 * np.log(np.pi) - special.gammaln(dim / 2)
    if kind == "PowerSpherical":
        a, b = k + (dim - 1) / 2, (dim - 1) / 2
        # E log(1 + t), where (1 + t) / 2 ~ Beta(a, b).
        mean = np.log(2) + special.digamma(a) - special.digamma(a + b)
        expected = log_prob_in_float64(kind, dim, k, 0.0) + k * mean + area
    else:
        expected = log_prob_in_float64(kind, dim, k, special.ive(dim / 2, k) / special.ive(dim / 2 - 1, k)) + area
    np.testing.assert_allclose(kl, expected, rtol=2e-5, atol=2e-5)
    z, log_posterior = distribution.experimental_sample_and_log_prob(5000, seed=[1, 2])
    ratio = (log_posterior - uniform.log_prob(z)).numpy()
    assert np.all(np.abs(ratio.mean(0) - kl) < 5 * ratio.std(0) / np.sqrt(5000) + 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_of_extreme_features_are_finite_and_on_the_sphere(kind, dtype_policy):
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        dtype_policy(policy)
        posterior = getattr(posteriors, kind)(3)
        posterior.build((None, 2))
        for size in (-1e4, 0.0, 1e4):
            with tf.GradientTape() as tape:
                parameters = posterior(tf.fill([4, 2], size))
                z, log_prob = posterior.distribution(parameters).experimental_sample_and_log_prob(2, seed=[1, 2])
                total = tf.reduce_sum(log_prob) + tf.reduce_sum(z)
            assert parameters["loc"].dtype == parameters["concentration"].dtype == log_prob.dtype == tf.float32
            assert parameters["concentration"].shape == (4,)
            np.testing.assert_allclose(np.linalg.norm(parameters["loc"], axis=-1), 1, rtol=1e-6)
            np.testing.assert_array_equal(posterior.center(parameters), parameters["loc"])
            for tensor in (z, log_prob, *tape.gradient(total, posterior.trainable_variables)):
                assert np.all(np.isfinite(tensor))


def test_the_uniform_prior_is_that_of_the_area_of_the_sphere():
    for dim in (2, 3, 10, 100):
        prior = priors.HypersphericalUniform(dim)
        log_area = np.log(2) + dim / 2 * np.log(np.pi) - special.gammaln(dim / 2)
        np.testing.assert_allclose(prior.distribution().log_prob(directions(5, dim)), -log_area, rtol=1e-5)
        noise = np.random.default_rng(0).normal(size=(5, dim)).astype("float32")
        expected = noise / np.linalg.norm(noise, axis=1, keepdims=True)
        np.testing.assert_allclose(prior.sample_from(noise), expected, rtol=1e-5)
    # Every coordinate of a uniform point on the sphere in three dimensions is uniform (Archimedes).
    for column in priors.HypersphericalUniform(3).distribution().sample(5000, seed=[1, 2]).numpy().T:
        assert stats.kstest(column, "uniform", (-1, 2)).pvalue > 1e-4


def spherical_vae(latent_dim, posterior):
    return VAE(
        dense_encoder((4,), hidden=(8,)),
        dense_decoder(latent_dim, (4,), hidden=(8,)),
        latent_dim,
        posterior=posterior,
        prior=priors.HypersphericalUniform(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_sphere_of_one_dimension_is_refused(kind):
    with pytest.raises(ValueError, match=r"^`latent_dim` must be at least 2 for a .*Received: latent_dim=1$"):
        spherical_vae(1, getattr(posteriors, kind)())


@pytest.mark.slow
def test_training_finds_the_circle_that_the_data_lie_on():
    """Directions in the plane, embedded in four dimensions: training raises the bound and concentrates q(z|x)."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, size=512)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    x = (circle @ np.random.default_rng(1).normal(size=(2, 4)) * 2).astype("float32")
    vae = spherical_vae(2, posteriors.VonMisesFisher())
    vae.compile(keras.optimizers.Adam(0.01))
    history = vae.fit(x, batch_size=64, epochs=15, verbose=0).history["elbo"]
    assert history[-1] > history[0] + 1
    assert vae.encode(x)["concentration"].min() > 2
