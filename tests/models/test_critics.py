"""Models with a critic: a step by hand, replicas, resumed trainings, files, and critics that do not fit."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tests.helpers.critics import assert_resumes_exactly, states
from tfvae import elbo, export
from tfvae.callbacks import KLWarmUp
from tfvae.objectives import Adversarial, FactorVAE

tfd = tfp.distributions
X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")


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
        others = vae.objective.others(terms.weighted(tf.constant(weight)))[0]
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


def with_dropout():
    return keras.Sequential([keras.layers.Dense(6, "tanh"), keras.layers.Dropout(0.3), keras.layers.Dense(1)])


@pytest.mark.slow
def test_a_training_that_was_cut_and_one_of_a_file_end_with_the_same_digits(tmp_path):
    assert_resumes_exactly(lambda: small_vae(critic=with_dropout, compiled={"steps_per_execution": 2}), X, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FactorVAE, Adversarial])
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


REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import keras
    from tests.helpers import critics
    from tests.models.test_critics import Quiet, X, small_vae

    def make():
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        return small_vae(Quiet, optimizer=optimizer, compiled={"steps_per_execution": 3})

    critics.compare_replicas(make, X)
"""


@keras.saving.register_keras_serializable("test_critics")
class Quiet(FactorVAE):
    """One whose terms do not depend on noise, which each replica draws for itself: q(z) against fixed points."""

    def others(self, terms):
        return 0.5 * self._at_mean(terms).z[:, :, ::-1]

    def _at_mean(self, terms):
        return terms._replace(z=terms.posterior.mean()[tf.newaxis])

    def of_critic(self, terms, training):
        return super().of_critic(self._at_mean(terms), training)

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
        tiny_vae(objective=FactorVAE(small_critic(), optimizer=optimizer))


def test_a_critic_is_that_of_one_model(tiny_vae):
    vae = tiny_vae(objective=FactorVAE(small_critic()))
    for objective in (vae.objective, Adversarial(vae.critic)):
        with pytest.raises(ValueError, match=r"^`objective` must be one that no other .* its critic and.*Received: "):
            tiny_vae(objective=objective)


def test_a_model_without_draws_for_each_example_refuses_a_critic():
    from tests.models.test_every_model import hierarchical, semi_supervised, sequential, vq

    for build in (vq, hierarchical, semi_supervised, sequential):
        with pytest.raises(ValueError, match=r"^`objective` must have no critic in a .*Received: objective=FactorVAE"):
            build(objective=FactorVAE())
    with pytest.raises(ValueError, match=r"^`objective` must have no critic in a VariationalInference"):
        tfvae.VariationalInference(lambda z: -(z["a"] ** 2), {"a": ()}, objective=Adversarial())


def test_a_critic_made_outside_of_the_scope_of_the_strategy_is_refused(tiny_vae):
    objective = FactorVAE()
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match=r"must be made in the scope of the strategy that trains them, OneDevice.*adam"),
    ):
        tiny_vae(objective=objective)
