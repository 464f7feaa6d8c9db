"""How steps run if `compile` leaves it open: the number of operations against TensorFlow's count, and the choice."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tests.helpers.following import Following
from tfvae import VAE, callbacks, likelihoods, networks, objectives, posteriors, private_apis
from tfvae.cli.progress import ProgressLine
from tfvae.training import plan, trainer
from tfvae.training.fit_arguments import read_fit
from tfvae.training.plan import LayerTraits
from tfvae.training.resume import Progress


def counted_by_tensorflow(network, shape):
    """The floating-point operations of the products and convolutions in the graph of a network, for one example."""
    function = tf.function(lambda x: network(x)).get_concrete_function(tf.TensorSpec([1, *shape], tf.float32))
    graph = convert_variables_to_constants_v2(function).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    options = options.with_empty_output().with_node_names(show_name_regexes=[".*(MatMul|onv2d|onv).*"]).build()
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


NETWORKS = {
    "dense": (networks.dense_encoder((9, 5), (20, 7)), (9, 5)),
    "no graph of layers": (keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(3)]), (4,)),
    "dense decoder": (networks.dense_decoder(6, (9, 5), (20,)), (6,)),
    "convolutional": (networks.convolutional_encoder((12, 10, 3), (8, 4), (5,)), (12, 10, 3)),
    "transposed": (networks.convolutional_decoder(6, (12, 10, 3), (8, 4), (5,)), (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_that_tensorflow_counts(name):
    network, shape = NETWORKS[name]
    expected = counted_by_tensorflow(network, shape)
    # TensorFlow also counts the additions of biases.
    assert LayerTraits.of(network._flatten_layers()).operations == pytest.approx(expected, rel=0.1)


class OwnProduct(keras.layers.Layer):
    """A user-defined layer, whose weights do not have Keras's names."""

    def __init__(self, shape):
        super().__init__()
        self.w, self.b = self.add_weight(shape=shape), self.add_weight(shape=shape[-1:])

    def call(self, x):
        product = tf.matmul(x, self.w) if len(self.w.shape) == 2 else tf.nn.conv2d(x, self.w, 1, "SAME")
        return product + self.b


@pytest.mark.parametrize(
    ("layer", "shape", "expected", "is_fast"),
    [
        (lambda: OwnProduct((4, 5)), (4,), 2 * 4 * 5, True),
        (lambda: OwnProduct((3, 3, 2, 5)), (8, 7, 2), 2 * 3 * 3 * 2 * 5 * 8 * 7, False),
        (lambda: keras.layers.GRU(6), (7, 5), math.inf, False),
    ],
    ids=["own dense", "own convolution", "recurrent"],
)
def test_layers_of_other_kinds_are_known_or_their_operations_are_not(layer, shape, expected, is_fast):
    network = keras.Sequential([keras.Input(shape), layer()])
    assert LayerTraits.of(network._flatten_layers()).operations == expected
    assert LayerTraits.of(network._flatten_layers()).are_fast_by_xla == is_fast


def test_the_operations_of_convolutions_in_no_graph_of_layers_are_not_known():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(5, 3)

        def call(self, x):
            return self.convolution(x)

    network = Own()
    network(tf.zeros([1, 8, 8, 1]))
    assert LayerTraits.of(network._flatten_layers()).operations == math.inf


def batches_seen(**hooks):
    return type("Seen", (keras.callbacks.Callback,), {name: lambda self, *_, **__: None for name in hooks})()


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (keras.callbacks.Callback(), 100),
        (keras.callbacks.EarlyStopping(), 100),
        (keras.callbacks.TerminateOnNaN(), 100),
        (keras.callbacks.ModelCheckpoint("a.keras"), 100),
        (keras.callbacks.ModelCheckpoint("a.keras", save_freq=7), 1),
        (keras.callbacks.TensorBoard(), 100),
        (keras.callbacks.TensorBoard(update_freq=5), 1),
        (keras.callbacks.BackupAndRestore("a"), 100),
        (callbacks.Checkpoints("a"), 100),
        (callbacks.Checkpoints("a", save_freq=7), 1),
        (callbacks.KLWarmUp(5), 100),
        (keras.callbacks.TensorBoard(profile_batch=2), 1),
        (type("Own", (keras.callbacks.ModelCheckpoint,), {"on_train_batch_end": lambda *_: None})("a.keras"), 1),
        (keras.callbacks.LambdaCallback(on_epoch_end=print), 100),
        (keras.callbacks.LambdaCallback(on_train_batch_end=print), 1),
        (batches_seen(on_train_batch_begin=True), 1),
        (batches_seen(on_batch_end=True), 1),
        (batches_seen(on_test_batch_end=True), 100),
        (ProgressLine(), 100),
    ],
)
def test_a_callback_that_looks_at_batches_sees_each(callback, expected):
    assert plan.choose_steps(1e9, None, math.inf, [keras.callbacks.EarlyStopping(), callback]) == expected


@pytest.mark.parametrize(
    ("operations", "steps_per_epoch", "batches", "expected"),
    [
        (1e9, None, math.inf, 100),
        (1e9, None, 7, 7),
        (0.0, None, math.inf, 500),
        (3e10, None, 7, 3),
        (1e12, None, math.inf, 1),
        (math.inf, None, 7, 1),
        (1e9, 60, math.inf, 60),
        (1e9, 150, math.inf, 75),
        (1e9, 101, math.inf, 1),
        (1e12, 60, math.inf, 1),
        (1e9, 60, 45, 30),
    ],
)
def test_an_execution_takes_about_a_second_and_divides_an_epoch_that_is_no_pass(
    operations, steps_per_epoch, batches, expected
):
    assert plan.choose_steps(operations, steps_per_epoch, batches, []) == expected


def planned(model, x, **arguments):
    """The plan of a `fit` with these arguments."""
    return plan.make_plan(model, Progress(), read_fit(model, lambda: 0, x, **arguments), False)


class Steps(keras.callbacks.Callback):
    """Records the steps per execution of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(self.model.plan.steps_per_execution)


def test_fit_trains_as_one_step_at_a_time_does(tiny_vae, x):
    vae = tiny_vae()
    vae.compile(keras.optimizers.Adam(0.01))
    vae.build_optimizers()
    start, results = [variable.numpy() for variable in (*vae.variables, *vae.optimizer.variables)], []
    for look_at_batches in (False, True):
        # The same model from the same state, because a second one would be traced again.
        for variable, value in zip((*vae.variables, *vae.optimizer.variables), start, strict=True):
            variable.assign(value)
        vae._progress.__init__()
        steps = Steps()
        extra = [batches_seen(on_train_batch_end=True)] if look_at_batches else []
        arguments = {"batch_size": 3, "epochs": 3, "validation_split": 0.25, "callbacks": [steps, *extra]}
        history = vae.fit(x, verbose=0, **arguments).history
        assert steps.seen == [1 if look_at_batches else 5] * 3
        assert vae.steps_per_execution == 1
        assert int(vae.optimizer.iterations) == 15
        results.append((history, vae.get_weights(), vae.evaluate(x, verbose=0, return_dict=True)))
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


@pytest.mark.parametrize("kind", ["compiled", "eager", "steps_per_epoch", "wide", "samples"])
def test_how_many_steps_fit_runs_at_once(kind, tiny_vae, x):
    expected = {"compiled": 2, "eager": 1, "steps_per_epoch": 14, "wide": 14, "samples": 4}[kind]
    arguments = {"steps_per_epoch": 14, "epochs": 2} if kind == "steps_per_epoch" else {}
    if kind in ("wide", "samples"):
        encoder, decoder = networks.dense_encoder((4,), (3000, 3000)), networks.dense_decoder(2, (4,), (3000,))
        objective = objectives.IWAE(3) if kind == "samples" else None
        vae = VAE(encoder, decoder, 2, likelihood=likelihoods.Normal(), objective=objective)
        arguments = {"batch_size": 128}
        x = np.resize(x, (15 * 128, 4))
    else:
        vae = tiny_vae()
    vae.compile("sgd", steps_per_execution=2 if kind == "compiled" else 1, run_eagerly=kind == "eager")
    if kind == "steps_per_epoch":
        x = tf.data.Dataset.from_tensor_slices(x).repeat().batch(5)
    assert planned(vae, x, **arguments).steps_per_execution == expected


DENSE = [keras.layers.Dense(3), keras.layers.Activation("tanh"), keras.layers.Flatten()]
for layer in DENSE:
    layer.build((None, 4))


def test_xla_is_for_dense_layers():
    assert LayerTraits.of(DENSE).are_dense
    convolution = keras.layers.Conv2D(2, 3)
    convolution.build((None, 8, 8, 1))
    assert not LayerTraits.of([*DENSE, convolution]).are_dense
    for other in (keras.layers.SeparableConv1D(2, 3), keras.layers.LSTM(3).cell):
        other.build((None, 8, 4) if "Conv" in type(other).__name__ else (None, 4))
        assert not LayerTraits.of([*DENSE, other]).are_dense
    without_xla = keras.layers.Dropout(0.5)
    without_xla.supports_jit = False
    assert not LayerTraits.of([*DENSE, without_xla]).are_dense


def test_xla_is_not_for_bfloat16():
    layer = keras.layers.Dense(3, dtype="mixed_bfloat16")
    layer.build((None, 4))
    assert LayerTraits.of([layer]).are_dense
    assert not LayerTraits.of([*DENSE, layer]).are_fast_by_xla


def test_xla_is_not_for_random_numbers_that_it_makes_slowly():
    assert LayerTraits.of([*DENSE, posteriors.DiagonalNormal(2), posteriors.CouplingFlow(2)]).are_fast_by_xla
    for layer in (keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1), posteriors.Laplace(2)):
        assert LayerTraits.of([*DENSE, layer]).are_dense
        assert not LayerTraits.of([*DENSE, layer]).are_fast_by_xla


class Once(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@pytest.fixture
def loops_by_xla(monkeypatch):
    """Lists the models for which XLA compiles many steps together."""
    made = []
    make = trainer.Loop.__init__

    def init(self, model, progress, by_xla):
        made.extend([model] * by_xla)
        make(self, model, progress, by_xla)

    monkeypatch.setattr(trainer.Loop, "__init__", init)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiled", "batch_size", "look_at_batches", "expected"),
    [
        ({}, 4, False, True),
        pytest.param({}, 20, False, False, marks=pytest.mark.slow),
        ({}, 4, True, False),
        pytest.param({"jit_compile": False}, 4, False, False, marks=pytest.mark.slow),
        ({"run_eagerly": True}, 20, False, False),
        pytest.param({"jit_compile": True}, 20, True, True, marks=pytest.mark.slow),
    ],
)
def test_xla_compiles_long_trainings_unless_a_callback_sees_batches(
    compiled, batch_size, look_at_batches, expected, loops_by_xla, tiny_vae, x
):
    vae = tiny_vae()
    vae.compile(keras.optimizers.Adam(0.01), **compiled)
    more = [batches_seen(on_train_batch_end=True)] if look_at_batches else []
    arguments = {"batch_size": batch_size, "epochs": 1700, "callbacks": [Once(), *more], "verbose": 0}
    vae.fit(x, validation_data=(x,), **arguments)
    assert len(loops_by_xla) == expected


def test_what_compile_left_open_remains_so_in_a_file(tiny_vae, x, tmp_path):
    for number, mode in enumerate([{}, {"jit_compile": False}]):
        vae = tiny_vae()
        vae.compile(keras.optimizers.Adam(0.01), **mode)
        vae.build_optimizers()
        vae.save(tmp_path / f"{number}.keras")
        loaded = keras.models.load_model(tmp_path / f"{number}.keras")
        assert private_apis.leaves_jit_compile_open(loaded) is not bool(mode)
        assert planned(loaded, x, batch_size=4, epochs=1700).by_xla is not bool(mode)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_count_their_steps(count, x):
    batches = tf.data.Dataset.from_generator(lambda: iter(x), output_signature=tf.TensorSpec([4], tf.float32)).batch(5)
    assert batches.cardinality() == tf.data.UNKNOWN_CARDINALITY
    model = Following()
    model.compile(keras.optimizers.Adam(0.01), steps_per_execution=count)
    model.fit(batches, epochs=2, verbose=0, callbacks=[batches_seen(on_train_batch_end=True)])
    assert int(model.optimizer.iterations) == 8
