"""Multi-sample bounds on a linear-Gaussian model; their expectations are known in closed form or by quadrature."""

import keras
import numpy as np
import pytest
from scipy import stats

from tests.test_elbo import (
    LOG_P,
    POINT,
    X,
    exact_point,
    expected_elbo,
    gradients,
    iwae_by_quadrature,
    linear_gaussian_terms,
    standard_error,
    tile,
)
from tfvae import VAE
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from tfvae.training.batch import batch_of_step


def values(objective, copies=10000, point=POINT):
    terms = linear_gaussian_terms(tile(point, copies), copies, False, objective.num_samples)
    return objective(terms).numpy().astype("float64")


def renyi_by_quadrature(alpha, m, v, w, b, s):
    """The Renyi bound of two draws."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    z = m + v * nodes
    log_weights = stats.norm.logpdf(X, w * z + b, s) + stats.norm.logpdf(z) - stats.norm.logpdf(z, m, v)
    powers = (1 - alpha) * log_weights
    return weights @ (np.logaddexp.outer(powers, powers) - np.log(2)) @ weights / (1 - alpha)


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 0.5, 0.999, 3.0])
def test_renyi_of_two_draws_against_quadrature(alpha):
    estimates = values(Renyi(2, alpha))
    assert abs(estimates.mean() - renyi_by_quadrature(alpha, **POINT)) < 4 * standard_error(estimates)


@pytest.mark.parametrize("alpha", [-2.0, 0.5, 3.0])
def test_the_gradient_of_renyi_is_unbiased_against_quadrature(alpha):
    for name, gradient in gradients(Renyi(2, alpha)).items():
        above, below = (renyi_by_quadrature(alpha, **{**POINT, name: POINT[name] + step}) for step in (1e-5, -1e-5))
        assert abs(gradient.mean() - (above - below) / 2e-5) < 4 * standard_error(gradient), name


def test_renyi_at_0_is_iwae_and_of_one_draw_the_elbo():
    terms = linear_gaussian_terms(tile(POINT, 100), 100, False, 5)
    np.testing.assert_allclose(Renyi(5, 0.0)(terms), IWAE(5)(terms), rtol=1e-6)
    one = linear_gaussian_terms(tile(POINT, 100), 100, False, 1)
    np.testing.assert_allclose(Renyi(1, 0.5)(one), ELBO(analytic_kl=False)(one), rtol=1e-5)


def test_renyi_falls_with_alpha_from_above_log_p_of_x_to_the_elbo_and_below():
    alphas = (-2.0, 0.0, 0.5, 0.999, 2.0)
    exact = [renyi_limit(alpha, **POINT) for alpha in alphas]
    assert exact == sorted(exact, reverse=True)
    estimates = [values(Renyi(500, alpha), copies=1000) for alpha in alphas]
    for estimate, limit in zip(estimates, exact, strict=True):
        # With 500 draws the bias is of the order of the variance of the weights / 1000.
        assert abs(estimate.mean() - limit) < 0.02 + 4 * standard_error(estimate)
    assert exact[0] > LOG_P == pytest.approx(exact[1], abs=1e-9)
    assert exact[3] == pytest.approx(expected_elbo(**POINT), abs=2e-3)


def renyi_limit(alpha, m, v, w, b, s):
    """The bound for infinitely many draws: log of the integral of q^alpha p^(1 - alpha), divided by 1 - alpha."""
    z = np.linspace(m - 15 * v, m + 15 * v, 20001)
    log_q = stats.norm.logpdf(z, m, v)
    log_p = stats.norm.logpdf(X, w * z + b, s) + stats.norm.logpdf(z)
    power = alpha * log_q + (1 - alpha) * log_p
    return np.log(np.trapezoid(np.exp(power), z)) / (1 - alpha)


def test_groups_give_the_mean_of_their_bounds():
    estimates = values(MIWAE(8, 4))
    assert abs(estimates.mean() - iwae_by_quadrature(**POINT)) < 4 * standard_error(estimates)
    terms = linear_gaussian_terms(tile(POINT, 100), 100, False, 6)
    first, second = (terms._replace(**{name: getattr(terms, name)[part] for name in FIELDS}) for part in HALVES)
    np.testing.assert_allclose(MIWAE(6, 2)(terms), (IWAE(3)(first) + IWAE(3)(second)) / 2, rtol=1e-5)
    np.testing.assert_allclose(MIWAE(6, 1)(terms), IWAE(6)(terms), rtol=1e-6)
    np.testing.assert_allclose(MIWAE(6, 6)(terms), ELBO(analytic_kl=False)(terms), rtol=1e-5)


FIELDS = ("reconstruction_log_likelihood", "log_prior", "log_posterior")
HALVES = (slice(0, 3), slice(3, 6))


@pytest.mark.parametrize("doubly_reparameterized", [False, True])
def test_the_gradient_in_groups_is_unbiased_against_quadrature(doubly_reparameterized):
    for name, gradient in gradients(MIWAE(8, 4, doubly_reparameterized=doubly_reparameterized)).items():
        above, below = (iwae_by_quadrature(**{**POINT, name: POINT[name] + step}) for step in (1e-5, -1e-5))
        assert abs(gradient.mean() - (above - below) / 2e-5) < 4 * standard_error(gradient), name


def test_more_groups_give_a_stronger_signal_for_the_posterior():
    def signal_to_noise(objective):
        gradient = gradients(objective, copies=5000)["m"]
        return abs(gradient.mean()) / gradient.std()

    assert signal_to_noise(MIWAE(64, 8)) > 2 * signal_to_noise(IWAE(64))


def test_doubly_reparameterized_groups_have_no_noise_at_the_exact_posterior():
    quiet = gradients(MIWAE(8, 2, doubly_reparameterized=True), exact_point(), copies=1000)
    for name in ("m", "v"):
        assert np.abs(quiet[name]).max() < 2e-5


def test_a_share_of_the_elbo_is_between_the_bounds():
    terms = linear_gaussian_terms(tile(POINT, 100), 100, False, 5)
    elbo, iwae = ELBO(analytic_kl=False)(terms), IWAE(5)(terms)
    np.testing.assert_allclose(CIWAE(5, 1.0)(terms), elbo, rtol=1e-5)
    np.testing.assert_allclose(CIWAE(5, 0.0)(terms), iwae, rtol=1e-6)
    np.testing.assert_allclose(CIWAE(5, 0.25)(terms), 0.25 * elbo + 0.75 * iwae, rtol=1e-5)


def test_the_bounds_are_below_log_p_of_x_and_in_order():
    means = [values(objective).mean() for objective in (MIWAE(16, 16), MIWAE(16, 4), CIWAE(16, 0.25), IWAE(16))]
    assert means[0] < means[1] < means[3] < LOG_P
    assert means[0] < means[2] < means[3]


def vae_gradients(objective):
    keras.utils.set_random_seed(1)
    vae = VAE(dense_encoder((4,), hidden=(3,)), dense_decoder(2, (4,), hidden=(3,)), 2, objective=objective)
    vae.compile("sgd", run_eagerly=True)
    vae._noise_state.assign([5, 0])
    batch = batch_of_step(vae, np.random.default_rng(0).normal(size=(5, 4)).astype("float32"))
    gradients = vae.batch_gradients(batch)[0]
    own = {id(variable) for variable in vae.posterior_variables}
    pairs = [
        pair
        for minimizer, found in zip(vae.minimizers(), gradients, strict=True)
        for pair in zip(minimizer.variables, found, strict=True)
    ]
    return [g for v, g in pairs if id(v) in own], [g for v, g in pairs if id(v) not in own]


@pytest.mark.parametrize("doubly_reparameterized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_of_piwae_the_encoder_follows_the_groups_and_the_decoder_all_draws(doubly_reparameterized):
    encoder, decoder = vae_gradients(PIWAE(6, 3, doubly_reparameterized=doubly_reparameterized))
    groups, _ = vae_gradients(MIWAE(6, 3, doubly_reparameterized=doubly_reparameterized))
    _, draws = vae_gradients(IWAE(6, doubly_reparameterized=doubly_reparameterized))
    assert len(encoder) == 6
    assert len(decoder) == 4
    for one, other in zip([*encoder, *decoder], [*groups, *draws], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    other_encoder, _ = vae_gradients(IWAE(6, doubly_reparameterized=doubly_reparameterized))
    assert not np.allclose(encoder[0], other_encoder[0], rtol=1e-3)


@pytest.mark.parametrize("groups", [0, 4, 7, True, 1.5])
@pytest.mark.parametrize("objective", [MIWAE, PIWAE])
def test_groups_must_divide_the_draws(objective, groups):
    with pytest.raises(ValueError, match=rf"`groups` must .*Received: groups={groups!r}$"):
        objective(6, groups)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "x", True])
def test_the_share_is_from_0_to_1(share):
    with pytest.raises(ValueError, match=rf"`share` must .*Received: share={share!r}$"):
        CIWAE(5, share)


@pytest.mark.parametrize("alpha", [1, 1.0, float("inf"), "x", None])
def test_alpha_is_a_number_other_than_1(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must .*Received: alpha="):
        Renyi(5, alpha)
