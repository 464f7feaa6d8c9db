"""The training step: how often it is traced, and several losses, each with its own variables and optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers.following import Following
from tests.helpers.players import Players, played, players
from tfvae.callbacks import Checkpoints
from tfvae.objectives import PIWAE
from tfvae.training.step import Minimizer


@pytest.fixture
def traces(monkeypatch):
    """Counts how often `train_step` runs in Python, which is once for each trace."""
    found = []
    train_step = tfvae.VariationalModel.train_step
    monkeypatch.setattr(tfvae.VariationalModel, "train_step", lambda *a: found.append(a) or train_step(*a))
    return found


# One with a smaller last batch is the harder.
EASIER = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("arrays", "dataset", "dataset with a rest")]


@pytest.mark.parametrize("kind", [*EASIER, "arrays with a rest", pytest.param("strategy", marks=pytest.mark.slow)])
def test_the_first_fit_traces_the_step_once(kind, traces, tiny_vae, x):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0") if kind == "strategy" else tf.distribute.get_strategy()
    with strategy.scope():
        vae = tiny_vae()
        vae.compile(keras.optimizers.Adam(0.01))
    batch_size = 8 if "rest" in kind else 5
    data = tf.data.Dataset.from_tensor_slices(x).batch(batch_size) if "dataset" in kind else x
    arguments = {} if "dataset" in kind else {"batch_size": batch_size}
    vae.fit(data, epochs=2, verbose=0, **arguments)
    assert int(vae.optimizer.iterations) == 2 * -(-20 // batch_size)
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "expected"), [(5, 1), (8, 2)])
def test_a_smaller_last_batch_beside_xla_is_traced_by_itself(batch_size, expected, traces, x):
    model = Following()
    model.compile(keras.optimizers.Adam(0.01), jit_compile=True)
    model.fit(x, batch_size=batch_size, epochs=2, verbose=0)
    assert len(traces) == expected


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_loss_moves_its_variables_by_its_optimizer(jit_compile, x):
    model = players(jit_compile=jit_compile)
    model.fit(x[:, :2], batch_size=20, epochs=3, verbose=0)
    for found, expected in zip((model.a, model.b), played(x[:, :2]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert int(model.optimizer.iterations) == int(model.second_optimizer.iterations) == 3


class Cut(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_of_several_losses_that_was_cut_ends_with_the_same_digits(x, tmp_path):
    arguments = {"x": x[:, :2], "batch_size": 6, "epochs": 4, "verbose": 0}
    whole, cut, resumed = players(), players(), players()
    for model in (cut, resumed):
        model.set_weights(whole.get_weights())
    whole.fit(**arguments)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(callbacks=[Checkpoints(tmp_path), Cut()], **arguments)
    resumed.fit(callbacks=[Checkpoints(tmp_path)], **arguments)
    for one, other in zip(whole.optimizers(), resumed.optimizers(), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one.variables, other.variables)
    np.testing.assert_array_equal(whole.a, resumed.a)
    np.testing.assert_array_equal(whole.b, resumed.b)


def test_a_file_holds_the_state_of_every_optimizer(x, tmp_path):
    model = players()
    model.fit(x[:, :2], batch_size=20, epochs=2, verbose=0)
    model.save(tmp_path / "players.keras")
    loaded = keras.saving.load_model(tmp_path / "players.keras", custom_objects={"Players": Players})
    assert int(loaded.second_optimizer.iterations) == 2
    for each in (model, loaded):
        each.fit(x[:, :2], batch_size=20, epochs=1, verbose=0)
    np.testing.assert_array_equal(model.a, loaded.a)
    np.testing.assert_array_equal(model.b, loaded.b)


@pytest.mark.parametrize("wrong", ["twice", "frozen", "of none"])
def test_a_variable_that_no_step_or_two_would_move_is_refused(wrong, x, monkeypatch):
    model = players()
    other = keras.Variable([1.0, 1.0], name="other")
    given = {"twice": [model.a, model.b], "frozen": [model.b], "of none": [other]}[wrong]
    if wrong == "frozen":
        model.b.trainable = False
    minimizers = [Minimizer([model.a], model.optimizer), Minimizer(given, model.second_optimizer)]
    monkeypatch.setattr(model, "minimizers", lambda: minimizers)
    with pytest.raises(ValueError, match=r"^`minimizers` must have trainable variables.*Received: .*(a|b|other)"):
        model.fit(x[:, :2], verbose=0)


def test_piwae_follows_one_loss_with_q_and_another_with_p(tiny_vae, x):
    vae = tiny_vae(objective=PIWAE(4, 2))
    vae.compile(keras.optimizers.SGD(0.01))
    of_p, of_q = vae.minimizers()
    own = {id(variable) for variable in vae.posterior_variables}
    assert {id(variable) for variable in of_q.variables} == own
    assert len(of_p.variables) + len(of_q.variables) == len(vae.trainable_variables)
    assert vae.optimizers() == [vae.optimizer]
    vae.fit(x, batch_size=5, verbose=0)
    assert int(vae.optimizer.iterations) == 4
