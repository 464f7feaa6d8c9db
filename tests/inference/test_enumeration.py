"""Discrete latent variables that are summed out: densities against sums over all states by SciPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats
from scipy.special import logsumexp

from tfvae import VariationalInference
from tfvae.inference import enumerated
from tfvae.inference.refitting import Refitting

tfd = tfp.distributions

Y = np.array([-1.5, 0.3, 2.2, 1.9, -0.4], np.float32)
MU = np.array([[0.0, 1.0], [2.0, -1.0]], np.float32)
W = np.array([0.3, 0.6], np.float32)


def mixture(batched, kind="Bernoulli"):
    """Each observation has a component of its own."""
    make = tfd.JointDistributionNamedAutoBatched if batched else tfd.JointDistributionNamed
    of_z = {
        "Bernoulli": lambda w: tfd.Sample(tfd.Bernoulli(probs=w), 5),
        "Categorical": lambda w: tfd.Sample(tfd.Categorical(probs=tf.stack([1 - w, w], -1)), 5),
        "OneHotCategorical": lambda w: tfd.Sample(tfd.OneHotCategorical(probs=tf.stack([1 - w, w], -1)), 5),
        "Binomial": lambda w: tfd.Sample(tfd.Binomial(1.0, probs=w), 5),
        "FiniteDiscrete": lambda w: tfd.Sample(tfd.FiniteDiscrete([0, 1], probs=tf.stack([1 - w, w], -1)), 5),
    }[kind]

    def of_y(z, mu):
        z = z[..., 1] if kind == "OneHotCategorical" else z
        return tfd.Independent(tfd.Normal(tf.where(tf.cast(z, bool), mu[..., 1:2], mu[..., 0:1]), 1.0), 1)

    return make({"w": tfd.Beta(2.0, 2.0), "mu": tfd.Sample(tfd.Normal(0.0, 3.0), 2), "z": of_z, "y": of_y})


def of_mixture():
    densities = [stats.norm.pdf(Y, MU[:, [k]], 1.0) for k in (0, 1)]
    return np.log((1 - W[:, None]) * densities[0] + W[:, None] * densities[1])


def total(parts):
    return tf.add_n(tf.nest.flatten(parts)).numpy()


@pytest.mark.parametrize(
    ("batched", "kind"),
    [
        (False, "Bernoulli"),
        pytest.param(True, "Categorical", marks=pytest.mark.slow),
        pytest.param(False, "OneHotCategorical", marks=pytest.mark.slow),
        pytest.param(True, "Binomial", marks=pytest.mark.slow),
        pytest.param(False, "FiniteDiscrete", marks=pytest.mark.slow),
    ],
)
def test_a_mixture_is_summed_out_observation_by_observation(batched, kind):
    model = enumerated(mixture(batched, kind).experimental_pin(y=Y), ["z"])
    assert model.plate == (5,)
    parts = model.unnormalized_log_prob_parts({"w": tf.constant(W), "mu": tf.constant(MU)})
    np.testing.assert_allclose(total(parts.pinned), of_mixture().sum(axis=1), rtol=1e-5)
    prior = stats.beta.logpdf(W, 2, 2) + stats.norm.logpdf(MU, 0, 3).sum(axis=1)
    np.testing.assert_allclose(total(parts.unpinned), prior, rtol=1e-5)
    for density in (model.log_prob, model.unnormalized_log_prob):
        np.testing.assert_allclose(
            density(mu=tf.constant(MU), w=tf.constant(W)), of_mixture().sum(axis=1) + prior, rtol=1e-5
        )
    with pytest.raises(NotImplementedError, match="must be pinned before"):
        model.unpin("z")


def chain(steps, axis=0):
    """Each observation depends on the states of two neighbours."""

    def model():
        w = yield tfd.JointDistributionCoroutine.Root(tfd.Beta(2.0, 2.0, name="w"))
        z = yield tfd.JointDistributionCoroutine.Root(tfd.Sample(tfd.Bernoulli(probs=0.5), steps, name="z"))
        loc = tf.cast(z + tf.roll(z, 1, axis=axis), tf.float32) * w
        yield tfd.Independent(tfd.Normal(loc, 1.0), 1, name="y")

    return tfd.JointDistributionCoroutine(model)


@pytest.mark.slow
def test_elements_that_depend_on_each_other_are_summed_out_jointly():
    model = enumerated(chain(5).experimental_pin(y=Y), ["z"])
    assert model.plate == ()
    parts = model.unnormalized_log_prob_parts([tf.constant(W)])
    states = np.array(list(itertools.product([0, 1], repeat=5)))
    loc = (states + np.roll(states, 1, axis=1)) * W[:, None, None]
    expected = logsumexp(stats.norm.logpdf(Y, loc, 1.0).sum(axis=-1) + 5 * np.log(0.5), axis=1)
    prior = stats.beta.logpdf(W, 2, 2)
    np.testing.assert_allclose(total(parts.pinned), expected, rtol=1e-5)
    np.testing.assert_allclose(total(parts.unpinned), prior, rtol=1e-5)
    each = model.log_likelihood_of_each({"w": tf.constant(W)})
    # Given w the observations are not independent.
    np.testing.assert_allclose(each["y"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"at most 1024 combinations .* Received: z with 1.1e\+12 combinations"):
        enumerated(chain(40).experimental_pin(y=np.zeros(40, np.float32)), ["z"])


@pytest.mark.slow
def test_what_tensorflow_vectorises_wrongly_is_refused():
    with pytest.raises(ValueError, match=r"`model` must be made of ops that TensorFlow can vectorise.* among others"):
        enumerated(chain(5, axis=-1).experimental_pin(y=Y), ["z"])


@pytest.mark.slow
def test_several_discrete_variables_are_summed_out_together():
    """Where the point of change and the sign are unknown."""

    def of_y(change, sign, rate):
        is_late = tf.range(5) >= change[..., tf.newaxis]
        slope = tf.where(sign[..., tf.newaxis] == 1, rate[..., tf.newaxis], -rate[..., tf.newaxis])
        return tfd.Independent(tfd.Normal(tf.where(is_late, slope, 0.0), 1.0), 1)

    joint = tfd.JointDistributionNamed(
        {
            "rate": tfd.Normal(0.0, 1.0),
            "change": tfd.Categorical(probs=[0.2, 0.2, 0.2, 0.4]),
            "sign": tfd.Bernoulli(probs=0.25),
            "y": of_y,
        }
    )
    model = enumerated(joint.experimental_pin(y=Y), ["change", "sign"])
    rate = 0.7
    found = total(model.unnormalized_log_prob_parts({"rate": tf.constant([rate])}).pinned)
    terms = [
        np.log(p) + np.log(q) + stats.norm.logpdf(Y, np.where(np.arange(5) >= change, sign * rate, 0.0)).sum()
        for change, p in enumerate([0.2, 0.2, 0.2, 0.4])
        for sign, q in ((1, 0.25), (-1, 0.75))
    ]
    np.testing.assert_allclose(found, [logsumexp(terms)], rtol=1e-5)


@pytest.mark.slow
def test_observations_and_predictions_of_a_mixture():
    inference = VariationalInference(enumerated(mixture(False).experimental_pin(y=Y), ["z"]))
    assert inference.space.shapes == {"mu": (2,), "w": ()}
    each = inference._given["model"].log_likelihood_of_each({"w": tf.constant(W), "mu": tf.constant(MU)})
    np.testing.assert_allclose(each["y"], of_mixture(), rtol=1e-5)
    drawn = inference.prior_predictive(num_samples=50, seed=0)
    assert list(drawn) == ["y"]
    assert drawn["y"].shape == (50, 5)
    copy = Refitting(inference).model
    values = {"w": tf.constant(W), "mu": tf.constant(MU)}
    found = copy._joint.target.log_densities(values, {"y": tf.constant(Y[np.newaxis])})
    np.testing.assert_allclose(found.log_likelihood[:, 0], of_mixture().sum(axis=1), rtol=1e-5)
    starts = inference._joint.target.starts(3, tf.constant([0, 0]))
    assert {name: value.shape for name, value in starts.items()} == {"mu": (3, 2), "w": (3,)}


def test_pinned_variables_of_which_only_one_depends_on_the_discrete_one():
    def of_x(mu):
        return tfd.Sample(tfd.Normal(mu, 1.0), 3)

    joint = tfd.JointDistributionNamed(
        {
            "mu": tfd.Normal(0.0, 1.0),
            "z": tfd.Bernoulli(probs=0.3),
            "w": lambda z, mu: tfd.Normal(mu + tf.cast(z, tf.float32), 1.0),
            "x": of_x,
        }
    )
    x, mu = Y[:3], np.array([0.2, -1.0], np.float32)
    model = enumerated(joint.experimental_pin(w=0.5, x=x), ["z"])
    each = model.log_likelihood_of_each({"mu": tf.constant(mu)})
    np.testing.assert_allclose(each["x"], stats.norm.logpdf(x, mu[:, None], 1.0), rtol=1e-5)
    expected = 0.7 * stats.norm.pdf(0.5, mu) + 0.3 * stats.norm.pdf(0.5, mu + 1)
    np.testing.assert_allclose(each["w"], np.log(expected), rtol=1e-5)


PINNED = mixture(False).experimental_pin(y=Y)


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (mixture(False), ["z"], r"`model` must be a joint distribution whose observations are pinned"),
        (PINNED, "z", r"`names` must be a list of some, and not all, .*\['mu', 'w', 'z'\]. Received: 'z'"),
        (PINNED, ["y"], r"`names` must be a list of some"),
        (PINNED, [], r"`names` must be a list of some"),
        (PINNED, ["w"], r"Bernoulli, OneHotCategorical, .* Received: 'w', a Beta"),
    ],
)
def test_errors(model, names, message):
    with pytest.raises(ValueError, match=message):
        enumerated(model, names)


@pytest.mark.slow
def test_a_fit_finds_the_posterior_without_the_discrete_variables():
    y = np.concatenate([np.full(20, -2.0), np.full(10, 2.0)]).astype("float32")
    y += np.random.default_rng(0).normal(size=30).astype("float32")
    joint = tfd.JointDistributionNamed(
        {
            "w": tfd.Beta(2.0, 2.0),
            "z": lambda w: tfd.Sample(tfd.Bernoulli(probs=w), 30),
            "y": lambda z: tfd.Independent(tfd.Normal(tf.where(z == 1, 2.0, -2.0), 1.0), 1),
        }
    )
    inference = VariationalInference(enumerated(joint.experimental_pin(y=y), ["z"]))
    inference.fit(verbose=0)
    grid = np.linspace(0.001, 0.999, 999)
    log_p = np.log(grid[:, None] * stats.norm.pdf(y, 2, 1) + (1 - grid[:, None]) * stats.norm.pdf(y, -2, 1)).sum(axis=1)
    p = np.exp(log_p - log_p.max()) * stats.beta.pdf(grid, 2, 2)
    p /= p.sum()
    mean = p @ grid
    draws = inference.draw(4000, seed=0)
    assert draws.summary().loc["w", "mean"] == pytest.approx(mean, abs=0.01)
    assert draws.summary().loc["w", "sd"] == pytest.approx(np.sqrt(p @ (grid - mean) ** 2), rel=0.05)
