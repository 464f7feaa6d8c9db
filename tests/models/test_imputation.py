"""Imputation against the conditional distributions of a linear Gaussian model, which are known exactly."""

import re

import keras
import numpy as np
import pytest
from scipy import stats

import tfvae
from tfvae import likelihoods as lk
from tfvae import networks

LOADINGS = np.float32([[1.0, 0.5], [-0.5, 1.0], [0.8, 0.0], [0.3, -0.9], [0.6, 0.6]])
LOC = np.float32([0.5, -1.0, 0.0, 2.0, 0.3])
SCALE = 0.8
COVARIANCE = np.float64(LOADINGS @ LOADINGS.T) + SCALE**2 * np.eye(5)


def linear_vae(likelihood=None):
    """Probabilistic PCA with a wide q(z|x), near the posterior given the observed values but not equal to it."""
    keras.utils.set_random_seed(0)
    likelihood = lk.Missing(lk.Normal(SCALE)) if likelihood is None else likelihood
    encoder, decoder = networks.dense_encoder((5,), hidden=()), networks.dense_decoder(2, (5,), hidden=())
    vae = tfvae.VAE(encoder, decoder, 2, likelihood=likelihood)
    decoder.set_weights([LOADINGS.T, LOC])
    vae.posterior.loc_head.set_weights([0.3 * LOADINGS, -0.3 * LOC @ LOADINGS])
    vae.posterior.scale_head.set_weights([np.zeros((5, 2), np.float32), np.full(2, 0.2, np.float32)])
    vae.compile(jit_compile=False)
    return vae


def incomplete(n):
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(LOC, COVARIANCE, size=n).astype("float32")
    x[rng.uniform(size=x.shape) < 0.5] = np.nan
    x[0], x[1] = np.nan, LOC + 0.5
    return x


def conditional(row):
    """Which values of a row are missing, and their exact mean and covariance given the rest."""
    is_missing = np.isnan(row)
    observed = ~is_missing
    gain = COVARIANCE[np.ix_(is_missing, observed)] @ np.linalg.inv(COVARIANCE[np.ix_(observed, observed)])
    mean = LOC[is_missing] + gain @ (np.float64(row[observed]) - LOC[observed])
    covariance = COVARIANCE[np.ix_(is_missing, is_missing)] - gain @ COVARIANCE[np.ix_(observed, is_missing)]
    return is_missing, mean, covariance


@pytest.mark.parametrize("num_imputations", [None, 3])
def test_a_posterior_that_is_far_off_is_warned_of(num_imputations, recwarn):
    vae, x = linear_vae(), incomplete(30)
    tfvae.impute(vae, x, num_samples=200, seed=0, num_imputations=num_imputations)
    assert not [warning for warning in recwarn if "have almost all the weight" in str(warning.message)]
    # A q that is narrow, and seven standard deviations of the prior away.
    vae.posterior.loc_head.set_weights([np.zeros((5, 2), np.float32), np.float32([5, 5])])
    with pytest.warns(UserWarning, match="Fewer than 10 draws of z have almost all the weight for .*% of the examples"):
        tfvae.impute(vae, x, num_samples=200, seed=0, num_imputations=num_imputations)


def test_the_mean_is_the_exact_conditional_mean():
    vae, x = linear_vae(), incomplete(30)
    # 30 x 5 x 40000 elements, more than fit in one chunk of 2^22.
    filled = tfvae.impute(vae, x, num_samples=40000, seed=0)
    assert filled.shape == x.shape
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    for row, values in zip(x, filled, strict=True):
        is_missing, mean, _ = conditional(row)
        # The effective number of the 40000 draws is at least a tenth, and their standard deviation is below 1.5.
        np.testing.assert_allclose(values[is_missing], mean, atol=5 * 1.5 / np.sqrt(4000))


def test_log_likelihood_is_that_of_what_is_observed():
    vae, x = linear_vae(), incomplete(10)
    received = vae.log_likelihood(x, num_samples=20000, seed=0)
    for row, value in zip(x[1:], received[1:], strict=True):
        at = np.flatnonzero(~np.isnan(row))
        exact = stats.multivariate_normal(LOC[at], COVARIANCE[np.ix_(at, at)]).logpdf(row[at]) if len(at) else 0.0
        assert value == pytest.approx(exact, abs=0.05)


def test_draws_have_the_exact_conditional_mean_and_covariance():
    vae, x = linear_vae(), incomplete(6)
    draws = tfvae.impute(vae, x, num_samples=4000, num_imputations=2000, seed=0, batch_size=4)
    assert draws.shape == (2000, *x.shape)
    for index, row in enumerate(x):
        is_missing, mean, covariance = conditional(row)
        np.testing.assert_array_equal(draws[:, index, ~is_missing], np.tile(row[~is_missing], (2000, 1)))
        if is_missing.any():
            values = draws[:, index, is_missing]
            # The 2000 imputations are resampled from 4000 draws of z, whose own error adds to theirs.
            deviation = np.sqrt(np.diag(covariance) * (1 / 2000 + 10 / 4000))
            assert np.all(np.abs(values.mean(0) - mean) < 5 * deviation)
            error = 5 * np.max(np.diag(covariance)) * np.sqrt(2 / 2000 + 20 / 4000)
            np.testing.assert_allclose(np.cov(values, rowvar=False).reshape(covariance.shape), covariance, atol=error)


@pytest.mark.slow
def test_xla_draws_from_the_same_distribution():
    vae, x = linear_vae(), incomplete(4)
    vae.compile(jit_compile=True)
    draws = tfvae.impute(vae, x, num_samples=500, num_imputations=500, seed=0)
    mean = tfvae.impute(vae, x, num_samples=500, seed=0)
    # The standard deviations of the conditional distributions are below 1.5.
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * 1.5 / np.sqrt(500))


def test_a_seed_gives_the_same_values():
    vae, x = linear_vae(), incomplete(6)
    first, again, other = (tfvae.impute(vae, x, num_samples=50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    assert np.abs(tfvae.impute(vae, x, num_samples=50) - tfvae.impute(vae, x, num_samples=50)).max() > 0


def test_float64_is_kept_to_the_last_bit():
    x = np.float64([[np.pi, np.nan, 1, 2, 3]])
    filled = tfvae.impute(linear_vae(), x, num_samples=10)
    assert filled.dtype == np.float64
    np.testing.assert_array_equal(filled[0, [0, 2, 3, 4]], x[0, [0, 2, 3, 4]])


def test_tables_are_filled_in_with_data_of_each_kind():
    keras.utils.set_random_seed(0)
    columns = lk.Columns([(lk.Normal(), 1), (lk.Categorical(3), 2), (lk.Poisson(), 1)])
    likelihood = lk.Missing(columns)
    decoder = networks.dense_decoder(2, likelihood.parameter_shape((4,)), hidden=())
    # Whatever z is, the mean is 0.5, the codes are 2 and 0, and the rate is exp(1).
    bias = np.float32([0.5, 0, 0, 30, 30, 0, 0, 1.0])
    decoder.set_weights([np.zeros((2, 8), np.float32), bias])
    vae = tfvae.VAE(networks.dense_encoder((4,), hidden=(4,)), decoder, 2, likelihood=likelihood)
    x = np.float32([[np.nan, 1, np.nan, np.nan], [1, np.nan, 2, 3]])
    np.testing.assert_allclose(tfvae.impute(vae, x, num_samples=20), [[0.5, 1, 0, np.e], [1, 2, 2, 3]], rtol=1e-5)
    draws = tfvae.impute(vae, x, num_samples=20, num_imputations=500, seed=0)
    columns.check(draws.reshape(-1, 4))
    np.testing.assert_array_equal(draws[:, 1, 1], 2)
    np.testing.assert_allclose(draws[:, 0, 3].mean(), np.e, atol=5 * np.sqrt(np.e / 500))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be an integer of at least 1. Received: num_samples=0"),
        ({"num_imputations": 0}, "`num_imputations` must be an integer of at least 1"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"seed": 0.5}, "`seed` must be an integer of 32 bits, or None. Received: seed=0.5"),
        ({"x": np.full((2, 3), np.nan)}, "`x` must have the shape [N, 5]"),
        ({"x": np.full((2, 5), np.inf)}, "`x` must be finite or NaN"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tfvae.impute(**{"model": linear_vae(), "x": incomplete(3), **arguments})


@pytest.mark.parametrize("model", [lambda: linear_vae(lk.Normal(SCALE)), lambda: None])
def test_the_model_must_be_one_of_missing_values(model):
    with pytest.raises(ValueError, match=r"^`model` must be a VAE whose likelihood allows missing values, for example"):
        tfvae.impute(model(), incomplete(3))


def test_a_model_with_a_condition_is_refused():
    model = tfvae.ConditionalVAE(
        networks.dense_encoder((5,), hidden=(), condition_dim=2),
        networks.dense_decoder(2, (5,), hidden=(), condition_dim=2),
        latent_dim=2,
        condition_dim=2,
        likelihood=lk.Missing(lk.Normal()),
    )
    data = {"x": incomplete(3), "condition": np.eye(2)[[0, 1, 0]]}
    message = r"^`model` must be a VAE of x alone, without a condition, .* Received: a ConditionalVAE$"
    with pytest.raises(ValueError, match=message):
        tfvae.impute(model, data)
