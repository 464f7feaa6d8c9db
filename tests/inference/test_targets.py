"""Bayesian models in every accepted form: the densities are the same; and errors."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import Latent
from tfvae.inference.targets import target

tfb = tfp.bijectors
tfd = tfp.distributions
Root = tfd.JointDistributionCoroutine.Root

Y = np.random.default_rng(0).normal(1.0, 2.0, size=6).astype("float32")
# mu ~ N(0, 3), sigma ~ LogNormal(0, 1), y ~ N(mu, sigma).


def batched():
    mu = yield Root(tfd.Normal(0.0, 3.0, name="mu"))
    sigma = yield Root(tfd.LogNormal(0.0, 1.0, name="sigma"))
    yield tfd.Sample(tfd.Normal(mu, sigma), 6, name="y")


def single():
    mu = yield tfd.Normal(0.0, 3.0, name="mu")
    sigma = yield tfd.LogNormal(0.0, 1.0, name="sigma")
    yield tfd.Normal(mu * tf.ones(6), sigma, name="y")


NAMED = {
    "mu": tfd.Normal(0.0, 3.0),
    "sigma": tfd.LogNormal(0.0, 1.0),
    "y": lambda mu, sigma: tfd.Sample(tfd.Normal(mu, sigma), 6),
}
SEQUENTIAL = [
    tfd.Normal(0.0, 3.0, name="mu"),
    tfd.LogNormal(0.0, 1.0, name="sigma"),
    lambda sigma, mu: tfd.Sample(tfd.Normal(mu, sigma), 6, name="y"),
]


def log_joint(latents, y):
    log_prior = tfd.Normal(0.0, 3.0).log_prob(latents["mu"]) + tfd.LogNormal(0.0, 1.0).log_prob(latents["sigma"])
    return log_prior, tfd.Normal(latents["mu"][:, None], latents["sigma"][:, None]).log_prob(y)


def in_one_piece(latents, y):
    log_prior, log_likelihood = log_joint(latents, y)
    return log_prior + tf.reduce_sum(log_likelihood, axis=1)


def in_float64(latents, y):
    return tuple(tf.cast(part, tf.float64) for part in log_joint(latents, y))


SPACES = {"mu": (), "sigma": Latent((), tfb.Exp())}
PRIOR = tfd.JointDistributionNamed({"mu": tfd.Normal(0.0, 3.0), "sigma": tfd.LogNormal(0.0, 1.0)})
MODELS = {
    "named": (tfd.JointDistributionNamed(NAMED).experimental_pin(y=Y), None),
    "named, batched by itself": (tfd.JointDistributionNamedAutoBatched(NAMED).experimental_pin(y=Y), None),
    "sequential": (tfd.JointDistributionSequential(SEQUENTIAL).experimental_pin(y=Y), None),
    "sequential, batched by itself": (
        tfd.JointDistributionSequentialAutoBatched(SEQUENTIAL).experimental_pin(y=Y),
        None,
    ),
    "coroutine": (tfd.JointDistributionCoroutine(batched).experimental_pin(y=Y), None),
    "coroutine, batched by itself": (tfd.JointDistributionCoroutineAutoBatched(single).experimental_pin(y=Y), None),
    "pinned, with latents": (tfd.JointDistributionNamed(NAMED).experimental_pin(y=Y), SPACES),
    "function and dictionary": (log_joint, SPACES),
    "function and prior": (log_joint, PRIOR),
    "one piece": (in_one_piece, SPACES),
    "float64": (in_float64, SPACES),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_density_is_that_of_scipy(kind):
    made = target(*MODELS[kind])
    assert made.space.shapes == {"mu": (), "sigma": ()}
    mu, sigma = np.array([0.5, -1.0, 2.0]), np.array([0.7, 1.0, 3.0])
    values = {"mu": tf.constant(mu, tf.float32), "sigma": tf.constant(sigma, tf.float32)}
    log_prior, log_likelihood = made.log_densities(values, Y)
    assert log_prior.dtype == log_likelihood.dtype == tf.float32
    expected_prior = stats.norm.logpdf(mu, 0, 3) + stats.lognorm.logpdf(sigma, 1)
    expected = stats.norm.logpdf(Y[:, None], mu, sigma).sum(axis=0)
    if kind == "one piece":
        expected_prior, expected = 0 * expected, expected + expected_prior
    np.testing.assert_allclose(log_prior, expected_prior, rtol=1e-5)
    if len(log_likelihood.shape) == 2:
        assert log_likelihood.shape == (3, 6)
        log_likelihood = tf.reduce_sum(log_likelihood, axis=1)
    np.testing.assert_allclose(log_likelihood, expected, rtol=1e-5)
    made.check(values, Y, whole=True, must_split=None)


@pytest.mark.parametrize("kind", [kind for kind, (_, latents) in MODELS.items() if latents is not SPACES])
def test_plausible_points_are_draws_of_the_prior(kind):
    draws = target(*MODELS[kind]).starts(400, tf.constant([0, 1]))
    assert stats.kstest(draws["mu"].numpy() / 3.0, "norm").pvalue > 0.001
    assert stats.kstest(np.log(draws["sigma"].numpy()), "norm").pvalue > 0.001


def test_a_function_with_a_dictionary_knows_no_plausible_points():
    assert target(log_joint, SPACES).starts is None


def test_shapes_of_a_matrix_in_a_joint_distribution():
    joint = tfd.JointDistributionCoroutineAutoBatched(matrix)
    made = target(joint.experimental_pin(y=tf.zeros([4, 2])), None)
    assert made.space.shapes == {"b": (3, 2)}
    values, _ = made.space.constrain(tf.ones([5, 6]))
    log_prior, log_likelihood = made.log_densities(values, None)
    np.testing.assert_allclose(log_prior, np.full(5, 6 * stats.norm.logpdf(1)), rtol=1e-5)
    np.testing.assert_allclose(log_likelihood, np.full(5, 8 * stats.norm.logpdf(3)), rtol=1e-5)


def matrix():
    b = yield tfd.Sample(tfd.Normal(0.0, 1.0), [3, 2], name="b")
    yield tfd.Independent(tfd.Normal(tf.ones([4, 3]) @ b, 1.0), 2, name="y")


BAD = {
    "not pinned": (tfd.JointDistributionNamed(NAMED), None, "`model` must be a joint distribution whose"),
    "a distribution": (tfd.Normal(0.0, 1.0), SPACES, "`model` must be a joint distribution whose"),
    "a number": (3.0, SPACES, "`model` must be a joint distribution whose"),
    "a function alone": (log_joint, None, "`latents` must give the shapes"),
    "other names": (
        tfd.JointDistributionNamed(NAMED).experimental_pin(y=Y),
        {"mu": (), "tau": Latent((), tfb.Exp())},
        "`latents` must be the variables of the joint distribution",
    ),
    "other shapes": (
        tfd.JointDistributionNamed(NAMED).experimental_pin(y=Y),
        {**SPACES, "mu": (2,)},
        "`latents` must be the variables of the joint distribution",
    ),
    "too few observations": (
        tfd.JointDistributionNamed(NAMED).experimental_pin(y=Y[:4]),
        None,
        r"`model` must be pinned to observations of the shapes of its variables, here \[6\] for y",
    ),
    "many observations of one": (
        tfd.JointDistributionNamedAutoBatched(
            {"mu": tfd.Normal(0.0, 3.0), "y": lambda mu: tfd.Normal(mu, 1.0)}
        ).experimental_pin(y=Y),
        None,
        r"`model` must be pinned .*here \[\] for y; n observations of one distribution need tfd.Sample",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_refused(case):
    model, latents, message = BAD[case]
    with pytest.raises(ValueError, match=rf"(?s)^{message}.*Received: "):
        target(model, latents)


def checked(function, *, whole=True, must_split=None, x=Y):
    values = {"mu": tf.zeros(4), "sigma": tf.ones(4)}
    target(function, SPACES).check(values, x, whole=whole, must_split=must_split)


SHAPES = {
    "summed over draws": lambda latents, y: tf.reduce_sum(in_one_piece(latents, y)),
    "a column for each row, alone": lambda latents, y: log_joint(latents, y)[1],
    "axes exchanged": lambda latents, y: (log_joint(latents, y)[0], tf.transpose(log_joint(latents, y)[1])),
    "an axis too many": lambda latents, y: (log_joint(latents, y)[0], log_joint(latents, y)[1][..., None]),
    "a prior that is not summed": lambda latents, y: (tf.zeros([4, 2]), log_joint(latents, y)[1]),
    "three parts": lambda latents, y: (*log_joint(latents, y), tf.zeros(4)),
    "nothing": lambda latents, y: None,
    "text": lambda latents, y: "a",
    "part of the rows": lambda latents, y: (log_joint(latents, y)[0], log_joint(latents, y)[1][:, 1:]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_density_of_another_shape_is_refused(case):
    with pytest.raises(ValueError, match=r"(?s)^`model` must give the log joint density \[S\].*Received: "):
        checked(SHAPES[case])


def test_the_error_of_a_function_takes_one_line():
    def fails(latents, y):
        raise ValueError("in user code:\n\n    File 1\n\n    ValueError: the last line" + 1000 * "!")

    with pytest.raises(ValueError, match="it raised ValueError: ValueError: the last line!") as caught:
        checked(fails)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"(?s)^`model` must take the names of `latents`.*Received: .*'tau'"):
        checked(lambda latents, y: latents["tau"])


@pytest.mark.parametrize("arguments", [{"whole": False}, {"must_split": "of the moon"}])
def test_one_piece_is_refused_where_rows_matter(arguments):
    checked(log_joint, **arguments)
    with pytest.raises(ValueError, match=r"(?s)^`model` must give the pair.*Received: only a density summed over rows"):
        checked(in_one_piece, **arguments)
