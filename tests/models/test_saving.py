"""What outlasts a run: files, checkpoints and logs."""

import copy
import csv
import inspect
import io
import json
import pickle

import h5py
import joblib
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvae import VAE
from tfvae.callbacks import Checkpoints, KLWarmUp
from tfvae.likelihoods import ContinuousBernoulli, Normal
from tfvae.objectives import ELBO
from tfvae.posteriors import DiagonalNormal


def compiled(model, optimizer=None, **mode):
    model.compile(optimizer or keras.optimizers.SGD(0.1), **mode)
    return model


def assert_same_weights(model, other):
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


# Files


@keras.saving.register_keras_serializable("test_saving")
class Subclassed(keras.Model):
    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, inputs, training=False):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def state(vae, x):
    """Everything to compare between two models."""
    return {
        "reconstruct": vae.reconstruct(x),
        "log_likelihood": vae.log_likelihood(x, 5, seed=1),
        "latent_dim": vae.latent_dim,
        **{f"weight {index}": weight for index, weight in enumerate(vae.get_weights())},
        **{f"optimizer {index}": variable.numpy() for index, variable in enumerate(vae.optimizer.variables)},
    }


IN_A_FRESH_PROCESS = f"""
import pathlib, sys
import keras, numpy as np, tfvae

{inspect.getsource(state)}

folder = pathlib.Path(sys.argv[1])
x = np.load(folder / "x.npy")
vae = keras.models.load_model(folder / "vae.keras", safe_mode=True)
np.savez(folder / "vae.loaded.npz", **state(vae, x))
vae.fit(x, batch_size=3, shuffle=False, verbose=0)
np.savez(folder / "vae.trained.npz", **state(vae, x))
"""
MODELS = {
    "trained": ("tiny_vae", {"objective": ELBO(beta=2.0, num_samples=3, analytic_kl=False)}, 1),
    "never trained": ("tiny_vae", {"posterior": DiagonalNormal(2), "likelihood": ContinuousBernoulli()}, 0),
    "built by its data": ("lazy_vae", {"likelihood": Normal("learned")}, 1),
}


# The default tests below have the other two in one process.
@pytest.mark.parametrize(
    "kind", [kind if kind == "trained" else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS]
)
def test_a_file_loads_in_a_fresh_process_and_training_goes_on_bit_for_bit(kind, request, run_python, tmp_path):
    x = np.random.default_rng(0).uniform(size=(20, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    builder, arguments, epochs = MODELS[kind]
    vae = compiled(request.getfixturevalue(builder)(**arguments), keras.optimizers.Adam(0.01))
    for _ in range(epochs):
        vae.fit(x, batch_size=3, shuffle=False, verbose=0)
    vae.save(tmp_path / "vae.keras")
    saved = state(vae, x)
    vae.fit(x, batch_size=3, shuffle=False, verbose=0)
    trained = state(vae, x)
    assert len([name for name in trained if name.startswith("optimizer")]) > 20
    run_python(IN_A_FRESH_PROCESS, tmp_path)
    for name, here in (("loaded", saved), ("trained", trained)):
        there = np.load(tmp_path / f"vae.{name}.npz")
        # Keras makes an optimizer's slots at the first step or on loading, so a loaded model may have more.
        assert set(here) <= set(there)
        for name, value in here.items():
            np.testing.assert_array_equal(there[name], value, err_msg=name)


def test_a_subclassed_network_that_is_registered_makes_the_round_trip(x, tiny_vae, tmp_path):
    parts = {"encoder": Subclassed(), "decoder": Subclassed(4), "likelihood": Normal("learned")}
    vae = compiled(tiny_vae(**parts), keras.optimizers.Adam(0.01))
    vae.train_on_batch(x)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    found = state(loaded, x)
    for name, value in state(vae, x).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    "copied",
    [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, by_joblib],
    ids=["pickle", "copy", "joblib"],
)
def test_a_copy_in_memory_has_the_state_of_the_optimizer_too(copied, x, tiny_vae):
    vae = compiled(tiny_vae(), keras.optimizers.Adam(0.01))
    vae.train_on_batch(x)
    found = copied(vae)
    expected = state(vae, x)
    assert set(state(found, x)) == set(expected)
    for name, value in state(found, x).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_without_its_first_data_makes_the_round_trip(x, lazy_vae, tmp_path):
    compiled(lazy_vae()).save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    assert loaded.event_shape is None
    assert np.isfinite(compiled(loaded).fit(x, verbose=0).history["loss"]).all()


def test_a_model_that_is_compiled_but_not_trained_makes_the_round_trip(tiny_vae, tmp_path):
    vae = compiled(tiny_vae(), keras.optimizers.Adam(0.1))
    vae.save(tmp_path / "vae.keras")
    for loaded in (keras.models.load_model(tmp_path / "vae.keras"), pickle.loads(pickle.dumps(vae))):
        assert_same_weights(loaded, vae)
        assert len(loaded.optimizer.variables) == len(vae.optimizer.variables) > 2


@pytest.mark.parametrize("name", ["vae.h5", "vae.weights.h5", "vae.hdf5", "vae.H5"])
def test_hdf5_files_of_whole_models_which_would_not_load_are_refused(name, x, tiny_vae, tmp_path):
    vae, message = compiled(tiny_vae()), r"`filepath` must end in .keras.*`save_weights`.*Received: filepath="
    with pytest.raises(ValueError, match=message):
        vae.save(tmp_path / name)
    if name != "vae.H5":  # Keras itself refuses this name.
        with pytest.raises(ValueError, match=message):
            keras.saving.save_model(vae, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            vae.fit(x, callbacks=keras.callbacks.ModelCheckpoint(tmp_path / "vae.h5"), verbose=0)
    assert int(vae.optimizer.iterations) == 0


def test_weights_alone_go_on_bit_for_bit(x, tiny_vae, tmp_path):
    vae, other = (compiled(tiny_vae(), keras.optimizers.Adam(0.1)) for _ in range(2))
    vae.train_on_batch(x)
    vae.save_weights(tmp_path / "vae.weights.h5")
    other.load_weights(tmp_path / "vae.weights.h5")
    for model in (vae, other):
        model.train_on_batch(x)
    assert_same_weights(other, vae)


def test_weights_of_another_version_load(x, tiny_vae, tmp_path):
    vae, other = (compiled(tiny_vae(encoder=dropout())) for _ in range(2))
    vae.train_on_batch(x)
    vae.save_weights(tmp_path / "vae.weights.h5")
    with h5py.File(tmp_path / "vae.weights.h5", "a") as file:
        for name in ("position", "metrics", "seed_generators"):
            del file["vars"][name]
        assert all(name.isdecimal() for name in file["vars"])
    other.load_weights(tmp_path / "vae.weights.h5")
    assert_same_weights(other, vae)


def dropout():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5)])


# Configuration

ARGUMENTS = {"encoder", "decoder", "latent_dim", "posterior", "prior", "likelihood", "objective"}


def test_the_configuration_is_the_arguments_of_the_constructor(tiny_vae):
    vae = tiny_vae(likelihood=Normal(0.5), objective=ELBO(beta=3.0), name="mine", trainable=False)
    config = vae.get_config()
    text = json.dumps(config)
    assert set(config) == ARGUMENTS | {"name", "trainable", "dtype"}
    assert set(inspect.signature(VAE).parameters) == ARGUMENTS | {"series", "table", "keras_kwargs"}
    again = VAE.from_config(json.loads(text))
    assert json.dumps(again.get_config()) == text
    assert (again.name, again.trainable, again.objective) == ("mine", False, ELBO(beta=3.0))
    assert float(again.likelihood.scale) == 0.5


class NotRegistered(Subclassed):
    pass


def test_from_config_takes_custom_objects(x, tiny_vae):
    config = tiny_vae(encoder=NotRegistered()).get_config()
    again = VAE.from_config(config, custom_objects={"NotRegistered": NotRegistered})
    assert isinstance(again.encoder, NotRegistered)
    assert again.reconstruct(x).shape == x.shape


def test_clone_model_gives_the_same_model_with_new_weights(x, tiny_vae):
    vae = compiled(tiny_vae(likelihood=Normal("learned")), keras.optimizers.Adam(0.5))
    clone = keras.models.clone_model(vae)
    assert clone.get_config() == vae.get_config()
    assert not np.array_equal(clone.get_weights()[1], vae.get_weights()[1])
    before = vae.get_weights()
    compiled(clone).train_on_batch(x)
    for weight, weight_before in zip(vae.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, weight_before)


# Callbacks


def test_model_checkpoint_saves_what_loads(x, quiet_vae, tmp_path):
    checkpoints = [
        keras.callbacks.ModelCheckpoint(
            tmp_path / name, monitor="val_elbo", mode="max", save_best_only=True, save_weights_only="weights" in name
        )
        for name in ("best.keras", "best.weights.h5")
    ]
    vae = compiled(quiet_vae())
    vae.fit(x, validation_data=x, epochs=2, callbacks=checkpoints, verbose=0)
    whole, weights = keras.models.load_model(tmp_path / "best.keras"), quiet_vae()
    assert whole.optimizer.iterations == 2
    weights.load_weights(tmp_path / "best.weights.h5")
    for loaded in (whole, weights):
        np.testing.assert_array_equal(loaded.reconstruct(x), vae.reconstruct(x))
        # The same noise state: the validation of the last epoch ran before the file was written.
        assert_same_weights(loaded, vae)


class Interruption(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


# The default tests in training/test_resume.py resume by it too.
@pytest.mark.slow
def test_backup_and_restore_goes_on_bit_for_bit_where_training_was_interrupted(x, tiny_vae, tmp_path):
    vae, resumed = compiled(tiny_vae()), compiled(tiny_vae())
    resumed.set_weights(vae.get_weights())
    arguments = {"batch_size": 3, "epochs": 3, "shuffle": False, "verbose": 0}
    vae.fit(x, **arguments)
    with pytest.raises(KeyboardInterrupt):
        resumed.fit(x, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), Interruption()], **arguments)
    history = resumed.fit(x, callbacks=keras.callbacks.BackupAndRestore(tmp_path), **arguments)
    assert history.epoch == [1, 2]
    assert_same_weights(resumed, vae)


def test_fit_starts_at_its_own_epoch_again_after_a_training_that_was_resumed(x, known_model, tmp_path):
    model = known_model()
    model.fit(x, epochs=2, callbacks=Checkpoints(tmp_path / "first"), verbose=0)
    assert model.fit(x, epochs=3, callbacks=Checkpoints(tmp_path / "first"), verbose=0).epoch == [2]
    assert model.fit(x, epochs=1, callbacks=Checkpoints(tmp_path / "second"), verbose=0).epoch == [0]
    assert model.fit(x, epochs=2, verbose=0).epoch == [0, 1]


def test_weights_that_are_loaded_before_fit_do_not_make_it_go_on(x, known_model, tmp_path):
    model = known_model()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True, save_freq=7)
    model.fit(x, batch_size=4, epochs=2, callbacks=checkpoint, verbose=0)
    model.load_weights(tmp_path / "2.weights.h5")
    assert model.progress == (1, 2)
    load = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: model.load_weights(tmp_path / "2.weights.h5"))
    for callback in (None, load):
        before = int(model.optimizer.iterations)
        assert model.fit(x, batch_size=4, epochs=2, callbacks=callback, verbose=0).epoch == [0, 1]
        assert int(model.optimizer.iterations) == (before if callback is None else 7) + 10


@pytest.mark.slow
def test_a_model_that_was_saved_in_mid_training_is_trained_anew_with_the_whole_divergence(x, tiny_vae, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "middle.keras", save_freq=3)
    compiled(tiny_vae()).fit(x, batch_size=5, callbacks=[KLWarmUp(4), checkpoint], verbose=0)
    loaded = keras.saving.load_model(tmp_path / "middle.keras")
    assert loaded.progress == (0, 3)
    assert loaded.kl_weight == 1.0
    assert loaded.fit(x, batch_size=5, verbose=0).epoch == [0]
    assert loaded.optimizer.iterations == 7


class Back(keras.callbacks.Callback):
    """Loads, after the second epoch, the weights of the first."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.save_weights(self.path)
        if epoch == 1:
            self.model.load_weights(self.path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "dataset"])
def test_weights_that_are_loaded_in_mid_training_do_not_move_it(kind, x, known_model, tmp_path):
    endless = tf.data.Dataset.from_tensor_slices(x).batch(5).repeat()
    data = {"array": {"x": x, "batch_size": 7}, "dataset": {"x": endless, "steps_per_epoch": 3}}[kind]
    model = known_model()
    start = model.get_weights()
    expected = model.fit(**data, epochs=4, verbose=0).history["kl"]
    again = known_model()
    again.set_weights(start)
    history = again.fit(**data, epochs=4, callbacks=Back(tmp_path / "first.weights.h5"), verbose=0).history
    assert history["kl"] == expected
    # The three steps of the second epoch are lost.
    assert again.optimizer.iterations == 9
    assert again.progress == (4, 0)


def test_early_stopping_and_a_csv_log_follow_the_bound(x, known_model, tmp_path):
    callbacks = [
        keras.callbacks.EarlyStopping("val_elbo", mode="max", patience=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = known_model().fit(x, validation_data=x, epochs=9, callbacks=callbacks, verbose=0).history
    # With no improvement after the first epoch, training stops after two more.
    assert len(history["loss"]) == 3
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["val_elbo"]) for row in rows] == pytest.approx(history["val_elbo"], rel=1e-5)


def test_tensorboard_logs_are_written(x, known_model, tmp_path):
    known_model().fit(x, validation_data=x, callbacks=[keras.callbacks.TensorBoard(tmp_path)], verbose=0)
    assert {path.parent.name for path in tmp_path.glob("*/events*")} == {"train", "validation"}
