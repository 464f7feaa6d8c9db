"""The information in the latent dimensions, against closed forms, quadrature and NumPy."""

import warnings

import numpy as np
import pytest
import tensorflow_probability as tfp
from scipy import integrate, stats

import tfvae
from tests.helpers.linear_gaussian import Oracle, correlated_vae, draws_of, set_posterior
from tfvae.elbo import Sampling
from tfvae.evaluation import active_units, kl_per_dimension, mutual_information, rate_distortion

tfd = tfp.distributions

SCALE = np.array([0.5, 0.8])


@pytest.fixture
def vae():
    """A linear VAE whose q(z|x) has the scales above and is shifted from the mean of the exact posterior."""
    vae = correlated_vae()
    set_posterior(vae, Oracle.of(vae), SCALE, loc_shift=0.2)
    return vae


@pytest.fixture
def data(vae):
    return draws_of(vae, 200)


# Active units


def test_a_unit_is_active_where_its_posterior_mean_varies(vae, data):
    kernel, bias = vae.posterior.loc_head.get_weights()
    kernel[:, 0] *= 0.05
    vae.posterior.loc_head.set_weights([kernel, bias])
    units = active_units(vae, data, batch_size=64)
    np.testing.assert_allclose(units.variances, (np.float64(data) @ kernel).var(axis=0, ddof=1), rtol=1e-4)
    assert units.variances[0] < 0.01 < units.variances[1]
    assert units.count == 1
    assert active_units(vae, data, threshold=units.variances[0] * 0.99).count == 2


@pytest.mark.slow
def test_the_variance_of_a_mean_without_closed_form_is_estimated_without_bias(tiny_vae):
    # An untrained flow is the identity, so the mean is `loc`.
    vae = tiny_vae(posterior=tfvae.posteriors.CouplingFlow())
    x = np.random.default_rng(0).normal(size=(2000, 4)).astype("float32")
    parameters = vae.encode(x)
    expected = parameters["loc"].var(axis=0, ddof=1)
    units = active_units(vae, x, seed=0)
    # Each of the two estimates of the mean has an additional variance of scale^2 / 32; a covariance of N pairs has a
    # relative error of about sqrt(2 / N).
    spread = expected + (parameters["scale"] ** 2).mean(axis=0) / 32
    np.testing.assert_array_less(np.abs(units.variances - expected), 4 * np.sqrt(2 / len(x)) * spread)


def test_arguments_of_active_units_are_checked(vae, data):
    with pytest.raises(ValueError, match=r"^`threshold` must be a number of at least 0\. Received: threshold=-1"):
        active_units(vae, data, -1)
    with pytest.raises(ValueError, match=r"^`x` must hold at least 2 examples"):
        active_units(vae, data[:1])


# The rate and the distortion


def test_the_kl_divergence_of_each_dimension_sums_to_the_rate(vae, data):
    loc = vae.encode(data)["loc"]
    expected = 0.5 * ((np.float64(loc) ** 2).mean(axis=0) + SCALE**2 - 1 - 2 * np.log(SCALE))
    divergences = kl_per_dimension(vae, data, batch_size=64)
    np.testing.assert_allclose(divergences, expected, rtol=1e-4)
    assert rate_distortion(vae, data, seed=0).rate == pytest.approx(expected.sum(), rel=1e-4)


class LaplacePosterior(tfvae.posteriors.DiagonalNormal):
    def distribution(self, parameters):
        return tfd.Independent(tfd.Laplace(parameters["loc"], parameters["scale"]), 1)


def test_a_divergence_without_closed_form_is_estimated(tiny_vae, x):
    vae = tiny_vae(posterior=LaplacePosterior())
    loc, scale = (np.float64(vae.encode(x)[name]) for name in ("loc", "scale"))
    expected = (-np.log(2 * scale) - 1 + 0.5 * np.log(2 * np.pi) + 0.5 * (loc**2 + 2 * scale**2)).mean(axis=0)
    found = kl_per_dimension(vae, x, num_samples=4000, seed=0)
    # log q - log p of a draw has a standard deviation below 4 nats, and there are 80,000 draws.
    np.testing.assert_allclose(found, expected, atol=4 * 4 / np.sqrt(80000))


def test_dimensions_that_depend_on_each_other_are_refused(tiny_vae, x):
    vae = tiny_vae(posterior=tfvae.posteriors.FullCovarianceNormal())
    with pytest.raises(ValueError, match=r"^`model` must have a posterior whose dimensions are independent.*Received"):
        kl_per_dimension(vae, x)


def test_the_distortion_is_the_expected_squared_error(vae, data):
    oracle = Oracle.of(vae)
    loc = np.float64(vae.encode(data)["loc"])
    residual = ((data - oracle.loc - loc @ oracle.loadings.T) ** 2).sum(axis=1)
    squares = residual + SCALE**2 @ (oracle.loadings**2).sum(axis=0)
    expected = np.mean(0.5 * squares / oracle.variance + 2.5 * np.log(2 * np.pi * oracle.variance))
    result = rate_distortion(vae, data, num_samples=500, seed=0)
    # The squared error of a draw has a standard deviation of about 5 nats, and there are 100,000 draws.
    assert result.distortion == pytest.approx(expected, abs=4 * 5 / np.sqrt(100_000))
    terms = vae.elbo_terms(data, Sampling(num_samples=500, seed=np.array([3, 4])))
    assert -(result.rate + result.distortion) == pytest.approx(np.mean(terms.elbo), abs=0.1)


# The mutual information


def test_of_few_examples_the_parts_are_those_of_quadrature():
    vae = correlated_vae(num_columns=2, latent_dim=1)
    x = draws_of(vae, 5)
    parameters = vae.encode(x)
    loc, scale = np.float64(parameters["loc"][:, 0]), float(parameters["scale"][0, 0])

    def aggregate(z):
        return stats.norm(loc, scale).pdf(z).mean()

    def integral(function):
        return integrate.quad(function, loc.min() - 9 * scale, loc.max() + 9 * scale, limit=200)[0]

    entropy = -integral(lambda z: aggregate(z) * np.log(aggregate(z)))
    information = entropy - stats.norm(0, scale).entropy()
    aggregate_kl = integral(lambda z: aggregate(z) * (np.log(aggregate(z)) - stats.norm.logpdf(z)))
    assert 0.1 < information < np.log(5) - 1
    result = mutual_information(vae, x, num_samples=20000, seed=0)
    # 100,000 draws with a standard deviation below 2.
    assert result.mutual_information == pytest.approx(information, abs=4 * 2 / np.sqrt(100_000))
    assert result.aggregate_kl == pytest.approx(aggregate_kl, abs=4 * 2 / np.sqrt(100_000))


def test_of_many_examples_it_is_that_of_the_gaussian_channel(vae):
    x = draws_of(vae, 3000)
    oracle = Oracle.of(vae)
    kernel, _ = (np.float64(weight) for weight in vae.posterior.loc_head.get_weights())
    covariance = oracle.loadings @ oracle.loadings.T + oracle.variance * np.eye(5)
    signal = kernel.T @ covariance @ kernel
    expected = 0.5 * np.linalg.slogdet(np.eye(2) + signal / SCALE**2)[1]
    assert expected > 0.5
    result = mutual_information(vae, x, seed=0)
    assert result.standard_error < 0.03
    # Estimating the aggregate posterior from N examples has a bias of about exp(2 I) / N nats.
    assert result.mutual_information == pytest.approx(expected, abs=4 * result.standard_error + 0.01)


@pytest.mark.parametrize(
    "posterior",
    [
        tfvae.posteriors.DiagonalNormal,
        tfvae.posteriors.FullCovarianceNormal,
        lambda: tfvae.posteriors.LowRankNormal(rank=1),
        lambda: tfvae.posteriors.CouplingFlow(num_couplings=2),
    ],
    ids=["diagonal", "full", "low rank", "flow"],
)
def test_the_parts_sum_to_the_rate_for_every_family(posterior, tiny_vae, monkeypatch):
    # Chunks of 4 rows.
    monkeypatch.setattr(tfvae.evaluation.information, "_CHUNK_ELEMENTS", 4 * 2 * 100)
    vae = tiny_vae(posterior=posterior())
    x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    result = mutual_information(vae, x, seed=0)
    rate = rate_distortion(vae, x, num_samples=500, seed=1).rate
    # log q - log p has a standard deviation of about 1, and there are 100 draws.
    assert result.mutual_information + result.aggregate_kl == pytest.approx(rate, abs=4 * 1.5 / np.sqrt(100))
    assert 0 < result.mutual_information < rate


def test_a_posterior_that_knows_its_density_at_its_own_draws_alone_is_refused(tiny_vae, x):
    vae = tiny_vae(posterior=tfvae.posteriors.SylvesterFlow())
    with pytest.raises(ValueError, match=r"^`model` must have a posterior that can evaluate.*Received: SylvesterFlow"):
        mutual_information(vae, x)


def test_near_its_limit_the_mutual_information_is_warned_of(vae, data):
    set_posterior(vae, Oracle.of(vae), np.array([1e-3, 1e-3]))
    with pytest.warns(UserWarning, match=r"near its limit log N = 3\.91 for N = 50 examples"):
        result = mutual_information(vae, data, max_examples=50, seed=0)
    # Each z identifies its x with certainty.
    assert result.mutual_information == pytest.approx(np.log(50), abs=0.05)
    set_posterior(vae, Oracle.of(vae), SCALE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert mutual_information(vae, data, seed=0) == mutual_information(vae, data, seed=0)


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"max_examples": 0}])
def test_arguments_of_the_mutual_information_are_checked(arguments, vae, data):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: {name}=0"):
        mutual_information(vae, data, **arguments)
