"""Adam's update as one operation: it equals Keras's with every option, and other optimizers are unchanged."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvae.training.fused_adam import fused

STEPS = 5
# Both round 1 - beta_2^t, which starts at 1e-3, to 6e-8: a relative error of 3e-5 in each of five updates of 0.01.
TOLERANCE = 2e-6
Schedule = keras.optimizers.schedules.ExponentialDecay
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "betas and epsilon": lambda: keras.optimizers.Adam(0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "schedule": lambda: keras.optimizers.Adam(Schedule(0.01, 2, 0.5)),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "averaged": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
}


def variables():
    generator = np.random.default_rng(0)
    return [keras.Variable(generator.normal(size=shape).astype(np.float32)) for shape in ([7, 3], [3], [5, 2])]


def train(optimizer, is_fused, jit_compile):
    """The weights and the optimizer's state after some steps, whose gradients are the same for every optimizer."""
    generator = np.random.default_rng(1)
    weights = variables()
    optimizer.build(weights)

    @tf.function(jit_compile=jit_compile)
    def step(*gradients):
        (fused(optimizer) if is_fused else optimizer).apply(gradients, weights)

    for _ in range(STEPS):
        step(*(tf.constant(generator.normal(size=weight.shape).astype(np.float32)) for weight in weights))
    return [np.array(variable) for variable in [*weights, *optimizer.variables]]


# XLA compiles the same operation, whatever the options.
BY_XLA = ["Adam"]


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        *((name, False) for name in OPTIMIZERS),
        *((name, True) if name in BY_XLA else pytest.param(name, True, marks=pytest.mark.slow) for name in OPTIMIZERS),
    ],
)
def test_the_update_is_that_of_keras(name, jit_compile):
    ours, theirs = (train(OPTIMIZERS[name](), is_fused, jit_compile) for is_fused in (True, False))
    assert len(ours) == len(theirs) > 3
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=TOLERANCE)


def operations(optimizer):
    """The types of the operations of one update."""
    weights = variables()
    optimizer.build(weights)
    graph = tf.function(lambda: fused(optimizer).apply([tf.ones(weight.shape) for weight in weights], weights))
    return [operation.type for operation in graph.get_concrete_function().graph.get_operations()]


def test_each_variable_has_one_operation():
    assert operations(keras.optimizers.Adam()).count("ResourceApplyAdam") == 3
    assert operations(keras.optimizers.AdamW()).count("ResourceApplyAdam") == 3


class Own(keras.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(gradient)


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(amsgrad=True), keras.optimizers.SGD(), Own()])
def test_other_optimizers_are_left_as_they_are(optimizer):
    assert "ResourceApplyAdam" not in operations(optimizer)


def test_a_gradient_of_some_rows():
    table = keras.Variable(np.ones([4, 2], np.float32))
    rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 3]), tf.constant([4, 2]))
    results = []
    for is_fused in (True, False):
        table.assign(np.ones([4, 2], np.float32))
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build([table])
        (fused(optimizer) if is_fused else optimizer).apply([rows], [table])
        results.append(np.array(table))
    np.testing.assert_allclose(*results, rtol=1e-6)
    np.testing.assert_array_equal(results[0][0], 1)
    assert (results[0][1] < 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"])
def test_a_model_trains_by_it_and_its_optimizer_is_what_it_was(policy, tiny_vae, x, dtype_policy):
    dtype_policy(policy)
    vae = tiny_vae()
    vae.compile(keras.optimizers.Adam(0.01))
    optimizer = vae.optimizer
    vae.build_optimizers()
    before = dict(vars(optimizer))
    vae.fit(x, epochs=1, verbose=0)
    assert vae.optimizer is optimizer
    assert vars(optimizer) == before
    step = tf.function(vae.train_step).get_concrete_function(tf.TensorSpec([5, 4]))
    types = [node.op for function in step.graph.as_graph_def().library.function for node in function.node_def]
    types += [operation.type for operation in step.graph.get_operations()]
    assert types.count("ResourceApplyAdam") == len(vae.trainable_variables)
