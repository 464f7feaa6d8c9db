"""Posteriors with several modes: found with their shares of the mass, named, and told from bent and skewed ones."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import Latent, VariationalInference
from tfvae.inference import modes, newton
from tfvae.inference.density import LogDensity
from tfvae.inference.latents import space
from tfvae.inference.start import one_blas_thread

tfb, tfd = tfp.bijectors, tfp.distributions


def mixture(shares, locs, scales, dim=1):
    """A mixture of normal distributions whose means differ in the first coordinate."""
    means = np.zeros([len(shares), dim], np.float32)
    means[:, 0] = locs
    scales = np.repeat(np.array(scales, np.float32)[:, None], dim, axis=1)
    return tfd.MixtureSameFamily(tfd.Categorical(probs=shares), tfd.MultivariateNormalDiag(means, scales))


@one_blas_thread
def found(log_density, dim, starts):
    density = LogDensity(log_density, dim)
    ascents = newton.ascend(density, starts)
    return modes.separate(density, ascents, newton.refined(density, newton.best(ascents, density)), 0, [(dim,)])


SEVERAL = {
    "a narrow mode near the starts": ([0.9, 0.1], [6.0, 0.0], [1.0, 0.2], 1),
    "halves": ([0.5, 0.5], [0.0, 6.0], [1.0, 1.0], 1),
    "three": ([0.5, 0.3, 0.2], [0.0, 7.0, -9.0], [1.0, 0.5, 1.0], 1),
    "two dimensions": ([0.6, 0.4], [0.0, 6.0], [1.0, 1.0], 2),
    "ten dimensions": ([0.6, 0.4], [0.0, 8.0], [1.0, 1.0], 10),
    "sixty dimensions": ([0.6, 0.4], [0.0, 8.0], [1.0, 1.0], 60),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_modes_are_found_from_starts_near_one_of_them(case):
    shares, locs, scales, dim = SEVERAL[case]
    known = mixture(shares, locs, scales, dim)
    near = np.zeros([1, dim])
    near[0, 0] = locs[np.argmin(np.abs(locs))]
    several = found(known.log_prob, dim, near)
    # The standard error of a share from 512 draws of each is below 0.03.
    np.testing.assert_allclose([mode.share for mode in several], shares, atol=0.05)
    np.testing.assert_allclose([mode.gaussian.loc[0] for mode in several], locs, atol=0.1)


def test_a_density_that_raises_far_out_has_one_mode_and_the_search_says_so():
    def log_density(z):
        # Raises InvalidArgumentError where this is negative.
        root = keras.ops.cholesky(10.0 - tf.reduce_max(tf.abs(z))[tf.newaxis, tf.newaxis])
        return tfd.Normal(0.0, 1.0).log_prob(z[:, 0]) + 1e-9 * root[0, 0]

    with pytest.warns(UserWarning, match="so other modes were not sought there"):
        (only,) = found(log_density, 1, np.zeros([1, 1]))
    assert only.share == 1.0
    assert only.gaussian.loc[0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.slow
def test_another_mode_that_no_axis_points_to_is_found():
    # All of 80 coefficients differ, in a direction that is none of the density's own.
    shift = np.random.default_rng(0).normal(0.0, 8.0, 80).astype("float32")
    known = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.7, 0.3]),
        tfd.MultivariateNormalDiag(np.stack([np.zeros_like(shift), shift]), tf.ones([2, 80])),
    )
    several = found(known.log_prob, 80, np.zeros([1, 80]))
    np.testing.assert_allclose([mode.share for mode in several], [0.7, 0.3], atol=0.05)
    np.testing.assert_allclose(several[1].gaussian.loc, shift, atol=0.1)


@pytest.mark.parametrize(("share", "text"), [(0.573, "60%"), (0.96, "96%"), (0.013, "1%"), (0.104, "10%")])
def test_a_share_is_told_no_more_exactly_than_it_is_known(share, text):
    latents, at = space({"mu": ()}), newton.Gaussian(np.zeros(1), np.eye(1), 0.0)
    other = modes.Mode(at._replace(loc=np.full(1, 9.0)), share)
    assert f"mu=9 (about {text} of the mass)" in modes.message(modes.Mode(at, 1.0 - share), [other], latents)


def banana(z):
    return -0.5 * (z[:, 0] / 3.0) ** 2 - 0.5 * ((z[:, 1] - z[:, 0] ** 2 / 2.0) / 0.3) ** 2


ONE = {
    "normal": (tfd.MultivariateNormalDiag([3.0, -2.0], [2.0, 0.1]).log_prob, 2),
    "skewed": (lambda z: 2.0 * z[:, 0] - tf.exp(z[:, 0]), 1),
    "heavy tails": (lambda z: tfd.StudentT(2.0, 3.0, 0.2).log_prob(z[:, 0]), 1),
    "close to each other": (mixture([0.5, 0.5], [0.0, 2.5], [1.0, 1.0]).log_prob, 1),
    "a small share": (mixture([0.997, 0.003], [0.0, 6.0], [1.0, 1.0]).log_prob, 1),
    "bent": (banana, 2),
    "a flat ridge": (lambda z: -50.0 * (z[:, 0] + z[:, 1]) ** 2 - ((z[:, 0] - z[:, 1]) / 50.0) ** 4, 2),
}


@pytest.mark.parametrize("case", ONE)
def test_one_mode_is_not_taken_for_several(case):
    log_density, dim = ONE[case]
    assert len(found(log_density, dim, np.random.default_rng(0).uniform(-2.0, 2.0, [3, dim]))) == 1


def test_a_path_bends_with_a_ridge():
    # Two points of the ridge, with a straight line between them that leaves it.
    density, scale = LogDensity(banana, 2), np.diag([0.5, 0.3])
    start = newton.Gaussian(np.array([-2.0, 2.0]), scale, 0.0)
    straight = density(np.array([[0.0, 2.0]]))[0] - density(start.loc[np.newaxis])[0]
    assert straight < -20.0
    assert modes.dip(density, start, np.array([2.0, 2.0])) < 1.0
    halves = LogDensity(mixture([0.5, 0.5], [0.0, 6.0], [1.0, 1.0], 2).log_prob, 2)
    # Midway, both densities are 4.5 nats below their modes, and there are two of them.
    at_mode = newton.Gaussian(np.zeros(2), np.eye(2), 0.0)
    assert modes.dip(halves, at_mode, np.array([6.0, 0.0])) == pytest.approx(4.5 - math.log(2.0), abs=0.01)


def test_the_message_names_what_differs():
    latents = space({"mu": (), "other": (), "rate": Latent((), tfb.Exp())})
    scale = np.eye(3)
    locs = np.array([0.0, 1.0, 0.0]), np.array([6.0, 1.5, math.log(1000.0)])
    first, second = (
        modes.Mode(newton.Gaussian(loc, scale, 0.0), share) for loc, share in zip(locs, (0.8, 0.2), strict=True)
    )
    text = modes.message(first, [second], latents)
    assert text.startswith("The posterior of mu, rate has several modes")
    assert "it is at mu=0, rate=1 (about 80% of the mass), and not at mu=6, rate=1000 (about 20% of the mass)" in text


@pytest.mark.slow
def test_a_posterior_with_two_modes_is_flagged(tmp_path):
    known = mixture([0.9, 0.1], [6.0, 0.0], [1.0, 0.2])

    def model(latents, _):
        return known.log_prob(latents["x"][:, None])

    inference = VariationalInference(model, {"x": ()})
    with pytest.warns(
        UserWarning, match=r"posterior of x has several modes.*x=6 \(about 90% of.*not at x=.*10% of the mass"
    ):
        inference.fit(verbose=0)
    with pytest.warns(UserWarning, match="q misses modes of the posterior that hold about 10% of its mass"):
        draws = inference.draw(seed=0)
    assert draws["x"].mean() == pytest.approx(6.0, abs=0.1)
    assert draws.pareto_k > 0.7
    # A file knows of it, too.
    inference.save_weights(tmp_path / "two.weights.h5")
    again = VariationalInference(model, {"x": ()})
    again.load_weights(tmp_path / "two.weights.h5")
    with pytest.warns(UserWarning, match="q misses modes of the posterior that hold about 10% of its mass"):
        assert again.draw(seed=0).pareto_k > 0.7


@pytest.mark.slow
def test_modes_are_sought_although_there_is_a_structure():
    group = np.repeat(np.arange(30), 4).astype("int32")
    y = np.random.default_rng(0).normal(0.0, 30.0, 120)
    y = (y - y.mean()).astype("float32")

    def log_joint(latents, data):
        group, y = data
        m = latents["m"]
        log_prior = tf.reduce_logsumexp([tfd.Normal(loc, 1.0).log_prob(m) for loc in (-20.0, 20.0)], axis=0)
        log_prior += tf.reduce_sum(tfd.Normal(m[:, None], 1.0).log_prob(latents["theta"]), axis=1)
        return log_prior, tfd.Normal(tf.gather(latents["theta"], group, axis=1), 30.0).log_prob(y)

    model = VariationalInference(log_joint, {"m": (), "theta": (30,)})
    with pytest.warns(UserWarning, match=r"^The posterior of m, theta has several modes.*50% of the mass"):
        model.fit(group, y, verbose=0)
