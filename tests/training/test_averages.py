"""Averages of the weights over the steps: exact, in validation, files and at the end, while training goes on without.

That a training with them resumes bit for bit is tested in test_resume.py, and replicas in distribute/test_replicas.py.
"""

import keras
import numpy as np
import pytest

from tests.helpers.following import Following
from tests.helpers.players import players

MOMENTUM = 0.7
EPOCHS = 3
ARGUMENTS = {"batch_size": 5, "epochs": EPOCHS, "verbose": 0}


def sgd(**arguments):
    return keras.optimizers.SGD(0.1, momentum=0.9, **arguments)


def averaging(kind=sgd):
    return kind(use_ema=True, ema_momentum=MOMENTUM)


def following(optimizer, **compiled):
    keras.utils.set_random_seed(0)
    model = Following()
    model.compile(optimizer, **compiled)
    return model


class Seen(keras.callbacks.Callback):
    """What callbacks see of a model's trainable variables after each step, in each validation and after each epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.validations, self.epochs = [], [], []

    def _now(self):
        return [variable.numpy() for variable in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self._now())

    def on_test_begin(self, logs=None):
        self.validations.append(self._now())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._now())


def averaged(steps):
    """The averages after each step, in float64."""
    averages = [[np.asarray(value, np.float64) for value in steps[0]]]
    for weights in steps[1:]:
        averages.append([MOMENTUM * a + (1 - MOMENTUM) * w for a, w in zip(averages[-1], weights, strict=True)])
    return averages


def assert_equal(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance.get("rtol", 0), atol=tolerance.get("atol", 0))


# Each of the 12 averages is rounded twice to 24 bits, 6e-8 relative, and forgets the errors before it by and by.
ROUNDING = {"rtol": 5e-7, "atol": 1e-7}


def test_validation_epochs_and_files_have_averages_while_training_goes_on_from_the_weights(x, tmp_path):
    seen, model, plain = Seen(), following(averaging()), following(sgd())
    model.fit(x, validation_data=x, callbacks=[seen], **ARGUMENTS)
    every_fourth = averaged(seen.steps)[3::4]
    for found in (seen.validations, seen.epochs):
        for one, expected in zip(found, every_fourth, strict=True):
            assert_equal(one, expected, **ROUNDING)
    assert_equal([model.w], seen.epochs[-1])
    model.save_weights(tmp_path / "a.weights.h5")
    loaded = following(averaging())
    loaded.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(loaded.w, model.w)
    plain.fit(x, validation_data=x, **ARGUMENTS)
    for each in (loaded, plain):
        each.fit(x, batch_size=5, verbose=0)
    assert np.abs(loaded.w - plain.w).max() > 0.01
    loaded.use_averages(False)
    np.testing.assert_array_equal(loaded.w, plain.w)


def test_every_optimizer_averages_its_own_weights(x):
    seen, model = Seen(), players()
    model.compile(averaging())
    model.second_optimizer = averaging(keras.optimizers.Adam)
    model.fit(x[:, :2], callbacks=[seen], **ARGUMENTS)
    assert_equal([model.a, model.b], averaged(seen.steps)[-1], **ROUNDING)
    model.use_averages(False)
    assert_equal([model.a, model.b], seen.steps[-1])


@pytest.mark.slow
def test_another_compile_gives_back_the_weights_of_the_optimizer_that_stays(x):
    seen, model = Seen(), players()
    model.compile(averaging())
    model.second_optimizer = averaging(keras.optimizers.Adam)
    model.fit(x[:, :2], callbacks=[seen], **ARGUMENTS)
    model.compile(averaging(), run_eagerly=True)
    model.use_averages(False)
    assert_equal([model.a], averaged(seen.steps)[-1][:1], **ROUNDING)
    np.testing.assert_array_equal(model.b, seen.steps[-1][1])
    # Those of the new optimizer are averages of its own steps alone.
    model.use_averages()
    assert_equal([model.a, model.b], averaged(seen.steps)[-1], **ROUNDING)
    model.train_on_batch(x[:, :2])
    first = model.a.numpy()
    model.use_averages()
    np.testing.assert_array_equal(model.a, first)


@pytest.mark.slow
def test_an_optimizer_without_averages_leaves_its_weights(x):
    seen, model = Seen(), players()
    model.compile(averaging())
    model.fit(x[:, :2], callbacks=[seen], **ARGUMENTS)
    assert_equal([model.a], averaged(seen.steps)[-1][:1], **ROUNDING)
    np.testing.assert_array_equal(model.b, seen.steps[-1][1])


def test_a_training_that_is_interrupted_leaves_the_averages(x):
    seen, model = Seen(), following(averaging())

    def stop(batch, logs):
        if len(seen.steps) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, callbacks=[seen, keras.callbacks.LambdaCallback(on_train_batch_end=stop)], **ARGUMENTS)
    assert_equal([model.w], averaged(seen.steps)[-1], **ROUNDING)


@pytest.mark.parametrize("optimizer", [sgd, lambda: averaging()], ids=["none", "before the first step"])
def test_without_averages_nothing_is_exchanged(optimizer):
    model = following(optimizer())
    model.w.assign([1.0, 2.0, 3.0, 4.0])
    model.use_averages()
    np.testing.assert_array_equal(model.w, [1, 2, 3, 4])
    model.build_optimizers()
    model.use_averages()
    model.use_averages(False)
    np.testing.assert_array_equal(model.w, [1, 2, 3, 4])


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_file_of_averages_does_for_a_model_with_another_optimizer(x, tmp_path):
    model = following(averaging())
    model.fit(x, **ARGUMENTS)
    model.save_weights(tmp_path / "a.weights.h5")
    for optimizer in (averaging(keras.optimizers.Adam), sgd()):
        other = following(optimizer)
        other.load_weights(tmp_path / "a.weights.h5")
        other.use_averages(False)
        np.testing.assert_array_equal(other.w, model.w)


def test_the_exchange_by_sums_of_keras_is_refused(x):
    model = following(averaging())
    for method in (model.fit, model.evaluate):
        with pytest.raises(
            ValueError, match=r"^`callbacks` must be without `keras.callbacks.SwapEMAWeights`.*Received"
        ):
            method(x, callbacks=[keras.callbacks.SwapEMAWeights()])


WAYS = {
    "XLA": {"steps_per_execution": 4, "jit_compile": True},
    "several steps in one execution": {"steps_per_execution": 4},
    "eager": {"run_eagerly": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_however_the_steps_run(way, x):
    step_by_step, other = following(averaging()), following(averaging(), **WAYS[way])
    for model in (step_by_step, other):
        model.fit(x, shuffle=False, **ARGUMENTS)
    assert_equal([other.w], [step_by_step.w], **ROUNDING)
