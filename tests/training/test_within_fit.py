"""Other uses of a model during `fit` and after it: only training runs several steps in one execution."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.following import Following
from tfvae.training import plan, trainer
from tfvae.training.fit_arguments import read_fit
from tfvae.training.resume import Progress


class Calls(keras.callbacks.Callback):
    """Calls a function with the model at the beginning of each epoch, and keeps the results."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.found = []

    def on_epoch_begin(self, epoch, logs=None):
        self.found.append(self.function(self.model))


def compiled(vae, **arguments):
    vae.compile(keras.optimizers.SGD(0.01), **arguments)
    return vae


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_predict_and_evaluate_in_a_callback_see_all_rows(before, tiny_vae, x):
    vae = compiled(tiny_vae())
    if before:
        vae.predict(x, verbose=0)
    predictions = Calls(lambda model: model.predict(x, batch_size=3, verbose=0))
    sizes = Calls(lambda model: model.evaluate(x, batch_size=3, verbose=0, return_dict=True)["kl"])
    fixed = Calls(lambda model: np.mean(model.score(x)["kl"]))
    vae.fit(x, batch_size=3, epochs=2, callbacks=[predictions, sizes, fixed], verbose=0)
    assert [len(found) for found in predictions.found] == [20, 20]
    np.testing.assert_allclose(sizes.found, fixed.found, rtol=1e-5)
    assert vae.steps_per_execution == 1


@pytest.mark.slow
def test_evaluate_before_the_first_step_sees_all_rows_and_changes_no_step(x):
    model, found = compiled(Following()), []
    begin = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(model.evaluate(x, batch_size=3, verbose=0, return_dict=True)["kl"])
    )
    steps = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: found.append(model.plan.steps_per_execution))
    model.fit(x, batch_size=5, epochs=1, callbacks=[begin, steps], verbose=0)
    np.testing.assert_allclose(found, [x[:, 1].mean(), 4], rtol=1e-5)
    assert int(model.optimizer.iterations) == 4


def test_the_train_function_can_be_called_outside_of_fit(tiny_vae, x):
    vae = compiled(tiny_vae())
    vae.predict(x, verbose=0)
    vae.make_train_function()
    vae.train_function(iter(tf.data.Dataset.from_tensor_slices(x).batch(5)))
    assert int(vae.optimizer.iterations) == 1


def test_as_many_validation_steps_as_asked_for(x):
    model, read = compiled(Following()), []

    def batches():
        for index in range(1000):
            read.append(index)
            yield x[:2]

    data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([2, 4], tf.float32))
    model.fit(x, batch_size=2, epochs=2, validation_data=data, validation_steps=3, verbose=0)
    assert len(read) < 20


@pytest.mark.parametrize("jit_compile", [pytest.param(True, marks=pytest.mark.slow), False])
def test_train_on_batch_in_a_callback_trains_on_its_batch_alone(jit_compile, x):
    model, twin = compiled(Following(), jit_compile=jit_compile), compiled(Following(), jit_compile=jit_compile)
    twin.set_weights(model.get_weights())
    calls = Calls(lambda model: model.train_on_batch(x[:2]))
    model.fit(x, batch_size=5, epochs=1, callbacks=[calls], verbose=0)
    assert int(model.optimizer.iterations) == 1 + 4
    twin.train_on_batch(x[:2])
    twin.fit(x, batch_size=5, epochs=1, verbose=0)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_fit_in_a_callback_trains_on_its_own_data(x):
    model, twin = compiled(Following(), jit_compile=False), compiled(Following(), jit_compile=False)
    twin.set_weights(model.get_weights())
    model.fit(
        x, batch_size=20, epochs=2, callbacks=[Calls(lambda model: model.fit(x[:2], verbose=0) and None)], verbose=0
    )
    assert int(model.optimizer.iterations) == 4
    for rows in (x[:2], x, x[:2], x):
        twin.fit(rows, verbose=0)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_xla_ends_where_a_later_compile_forbids_it(x, monkeypatch):
    monkeypatch.setattr(plan, "_FEWEST_STEPS_BY_XLA", 1)
    made = []
    make = trainer.Loop.__init__

    def init(self, model, progress, by_xla):
        made.append(by_xla)
        make(self, model, progress, by_xla)

    monkeypatch.setattr(trainer.Loop, "__init__", init)
    model = compiled(Following())
    model.fit(x, batch_size=5, verbose=0)
    compiled(model, jit_compile=False).train_on_batch(x)
    assert made == [True, False]


def test_a_fit_that_fails_leaves_the_steps_as_they_were(tiny_vae, x):
    vae = compiled(tiny_vae())
    with pytest.raises(TypeError):
        vae.fit(x, epochs="10", verbose=0)
    assert vae.steps_per_execution == 1


def test_batches_that_an_interrupted_training_had_to_skip_are_trained_on_by_the_next(x):
    model = compiled(Following())
    model._progress.to_skip, model._progress.to_pass = 2, 1
    model.fit(x, batch_size=5, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 8


def test_of_several_workers_each_takes_as_many_steps(tiny_vae, monkeypatch):
    vae = compiled(tiny_vae())
    arguments = read_fit(vae, lambda: 0, np.zeros([100, 4]), batch_size=4)
    assert plan.make_plan(vae, Progress(), arguments, False).steps_per_execution == 25
    monkeypatch.setattr(plan.strategies, "workers", lambda strategy: (0, 2))
    assert plan.make_plan(vae, Progress(), arguments, False).steps_per_execution == 1


def test_a_distributed_dataset(x):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = compiled(Following())
    data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(x).batch(5))
    model.fit(data, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 8


def test_a_model_that_was_trained_is_forgotten(tiny_vae, x):
    # The collection then looks only at what is made here; in a long run all other objects would take it seconds.
    gc.freeze()
    vae = compiled(tiny_vae())
    vae.fit(x, batch_size=5, verbose=0)
    reference = weakref.ref(vae)
    del vae
    gc.collect()
    assert reference() is None
