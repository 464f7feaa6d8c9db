"""Training that is interrupted and resumed ends bit for bit like one that was not interrupted."""

import inspect
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae.callbacks import Checkpoints, KLWarmUp
from tfvae.likelihoods import Normal

EPOCHS = 3
# 7 steps in an epoch.
BATCH_SIZE = 3
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
VALIDATION = tf.data.Dataset.from_tensor_slices(X[:10] ** 2).batch(4)


class Trainee:
    """A model with every kind of state; to scramble it is as good a test as a new process, and faster."""

    def __init__(self, steps_per_execution=1):
        layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
        encoder = keras.Sequential([*layers, keras.layers.Dropout(0.3)])
        decoder = tfvae.networks.dense_decoder(2, (4,), hidden=(8,))
        self.model = tfvae.VAE(encoder, decoder, 2, likelihood=Normal("learned"))
        rate = keras.optimizers.schedules.CosineDecay(0.02, 40)
        optimizer = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.7)
        self.model.compile(optimizer, steps_per_execution=steps_per_execution)
        optimizer.build(self.model.trainable_variables)
        self._start = self.state()
        self._references = {}

    def variables(self):
        model = self.model
        return [*{id(v): v for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)}.values()]

    def state(self):
        return [variable.numpy() for variable in self.variables()]

    def begin(self):
        """Restores the initial state."""
        self._new(self._start)

    def scramble(self):
        """Sets a random state, like that of a process with another seed."""
        seed = int(np.random.default_rng().integers(2**31))
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        self._new([rng.integers(1, 9, size=value.shape).astype(value.dtype) for value in self._start])

    def _new(self, values):
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)
        self.model._progress.__init__()

    def fit(self, arguments, *callbacks):
        """The state after a training, and the history."""
        given = {"validation_data": VALIDATION, "epochs": EPOCHS, "verbose": 0, **arguments()}
        history = self.model.fit(**given, callbacks=[KLWarmUp(12), *callbacks])
        return self.state(), history

    def reference(self, arguments):
        """The state after an uninterrupted training, and the history."""
        if arguments not in self._references:
            self.begin()
            self._references[arguments] = self.fit(arguments)
        return self._references[arguments]


class Cut(keras.callbacks.Callback):
    """Interrupts the training after a step of an epoch or in its validation, before any other callback saves."""

    def __init__(self, epoch, step, in_validation=False):
        super().__init__()
        self.at = epoch, step
        self.in_validation = in_validation

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not self.in_validation and self.epoch == self.at[0] and batch + 1 >= self.at[1]:
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch, logs=None):
        if self.in_validation and self.epoch == self.at[0]:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trainee():
    """Makes one `Trainee` for each number of steps in an execution."""
    made = {}

    def build(steps_per_execution=1):
        if steps_per_execution not in made:
            keras.utils.set_random_seed(1)
            made[steps_per_execution] = Trainee(steps_per_execution)
        return made[steps_per_execution]

    return build


def train_cut(trainee, arguments, cut, *callbacks):
    trainee.begin()
    with pytest.raises(KeyboardInterrupt):
        trainee.fit(arguments, cut, *callbacks)


def assert_ends_the_same(trainee, arguments, saver):
    """Resumes a training that was interrupted, and compares it with one that was not."""
    expected_state, expected_history = trainee.reference(arguments)
    trainee.scramble()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`x` is shuffled")
        state, history = trainee.fit(arguments, saver)
    for name, values in history.history.items():
        assert values == expected_history.history[name][history.epoch[0] :], name
    for index, (value, expected) in enumerate(zip(state, expected_state, strict=True)):
        np.testing.assert_array_equal(value, expected, err_msg=str(index))
    return history.epoch


def arrays():
    return {"x": X, "batch_size": BATCH_SIZE}


SAVERS = {"Checkpoints": Checkpoints, "BackupAndRestore": keras.callbacks.BackupAndRestore}
CUTS = {
    "first step": Cut(0, 1),
    "first epoch": Cut(0, 5),
    "last step of an epoch": Cut(0, 7),
    "second epoch": Cut(1, 3),
    "validation": Cut(1, 0, in_validation=True),
    "last step": Cut(2, 7),
    "last validation": Cut(2, 0, in_validation=True),
}
CASES = [
    *(("Checkpoints", 3, 3, cut) for cut in CUTS),
    *(("BackupAndRestore", 2, 1, cut) for cut in CUTS if cut != "first step"),
    *((saver, "epoch", 3, cut) for saver in SAVERS for cut in ("second epoch", "last validation")),
    *(("Checkpoints", save_freq, 1, "last step of an epoch") for save_freq in ("epoch", 4)),
    ("BackupAndRestore", "epoch", 1, "validation"),
    ("BackupAndRestore", 4, 3, "last step"),
]


# In a validation and in an epoch; each saver. Checkpoints at the ends of epochs are those of a training that has ended.
SOME = [("Checkpoints", 3, 3, "validation"), ("BackupAndRestore", 2, 1, "second epoch")]


@pytest.mark.parametrize(
    ("saver", "save_freq", "steps_per_execution", "cut"),
    [case if case in SOME else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_training_goes_on_wherever_it_was_cut(saver, save_freq, steps_per_execution, cut, trainee, tmp_path):
    def make_saver():
        return SAVERS[saver](tmp_path, save_freq=save_freq)

    train_cut(trainee(steps_per_execution), arrays, CUTS[cut], make_saver())
    epochs = assert_ends_the_same(trainee(steps_per_execution), arrays, make_saver())
    assert epochs == list(range(CUTS[cut].at[0], EPOCHS))


@pytest.mark.slow
@pytest.mark.parametrize("note", ['{"epo', None, ""])
def test_keras_may_be_cut_while_it_writes_the_weights_and_its_note_of_the_epoch(note, trainee, tmp_path):
    def make_saver():
        return keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)

    train_cut(trainee(), arrays, Cut(1, 5), make_saver())
    path = tmp_path / "training_metadata.json"
    path.unlink()
    if note is not None:
        path.write_text(note)
    assert assert_ends_the_same(trainee(), arrays, make_saver()) == [1, 2]


def test_what_a_kill_left_of_a_backup_is_removed(x, known_model, tmp_path):
    found = []
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: found.extend(tmp_path.iterdir()))
    (tmp_path / ".tmp-1234-latest.weights.h5").write_bytes(b"half")
    known_model().fit(x, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), begin], verbose=0)
    assert found == []


@pytest.mark.slow
def test_a_training_may_be_cut_again_before_it_is_where_it_was(trainee, tmp_path):
    train_cut(trainee(3), arrays, Cut(1, 7), Checkpoints(tmp_path, 3))
    trainee(3).scramble()
    with pytest.raises(KeyboardInterrupt):
        trainee(3).fit(arrays, Checkpoints(tmp_path, 3), Cut(1, 1))
    assert assert_ends_the_same(trainee(3), arrays, Checkpoints(tmp_path, 3)) == [1, 2]


def test_a_training_that_has_ended_goes_on_with_more_epochs(trainee, tmp_path):
    trainee().begin()
    trainee().fit(lambda: {**arrays(), "epochs": 2}, Checkpoints(tmp_path))
    assert assert_ends_the_same(trainee(), arrays, Checkpoints(tmp_path)) == [2]


# Tests in distribute/test_kills.py, which are slow too, resume in other processes.
@pytest.mark.slow
def test_another_model_of_another_seed_goes_on(trainee, tmp_path):
    train_cut(trainee(), arrays, Cut(1, 5), Checkpoints(tmp_path, 2))
    keras.utils.set_random_seed(5)
    other = Trainee()
    state, history = other.fit(arrays, Checkpoints(tmp_path, 2))
    expected_state, expected_history = trainee().reference(arrays)
    assert history.history == {name: values[1:] for name, values in expected_history.history.items()}
    for value, expected in zip(state, expected_state, strict=True):
        np.testing.assert_array_equal(value, expected)


# Data


def generator(x):
    while True:
        for start in range(0, len(x) - 1, BATCH_SIZE):
            yield (x[start : start + BATCH_SIZE],)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return (X[BATCH_SIZE * index : BATCH_SIZE * (index + 1)],)


def in_unit_interval(x):
    return 1 / (1 + np.exp(-x))


def binarised():
    pipelines = tfvae.data.load(in_unit_interval(X), batch_size=BATCH_SIZE, binarize="dynamic")
    return {"x": pipelines.train, "validation_data": pipelines.validation}


def dataset():
    return tf.data.Dataset.from_tensor_slices(X).batch(BATCH_SIZE)


DATA = {
    "arrays": arrays,
    "weighted arrays": lambda: {**arrays(), "sample_weight": np.linspace(0, 2, 20)},
    "arrays and steps": lambda: {"x": X, "steps_per_epoch": 7},
    "arrays and few steps": lambda: {**arrays(), "steps_per_epoch": 4},
    "arrays in order and steps": lambda: {"x": X, "steps_per_epoch": 7, "shuffle": False},
    "validation_split": lambda: {**arrays(), "validation_split": 0.2, "validation_data": None},
    "tfvae.data": binarised,
    "dataset": lambda: {"x": dataset()},
    "dataset and few steps": lambda: {"x": dataset(), "steps_per_epoch": 4},
    "repeated dataset": lambda: {"x": dataset().repeat(), "steps_per_epoch": 5},
    "generator": lambda: {"x": generator(X), "steps_per_epoch": 5},
    "PyDataset": lambda: {"x": Batches(), "shuffle": False},
}


ENDLESS = ["arrays and few steps", "dataset and few steps", "repeated dataset", "generator"]
# The other kinds resemble one of these.
SOME_DATA = ["arrays and few steps", "tfvae.data", "generator"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "steps_per_execution"),
    [
        *((kind, 3) if kind in SOME_DATA else pytest.param(kind, 3, marks=pytest.mark.slow) for kind in DATA),
        *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in ENDLESS),
    ],
)
def test_a_training_goes_on_with_the_data_that_come_next(kind, steps_per_execution, trainee, tmp_path):
    chosen = trainee(steps_per_execution)
    train_cut(chosen, DATA[kind], Cut(2, 3), Checkpoints(tmp_path, 2))
    assert assert_ends_the_same(chosen, DATA[kind], Checkpoints(tmp_path, 2)) == [2]


SHORT = {"epochs": 2, "validation_data": None}
SHUFFLED = {
    "tf.data": lambda: {"x": dataset().unbatch().shuffle(20).batch(3).map(lambda x: x), **SHORT},
    "PyDataset": lambda: {"x": Batches(), **SHORT},
    'shuffle="batch"': lambda: {"x": X, "shuffle": "batch", "batch_size": BATCH_SIZE, **SHORT},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf.data", pytest.param("PyDataset", marks=pytest.mark.slow), 'shuffle="batch"'])
def test_an_order_that_starts_anew_gives_a_warning(kind, trainee, tmp_path, recwarn):
    train_cut(trainee(), SHUFFLED[kind], Cut(1, 1), Checkpoints(tmp_path))
    assert not [warning for warning in recwarn if "shuffled" in str(warning.message)]
    trainee().scramble()
    with pytest.warns(UserWarning, match="`x` is shuffled by `tf.data` or Keras, whose order starts anew"):
        trainee().fit(SHUFFLED[kind], Checkpoints(tmp_path))


# The contents of a file


@pytest.mark.filterwarnings("ignore:Skipping")
def test_weights_of_a_model_with_other_random_layers_are_refused(trainee, tiny_vae, tmp_path):
    trainee().model.fit(X, batch_size=BATCH_SIZE, callbacks=Checkpoints(tmp_path), verbose=0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.BatchNormalization()])
    other = tiny_vae(encoder=encoder, likelihood=Normal("learned"))
    other.compile("adam")
    with pytest.raises(ValueError, match=r"model with 0 layers that draw random numbers\. Received: .* one with 1"):
        other.fit(X, callbacks=Checkpoints(tmp_path), verbose=0)


class Measured(keras.layers.Layer):
    """A layer with metrics of several shapes."""

    def __init__(self):
        super().__init__()
        self.measured = [keras.metrics.AUC(num_thresholds=5), keras.metrics.Mean(name="first")]

    def call(self, inputs):
        self.measured[1].update_state(inputs[:, 0])
        return inputs


def test_the_metrics_of_a_layer_are_saved_whatever_their_shape(x, tiny_vae, tmp_path):
    vae = tiny_vae(encoder=keras.Sequential([keras.Input((4,)), Measured(), keras.layers.Dense(8)]))
    vae.compile("adam")
    vae.test_on_batch(x)
    vae.save_weights(tmp_path / "vae.weights.h5")
    with h5py.File(tmp_path / "vae.weights.h5") as file:
        saved = file["vars"]["metrics"][:]
    expected = [variable.numpy().ravel() for variable in vae.metrics_variables]
    assert {len(values) for values in expected} == {1, 5}
    np.testing.assert_array_equal(saved, np.concatenate(expected))


# Several replicas

MIRRORED = f"""
import sys
import tfvae

strategy = tfvae.strategy("mirrored", devices=2)
import keras, numpy as np, tensorflow as tf
from tfvae.callbacks import Checkpoints

{inspect.getsource(Cut)}

x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
arguments = {{"x": x, "batch_size": 3, "epochs": 3, "validation_data": x[:10], "verbose": 0}}


def build(seed, steps_per_execution):
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.3)])
        model = tfvae.VAE(encoder, tfvae.networks.dense_decoder(2, (4,), (8,)), 2)
        model.compile(keras.optimizers.Adam(0.02), steps_per_execution=steps_per_execution)
    return model


folder, steps_per_execution = sys.argv[1], int(sys.argv[2])
expected = build(0, steps_per_execution)
history = expected.fit(**arguments).history
try:
    build(0, steps_per_execution).fit(**arguments, callbacks=[Cut(1, 5), Checkpoints(folder, 2)])
except KeyboardInterrupt:
    pass
model = build(1, steps_per_execution)
found = model.fit(**arguments, callbacks=Checkpoints(folder, 2))
assert found.epoch == [1, 2], found.epoch
for name, values in found.history.items():
    # A metric that is restored is divided among the replicas, which may round it.
    np.testing.assert_allclose(values, history[name][1:], rtol=1e-6, err_msg=name)
for value, other in zip(model.get_weights(), expected.get_weights(), strict=True):
    np.testing.assert_array_equal(value, other)
"""


# Tests in distribute/test_kills.py, which are slow too, resume two workers.
@pytest.mark.slow
@pytest.mark.parametrize("steps_per_execution", [3, 1])
def test_a_training_of_two_replicas_goes_on(steps_per_execution, run_python, tmp_path):
    run_python(MIRRORED, tmp_path, steps_per_execution)
