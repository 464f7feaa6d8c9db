"""Where a fit starts: the coordinates for known posteriors, and densities that are rejected before the first step."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import Latent
from tfvae.inference import newton, observations, start
from tfvae.inference.density import LogDensity
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.start import standard_coordinates
from tfvae.inference.targets import target

tfb = tfp.bijectors
tfd = tfp.distributions


def coordinates(model, latents, *, full=True, seed=0):
    joint = JointDensity(target(model, latents), None)
    data = observations.read(None, num_data=None, replicas=1, seed=lambda: 0)
    gaussian = standard_coordinates(joint, data, joint.of_all_rows(data), seed).gaussian
    return gaussian if full else gaussian.diagonal()


# Scales that differ by nine orders of magnitude, far from the origin.
LOC = np.array([1e4, -3.0, 0.02])
SCALE = np.array([[1e3, 0.0, 0.0], [0.9, 0.5, 0.0], [0.0, 1e-6, 1e-6]])
PRECISION = np.linalg.inv(SCALE @ SCALE.T)


def gaussian(latents, _):
    return tfd.MultivariateNormalTriL(LOC.astype("float32"), SCALE.astype("float32")).log_prob(latents["x"])


def test_a_badly_scaled_gaussian_is_found():
    found = coordinates(gaussian, {"x": (3,)})
    sd = np.sqrt(np.diag(SCALE @ SCALE.T))
    np.testing.assert_allclose(found.loc / sd, LOC / sd, atol=0.05)
    np.testing.assert_allclose(found.scale / sd[:, None], SCALE / sd[:, None], atol=0.05)


def test_a_mean_field_family_gets_the_variances_of_the_conditionals():
    found = coordinates(gaussian, {"x": (3,)}, full=False)
    assert found.scale.shape == (3,)
    np.testing.assert_allclose(found.scale, 1 / np.sqrt(np.diag(PRECISION)), rtol=0.1)


def test_the_scale_is_that_of_the_unconstrained_space():
    # log x ~ N(10, 0.1); the mode of x is not exp of the mode of log x.
    found = coordinates(
        lambda latents, _: tfd.LogNormal(10.0, 0.1).log_prob(latents["x"]), {"x": Latent((), tfb.Exp())}
    )
    assert found.loc[0] == pytest.approx(10.0, abs=0.01)
    assert found.scale[0, 0] == pytest.approx(0.1, rel=0.01)


@pytest.mark.slow
def test_many_dimensions_get_a_diagonal():
    loc, scale = np.linspace(-5, 5, 501), np.geomspace(0.1, 10.0, 501)
    independent = tfd.Independent(tfd.Normal(loc.astype("float32"), scale.astype("float32")), 1)
    found = coordinates(lambda latents, _: independent.log_prob(latents["x"]), {"x": (501,)})
    np.testing.assert_allclose(found.loc / scale, loc / scale, atol=0.1)
    np.testing.assert_allclose(found.scale, scale, rtol=0.05)


def test_the_same_seed_starts_at_the_same_points():
    def model(latents, _):
        return tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), tfd.Normal([-1.0, 1.0], [0.1, 0.1])).log_prob(
            latents["x"]
        )

    first, second = (coordinates(model, {"x": ()}, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.loc, second.loc)
    assert abs(first.loc[0]) == pytest.approx(1.0, abs=0.05)


def test_plausible_points_of_a_prior_are_tried():
    # The density is 0 everywhere near the origin.
    prior = tfd.JointDistributionNamed({"x": tfd.Normal(50.0, 1.0)})

    def model(latents, _):
        x = latents["x"]
        return tf.where(x > 45.0, tfd.Normal(50.0, 1.0).log_prob(x), -np.inf)

    found = coordinates(model, prior)
    assert found.loc[0] == pytest.approx(50.0, abs=0.05)
    with pytest.raises(ValueError, match=r"finite where the fit starts\. Received: -inf at x=0"):
        coordinates(model, {"x": ()})


@pytest.mark.slow
def test_a_vague_prior_whose_draws_underflow_is_fitted():
    # The posterior of the precision is Gamma(0.001 + n / 2, 0.001 + sum of squares / 2).
    y = np.linspace(-3.0, 3.0, 50).astype("float32")
    joint = tfd.JointDistributionNamed(
        {"tau": tfd.Gamma(0.001, 0.001), "y": lambda tau: tfd.Sample(tfd.Normal(0.0, tau**-0.5), 50)}
    )
    draws = target(joint.experimental_pin(y=y), None).starts(100, tf.constant([0, 0]))["tau"].numpy()
    assert np.isnan(draws).any()
    found = coordinates(joint.experimental_pin(y=y), None)
    # In the coordinates of TFP's softplus, the mode of the density times the Jacobian is near the mean of tau.
    tau = stats.gamma(25.001, scale=1 / (0.001 + (y**2).sum() / 2))
    assert np.log1p(np.exp(found.loc[0])) == pytest.approx(tau.mean(), abs=tau.std() / 2)


def test_missing_observations_are_named():
    y = np.array([0.5, np.nan, 1.0], "float32")
    joint = tfd.JointDistributionNamedAutoBatched(
        {"mu": tfd.Normal(0.0, 1.0), "y": lambda mu: tfd.Sample(tfd.Normal(mu, 1.0), 3)}
    )
    with pytest.raises(ValueError, match=r"never NaN; leave.*Received: observations that hold NaN, 'y' at index \[1\]"):
        coordinates(joint.experimental_pin(y=y), None)


@pytest.mark.parametrize("prior", [tfd.Bernoulli(0.3), tfd.Categorical([0.0, 0.0]), tfd.Poisson(3.0)])
def test_a_discrete_latent_variable_is_named(prior):
    joint = tfd.JointDistributionNamedAutoBatched({"k": prior, "y": lambda k: tfd.Normal(tf.cast(k, tf.float32), 1.0)})
    kind = type(prior).__name__
    with pytest.raises(ValueError, match=rf"continuous.*Sum a discrete one out.*Received: .*variable 'k', a {kind}$"):
        target(joint.experimental_pin(y=1.0), None)


SLOW = pytest.mark.slow


def normal(x):
    return -0.5 * x**2


BAD = {
    "NaN": (lambda latents, _: np.nan * latents["x"], {"x": ()}, r"Received: nan at x=0"),
    "-inf": (lambda latents, _: normal(latents["x"]) - np.inf, {"x": ()}, r"Received: -inf at x=0"),
    "infinite": (lambda latents, _: normal(latents["x"]) + np.inf, {"x": ()}, r"Received: inf at x=0"),
    "a scale without a bijector": (
        lambda latents, _: normal(latents["mu"]) + tf.math.log(latents["scale"]) - latents["scale"],
        {"mu": (), "scale": ()},
        r"needs the bijector of that space.*Received: nan at mu=.*scale=-",
    ),
    "flat": (
        lambda latents, _: normal(latents["x"]) + 0.0 * latents["flat"],
        {"x": (), "flat": ()},
        r"posterior that is proper.*constrain flat\. Received: one that is flat",
    ),
    "not asked for": (
        lambda latents, _: normal(latents["x"]),
        {"x": (), "other": ()},
        r"posterior that is proper.*constrain other\. Received: one that is flat",
    ),
    "two that only have a sum": (
        lambda latents, _: normal(latents["a"] + latents["b"]),
        {"a": (), "b": ()},
        r"posterior that is proper.*constrain a, b\. Received: one that is flat",
    ),
    "a scale of one observation": (
        # p(s) = 1 / s, whose integral diverges at both ends.
        lambda latents, _: -tf.math.log(latents["s"]),
        {"s": Latent((), tfb.Exp())},
        r"posterior that is proper.*constrain [sx]\. Received: one that is flat",
    ),
    "one that rises along one of two": (
        lambda latents, _: normal(latents["a"]) + latents["b"],
        {"a": (), "b": ()},
        r"posterior that is proper.*constrain b\. Received: one that is flat",
    ),
    "one that grows": (
        lambda latents, _: latents["x"] ** 2,
        {"x": ()},
        r"posterior that is proper.*Received: one that (grows without bound|is flat along them)",
    ),
    "half a line": (
        lambda latents, _: tfd.HalfNormal(1.0).log_prob(latents["x"]),
        {"x": ()},
        r"density above 0.*needs the bijector of that space\. Received: -inf near the mode, at x=-",
    ),
    "one that rises": (
        lambda latents, _: latents["x"],
        {"x": ()},
        r"posterior that is proper.*constrain [sx]\. Received: one that is flat",
    ),
}


LIKE_OTHERS = ("infinite", "not asked for", "one that rises along one of two")


# A mean-field family starts from the same search, and differs where latents are flat only along a sum.
@pytest.mark.parametrize(
    ("case", "full"),
    [
        *(pytest.param(case, True, marks=SLOW) if case in LIKE_OTHERS else (case, True) for case in BAD),
        *(
            (case, False) if case in ("flat", "two that only have a sum") else pytest.param(case, False, marks=SLOW)
            for case in BAD
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in reduce")
def test_a_density_that_has_no_posterior_is_refused(case, full):
    model, latents, message = BAD[case]
    with pytest.raises(ValueError, match=rf"(?s)^`model` must have a .*{message}"):
        coordinates(model, latents, full=full)


MANY = {
    "flat": (lambda x: tf.reduce_sum(normal(x[:, 1:]), axis=1), (501,), r"constrain x\. Received: one that is flat"),
    "no data": (lambda x: 0.0 * tf.reduce_sum(x, axis=1), (600,), r"constrain x\. Received: one that is flat"),
    "only differences": (
        lambda x: tf.reduce_sum(normal(x - tf.reduce_mean(x, axis=1, keepdims=True)), axis=1),
        (501,),
        r"constrain x\. Received: one that is flat",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY)
def test_a_density_of_many_dimensions_that_has_no_posterior_is_refused(case):
    log_density, shape, message = MANY[case]
    with pytest.raises(ValueError, match=rf"^`model` must have a posterior that is proper.*{message}"):
        coordinates(lambda latents, _: log_density(latents["x"]), {"x": shape})


def groups(count, tau, seed):
    """A centred model of groups, whose density is unbounded where the groups are equal and tau goes to 0."""
    generator = np.random.default_rng(seed)
    y = generator.normal(generator.normal(0.0, 5.0), tau, count) + generator.normal(size=count)
    return tfd.JointDistributionNamedAutoBatched(
        {
            "mu": tfd.Normal(0.0, 5.0),
            "tau": tfd.HalfNormal(2.0),
            "theta": lambda mu, tau: tfd.Sample(tfd.Normal(mu, tau), count),
            "y": lambda theta: tfd.Independent(tfd.Normal(theta, 1.0), 1),
        }
    ).experimental_pin(y=y.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 30, 60])
@pytest.mark.parametrize("seed", [0, 1])
def test_centred_groups_are_taken(count, seed):
    found = coordinates(groups(count, 0.3, seed), None)
    # A finite ELBO is that of draws which float32 can tell apart.
    assert np.isfinite(found.elbo)


def test_a_density_that_is_flat_along_a_single_line_is_taken():
    # Where x is 0 it does not fall as t grows, but the range of x in which it is high narrows.
    def log_density(z):
        t, x = tf.unstack(z, axis=1)
        return normal(x) * (1.0 + tf.nn.softplus(t) ** 4) + tf.math.log_sigmoid(t)

    known = target(lambda latents, _: latents["x"], {"t": (), "x": ()})
    gaussian, density = newton.Gaussian(np.zeros(2), np.eye(2), 0.0), LogDensity(log_density, 2)
    start._check_proper(known, gaussian, density, lambda: newton.principal_axes(gaussian, density))
    flat = LogDensity(lambda z: normal(z[:, 1]), 2)
    with pytest.raises(ValueError, match=r"constrain t\. Received: one that is flat"):
        start._check_proper(known, gaussian, flat, lambda: newton.principal_axes(gaussian, flat))


def test_a_positive_number_that_may_round_to_0_is_taken():
    found = coordinates(lambda latents, _: tfd.Gamma(0.5, 1.0).log_prob(latents["x"]), {"x": Latent((), tfb.Exp())})
    assert np.isfinite(found.elbo)


@pytest.mark.parametrize(
    "known",
    [tfd.Normal(3.0, 0.01), tfd.StudentT(3.0, 0.0, 2.0), tfd.Cauchy(1.0, 1.0), tfd.Logistic(0.0, 5.0)],
    ids=lambda known: known.name,
)
def test_a_proper_density_is_taken_whatever_its_tails(known):
    found = coordinates(lambda latents, _: known.log_prob(latents["x"]), {"x": ()})
    assert np.isfinite(found.loc).all()
    assert abs(found.loc[0] - known.loc) < 0.3 * found.scale[0, 0]
