"""The learning rate that falls to 0 for flows, and which callback ends a fit."""

import types

import keras
import numpy as np
import pytest

from tests.inference.test_variational_inference import Y, build
from tfvae import posteriors
from tfvae.callbacks import Annealing, Convergence
from tfvae.inference import annealing


class Model:
    """What a callback sees of a model."""

    def __init__(self, rate):
        self.optimizer = types.SimpleNamespace(learning_rate=rate)
        self.stop_training = False


def run(callback, losses):
    """The learning rates of epochs with these losses, until the callback ends the fit."""
    callback.set_model(Model(keras.Variable(0.1)))
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_begin(epoch)
        rates.append(float(callback.model.optimizer.learning_rate))
        callback.on_epoch_end(epoch, {"loss": loss})
        if callback.model.stop_training:
            break
    callback.on_train_end()
    assert float(callback.model.optimizer.learning_rate) == pytest.approx(0.1)
    return rates


def test_the_rate_falls_to_0_and_the_fit_ends():
    rates = run(Annealing(4), [1.0] * 10)
    np.testing.assert_allclose(rates, 0.1 * 0.5 * (1.0 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-6)


def test_a_fit_of_losses_that_are_not_finite_ends():
    assert len(run(Annealing(), [1.0, np.nan, 1.0] + [np.nan] * 10)) == 8


def test_a_schedule_is_left_as_it_is():
    callback = Annealing(2)
    callback.set_model(Model(0.3))
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_end()
    assert callback.model.optimizer.learning_rate == 0.3


def test_the_number_of_epochs_is_checked():
    with pytest.raises(ValueError, match=r"^`epochs` must be an integer.*Received: epochs=0"):
        Annealing(0)


FLOW, NORMAL, OTHER = posteriors.SplineFlow(), posteriors.DiagonalNormal(), keras.callbacks.Callback()


@pytest.mark.parametrize(
    ("posterior", "callbacks", "kinds"),
    [
        (FLOW, None, [Annealing]),
        (NORMAL, None, [Convergence]),
        (FLOW, OTHER, [keras.callbacks.Callback, Annealing]),
        (FLOW, [Convergence()], [Convergence]),
        (NORMAL, Annealing(), [Annealing]),
        (NORMAL, keras.callbacks.CallbackList([OTHER]), [keras.callbacks.Callback, Convergence]),
    ],
)
def test_every_fit_has_one_callback_that_ends_it(posterior, callbacks, kinds):
    assert [type(each) for each in annealing.ending(posterior, callbacks)] == kinds


def test_flows_take_more_draws_and_shorter_steps():
    assert annealing.num_samples(FLOW) > annealing.num_samples(NORMAL) == annealing.num_samples(None)
    assert annealing.optimizer(FLOW, 2).learning_rate < annealing.optimizer(NORMAL, 2).learning_rate
    assert build(latents={"mu": (2,)}, posterior=posteriors.CouplingFlow()).objective.num_samples == 64


@pytest.mark.slow
def test_a_flow_is_fitted_for_100_epochs():
    model = build(posterior=posteriors.SplineFlow(num_couplings=2, bins=4, hidden=8))
    assert len(model.fit(Y, verbose=0).epoch) == 100
