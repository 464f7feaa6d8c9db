"""A run's training: interrupted, resumed, refused, overwritten and diverged; test_run_kills.py has the kills."""

import shutil
import types

import keras
import numpy as np
import pytest

from tfvae import files, likelihoods, plots
from tfvae.cli import commands, exports, record, run_folder, run_training
from tfvae.cli.history import cut_history, history
from tfvae.models.vae import VAE

COMPLETE = ["config.yaml", "evaluation.txt", "history.csv", "history.png", "model.keras"]
# Two epochs of 45 steps.
TRAIN = ["train", "digits", "--epochs", "2", "--hidden", "[16]", "--latent_dim", "2", "--num_samples", "20"]


@pytest.fixture
def after(monkeypatch):
    """Replaces what follows a training, and lists which of it was called."""
    called = []
    monkeypatch.setattr(run_folder, "evaluation", lambda *_: called.append("evaluation") or "the evaluation")
    monkeypatch.setattr(run_folder, "draw", lambda *_: called.append("draw"))
    monkeypatch.setattr(run_folder, "report", lambda *_, **__: called.append("report"))
    monkeypatch.setattr(plots, "history", lambda *_: types.SimpleNamespace(savefig=lambda path: path.touch()))
    monkeypatch.setattr(exports, "write", lambda *_, **__: called.append("export"))
    return called


class Cut(keras.callbacks.Callback):
    """Interrupts the training after a step of an epoch; step 0 is the end of the previous epoch."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at = epoch, step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.progress == self.at:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(0)


@pytest.fixture
def train(tmp_path, monkeypatch, after):
    """Runs `tfvae train` in the test's folder, with more arguments, and with more callbacks, which are called last."""
    monkeypatch.chdir(tmp_path)
    fit = VAE.fit

    def run(*arguments, callbacks=()):
        def fit_with(self, x, **keywords):
            keywords["callbacks"] += callbacks
            return fit(self, x, **keywords)

        monkeypatch.setattr(VAE, "fit", fit_with)
        commands.main([*TRAIN, *arguments])

    return run


@pytest.fixture
def train_cut(train):
    def run(epoch, step, *arguments):
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, callbacks=[Cut(epoch, step)])

    return run


@pytest.fixture
def refused(train, capsys):
    """Runs a command that must fail with a usage error of one line, and returns that line."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            train(*arguments)
        assert raised.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "digits"


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != files.LOCK)


def weights(folder):
    return keras.saving.load_model(folder / "model.keras").get_weights()


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_as_it_began_or_is_refused(train, train_cut, refused, folder, after):
    train_cut(1, 20, "--resume", "--save_freq", "7")
    before = contents(folder)
    assert "holds an interrupted training: pass --resume to continue it, or --overwrite" in refused()
    assert "holds an interrupted training" in refused("--resume", "false")
    assert "`--epochs` must be at least as in runs/digits/config.yaml, 2," in refused("--resume", "--epochs", "1")
    assert "`--likelihood` must be as in" in refused("--resume", "--likelihood.scale", "0.5")
    assert contents(folder) == before
    assert after == []
    known = record.read(folder)
    assert known["epochs"] == 1
    assert known["seconds"] > 0
    record.add(folder, seconds=1000.0)
    train("--resume", "--save_freq", "100")
    # The time before the interruption counts, too.
    assert 1000 < record.read(folder)["seconds"] < 1100
    assert record.read(folder)["epochs"] == 2
    assert after == ["evaluation", "draw", "export", "report"]
    assert len(history(folder)["loss"]) == 2
    assert names(folder) == [*COMPLETE, "training.json"]


# The default test of kills, in test_run_kills.py, compares trainings that are resumed with one that was not cut.
@pytest.mark.slow
def test_a_run_that_is_cut_again_and_again_ends_as_one_that_was_not(train, train_cut, folder, after):
    train("--name", "uncut")
    train_cut(0, 20, "--resume", "--save_freq", "7")
    # Interrupted at the end of an epoch, and in the middle of the next.
    train_cut(1, 0, "--resume", "true", "--save_freq", "7")
    train_cut(1, 44, "--resume", "--strategy", "one_device")
    assert after == ["evaluation", "draw", "export", "report"]
    train("--resume", "--save_freq", "100")
    uncut = folder.with_name("uncut")
    assert (folder / "history.csv").read_bytes() == (uncut / "history.csv").read_bytes()
    for value, expected in zip(weights(folder), weights(uncut), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_history_that_an_earlier_version_began_goes_on(tmp_path):
    path = tmp_path / "history.csv"
    # The names in the order in which that version wrote them, with one epoch more than there is a checkpoint of.
    path.write_text("epoch,elbo,kl,log_likelihood,loss,val_log_likelihood\r\n0,-1,2,1,3,5\r\n1,0,0,0,0,0\r\n")
    names = ["elbo", "kl", "loss", "reconstruction_log_likelihood", "val_reconstruction_log_likelihood"]
    assert cut_history(tmp_path, 1, ["epoch", *names]) == [3]
    logger = keras.callbacks.CSVLogger(path, append=True)
    logger.on_train_begin()
    logger.on_epoch_end(1, dict(zip(names, [-2, 4, 6, 2, 10], strict=True)))
    logger.on_train_end()
    expected = dict(zip(names, [[-1, -2], [2, 4], [3, 6], [1, 2], [5, 10]], strict=True))
    assert history(tmp_path) == expected


@pytest.mark.slow
def test_a_run_that_is_complete_is_left_alone(train, refused, folder, after, capsys, monkeypatch):
    train()
    before = contents(folder)
    capsys.readouterr()
    train("--resume")
    assert capsys.readouterr().out == "runs/digits is trained already\n"
    assert "holds a trained model: choose another --name, or pass --overwrite" in refused()
    assert contents(folder) == before
    # As after a kill during the export.
    (folder / "evaluation.txt").unlink()
    after.clear()
    train("--resume", callbacks=[Cut(0, 1)])
    assert after == ["evaluation", "draw", "export", "report"]
    assert (folder / "evaluation.txt").read_text() == "the evaluation\n"
    # These were written again; nothing else changed.
    for name in ("evaluation.txt", "history.png", "training.json"):
        del before[folder / name]
    assert contents(folder).items() > before.items()


@pytest.mark.slow
@pytest.mark.parametrize("value", [[], pytest.param(["true"], marks=pytest.mark.slow)], ids=["", "true"])
def test_a_run_that_is_overwritten_starts_anew(value, train, train_cut, folder):
    train_cut(1, 20)
    assert names(folder) == ["checkpoints", "config.yaml", "history.csv", "model.keras", "training.json"]
    train_cut(0, 1, "--overwrite", *value, "--latent_dim", "3")
    assert names(folder) == ["checkpoints", "config.yaml", "history.csv", "training.json"]
    # The command alone, and that of this training.
    assert list(record.read(folder)) == ["commands"]
    assert "--overwrite" in record.texts(folder, "commands")[0]
    (checkpoint,) = names(folder / "checkpoints")
    assert checkpoint.startswith("000000-000000000-")
    assert (folder / "history.csv").read_bytes() == b""
    assert "latent_dim: 3" in (folder / "config.yaml").read_text()


class Diverge(keras.callbacks.Callback):
    """Makes the weights NaN in the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.trainable_variables[0].assign(self.model.trainable_variables[0] * np.nan)


@pytest.mark.parametrize("cut", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_diverges_keeps_its_history_and_its_best_model(cut, train, train_cut, refused, folder, after):
    if cut:
        train_cut(1, 0)
    with (
        pytest.warns(UserWarning, match="The loss was nan in epoch 2"),
        pytest.raises(SystemExit, match=r"tfvae: the training diverged; its history is in runs/digits/history\.csv"),
    ):
        train("--resume", callbacks=[Diverge()])
    losses = history(folder)["loss"]
    assert np.isfinite(losses).tolist() == [True, False]
    assert names(folder) == ["config.yaml", "history.csv", "model.keras", "training.json"]
    assert all(np.isfinite(value).all() for value in weights(folder))
    assert "pass --overwrite" in refused("--resume")
    assert after == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A checkpoint is damaged")
def test_a_run_without_a_checkpoint_that_is_whole_is_refused(train_cut, refused, folder):
    train_cut(0, 5)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    for _ in range(2):
        assert "must hold a checkpoint that is whole" in refused("--resume")


# A folder that is damaged, in use, or to be trained further

COLUMNS = ["epoch", "loss", "val_loss"]
WHOLE = "epoch,loss,val_loss\r\n0,1.5,2.0\r\n1,1.0,3.0\r\n"
DAMAGED = {
    "missing": (None, []),
    "empty": (b"", []),
    "cut in a row": (WHOLE.encode()[:-4], [1.5]),
    "cut in the header": (b"epoch,lo", []),
    "binary": (bytes(range(256)), []),
    "of another table": (b"name,age\r\nAnn,3\r\n", []),
    "with a column of another training": (b"epoch,accuracy,loss,val_loss\r\n0,1,1,1\r\n1,1,1,1\r\n", []),
    "with words for numbers": (b"epoch,loss,val_loss\r\n0,many,2\r\n1,1.0,3\r\n", [1.0]),
    "with fields too many": (b"epoch,loss,val_loss\r\n0,1.5,2,7\r\n1,1.0,3\r\n", [1.0]),
    "with a field of a million letters": (b"epoch,loss,val_loss\r\n0," + b"a" * 10**6 + b",2\r\n", []),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_training_goes_on_without_what_is_lost_of_its_history_and_says_so(damage, tmp_path):
    content, losses = DAMAGED[damage]
    if content is not None:
        (tmp_path / "history.csv").write_bytes(content)
    with pytest.warns(UserWarning, match=f"history of {2 - len(losses)} epochs is lost.*Received: .*history.csv"):
        assert cut_history(tmp_path, 2, COLUMNS) == losses
    assert history(tmp_path).get("loss", []) == losses


def test_a_history_that_is_whole_is_kept_without_a_word(tmp_path):
    (tmp_path / "history.csv").write_text(WHOLE)
    assert cut_history(tmp_path, 2, COLUMNS) == [1.5, 1.0]
    assert (tmp_path / "history.csv").read_bytes() == WHOLE.encode()


@pytest.mark.parametrize("target", ["whole", "nothing", "history.csv"])
def test_a_history_is_not_written_through_a_link(target, tmp_path):
    (tmp_path / "whole").write_text(WHOLE)
    (tmp_path / "history.csv").symlink_to(tmp_path / target)
    cut_history(tmp_path, 0, COLUMNS)
    assert not (tmp_path / "history.csv").is_symlink()
    assert (tmp_path / "whole").read_bytes() == WHOLE.encode()
    assert not (tmp_path / "nothing").exists()


def test_a_second_training_of_a_run_is_refused_until_the_first_has_ended(tmp_path):
    with run_training.RunLock() as first, run_training.RunLock() as second:
        first.lock(tmp_path)
        first.lock(tmp_path)
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by another training"):
            second.lock(tmp_path)
    with run_training.RunLock() as third:
        third.lock(tmp_path)


@pytest.fixture(scope="module")
def two_epochs(tiny_vae, tmp_path_factory):
    """The folder of a run that was trained for 2 epochs, as `fit` leaves it."""
    folder = tmp_path_factory.mktemp("two epochs")
    model = tiny_vae()
    model.compile("adam")
    model.build_optimizers()
    model._progress.epoch = 2
    model.save(folder / "model.keras")
    (folder / "history.csv").write_text(WHOLE)
    (folder / "config.yaml").write_text("data: digits\nepochs: 2\nlearning_rate: 0.1\n")
    (folder / "evaluation.txt").write_text("the evaluation")
    return folder


@pytest.fixture
def two(two_epochs, tmp_path):
    return shutil.copytree(two_epochs, tmp_path / "two")


@pytest.mark.parametrize("folder", [True, False], ids=["an empty folder", "no folder"])
def test_a_training_whose_checkpoints_are_gone_does_not_start_again_unasked(folder, two):
    config = "data: digits\nepochs: 8\nlearning_rate: 0.1\n"
    (two / "config.yaml").write_text(config)
    (two / "evaluation.txt").unlink()
    if folder:
        (two / "checkpoints").mkdir()
    assert not run_training.is_trained(two, 8)
    with pytest.raises(ValueError, match=r"--overwrite.*Received: .*two, whose history has 2 epochs, without checkp"):
        run_training.start(two, config, resume=True, overwrite=False)
    assert (two / "history.csv").read_bytes() == WHOLE.encode()
    run_training.start(two, config, resume=True, overwrite=True)


def test_more_epochs_go_on_from_a_trained_model(two, tiny_vae, capsys):
    assert run_training.is_trained(two, 2)
    assert not run_training.is_trained(two, 3)
    config = "data: digits\nepochs: 3\nlearning_rate: 0.1\n"
    run_training.start(two, config, resume=True, overwrite=False)
    assert "along a cosine over all epochs" in capsys.readouterr().out
    assert (two / "config.yaml").read_text() == config
    newest = run_training.Checkpoints(two / "checkpoints").newest()
    assert newest.epoch == 2
    model = tiny_vae()
    model.compile("adam")
    model.build_optimizers()
    model.load_weights(newest.path)
    assert model.progress == (2, 0)
    for value, expected in zip(model.get_weights(), weights(two), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert names(two) == ["checkpoints", "config.yaml", "history.csv", "model.keras", "training.json"]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
def test_a_training_goes_on_to_more_epochs(cut, train, train_cut, folder, after):
    if cut:
        train_cut(1, 20)
    else:
        train()
    train("--resume", "--epochs", "4")
    assert len(history(folder)["loss"]) == 4
    assert run_training.is_trained(folder, 4)
    assert names(folder) == [*COMPLETE, "training.json"]
    before = contents(folder)
    train("--resume", "--epochs", "4")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.yaml", b"", "named values"),
        ("config.yaml", b"[1, 2]", "named values"),
        ("config.yaml", b"\xff\x00", "UTF-8"),
        ("config.yaml", b"a: [", "YAML"),
        ("config.yaml", b"a: &a [1]\nb: *a", "aliases are not allowed"),
        ("config.yaml", b"a: &a [*a]", "aliases are not allowed"),
        ("config.yaml", b"epochs: 1\na: {b: 1, b: 2}", "each name must have one value, but 'b' has 2"),
        ("config.yaml", b"[" * 100_000, "at most 50 levels"),
        ("config.yaml", b"a: 2001-99-99", "YAML"),
        ("config.yaml", b"a: 1\n" * 300_000, "at most 1000000 bytes"),
        ("config.yaml", b"data: digits\nepochs: many", "epochs"),
        ("model.keras", b"", "model.keras"),
        ("model.keras", b"PK\x05\x06" + bytes(18), "model.keras"),
    ],
)
def test_what_is_damaged_of_a_trained_run_is_named(name, content, expected, two):
    (two / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected) as raised:
        run_training.start(two, "data: digits\nepochs: 3\nlearning_rate: 0.1\n", resume=True, overwrite=False)
    assert str(two / name) in str(raised.value)
    assert not (two / "checkpoints").exists()


def test_a_trained_run_whose_history_is_lost_is_still_trained(two):
    (two / "history.csv").write_bytes(b"")
    assert run_training.is_trained(two, 2)


@pytest.mark.parametrize(
    ("network", "hidden", "filters"),
    [
        ("dense", (100_000, 100_000), ()),
        ("convolutional", (100_000,), (100_000,)),
        ("residual", (100_000,), (1, 1_000_000)),
    ],
)
def test_networks_larger_than_memory_are_refused_before_they_are_made(network, hidden, filters):
    with pytest.raises(ValueError, match=r"trained in memory.* Received: --hidden \[100000.*which takes .* GB"):
        run_training.make_networks(network, (8, 8, 1), 2, likelihoods.Normal(), hidden, filters, "silu")


def test_residual_networks_are_made_by_their_name():
    encoder, decoder = run_training.make_networks("residual", (8, 8, 1), 2, likelihoods.Normal(), (6,), (4, 5), "relu")
    assert [layer.filters for layer in encoder.layers if hasattr(layer, "filters")] == [4] * 5 + [5] * 5
    assert decoder.output_shape == (None, 8, 8, 1)
