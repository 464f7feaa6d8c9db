"""`--early_stopping`: when a training ends, which weights it keeps, and that an interruption changes neither."""

import types

import keras
import numpy as np
import pytest

from tfvae.cli import record, run_training
from tfvae.cli.early_stopping import EarlyStopping
from tfvae.cli.history import history
from tfvae.data import Pipelines


@pytest.mark.parametrize(
    ("values", "best", "ends"),
    [
        ([-3.0, -2.0, -2.0, -2.5], 1, 3),
        ([-3.0, -3.5, -2.0, -2.1, -1.9, -5.0, -4.0], 4, 6),
        ([np.nan, np.nan, -1.0], -1, 1),
        ([-3.0, -2.0, -1.0], 2, None),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2])
# Without a bound the loss, whose sign is the other.
@pytest.mark.parametrize("has_bound", [True, False])
def test_it_ends_after_so_many_epochs_without_a_new_highest_bound(values, best, ends, cut, has_bound, tmp_path):
    metrics = [{"val_elbo": value} if has_bound else {"val_loss": -value} for value in values]
    saved = []
    model = types.SimpleNamespace(stop_training=False)
    model.save_weights = lambda path: (saved.append(path), path.touch())
    stopping = EarlyStopping(2, tmp_path, dict(enumerate(metrics[:cut])), has_bound)
    stopping.set_model(model)
    for epoch, row in list(enumerate(metrics))[cut:]:
        if stopping.is_over:
            break
        stopping.on_epoch_end(epoch, row)
        assert model.stop_training == stopping.is_over == (epoch == ends)
    assert stopping.is_over == (ends is not None)
    assert stopping.best_epoch == best


class _Cut(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture
def fit(tiny_vae, x):
    """Trains at a rate so high that the held-out bound falls after a few epochs."""
    from tfvae.data import loading

    batches = loading.batches_in_memory(x[:12], x[12:], batch_size=3, seed=0)
    pipelines = Pipelines(*batches, np.zeros(()), np.ones(()))

    def run(folder, *, epochs=30, patience=2, chosen=()):
        keras.utils.set_random_seed(0)
        model = tiny_vae()
        model.compile(keras.optimizers.Adam(0.2))
        folder.mkdir(exist_ok=True)
        run_training.fit(
            model, pipelines, folder, epochs=epochs, save_freq="epoch", chief=True, patience=patience, chosen=chosen
        )
        return model

    return run


@pytest.mark.slow
def test_an_interruption_changes_neither_the_end_nor_the_weights(fit, tmp_path):
    whole = fit(tmp_path / "whole")
    known = record.read(tmp_path / "whole")
    bounds = history(tmp_path / "whole")["val_elbo"]
    assert known["epochs"] == len(bounds) < 30
    assert known["best_epoch"] == int(np.argmax(bounds)) + 1 == len(bounds) - 2
    kept = fit(tmp_path / "best", epochs=known["best_epoch"], patience=None)
    for cut in range(1, len(bounds)):
        folder = tmp_path / f"cut-{cut}"
        with pytest.raises(KeyboardInterrupt):
            fit(folder, chosen=[_Cut(cut)])
        model = fit(folder)
        assert history(folder) == history(tmp_path / "whole")
        for value, expected, of_best in zip(model.get_weights(), whole.get_weights(), kept.get_weights(), strict=True):
            np.testing.assert_array_equal(value, expected)
            np.testing.assert_array_equal(value, of_best)
        assert record.read(folder)["best_epoch"] == known["best_epoch"]
        assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.keras", "training.json"]


@pytest.mark.slow
def test_a_run_killed_after_its_last_epoch_trains_no_further(fit, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    with monkeypatch.context() as context:
        # As a kill between the last checkpoint and the model.
        context.setattr(EarlyStopping, "restore", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints").is_dir()
    model = fit(tmp_path / "cut")
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    for value, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_run_that_ended_early_is_trained_and_is_not_trained_further(tmp_path):
    config = "data: digits\nepochs: 9\nearly_stopping: 2\n"
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "model.keras").touch()
    (tmp_path / "history.csv").write_text("epoch,loss,val_elbo\r\n0,3.0,-3.0\r\n1,2.0,-4.0\r\n2,1.0,-5.0\r\n")
    assert not run_training.is_trained(tmp_path, 9)
    record.add(tmp_path, epochs=3, ended=True)
    assert run_training.is_trained(tmp_path, 9)
    with pytest.raises(ValueError, match=r"`--epochs` must be as in .*config\.yaml, 9, once .* Received: 12"):
        run_training.start(tmp_path, config.replace("9", "12"), resume=True, overwrite=False)
    run_training.start(tmp_path, config, resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_damaged_record_is_named(tmp_path):
    assert record.read(tmp_path) == {}
    for content in ("{", "[]"):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(ValueError, match=r"training\.json .* was expected, or none\. Received: .*training\.json"):
            record.read(tmp_path)
