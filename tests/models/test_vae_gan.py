"""The VAE-GAN: a step of its three losses by hand, files, resumed trainings, replicas, and which numbers it has."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tests.helpers.critics import assert_resumes_exactly
from tfvae import elbo, export, likelihoods, networks
from tfvae.callbacks import KLWarmUp
from tfvae.posteriors import Deterministic

tfd = tfp.distributions
X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")


def critic(features=6, logits=1, activation=None):
    x = keras.Input((4,))
    hidden = keras.layers.Dense(features, activation="tanh")(x)
    return keras.Model(x, [hidden, keras.layers.Dense(logits, activation=activation)(hidden)])


def small(compiled=None, **arguments):
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.dense_encoder((4,), hidden=(8,)), networks.dense_decoder(2, (4,), hidden=(8,))
    arguments = {"gamma": 0.7, "critic_optimizer": keras.optimizers.SGD(0.5), "critic": critic(), **arguments}
    model = tfvae.VAEGAN(encoder, arguments.pop("decoder", decoder), arguments.pop("critic"), 2, **arguments)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), **(compiled or {}))
    return model


def test_a_step_by_hand():
    """One step of fit, and the same in plain TensorFlow: algorithm 1 of the paper."""
    model = small(likelihood=likelihoods.Bernoulli())
    x = (X > 0).astype("float32")
    weight = np.linspace(0, 2, 21).astype("float32")
    seed = tf.random.experimental.stateless_fold_in(model._noise_state.numpy().astype("int32"), 0)
    parts = (
        [*model.encoder.trainable_variables, *model.posterior.trainable_variables],
        model.decoder.trainable_variables,
        model.critic.trainable_variables,
    )
    before = [[v.numpy() for v in part] for part in parts]
    with tf.GradientTape(persistent=True) as tape:
        encoded = model.posterior(model.encoder(x))
        # The draws are those of the model; the rest is written out.
        z = elbo.draw(model.posterior.distribution(encoded), 1, seed=seed).z[0]
        made = [tf.sigmoid(model.decoder(each)) for each in (z, prior_draws(seed))]
        kl = tf.reduce_sum(tfd.kl_divergence(tfd.Normal(encoded["loc"], encoded["scale"]), tfd.Normal(0.0, 1.0)), -1)
        (features, real), (reconstructed, of_reconstruction), (_, of_prior) = map(model.critic, (x, *made))
        error = 0.5 * tf.reduce_sum((features - reconstructed) ** 2, axis=-1) + 3 * np.log(2 * np.pi)
        probabilities = [tf.sigmoid(each[:, 0]) for each in (real, of_reconstruction, of_prior)]
        gan = tf.math.log(probabilities[0]) + sum(tf.math.log(1 - each) for each in probabilities[1:])
        losses = [tf.reduce_sum(weight * each) / 21 for each in (kl + error, 0.7 * error + gan, -gan)]
    gradients = [tape.gradient(loss, part) for loss, part in zip(losses, parts, strict=True)]
    logs = model.fit(x, sample_weight=weight, batch_size=21, shuffle=False, verbose=0).history
    for part, old, moves, rate in zip(parts, before, gradients, (0.01, 0.01, 0.5), strict=True):
        for variable, value, move in zip(part, old, moves, strict=True):
            np.testing.assert_allclose(variable, value - rate * move, rtol=1e-4, atol=1e-6, err_msg=variable.path)
    np.testing.assert_allclose(logs["loss"][-1], losses[0], rtol=1e-5)
    expected = {
        "kl": kl,
        "feature_log_likelihood": -error,
        "critic_loss": -gan,
        "critic_accuracy": np.mean([probabilities[0] > 0.5, *(each < 0.5 for each in probabilities[1:])], axis=0),
        "reconstruction_log_likelihood": tf.reduce_sum(tfd.Bernoulli(probs=made[0]).log_prob(x), axis=-1),
    }
    assert logs.keys() == {"loss", *expected}
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name][-1], np.average(values, weights=weight), rtol=1e-4, err_msg=name)


def prior_draws(seed):
    prior = tfd.Independent(tfd.Normal(tf.zeros(2), tf.ones(2)), 1)
    return prior.sample(21, seed=tf.random.experimental.stateless_fold_in(seed, 1))


def test_it_has_the_numbers_that_mean_something():
    model = small()
    assert set(model.score(X)) == {"reconstruction_log_likelihood", "kl"}
    assert model.generate(3, seed=0).shape == (3, 4)
    assert model.reconstruct(X).shape == X.shape
    with pytest.raises(ValueError, match=r"needs a lower bound on log p\(x\), which this model .*Received"):
        model.log_likelihood(X)
    shown = "critic=Functional(...), gamma=0.7, critic_optimizer=SGD(learning_rate=0.5), event_shape=(4,)"
    assert repr(model).startswith("VAEGAN(latent_dim=2, posterior=DiagonalNormal(")
    scaled = small(critic_optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)))
    for each in (model, scaled):
        assert shown in repr(each)
    assert "objective" not in repr(model)
    model.calibrate(X, threshold=1.0)
    found = model.detect(X)
    np.testing.assert_allclose(found["score"], found["contributions"].sum(axis=1) + found["kl"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_training_that_was_cut_and_one_of_a_file_end_with_the_same_digits(tmp_path):
    mode = {"steps_per_execution": 2}
    assert_resumes_exactly(lambda: small(mode, critic_optimizer=keras.optimizers.Adam(0.01)), X, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_every_weight_is_trained_in_every_mode(mode):
    model = small(mode)
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(X, epochs=2, batch_size=7, verbose=0, validation_data=X, callbacks=[KLWarmUp(steps=3)]).history
    assert all(np.isfinite(values).all() for values in history.values())
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path


@pytest.mark.slow
def test_half_precision_trains_with_a_scaled_loss_of_the_critic(dtype_policy):
    dtype_policy("mixed_float16")
    model = small()
    assert isinstance(model.critic_optimizer, keras.optimizers.LossScaleOptimizer)
    model.fit(X, epochs=2, batch_size=7, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert type(model).from_config(model.get_config()).gamma == 0.7


@pytest.mark.slow
def test_exports_equal_the_model_and_have_nothing_of_the_critic(tmp_path):
    model = small()
    model.fit(X, verbose=0)
    model.calibrate(X, threshold=1.0)
    # Each export compares itself with the model, and raises an error if they differ.
    exported = export.saved_model(model, tmp_path / "model", x=X)
    export.tflite(model, tmp_path / "model.tflite", x=X)
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert (8, 4) in shapes
    assert (4, 6) not in shapes


REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import keras
    from tests.helpers import critics
    from tests.models.test_vae_gan import X, small

    def make():
        # Noise has no effect on its output.
        deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)
        decoder = keras.Sequential([keras.Input((2,)), deaf, keras.layers.Dense(4)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        return small({"steps_per_execution": 3}, decoder=decoder, critic_optimizer=optimizer)

    critics.compare_replicas(make, X)
"""


@pytest.mark.slow
def test_two_replicas_take_the_steps_of_one_device(run_python):
    differences = json.loads(run_python(REPLICAS, pathlib.Path(__file__).parents[2]).splitlines()[-1])
    for name, difference in differences.items():
        assert abs(difference) < 4e-6, (name, difference)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"critic": keras.Sequential}, r"`critic` must be a Keras model. Received: "),
        (
            {"critic": lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])},
            r"`critic` must give a list of features .* Received: a critic that gives a tensor of shape \[None, 1\]",
        ),
        ({"critic": lambda: critic(logits=2)}, r"`critic` must give one logit \[B, 1\] for each x.*Received: "),
        ({"critic": lambda: critic(activation="sigmoid")}, r"`critic` must give logits.*Received: .* ends in sigmoid"),
        ({"gamma": -1.0}, r"`gamma` must be a finite number of at least 0. Received: gamma=-1.0"),
        ({"critic_optimizer": "adam"}, r"`critic_optimizer` must be a Keras optimizer. Received: .*'adam'"),
        ({"objective": tfvae.objectives.ELBO()}, r"`objective` must be left out.*Received: objective=ELBO"),
        ({"posterior": Deterministic}, r"`posterior` must have a density in a VAEGAN.*Received: "),
        ({"likelihood": lambda: likelihoods.Normal("learned")}, r"`likelihood` must have a mean of.*Received: "),
        (
            {"likelihood": lambda: likelihoods.Missing(likelihoods.Normal())},
            r"`likelihood` must have a mean of.*Received: ",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, message):
    made = {
        name: value() if callable(value) and name != "objective" and value is not keras.Sequential else value
        for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**made)


def test_the_optimizer_of_the_critic_is_its_own():
    model = small()
    with pytest.raises(ValueError, match=r"^`optimizer` must be another one than that of the critic.*Received: "):
        model.compile(model.critic_optimizer)
    with pytest.raises(ValueError, match=r"^`critic` must be one that no other model has.*Received: .*another VAEGAN"):
        small(critic=model.critic)
    with pytest.raises(TypeError, match="A VAEGAN is of arrays"):
        tfvae.VAEGAN.of_table(None)
