"""Training that is cut and resumed ends bit for bit as one that was not cut."""

import json
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae.callbacks import Checkpoints, KLWarmUp
from tfvae.likelihoods import Bernoulli, Normal

EPOCHS = 3
# 7 steps in an epoch.
BATCH_SIZE = 3
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
X_VALIDATION = np.random.default_rng(1).normal(size=(10, 4)).astype("float32")


class Trainee:
    """A model with all that has a state. To start as in a new process it is scrambled, which is faster than a new one."""

    def __init__(self, steps_per_execution=1, likelihood=None, **compile_arguments):
        layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
        encoder = keras.Sequential([*layers, keras.layers.Dropout(0.3)])
        decoder = tfvae.networks.dense_decoder(2, (4,), hidden=(8,))
        self.model = tfvae.VAE(encoder, decoder, 2, likelihood=likelihood or Normal("learned"))
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 40))
        self.model.compile(optimizer, steps_per_execution=steps_per_execution, **compile_arguments)
        optimizer.build(self.model.trainable_variables)
        self._start = self.state()
        self._references = {}

    def variables(self):
        model = self.model
        return [*{id(v): v for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)}.values()]

    def state(self):
        return [variable.numpy() for variable in self.variables()]

    def begin(self):
        """As at first."""
        self._new(self._start)

    def scramble(self):
        """As in a process with another seed."""
        seed = int(np.random.default_rng().integers(2**31))
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        self._new([rng.integers(1, 9, size=value.shape).astype(value.dtype) for value in self._start])

    def _new(self, values):
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)
        self.model._progress.__init__()
        self.model.kl_weight.assign(0.7)

    def fit(self, arguments, *callbacks):
        """What a training leaves, and the history."""
        given = {"validation_data": X_VALIDATION, "epochs": EPOCHS, "verbose": 0, **arguments()}
        history = self.model.fit(**given, callbacks=[KLWarmUp(12), *callbacks])
        return self.state(), history

    def reference(self, arguments):
        """What a training leaves that is not cut."""
        if arguments not in self._references:
            self.begin()
            self._references[arguments] = self.fit(arguments)
        return self._references[arguments]


class Cut(keras.callbacks.Callback):
    """Interrupts the training after a step of an epoch, or in its validation; before any other callback saves."""

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


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    def __init__(self, folder, save_freq):
        super().__init__(folder, save_freq=save_freq)


@pytest.fixture(scope="module")
def trainee():
    """A builder of one `Trainee` for each choice of arguments."""
    made = {}

    def build(steps_per_execution=1, binary=False):
        key = steps_per_execution, binary
        if key not in made:
            keras.utils.set_random_seed(1)
            made[key] = Trainee(steps_per_execution, Bernoulli() if binary else None)
        return made[key]

    return build


def train_cut(trainee, arguments, cut, *callbacks):
    trainee.begin()
    with pytest.raises(KeyboardInterrupt):
        trainee.fit(arguments, cut, *callbacks)


def assert_resumes(trainee, arguments, make_saver, cut, first_epoch=None):
    """Cuts a training, goes on with it, and compares with one that was not cut."""
    expected_state, expected_history = trainee.reference(arguments)
    train_cut(trainee, arguments, cut, make_saver())
    trainee.scramble()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`x` is shuffled")
        state, history = trainee.fit(arguments, make_saver())
    if first_epoch is not None:
        assert history.epoch == list(range(first_epoch, EPOCHS))
    for name, values in history.history.items():
        assert values == expected_history.history[name][history.epoch[0] :], name
    for index, (value, expected) in enumerate(zip(state, expected_state, strict=True)):
        np.testing.assert_array_equal(value, expected, err_msg=str(index))


def arrays():
    return {"x": X, "batch_size": BATCH_SIZE}


CUTS = {
    "first step": Cut(0, 1),
    "first epoch": Cut(0, 5),
    "last step of an epoch": Cut(0, 7),
    "step of the second epoch": Cut(1, 3),
    "last step of all": Cut(2, 7),
    "validation": Cut(1, 0, in_validation=True),
    "last validation": Cut(2, 0, in_validation=True),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("save_freq", ["epoch", 4])
@pytest.mark.parametrize("saver", [Checkpoints, BackupAndRestore])
def test_a_training_goes_on_wherever_it_was_cut(saver, save_freq, steps_per_execution, cut, trainee, tmp_path):
    at = CUTS[cut]
    # Keras has written nothing by then: the process begins with its seed.
    if saver is BackupAndRestore and at.at < (0, 5 if save_freq == 4 else 8):
        pytest.skip("nothing to resume")
    epoch = at.at[0] if saver is Checkpoints or save_freq == 4 or at.at[0] else 0
    assert_resumes(trainee(steps_per_execution), arrays, lambda: saver(tmp_path, save_freq), at, epoch)


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


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("kind", DATA)
def test_a_training_goes_on_with_the_data_that_come_next(kind, steps_per_execution, trainee, tmp_path):
    chosen = trainee(steps_per_execution, binary=kind == "tfvae.data")
    assert_resumes(chosen, DATA[kind], lambda: Checkpoints(tmp_path, 2), Cut(2, 3), 2)
