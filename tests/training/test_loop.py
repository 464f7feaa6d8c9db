"""Many steps in one XLA program: they equal single steps, for batches of any sizes, and also run without XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.following import Following, FollowingByNumPy
from tfvae.training import loop, plan
from tfvae.training.loop import Loop
from tfvae.training.resume import Progress


def dataset(sizes, weighted=False):
    """Batches of these sizes, whose number and sizes are not known in advance."""
    generator = np.random.default_rng(3)
    batches = [generator.normal(size=(size, 4)).astype(np.float32) for size in sizes]

    def read():
        for batch in batches:
            yield (batch, np.arange(len(batch), dtype=np.float32)) if weighted else batch

    spec = tf.TensorSpec([None, 4], tf.float32)
    spec = (spec, tf.TensorSpec([None], tf.float32)) if weighted else spec
    data = tf.data.Dataset.from_generator(read, output_signature=spec)
    return data.map(lambda x, weight: (x, None, weight)) if weighted else data


def trained(model, data, jit_compile, epochs=2, **compiled):
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), jit_compile=jit_compile, **compiled)
    history = model.fit(data, epochs=epochs, verbose=0, shuffle=False).history
    return int(model.optimizer.iterations), history, model.get_weights()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("sizes", "weighted", "steps"),
    [
        pytest.param([3, 3, 3, 2], False, 100, marks=pytest.mark.slow),
        ([3, 3, 3, 3], True, 3),
        pytest.param([3, 2, 3, 3], True, 1, marks=pytest.mark.slow),
        pytest.param([2, 3, 3, 2, 2], False, 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_program_trains_as_steps_without_xla_do(sizes, weighted, steps, quiet_vae):
    data = dataset(sizes, weighted)
    ours = trained(quiet_vae(), data, True, steps_per_execution=steps)
    theirs = trained(quiet_vae(), data, False)
    assert ours[0] == 2 * len(sizes)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def by_xla_at_once(monkeypatch):
    """Allows XLA for trainings of any length, and lists the shapes of the stacked batches that its programs get."""
    monkeypatch.setattr(plan, "_FEWEST_STEPS_BY_XLA", 1)
    shapes, run = [], Loop._run_by_xla

    def logged(self, at, source, number):
        shapes.append(tuple(tf.nest.flatten(source)[0].shape))
        return run(self, at, source, number)

    monkeypatch.setattr(Loop, "_run_by_xla", logged)
    return shapes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_of_many_shapes_are_not_all_compiled(monkeypatch):
    shapes = by_xla_at_once(monkeypatch)
    data = dataset([3, 3, 1, 4, 5, 4, 3])
    ours, theirs = trained(Following(), data, "auto"), trained(Following(), data, False)
    assert {shape[1] for shape in shapes} == {3, 1}
    assert ours[0] == 2 * 7
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`fit` was given y")
def test_targets_that_are_no_tensors_train_as_without_xla(x, monkeypatch):
    shapes = by_xla_at_once(monkeypatch)
    ragged = tf.RaggedTensor.from_tensor
    data = tf.data.Dataset.from_tensor_slices(x).batch(5).map(lambda batch: (batch, ragged(batch)))
    ours, theirs = trained(Following(), data, "auto"), trained(Following(), data, False)
    assert not shapes
    assert ours[0] == 2 * 4
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.slow
def test_batches_that_take_much_memory_are_divided(x, monkeypatch):
    results, calls = [], []
    run = Loop._run_by_xla
    monkeypatch.setattr(Loop, "_run_by_xla", lambda *arguments: calls.append(arguments) or run(*arguments))
    for most in (2**26, 2 * 3 * 4 * 4):
        monkeypatch.setattr(loop, "_BYTES", most)
        results.append(trained(Following(), tf.data.Dataset.from_tensor_slices(x).batch(3), True, epochs=1))
    # Six batches and a smaller one run as 6 + 1, or as 2 + 2 + 2 + 1.
    assert len(calls) == 2 + 4
    tf.nest.map_structure(np.testing.assert_array_equal, *results)


class FollowingWithNoise(Following):
    def elbo_terms(self, x, sampling):
        return super().elbo_terms(x + tf.random.stateless_normal(tf.shape(x), sampling.seed), sampling)


@pytest.mark.slow
def test_a_cut_within_an_execution_changes_no_digit(x):
    results = []
    for counts in ([4], [2, 2]):
        keras.utils.set_random_seed(0)
        model = FollowingWithNoise()
        model.compile(keras.optimizers.Adam(0.01), jit_compile=True)
        model.build_optimizers()
        function = Loop(model, Progress(), by_xla=True)
        iterator = iter(tf.data.Dataset.from_tensor_slices(x).batch(5))
        for count in counts:
            model.__dict__["_plan"] = plan.Plan({}, None, count, True, "a test")
            metrics = function(iterator)
        assert next(iterator, None) is None
        results.append((metrics, model.get_weights()))
    tf.nest.map_structure(np.testing.assert_array_equal, *results)


@pytest.mark.slow
def test_one_batch_of_arrays(x):
    results = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        model = Following()
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        results.append((model.train_on_batch(x, sample_weight=np.arange(20), return_dict=True), model.get_weights()))
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_what_xla_cannot_compile_runs_without(x):
    model, twin = FollowingByNumPy(), Following()
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        each.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        each.build_optimizers()
    function = Loop(model, Progress(), by_xla=True)
    iterator = iter(tf.data.Dataset.from_tensor_slices(x).batch(3))
    model.__dict__["_plan"] = plan.Plan({}, None, 3, True, "a test")
    with pytest.warns(UserWarning, match="XLA cannot compile the steps, so they run without it"):
        function(iterator)
    model.__dict__["_plan"] = plan.Plan({}, None, 4, True, "a test")
    function(iterator)
    assert next(iterator, None) is None
    twin.fit(x, batch_size=3, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_xla_cannot_compile_is_an_error_where_compile_asks_for_it(x):
    model = FollowingByNumPy()
    model.compile(keras.optimizers.SGD(0.01), jit_compile=True)
    with pytest.raises(tf.errors.OpError, match="XLA"):
        model.fit(x, batch_size=4, verbose=0)
    assert int(model.optimizer.iterations) == 0
