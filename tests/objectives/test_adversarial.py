"""Objectives with a critic: density ratios against closed forms, a step by hand, replicas, resumed trainings, files."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tests.helpers.replicated import strategy
from tfvae import elbo, export
from tfvae.callbacks import Checkpoints, KLWarmUp
from tfvae.objectives import Adversarial, FactorVAE

tfd = tfp.distributions
X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")
BOTH = pytest.mark.parametrize("kind", [FactorVAE, Adversarial])


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


def small_critic():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)])


def small_vae(kind=FactorVAE, critic=small_critic, optimizer=None, compiled=None, **arguments):
    keras.utils.set_random_seed(0)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    vae = tfvae.VAE(
        tfvae.networks.dense_encoder((4,), hidden=(8,)),
        tfvae.networks.dense_decoder(2, (4,), hidden=(8,)),
        2,
        objective=kind(critic(), optimizer=optimizer, **arguments),
    )
    vae.compile(keras.optimizers.SGD(0.01, momentum=0.9), **(compiled or {}))
    return vae


# The ratio


def correlated(count, rho=0.8):
    """Draws of a normal distribution with correlation rho, as points, and its total correlation in closed form."""
    noise = np.random.default_rng(1).normal(size=(count, 2))
    z = np.stack([noise[:, 0], rho * noise[:, 0] + np.sqrt(1 - rho**2) * noise[:, 1]], axis=-1)
    return z.astype("float32"), -0.5 * np.log(1 - rho**2)


def test_the_exact_critic_gives_the_total_correlation_and_the_objective():
    z, expected = correlated(20_000)
    joint = tfd.MultivariateNormalTriL(scale_tril=np.float32([[1, 0], [0.8, 0.6]]))
    critic = Exact(lambda z: joint.log_prob(z) - tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(z), axis=-1))
    objective = FactorVAE(critic, gamma=3.0)
    terms = terms_of(z, np.full_like(z, 1e-6))
    _, values = objective.of_critic(terms, None, training=False)
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
    _, values = objective.of_critic(terms, None, training=False)
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
            loss, values = objective.of_critic(terms_of_seed(seed), None, training=True)
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
    np.testing.assert_array_equal(FactorVAE().others(terms, tf.fill([21], 2.0)).numpy(), permuted)


def test_permuted_draws_are_those_of_the_weighted_data():
    weights = np.float32([0, 3, 1, 0, 2.5, 0.5, *np.zeros(14), 7])
    terms = [terms_of(X[:, :2], np.full((21, 2), 1e-6, np.float32), seed=(0, seed)) for seed in range(25)]
    drawn = np.concatenate([FactorVAE().others(each, tf.constant(weights))[0] for each in terms])
    for column in range(2):
        # Of 21 rows, each as often as its weight says, rounded up or down.
        counts = np.sum(np.abs(drawn[:, column, None] - X[:, column]) < 1e-4, axis=0) / 25
        np.testing.assert_allclose(counts, 21 * weights / weights.sum(), atol=4 * 0.5 / np.sqrt(25))
    empty = FactorVAE().others(terms_of(X[:1, :2], np.ones((1, 2), np.float32)), tf.zeros([1]))
    assert np.isfinite(empty).all()


def test_draws_of_the_prior_are_as_many_as_those_of_the_posterior():
    prior = tfd.MultivariateNormalDiag(tf.constant(100 * X[:, :2]), 0.01 * tf.ones([21, 2]))
    terms = terms_of(X[:, :2], np.ones((21, 2), np.float32), num_samples=3)
    of_each = Adversarial().others(terms._replace(prior=prior))
    np.testing.assert_allclose(of_each, np.tile(100 * X[:, :2], (3, 1, 1)), atol=0.1)
    of_all = Adversarial().others(terms).numpy()
    assert of_all.shape == (3, 21, 2)
    assert len(np.unique(of_all)) == of_all.size


# The step


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (FactorVAE, {}),
        pytest.param(Adversarial, {}, marks=pytest.mark.slow),
        pytest.param(FactorVAE, {"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param(Adversarial, {"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_a_step_by_hand(kind, mode):
    """One step of fit, and the same in plain TensorFlow, with the penalty, both losses and both updates."""
    vae = small_vae(kind, optimizer=keras.optimizers.SGD(0.5), compiled=mode)
    weight = np.linspace(0, 2, 21).astype("float32")
    state, network = vae._noise_state.numpy().astype("int32"), vae.objective.critic
    seed = tf.random.experimental.stateless_fold_in(state, 0)
    of_model = [v for v in vae.trainable_variables if not any(v is each for each in network.trainable_variables)]
    before = [v.numpy() for v in (*of_model, *network.trainable_variables)]
    with tf.GradientTape(persistent=True) as tape:
        encoded = vae.posterior(vae.encoder(X))
        q = tfd.Normal(encoded["loc"], encoded["scale"])
        # The draws are those of the model; the rest is written out.
        z = vae.elbo_terms(X, elbo.Sampling(1, seed)).z[0]
        log_likelihood = tf.reduce_sum(tfd.Normal(vae.decoder(z), 1.0).log_prob(X), axis=-1)
        kl = tf.reduce_sum(tfd.kl_divergence(q, tfd.Normal(0.0, 1.0)), axis=-1)
        terms = vae.elbo_terms(X, elbo.Sampling(1, seed))
        others = vae.objective.others(terms, tf.constant(weight))[0]
        ratio = tf.squeeze(network(z), -1)
        bound = log_likelihood - kl - 10 * ratio if kind is FactorVAE else log_likelihood - ratio
        loss = tf.reduce_sum(-bound * weight) / 21
        answers = tf.squeeze(network(tf.concat([z, others], axis=0)), -1)
        labels = tf.concat([tf.ones(21), tf.zeros(21)], axis=0)
        crosses = tf.nn.sigmoid_cross_entropy_with_logits(labels, answers)
        of_critic = tf.reduce_sum(crosses * np.tile(weight, 2)) / 42
    moves = [0.01 * each for each in tape.gradient(loss, of_model)]
    moves += [0.5 * each for each in tape.gradient(of_critic, network.trainable_variables)]
    logs = vae.fit(X, sample_weight=weight, batch_size=21, shuffle=False, verbose=0).history
    for variable, old, move in zip((*of_model, *network.trainable_variables), before, moves, strict=True):
        if mode:  # XLA draws other numbers.
            assert np.any(variable.numpy() != old), variable.path
        else:
            np.testing.assert_allclose(variable, old - move, rtol=1e-4, atol=1e-6, err_msg=variable.path)
    if not mode:
        np.testing.assert_allclose(logs["loss"][-1], loss, rtol=1e-5)
        np.testing.assert_allclose(logs["elbo"][-1], np.average(log_likelihood - kl, weights=weight), rtol=1e-5)
        np.testing.assert_allclose(logs["critic_loss"][-1], np.sum(crosses * np.tile(weight, 2)) / 42, rtol=1e-4)


def test_the_warm_up_weighs_the_penalty():
    terms = terms_of(X[:, :2], np.ones((21, 2), np.float32))
    tempered = terms.tempered(tf.constant(0.2))
    factor, adversarial = FactorVAE(small_critic()), Adversarial(small_critic())
    penalties = [each.elbo - factor(each) for each in (tempered, terms)]
    np.testing.assert_allclose(penalties[0], 0.2 * penalties[1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(adversarial(tempered), 0.2 * adversarial(terms), rtol=1e-4)


class Cut(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def with_dropout():
    return keras.Sequential([keras.layers.Dense(6, "tanh"), keras.layers.Dropout(0.3), keras.layers.Dense(1)])


def states(vae):
    return [np.asarray(v) for part in (vae, vae.optimizer, vae.critic_optimizer) for v in part.variables]


@pytest.mark.slow
def test_a_training_that_was_cut_and_one_of_a_file_end_with_the_same_digits(tmp_path):
    arguments = {"x": X, "batch_size": 6, "epochs": 4, "verbose": 0}
    whole, cut, resumed = (small_vae(critic=with_dropout, compiled={"steps_per_execution": 2}) for _ in range(3))
    for model in (cut, resumed):
        model.set_weights(whole.get_weights())
    with pytest.raises(KeyboardInterrupt):
        cut.fit(callbacks=[Checkpoints(tmp_path), Cut()], **arguments)
    cut.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for model in (whole, resumed, loaded):
        start = {"initial_epoch": 2} if model is loaded else {}
        model.fit(callbacks=[Checkpoints(tmp_path)] if model is resumed else [], **arguments, **start)
    for model in (resumed, loaded):
        for one, other in zip(states(whole), states(model), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@BOTH
def test_weights_go_to_a_model_that_was_not_trained_and_another_compile_keeps_the_critic(kind, tmp_path):
    vae = small_vae(kind)
    vae.fit(X, verbose=0)
    vae.save_weights(tmp_path / "model.weights.h5")
    other = small_vae(kind)
    other.load_weights(tmp_path / "model.weights.h5")
    for one, two in zip(states(vae), states(other), strict=True):
        np.testing.assert_array_equal(one, two)
    vae.compile(keras.optimizers.Adam(0.01))
    assert int(vae.critic_optimizer.iterations) == 1
    vae.fit(X, epochs=2, verbose=0, callbacks=[KLWarmUp(steps=2)])
    assert int(vae.critic_optimizer.iterations) == 3
    assert int(vae.optimizer.iterations) == 2
    again = tfvae.VAE.from_config(json.loads(json.dumps(vae.get_config())))
    again.set_weights(vae.get_weights())
    np.testing.assert_array_equal(again.critic(X[:, :2]), vae.critic(X[:, :2]))


@pytest.mark.slow
def test_exports_have_nothing_of_the_critic(tmp_path):
    vae = small_vae()
    exported = export.saved_model(vae, tmp_path / "model", x=X)
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert (8, 4) in shapes
    assert (2, 6) not in shapes


# Two replicas

REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from tests.objectives import test_adversarial
    test_adversarial.compare_replicas()
"""


def compare_replicas():
    """Trains on two replicas and on one device, and prints what differs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    results = []
    for count in (2, 1):
        keras.utils.set_random_seed(0)
        with strategy(count).scope():
            optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
            vae = small_vae(Quiet, optimizer=optimizer, compiled={"steps_per_execution": 3})
        # Batches of 5 are split into 3 + 2, and the last one into 1 + 0.
        history = vae.fit(X, batch_size=5, shuffle=False, epochs=2, verbose=0).history
        metrics = vae.evaluate(X, batch_size=5, verbose=0, return_dict=True)
        momenta = [np.asarray(v) for v in vae.critic_optimizer.variables[2:]]
        results.append((history, metrics, [*vae.get_weights()[:-1], *momenta]))
    (history, metrics, weights), (history_of_one, metrics_of_one, weights_of_one) = results
    differences = {
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(weights, weights_of_one, strict=True)),
        **{name: history[name][-1] - history_of_one[name][-1] for name in history},
        **{f"val_{name}": float(metrics[name] - metrics_of_one[name]) for name in metrics},
    }
    print(json.dumps(differences))


@keras.saving.register_keras_serializable("test_adversarial")
class Quiet(FactorVAE):
    """One whose terms do not depend on noise, which each replica draws for itself: q(z) against fixed points."""

    def others(self, terms, sample_weight=None):
        return 0.5 * self._at_mean(terms).z[:, :, ::-1]

    def _at_mean(self, terms):
        return terms._replace(z=terms.posterior.mean()[tf.newaxis])

    def of_critic(self, terms, sample_weight, training):
        return super().of_critic(self._at_mean(terms), sample_weight, training)

    def __call__(self, terms):
        terms = self._at_mean(terms)
        return super().__call__(terms._replace(reconstruction_log_likelihood=-tf.reduce_sum(terms.z**2, axis=-1)))


@pytest.mark.slow
def test_two_replicas_take_the_steps_of_one_device(run_python):
    differences = json.loads(run_python(REPLICAS, pathlib.Path(__file__).parents[2]).splitlines()[-1])
    # These are of draws with each replica's own noise.
    noisy = {"elbo", "reconstruction_log_likelihood", "val_elbo", "val_reconstruction_log_likelihood"}
    for name in differences.keys() - noisy:
        assert abs(differences[name]) < 2e-6, (name, differences)


# Errors


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


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ([keras.Input((2,)), keras.layers.Dense(2)], r"one logit \[B, 1\].*Received: a critic that gives a tensor of"),
        ([keras.layers.Dense(2)], r"one logit \[B, 1\].*Received: a critic that gives a tensor of"),
        ([keras.Input((3,)), keras.layers.Dense(1)], r"take z of shape \[B, 2\].*Received: .*\[None, 3\]"),
        ([keras.layers.Dense(1, activation="sigmoid")], r"give logits.*Received: a critic that ends in sigmoid"),
    ],
)
def test_a_critic_that_does_not_fit_is_refused(critic, message):
    with pytest.raises(ValueError, match=rf"^`critic` must .*{message}"):
        small_vae(critic=lambda: keras.Sequential(critic))


def test_an_optimizer_is_that_of_one_critic(tiny_vae):
    optimizer = keras.optimizers.Adam(0.01)
    vae = tiny_vae(objective=FactorVAE(small_critic(), optimizer=optimizer))
    with pytest.raises(ValueError, match=r"^`optimizer` must be another one than that of .*critic.*Received: "):
        vae.compile(optimizer)
    with pytest.raises(ValueError, match=r"^`optimizer` must be an optimizer that nothing else has.*Received: "):
        tiny_vae(objective=vae.objective)


def test_a_model_without_draws_for_each_example_refuses_a_critic():
    from tests.models.test_every_model import hierarchical, semi_supervised, sequential, vq

    for build in (vq, hierarchical, semi_supervised, sequential):
        with pytest.raises(ValueError, match=r"^`objective` must have no critic in a .*Received: objective=FactorVAE"):
            build(objective=FactorVAE())
    with pytest.raises(ValueError, match=r"^`objective` must have no critic in a VariationalInference"):
        tfvae.VariationalInference(lambda z: -(z["a"] ** 2), {"a": ()}, objective=Adversarial())


def test_the_repr_has_the_arguments_without_layers():
    shown = repr(FactorVAE(small_critic(), 3.0))
    assert shown == (
        "FactorVAE(num_samples=1, critic=Sequential(...), gamma=3.0, optimizer=Adam(learning_rate=0.0001))"
    )
