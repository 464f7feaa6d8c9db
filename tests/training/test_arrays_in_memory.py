"""Arrays in memory: batches taken without a pipeline equal those of the pipeline, and train the same model."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.following import Following, FollowingByNumPy
from tfvae import VAE, networks
from tfvae.callbacks import Checkpoints
from tfvae.data import epochs
from tfvae.training import plan, trainer
from tfvae.training.arrays_in_memory import ArraysInMemory, take
from tfvae.training.resume import Progress


@pytest.fixture
def data():
    rows = ({"x": tf.range(17) * 3, "condition": tf.random.stateless_normal([17, 2], [1, 2])},)
    return ArraysInMemory(rows, 17, 5, lambda: 7)


def test_the_batches_of_an_epoch_are_those_of_the_pipeline(data):
    passes = []
    for epoch in (0, 3):
        epochs.set_epoch(epoch)
        try:
            expected = list(data.dataset())
        finally:
            epochs.set_epoch(None)
        batches = data.batches(epoch, 1)
        assert batches.first == 1
        assert len(expected) == len(data) == 4
        assert batches.num_left == 3
        assert batches.num_whole == 2
        starts = range(0, 17, batches.batch_size)
        found = [take(batches.rows, batches.order[start : start + batches.batch_size]) for start in starts]
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
        passes.append(np.concatenate([batch[0]["x"] for batch in found]))
        np.testing.assert_array_equal(np.sort(passes[-1]), 3 * np.arange(17))
    assert (passes[0] != passes[1]).any()


def test_the_order_changes_with_the_seed():
    seeds = iter([1, 1, 2])
    data = ArraysInMemory((tf.zeros([100]),), 100, 10, lambda: next(seeds))
    first, again, other = (data.batches(0, 0).order for _ in range(3))
    assert first is again
    assert np.any(first != other)


@pytest.mark.parametrize(("rows", "first"), [(17, 4), (15, 3)])
def test_after_its_last_batch_an_epoch_is_over(rows, first, x):
    model = Following()
    model.compile(keras.optimizers.SGD(0.01))
    model.build_optimizers()
    data = ArraysInMemory((x[:rows],), rows, 5, lambda: 7)
    progress = Progress()
    progress.step = first
    model.__dict__["_plan"] = plan.Plan({}, data, 2, True, "a test")
    with pytest.raises(StopIteration):
        trainer.Loop(model, progress, by_xla=True)(iter(tf.data.Dataset.range(9)))
    assert int(model.optimizer.iterations) == 0


def fitted(vae, x, in_memory, monkeypatch, by_xla=True, sample_weight=None, epochs=2, callbacks=(), **compiled):
    """The steps, the history and the weights of a training whose batches come from memory or from a pipeline."""
    pipelines = []
    make_plan = trainer.make_plan

    def without(model, progress, arguments, is_by_xla):
        if not in_memory:
            arguments = arguments._replace(x=arguments.x.dataset())
        return make_plan(model, progress, arguments, is_by_xla)

    monkeypatch.setattr(trainer, "make_plan", without)
    original = ArraysInMemory.batches
    monkeypatch.setattr(ArraysInMemory, "batches", lambda *a: pipelines.append(a) or original(*a))
    keras.utils.set_random_seed(0)
    vae.compile(keras.optimizers.SGD(0.01, momentum=0.9), jit_compile=by_xla, **compiled)
    arguments = {"batch_size": 3, "sample_weight": sample_weight, "epochs": epochs, "verbose": 0}
    history = vae.fit(x, callbacks=list(callbacks), **arguments).history
    monkeypatch.undo()
    assert bool(pipelines) == in_memory
    assert vae.plan is None
    return int(vae.optimizer.iterations), history, vae.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighted", "rows", "by_xla"),
    [(True, 20, True), pytest.param(False, 2, True, marks=pytest.mark.slow), (True, 20, False)],
)
def test_a_program_takes_the_batches_of_the_pipeline(weighted, rows, by_xla, x, monkeypatch):
    sample_weight = np.arange(rows, dtype=np.float32) if weighted else None
    results = [fitted(Following(), x[:rows], own, monkeypatch, by_xla, sample_weight) for own in (True, False)]
    assert results[0][0] == 2 * -(-rows // 3)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


class Cut(keras.callbacks.Callback):
    """Interrupts a training in the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch >= 3:
            raise KeyboardInterrupt


# Default tests in test_resume.py interrupt trainings on arrays; one in test_loop.py interrupts XLA within an execution.
@pytest.mark.slow
@pytest.mark.parametrize("by_xla", [True, False])
def test_a_training_that_was_cut_within_an_epoch_ends_with_the_same_digits(by_xla, tiny_vae, x, monkeypatch, tmp_path):
    def build():
        keras.utils.set_random_seed(0)
        return tiny_vae()

    # 18 examples, so that no batch is smaller and needs another compiled program.
    x, arguments = x[:18], {"epochs": 3, "steps_per_execution": 2}
    expected = fitted(build(), x, True, monkeypatch, by_xla, **arguments)

    def saver(name):
        return Checkpoints(tmp_path / name, save_freq=2)

    with pytest.raises(KeyboardInterrupt):
        fitted(build(), x, True, monkeypatch, by_xla, callbacks=[saver("a"), Cut()], **arguments)
    monkeypatch.undo()
    found = fitted(build(), x, True, monkeypatch, by_xla, callbacks=[saver("a")], **arguments)
    assert found[0] == expected[0]
    for one, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_strategy_and_epochs_that_are_no_pass_keep_the_pipeline(x, monkeypatch):
    asked = []
    original = ArraysInMemory.batches
    monkeypatch.setattr(ArraysInMemory, "batches", lambda *a: asked.append(a) or original(*a))
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = Following()
        model.compile(keras.optimizers.SGD(0.01), jit_compile=True)
    model.fit(x, batch_size=4, verbose=0)
    model = Following()
    model.compile(keras.optimizers.SGD(0.01), jit_compile=True)
    model.fit(x, batch_size=4, steps_per_epoch=2, epochs=3, verbose=0)
    assert not asked
    assert int(model.optimizer.iterations) == 6


@pytest.mark.slow
def test_what_xla_cannot_compile_takes_its_batches_without(x, monkeypatch):
    monkeypatch.setattr(plan, "_FEWEST_STEPS_BY_XLA", 1)
    weights = []
    for make, jit_compile in ((FollowingByNumPy, "auto"), (Following, False)):
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        with contextlib.ExitStack() as stack:
            if jit_compile:
                message = "XLA cannot compile the steps, so they run without it"
                stack.enter_context(pytest.warns(UserWarning, match=message))
            model.fit(x, batch_size=3, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# The default tests have the programs of many steps, and XLA for single steps in test_loop.py.
@pytest.mark.slow
def test_steps_that_xla_compiles_one_by_one_take_their_batches_too(x):
    def build():
        convolution = keras.layers.Conv2D(4, 2, padding="same", activation="tanh")
        encoder = keras.Sequential([keras.Input((2, 2, 1)), convolution, keras.layers.Flatten()])
        # Multiplies z by 0, because XLA draws different noise.
        deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)
        decoder = keras.Sequential([keras.Input((2,)), deaf, keras.layers.Dense(4), keras.layers.Reshape((2, 2, 1))])
        return VAE(encoder, decoder, 2)

    weights = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        vae = build()
        vae.compile(keras.optimizers.SGD(0.001), jit_compile=jit_compile)
        # No batch is smaller, so that XLA compiles only one step.
        vae.fit(x.reshape(-1, 2, 2, 1), batch_size=5, verbose=0)
        weights.append(vae.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("jit_compile", ["auto", pytest.param(True, marks=pytest.mark.slow)])
def test_a_metric_may_be_a_variable(jit_compile, x):
    class Counting(VAE):
        def train_step(self, data):
            return {**super().train_step(data), "steps": self.optimizer.iterations}

    vae = Counting(networks.dense_encoder((4,), (3,)), networks.dense_decoder(2, (4,), (3,)), 2)
    vae.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
    # The last batch of an epoch is smaller.
    history = vae.fit(x, batch_size=3, epochs=2, verbose=0).history
    assert history["steps"] == [7, 14]
