"""Separate modes, and improper posteriors, of global variables whose local ones are integrated out."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import Latent, VariationalInference
from tfvae.inference import structured_modes
from tfvae.inference.density import Density
from tfvae.inference.nested_laplace import Search
from tfvae.inference.start import one_blas_thread
from tfvae.inference.structure import Block, Pattern

tfb, tfd = tfp.bijectors, tfp.distributions
COUNT = 60


class Known(Density):
    """A density of one global variable and 60 local ones, with derivatives in closed form, in double precision."""

    dim, dtype, epsilon = COUNT + 1, tf.float32, 1e-7

    def __init__(self, function):
        # Of t [R] and theta [R, N]: the value, both gradients, d^2/dt^2, d^2/dt dtheta and the diagonal d^2/dtheta^2.
        self.function = function

    # A density overflows far out, as those of users do.
    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, z):
        return self.function(z[:, 0], z[:, 1:])[0]

    @np.errstate(over="ignore", invalid="ignore")
    def gradients(self, z):
        value, of_t, of_theta, *_ = self.function(z[:, 0], z[:, 1:])
        return value, np.concatenate([of_t[:, None], of_theta], axis=1)

    @np.errstate(over="ignore", invalid="ignore")
    def derivatives(self, z, directions):
        *_, tt, mixed, diagonal = self.function(z[:, 0], z[:, 1:])
        first, rest = directions[:, 0], directions[:, 1:]
        products = [(tt * first + np.sum(mixed * rest, axis=1))[:, None], mixed * first[:, None] + diagonal * rest]
        return *self.gradients(z), np.concatenate(products, axis=1)


def search(density):
    pattern = Pattern([Block(1, (COUNT,), 0)], 0, COUNT + 1)
    return Search(pattern, density.gradients, density.derivatives)


@one_blas_thread
def found(density, starts=(0.0,), local=1.0):
    climbs = search(density)
    ends = climbs.ends(np.array([[start, *np.full(COUNT, local)] for start in starts]))
    return structured_modes.separate(climbs, density, ends, [(), (COUNT,)])


def level(t, theta, places=(-20.0, 20.0)):
    """t ~ a mixture of N(place, 1), and theta ~ N(t, 1), with data that hardly tell."""
    each = -0.5 * (t[:, None] - np.array(places)) ** 2
    log_mixture = np.logaddexp.reduce(each, axis=1)
    shares = np.exp(each - log_mixture[:, None])
    slopes = np.array(places) - t[:, None]
    mean = np.sum(shares * slopes, axis=1)
    away = theta - t[:, None]
    value = log_mixture - 0.5 * np.sum(away**2 + 1e-3 * theta**2, axis=1)
    curvature = np.sum(shares * slopes**2, axis=1) - mean**2 - 1.0
    ones = np.ones_like(theta)
    return value, mean + away.sum(axis=1), -away - 1e-3 * theta, curvature - COUNT, ones, -1.001 * ones


def single(t, theta):
    """One of the local variables has two modes."""
    value, of_t, of_theta, tt, mixed, diagonal = level(t, theta, (0.0, 0.0))
    x = theta[:, 3]
    inside = -0.5 * (x[:, None] - np.array([-6.0, 6.0])) ** 2
    log_mixture = np.logaddexp.reduce(inside, axis=1)
    shares, slopes = np.exp(inside - log_mixture[:, None]), np.array([-6.0, 6.0]) - x[:, None]
    mean = np.sum(shares * slopes, axis=1)
    of_theta[:, 3] += mean
    diagonal[:, 3] += np.sum(shares * slopes**2, axis=1) - mean**2 - 1.0
    return value + log_mixture, of_t, of_theta, tt, mixed, diagonal


def test_another_level_of_all_groups_is_found_from_one_side():
    several = found(Known(level), (-5.0, -8.0))
    np.testing.assert_allclose([mode.share for mode in several], 0.5, atol=0.05)
    # t has a precision of 1 + 60 * 0.001 / 1.001 in all.
    expected = 20.0 / (1.0 + 0.06 / 1.001)
    np.testing.assert_allclose(sorted(mode.gaussian.loc[0] for mode in several), [-expected, expected], rtol=0.01)


def test_two_modes_of_a_single_local_variable_are_found():
    several = found(Known(single))
    # The others follow it, for the data hardly tell.
    first, second = (mode.gaussian.loc for mode in several)
    assert abs(first[4] - second[4]) > 5.0
    np.testing.assert_allclose(first, -second, atol=0.05)


def test_one_mode_is_not_taken_for_several():
    assert len(found(Known(lambda t, theta: level(t, theta, (3.0, 3.0))))) == 1


def product(t, theta):
    """Observations of t theta with noise, where the sign of t and theta is not known."""
    y = 3.0 * np.random.default_rng(2).standard_normal(COUNT)
    y += np.sign(y)
    away, loading = y - t[:, None] * theta, t[:, None]
    value = -0.5 * np.sum(away**2 + theta**2, axis=1) - t**2 / 50.0
    of_t, of_theta = np.sum(away * theta, axis=1) - t / 25.0, away * loading - theta
    tt = -np.sum(theta**2, axis=1) - 1.0 / 25.0
    return value, of_t, of_theta, tt, away - loading * theta, -(loading**2) - np.ones_like(theta)


def test_a_sign_that_variables_share_is_found_from_a_saddle():
    # At the origin, the gradient is 0.
    several = found(Known(product), local=0.0)
    np.testing.assert_allclose([mode.share for mode in several], 0.5, atol=0.05)
    np.testing.assert_allclose(several[0].gaussian.loc, -several[1].gaussian.loc, atol=0.05)
    assert abs(several[0].gaussian.loc[0]) > 3.0


def groups(power):
    """Effects theta ~ N(0, exp(t)), whose scale has the prior exp(t)^-power, with data of variance 1 around them."""
    y = np.random.default_rng(0).standard_normal(COUNT) * 1.5

    def function(t, theta):
        precision = np.exp(-2.0 * t)[:, None]
        value = np.sum(-t[:, None] - 0.5 * theta**2 * precision - 0.5 * (y - theta) ** 2, axis=1) + (1.0 - power) * t
        squares = np.sum(theta**2 * precision, axis=1)
        diagonal = -(precision + 1.0) * np.ones_like(theta)
        of_theta = y - theta - theta * precision
        return value, squares - COUNT + 1.0 - power, of_theta, -2.0 * squares, 2.0 * theta * precision, diagonal

    return Known(function)


@pytest.mark.parametrize(("power", "is_flat"), [(1.0, True), (2.0, True), (0.0, False), (0.5, False)])
def test_the_scale_of_groups_whose_density_does_not_fall_is_flat(power, is_flat):
    density = groups(power)
    climbs = search(density)
    (end,) = climbs.ends(np.array([[-0.5, *np.ones(COUNT)]]))
    flat = structured_modes.flat_globals(climbs, density, end)
    assert flat[0] == is_flat
    assert not flat[1:].any()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hierarchy_with_two_levels_is_flagged(seed):
    group = np.repeat(np.arange(80), 4).astype("int32")
    y = np.random.default_rng(0).normal(0.0, 30.0, 320)
    y = (y - y.mean()).astype("float32")

    def log_joint(latents, data):
        group, y = data
        m, theta = latents["m"], latents["theta"]
        log_prior = tf.reduce_logsumexp([tfd.Normal(loc, 1.0).log_prob(m) for loc in (-20.0, 20.0)], axis=0)
        log_prior += tf.reduce_sum(tfd.Normal(m[:, None], 1.0).log_prob(theta), axis=1)
        return log_prior, tfd.Normal(tf.gather(theta, group, axis=1), 30.0).log_prob(y)

    keras.utils.set_random_seed(seed)
    inference = VariationalInference(log_joint, {"m": (), "theta": (80,)})
    with pytest.warns(UserWarning, match=r"^The posterior of m, theta has several modes.*50% of the mass"):
        inference.fit(group, y, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match="q misses modes of the posterior"):
        assert inference.draw(500, seed=0).pareto_k > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, 600])
@pytest.mark.parametrize("centred", [True, False])
def test_an_improper_prior_of_the_scale_of_groups_is_named(count, centred):
    y = np.random.default_rng(0).normal(0.0, 1.4, count).astype("float32")

    def log_joint(latents, y):
        tau, effect = latents["tau"][:, None], latents["effect"]
        log_prior = tfd.Normal(0.0, tau if centred else 1.0).log_prob(effect)
        theta = effect if centred else tau * effect
        return tf.reduce_sum(log_prior, axis=1) - tf.math.log(tau[:, 0]), tfd.Normal(theta, 1.0).log_prob(y)

    inference = VariationalInference(log_joint, {"tau": Latent((), tfb.Exp()), "effect": (count,)})
    with pytest.raises(ValueError, match=r"^`model` must have a posterior that is proper.* must constrain tau\."):
        inference.fit(y, verbose=0)
