"""The KL warm-up computed by hand, when the fit of an approximate posterior ends."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

import tfvae
from tfvae.callbacks import Checkpoints, Convergence, KLWarmUp
from tfvae.elbo import ElboTerms, Sampling
from tfvae.objectives import ELBO, Objective
from tfvae.training.step import Minimizer

SLOW = pytest.mark.slow

# The KL warm-up


class Weights(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_begin(self, batch, logs=None):
        self.values.append(float(self.model.kl_weight))


def test_the_weight_rises_to_one(x, known_model):
    model, weights = known_model(), Weights()
    model.fit(x, batch_size=5, epochs=2, callbacks=[KLWarmUp(4, start=0.2), weights], verbose=0)
    assert weights.values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    assert weights.values[4:] == [1.0] * 4
    assert float(model.kl_weight) == 1.0


@pytest.mark.parametrize(
    "arguments",
    [{}, pytest.param({"steps_per_execution": 3}, marks=SLOW), pytest.param({"jit_compile": True}, marks=SLOW)],
)
def test_every_step_has_its_own_weight_where_many_run_at_once(arguments, x, known_model):
    model = known_model(**arguments)
    history = model.fit(x, batch_size=5, epochs=2, callbacks=KLWarmUp(5, start=0.5), shuffle=False, verbose=0).history
    log_likelihood, kl = (x[:, column].reshape(4, 5).mean(axis=1) for column in (0, 1))
    for loss, weights in zip(history["loss"], [[0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.0, 1.0]], strict=True):
        assert loss == pytest.approx((weights * kl - log_likelihood).mean(), abs=1e-6)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.filterwarnings("ignore:The KL warm-up takes longer than the training")
def test_a_warm_up_after_a_training_without_one_weighs_the_divergence(jit_compile, x, known_model):
    model, losses = known_model(jit_compile=jit_compile), []
    # The model has no weights to learn, so each training has the loss of its weight: 1, 0.25, 1.
    for callback in (None, KLWarmUp(10**6, start=0.25), None):
        losses += model.fit(x, batch_size=20, callbacks=callback, verbose=0).history["loss"]
    log_likelihood, kl = x[:, 0].mean(), x[:, 1].mean()
    assert losses == pytest.approx([weight * kl - log_likelihood for weight in (1.0, 0.25, 1.0)], rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The KL warm-up takes longer than the training")
def test_a_fit_within_a_fit_leaves_the_warm_up_of_the_outer_one(x, known_model):
    model, weights = known_model(steps_per_execution=1), Weights()
    inner = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epoch and model.fit(x[:5], verbose=0))
    model.fit(x, batch_size=10, epochs=2, callbacks=[KLWarmUp(10), inner, weights], verbose=0)
    assert weights.values == pytest.approx([0.0, 0.1, 0.3, 0.4])


@pytest.mark.filterwarnings("ignore:The KL warm-up takes longer than the training")
def test_the_weighted_divergence_is_in_the_training_loss_alone(x, known_model):
    model = known_model()
    # One step, with the weight 0.25.
    history = model.fit(x, batch_size=20, validation_data=x, callbacks=KLWarmUp(99, start=0.25), verbose=0).history
    log_likelihood, kl = x[:, 0].mean(), x[:, 1].mean()
    assert history["loss"][0] == pytest.approx(0.25 * kl - log_likelihood, rel=1e-5)
    assert history["elbo"][0] == pytest.approx(log_likelihood - kl, rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(kl - log_likelihood, rel=1e-5)
    assert float(model.kl_weight) == 1.0


def test_the_weight_goes_on_where_the_training_was_cut(x, known_model, tmp_path):
    def cut(batch, logs):
        if batch == 2:
            raise KeyboardInterrupt

    arguments = {"x": x, "batch_size": 4, "epochs": 2, "verbose": 0}
    model, weights = known_model(), Weights()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            **arguments,
            callbacks=[KLWarmUp(8), Checkpoints(tmp_path, 1), keras.callbacks.LambdaCallback(on_train_batch_end=cut)],
        )
    known_model().fit(**arguments, callbacks=[KLWarmUp(8), Checkpoints(tmp_path, 1), weights])
    # The steps before the interruption are skipped.
    assert weights.values[3:] == pytest.approx([0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0])
    # The weight of an interrupted training does not carry over to the next one.
    assert float(model.kl_weight) == 1.0
    model.fit(**arguments, callbacks=weights)
    assert set(weights.values[10:]) == {1.0}


class ImportanceWeighted(Objective):
    def __call__(self, terms):
        return tf.reduce_logsumexp(terms.log_weights, axis=0) - np.log(self.num_samples)


@pytest.mark.filterwarnings("ignore:The KL warm-up takes longer than the training")
def test_the_loss_of_importance_weights_has_those_of_the_tempered_terms(x, tiny_vae):
    vae = tiny_vae(objective=ImportanceWeighted(num_samples=5))
    vae.compile(keras.optimizers.SGD(0.0))
    start = vae.get_weights()
    history = vae.fit(x, batch_size=20, shuffle=False, callbacks=KLWarmUp(99, start=0.25), verbose=0).history
    vae.set_weights(start)
    terms = vae.elbo_terms(x, Sampling(num_samples=5, seed=vae.next_seed()))
    log_weights = terms.reconstruction_log_likelihood + 0.25 * (terms.log_prior - terms.log_posterior)
    expected = -(logsumexp(log_weights, axis=0) - np.log(5)).mean()
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history["loss"] != pytest.approx([-(logsumexp(terms.log_weights, axis=0) - np.log(5)).mean()], rel=1e-3)


@pytest.mark.filterwarnings("ignore:The KL warm-up takes longer than the training")
def test_a_list_of_callbacks_without_parameters_warms_up(x, known_model):
    model = known_model()
    callbacks = keras.callbacks.CallbackList([KLWarmUp(99)], add_history=True, model=model)
    assert model.fit(x, callbacks=callbacks, verbose=0).epoch == [0]


def test_a_warm_up_that_is_longer_than_the_training_warns(x, known_model, recwarn):
    known_model().fit(x, batch_size=5, epochs=2, callbacks=KLWarmUp(8), verbose=0)
    assert not [warning for warning in recwarn if "warm-up" in str(warning.message)]
    with pytest.warns(UserWarning, match="takes longer than the training, 8 steps.*Received: steps=9"):
        known_model().fit(x, batch_size=5, epochs=2, callbacks=KLWarmUp(9), verbose=0)


def test_a_warm_up_counts_the_steps_of_an_optimizer_that_accumulates_gradients(x, known_model):
    model, weights = known_model(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)), Weights()
    # Raised beforehand, because warnings are errors here.
    with pytest.raises(UserWarning, match=r"takes longer than the training, 4 steps.*Received: steps=5"):
        model.fit(x, batch_size=5, epochs=2, callbacks=KLWarmUp(5), verbose=0)
    assert int(model.optimizer.iterations) == 0
    model.fit(x, batch_size=5, epochs=2, callbacks=[KLWarmUp(4), weights], verbose=0)
    assert weights.values == pytest.approx([0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])


def test_a_warm_up_counts_the_steps_of_the_optimizer_that_is_used(x, known_model):
    model, weights = known_model(), Weights()
    used = keras.optimizers.SGD(0.0)
    model.__dict__["minimizers"] = lambda: [Minimizer(model.trainable_variables, used)]
    model.fit(x, batch_size=5, callbacks=[KLWarmUp(4), weights], verbose=0)
    assert weights.values == pytest.approx([0.0, 0.25, 0.5, 0.75])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_warm_up_that_the_end_of_the_training_cuts_warns(x, known_model):
    # The length of the training is not known in advance if a generator gives the batches or a callback stops it.
    unknown = tf.data.Dataset.from_generator(lambda: (x[:5] for _ in range(4)), output_signature=tf.TensorSpec((5, 4)))
    with pytest.warns(UserWarning, match=r"takes longer than the training, \d+ steps.*Received: steps=99"):
        known_model().fit(unknown, epochs=2, callbacks=KLWarmUp(99), verbose=0)
    model = known_model()
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: setattr(model, "stop_training", True))
    with pytest.warns(UserWarning, match="takes longer than the training, 4 steps.*Received: steps=8"):
        model.fit(x, batch_size=5, epochs=2, callbacks=[KLWarmUp(8), stop], verbose=0)


def test_a_warm_up_that_an_earlier_fit_has_begun_goes_on(x, known_model, recwarn):
    model = known_model()
    with pytest.warns(UserWarning, match="takes longer than the training, 4 steps.*Received: steps=8"):
        model.fit(x, batch_size=5, callbacks=KLWarmUp(8), verbose=0)
    model.fit(x, batch_size=5, callbacks=KLWarmUp(8), verbose=0)
    assert not [warning for warning in recwarn if "warm-up" in str(warning.message)]


@pytest.mark.parametrize(
    "arguments",
    [{"steps": 0}, *({"steps": 5, "start": start} for start in (-0.1, 1.5, float("nan"), "0"))],
)
def test_bad_arguments_of_the_warm_up_are_named(arguments):
    with pytest.raises(ValueError, match=rf"`{list(arguments)[-1]}` must be .*Received: {list(arguments)[-1]}="):
        KLWarmUp(**arguments)


def test_tempered_terms_weigh_all_that_is_no_likelihood():
    rng = np.random.default_rng(0)
    terms = ElboTerms(*(tf.constant(rng.normal(size=shape)) for shape in ((3, 5), (3, 5), (3, 5), (5,))))
    tempered = terms.tempered(tf.constant(0.3, tf.float64))
    expected = terms.reconstruction_log_likelihood + 0.3 * (terms.log_prior - terms.log_posterior)
    np.testing.assert_allclose(tempered.log_weights, expected, rtol=1e-12)
    np.testing.assert_allclose(
        tempered.elbo, tf.reduce_mean(terms.reconstruction_log_likelihood, 0) - 0.3 * terms.kl, rtol=1e-12
    )


# Convergence


class Iterates(keras.callbacks.Callback):
    """The weights after each step, and the learning rate of each epoch."""

    def __init__(self):
        super().__init__()
        self.iterates, self.rates = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.iterates.append(np.concatenate([np.ravel(variable) for variable in self.model.trainable_variables]))

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def normal_posterior(scale=1.0, optimizer=None):
    """A q that starts at N(0, 1), for a posterior N(0.5, scale)."""
    model = tfvae.VariationalInference(
        lambda latents, _: -0.5 * ((latents["x"] - 0.5) / scale) ** 2,
        {"x": ()},
        objective=ELBO(num_samples=4),
    )
    model.approximation.standardized.assign(1.0)
    model.compile(optimizer or keras.optimizers.Adam(0.05), steps_per_execution=10)
    return model


def test_a_fit_goes_on_until_q_has_converged():
    model, convergence, iterates = normal_posterior(), Convergence(tolerance=0.1), Iterates()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = model.fit(epochs=400, callbacks=[iterates, convergence], verbose=0)
    assert convergence.converged
    assert len(history.epoch) < 400
    z, _ = model.approximation.draw(4000, tf.constant([0, 1]))
    # The tolerance plus four standard errors of the draws.
    assert z.numpy().mean() == pytest.approx(0.5, abs=0.1 + 4 / np.sqrt(4000))
    assert z.numpy().std() == pytest.approx(1.0, abs=0.1 + 4 / np.sqrt(8000))
    # Each stage halves the rate, and there were at least two stages.
    stages = sorted(set(iterates.rates), reverse=True)
    np.testing.assert_allclose(stages, [0.05 * 0.5**stage for stage in range(len(stages))], rtol=1e-6)
    assert len(stages) >= 2
    assert iterates.rates == sorted(iterates.rates, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [4, 10])
def test_the_mean_of_the_later_iterates_of_the_last_whole_stage_remains(epochs):
    # A stage has four epochs of 10 executions each; the next stage starts from the mean of its last two epochs.
    model, iterates = normal_posterior(), Iterates()
    with pytest.warns(UserWarning, match="^q has not converged to a tolerance of 1e-06"):
        model.fit(epochs=epochs, callbacks=[iterates, Convergence(tolerance=1e-6, max_epochs=4)], verbose=0)
    end = epochs // 4 * 40
    expected = np.mean(iterates.iterates[end - 20 : end], axis=0)
    found = np.concatenate([np.ravel(variable) for variable in model.trainable_variables])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.any(np.abs(iterates.iterates[-1] - expected) > 1e-4)
    # A second fit does not start with the last learning rate of this one.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert min(iterates.rates) == pytest.approx(0.05 * 0.5 ** ((epochs - 1) // 4))


@pytest.mark.slow
def test_a_fit_that_is_too_short_is_warned_of_and_left_as_it_is():
    model, iterates, convergence = normal_posterior(), Iterates(), Convergence()
    with pytest.warns(UserWarning, match="^q has not converged"):
        model.fit(epochs=2, callbacks=[iterates, convergence], verbose=0)
    assert not convergence.converged
    found = np.concatenate([np.ravel(variable) for variable in model.trainable_variables])
    np.testing.assert_array_equal(found, iterates.iterates[-1])


def test_a_loss_that_stays_nan_ends_the_fit():
    model = normal_posterior(scale=np.nan)
    with (
        pytest.warns(UserWarning, match="q has not converged"),
        pytest.warns(UserWarning, match=r"The loss was nan in epoch \d"),
    ):
        history = model.fit(epochs=20, callbacks=[Convergence()], verbose=0)
    assert len(history.epoch) == 5


def test_a_schedule_of_learning_rates_is_refused():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model = normal_posterior(optimizer=keras.optimizers.Adam(schedule))
    with pytest.raises(ValueError, match=r"^`optimizer` must have a constant learning rate.*Received: learning_rate="):
        model.fit(verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("arguments", [{"tolerance": 0.0}, {"tolerance": np.inf}, {"max_epochs": 0}])
def test_arguments_of_convergence_are_checked(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: {name}="):
        Convergence(**arguments)
