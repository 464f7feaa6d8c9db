"""Objectives with a critic: density ratios against closed forms, what the critic compares, arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import elbo
from tfvae.objectives import Adversarial, FactorVAE

tfd = tfp.distributions
X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")


def terms_of(loc, scale, num_samples=1, seed=(3, 4)):
    """The terms of examples whose q(z|x) are normal, with a likelihood that is 0."""
    return elbo.estimate(
        tfd.Independent(tfd.Normal(loc, scale), 1),
        tfd.Independent(tfd.Normal(tf.zeros(2), tf.ones(2)), 1),
        lambda z: tf.zeros(tf.shape(z)[:2]),
        elbo.Sampling(num_samples, tf.convert_to_tensor(seed)),
    )


class Exact(keras.layers.Layer):
    """A critic that knows the ratio of its two normal densities, as the function of z that it is given."""

    def __init__(self, log_ratio):
        super().__init__()
        self.log_ratio = log_ratio

    def call(self, z):
        return self.log_ratio(z)[:, tf.newaxis]


def correlated(count, rho=0.8):
    """Draws of a normal distribution with correlation rho, as points, and its total correlation in closed form."""
    noise = np.random.default_rng(1).normal(size=(count, 2))
    z = np.stack([noise[:, 0], rho * noise[:, 0] + np.sqrt(1 - rho**2) * noise[:, 1]], axis=-1)
    return z.astype("float32"), -0.5 * np.log(1 - rho**2)


def test_the_optimizer_in_one_that_scales_the_loss_is_shown():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))
    assert "optimizer=SGD(learning_rate=0.5)" in repr(FactorVAE(optimizer=optimizer))


def test_the_exact_critic_gives_the_total_correlation_and_the_objective():
    z, expected = correlated(20_000)
    joint = tfd.MultivariateNormalTriL(scale_tril=np.float32([[1, 0], [0.8, 0.6]]))
    critic = Exact(lambda z: joint.log_prob(z) - tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(z), axis=-1))
    objective = FactorVAE(critic, gamma=3.0)
    terms = terms_of(z, np.full_like(z, 1e-6))
    _, values = objective.of_critic(terms, training=False)
    # The variance of the log ratio of this distribution is rho^2.
    assert abs(np.mean(values["total_correlation"]) - expected) < 4 * 0.8 / np.sqrt(len(z))
    paid = terms.elbo - objective(terms)
    np.testing.assert_allclose(paid, 3 * values["total_correlation"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("penalty", ["log_ratio", "non_saturating"])
def test_the_exact_critic_gives_the_divergence_from_the_prior_and_the_objective(penalty):
    loc, scale = np.float32([0.5, -0.3]), np.float32([0.6, 1.2])
    q, p = (tfd.MultivariateNormalDiag(*each) for each in ((loc, scale), (tf.zeros(2), tf.ones(2))))
    objective = Adversarial(Exact(lambda z: q.log_prob(z) - p.log_prob(z)), 3.0, penalty=penalty)
    terms = terms_of(np.tile(loc, (20_000, 1)), np.tile(scale, (20_000, 1)))
    _, values = objective.of_critic(terms, training=False)
    log_ratio = q.log_prob(terms.z[0]) - p.log_prob(terms.z[0])
    error = np.std(log_ratio) / np.sqrt(20_000)
    assert abs(np.mean(values["aggregate_kl"]) - q.kl_divergence(p)) < 4 * error
    expected = {"log_ratio": log_ratio, "non_saturating": -tf.math.log_sigmoid(-log_ratio)}[penalty]
    np.testing.assert_allclose(objective(terms), -3 * expected, rtol=1e-4, atol=1e-4)


def trained(objective, terms_of_seed, steps=400):
    """The mean values of a critic that is trained by itself, on new draws in every step."""
    keras.utils.set_random_seed(0)
    optimizer = keras.optimizers.Adam(0.02)
    objective.critic.build((None, 2))

    @tf.function
    def step(seed):
        with tf.GradientTape() as tape:
            loss, values = objective.of_critic(terms_of_seed(seed), training=True)
            loss = tf.reduce_mean(loss)
        optimizer.apply(tape.gradient(loss, objective.critic.trainable_variables), objective.critic.trainable_variables)
        return {name: tf.reduce_mean(value) for name, value in values.items()}

    found = [step(tf.constant([index, 0])) for index in range(steps)]
    return {name: np.mean([values[name] for values in found[-50:]]) for name in found[0]}


def quadratic():
    """A critic of the form that the log ratio of two normal distributions has."""
    z = keras.Input((2,))
    products = keras.ops.stack([z[:, 0] ** 2, z[:, 1] ** 2, z[:, 0] * z[:, 1]], axis=-1)
    return keras.Model(z, keras.layers.Dense(1)(keras.layers.Concatenate()([z, products])))


@pytest.mark.slow
def test_a_trained_critic_finds_the_total_correlation():
    z, expected = correlated(1000)
    values = trained(FactorVAE(quadratic()), lambda seed: terms_of(z, 1e-6 * tf.ones_like(z), seed=seed))
    # Of these points, with their own correlation and scales; the critic fits them by chance a little better.
    rho = np.corrcoef(z, rowvar=False)[0, 1]
    assert values["total_correlation"] == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.06)
    assert values["total_correlation"] == pytest.approx(expected, abs=0.06 + 4 * 0.8 / np.sqrt(1000))
    assert 0.6 < values["critic_accuracy"] < 0.8
    assert values["critic_loss"] < np.log(2) - 0.05


@pytest.mark.slow
def test_a_trained_critic_finds_the_divergence_from_the_prior():
    loc, scale = np.float32([0.5, -0.3]), np.float32([0.6, 1.2])
    locs, scales = (np.tile(each, (1000, 1)) for each in (loc, scale))
    values = trained(Adversarial(quadratic()), lambda seed: terms_of(locs, scales, seed=seed))
    expected = np.sum(0.5 * (loc**2 + scale**2 - 1) - np.log(scale))
    # 50 batches of 1000 draws, whose log ratios vary by less than 1.
    assert values["aggregate_kl"] == pytest.approx(expected, abs=4 / np.sqrt(50_000) + 0.04)


def test_permuted_draws_have_the_same_marginals_in_each_dimension_by_itself():
    terms = terms_of(X[:, :2], np.full((21, 2), 0.1, np.float32), num_samples=3)
    permuted = FactorVAE().others(terms).numpy()
    np.testing.assert_array_equal(np.sort(permuted, axis=1), np.sort(terms.z, axis=1))
    rows = [np.argsort(np.argsort(each, axis=1), axis=1) for each in (permuted, np.asarray(terms.z))]
    assert np.mean(rows[0] == rows[1]) < 0.2
    np.testing.assert_array_equal(FactorVAE().others(terms.weighted(tf.fill([21], 2.0))).numpy(), permuted)


def test_permuted_draws_are_those_of_the_weighted_data():
    weights = np.float32([0, 3, 1, 0, 2.5, 0.5, *np.zeros(14), 7])
    terms = [terms_of(X[:, :2], np.full((21, 2), 1e-6, np.float32), seed=(0, seed)) for seed in range(25)]
    drawn = np.concatenate([FactorVAE().others(each.weighted(tf.constant(weights)))[0] for each in terms])
    for column in range(2):
        # Of 21 rows, each as often as its weight says, rounded up or down.
        counts = np.sum(np.abs(drawn[:, column, None] - X[:, column]) < 1e-4, axis=0) / 25
        np.testing.assert_allclose(counts, 21 * weights / weights.sum(), atol=4 * 0.5 / np.sqrt(25))
    empty = FactorVAE().others(terms_of(X[:1, :2], np.ones((1, 2), np.float32)).weighted(tf.zeros([1])))
    assert np.isfinite(empty).all()


def test_draws_of_the_prior_are_as_many_as_those_of_the_posterior():
    prior = tfd.MultivariateNormalDiag(tf.constant(100 * X[:, :2]), 0.01 * tf.ones([21, 2]))
    terms = terms_of(X[:, :2], np.ones((21, 2), np.float32), num_samples=3)
    of_each = Adversarial().others(terms._replace(prior=prior))
    np.testing.assert_allclose(of_each, np.tile(100 * X[:, :2], (3, 1, 1)), atol=0.1)
    of_all = Adversarial().others(terms).numpy()
    assert of_all.shape == (3, 21, 2)
    assert len(np.unique(of_all)) == of_all.size


def test_the_warm_up_weighs_the_penalty():
    terms = terms_of(X[:, :2], np.ones((21, 2), np.float32))
    tempered = terms.tempered(tf.constant(0.2))
    factor, adversarial = FactorVAE(quadratic()), Adversarial(quadratic())
    penalties = [each.elbo - factor(each) for each in (tempered, terms)]
    np.testing.assert_allclose(penalties[0], 0.2 * penalties[1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(adversarial(tempered), 0.2 * adversarial(terms), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"critic": "dense"}, r"`critic` must be a Keras model. Received: critic='dense'"),
        ({"optimizer": "adam"}, r"`optimizer` must be a Keras optimizer. Received: optimizer='adam'"),
        ({"gamma": -1.0}, r"`gamma` must be a finite number of at least 0. Received: gamma=-1.0"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        FactorVAE(**arguments)


def test_the_penalty_and_its_weight_are_checked():
    with pytest.raises(ValueError, match=r"`penalty` must be .*Received: penalty='hinge'"):
        Adversarial(penalty="hinge")
    with pytest.raises(ValueError, match=r"`weight` must be a finite number .*Received: weight=nan"):
        Adversarial(weight=float("nan"))


def test_the_repr_has_the_arguments_without_layers():
    shown = repr(FactorVAE(quadratic(), 3.0))
    assert shown == (
        "FactorVAE(num_samples=1, critic=Functional(...), gamma=3.0, optimizer=Adam(learning_rate=0.0001))"
    )
