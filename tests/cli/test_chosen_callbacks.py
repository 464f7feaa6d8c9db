"""`--callbacks`: how words become callbacks, where these write, and what is refused before a training."""

import importlib.util
import json

import keras
import numpy as np
import pytest
import yaml

from tests.helpers.usage import error_line
from tfvae import callbacks
from tfvae.cli import chosen_callbacks, commands

METRICS = ["loss", "elbo", "val_loss", "val_elbo"]
PLATEAU = {"class_path": "keras.callbacks.ReduceLROnPlateau", "init_args": {"patience": 3, "min_lr": 1e-5}}


def folded(*words):
    return chosen_callbacks.folded(words, commands._load_yaml)


def make(folder, *chosen, x=((0.0, 1.0), (1.0, 0.0)), metrics=METRICS, **others):
    found = chosen_callbacks.check(chosen, (), schedule="constant", is_table=False)
    return chosen_callbacks.make(found, folder, np.array(x), metrics, **others)


@pytest.mark.parametrize(
    "words",
    [
        ["--callbacks", PLATEAU["class_path"], "--callbacks.patience", "3", "--callbacks.min_lr", "1e-5"],
        ["--callbacks+=" + PLATEAU["class_path"], "--callbacks.init_args.patience=3", "--callbacks.min_lr=0.00001"],
        ["--callbacks+", PLATEAU["class_path"], "--callbacks.patience=3", "--callbacks.min_lr", "1.0e-5"],
        ["--callbacks", json.dumps(PLATEAU)],
    ],
)
def test_a_callback_and_its_arguments_become_one_word(words):
    first, last = folded("train", *words)[1:], folded("train", *words, "--epochs", "2")[2:]
    (word,) = first
    assert last == ["--epochs", "2"]
    name, _, value = word.partition("=")
    assert name == "--callbacks+"
    assert json.loads(value) == PLATEAU


def test_the_command_line_adds_to_a_file_and_the_config_that_is_written_is_read_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text(f"callbacks: [TensorBoard, {json.dumps(PLATEAU)}]\nschedule: constant\n")
    words = ["--config", "first.yaml", "--callbacks", "KLWarmUp", "--callbacks.steps", "5"]
    expected = ["TensorBoard", PLATEAU, {"class_path": "KLWarmUp", "init_args": {"steps": 5}}]
    for number in range(2):
        with pytest.raises(SystemExit):
            commands.main(["train", *words, "--print_config"])
        (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
        assert yaml.safe_load((tmp_path / "again.yaml").read_text())["callbacks"] == expected, number
        words = ["--config", "again.yaml"]
    with pytest.raises(SystemExit):
        commands.main(["train", *words, "--callbacks=[]", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["callbacks"] == []


def test_callbacks_write_to_the_folder_of_the_run_unless_they_say_where(tmp_path):
    board, pictures = make(tmp_path, "TensorBoard", "Pictures")
    assert board.log_dir == str(tmp_path / "tensorboard")
    assert pictures.folder == tmp_path / "pictures"
    assert pictures._log_dir == str(tmp_path / "tensorboard" / "pictures")
    np.testing.assert_array_equal(pictures.x, [[0, 1], [1, 0]])
    (alone,) = make(tmp_path, {"class_path": "tfvae.callbacks.Pictures", "init_args": {"every": 3}})
    assert (alone.folder, alone._log_dir, alone.every) == (tmp_path / "pictures", None, 3)
    board, pictures = make(
        tmp_path,
        {"class_path": "keras.callbacks.TensorBoard", "init_args": {"log_dir": "logs"}},
        {"class_path": "Pictures", "init_args": {"folder": "elsewhere"}},
    )
    assert (board.log_dir, str(pictures.folder), pictures._log_dir) == ("logs", "elsewhere", None)
    assert not list(tmp_path.iterdir())


def test_one_worker_alone_writes_for_tensorboard(tmp_path):
    (plateau,) = make(tmp_path, "TensorBoard", PLATEAU, workers=2, chief=False)
    assert isinstance(plateau, keras.callbacks.ReduceLROnPlateau)
    with pytest.raises(ValueError, match=r"Pictures` must not be given for several workers.* Received: 2 workers"):
        make(tmp_path, "Pictures", workers=2)


def test_a_module_of_ones_own_must_be_allowed(tmp_path, monkeypatch):
    (tmp_path / "my_callbacks.py").write_text(
        "import keras\nclass Mine(keras.callbacks.Callback):\n    def __init__(self, a, **others):\n"
        "        super().__init__()\n        self.given = a, others\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"class_path": "my_callbacks.Mine", "init_args": {"a": 1, "b": 2}}
    with pytest.raises(ValueError, match=r"such as --allow_import my_callbacks\. Received: my_callbacks\.Mine"):
        chosen_callbacks.check([mine], (), schedule="cosine", is_table=False)
    found = chosen_callbacks.check([mine], ["my_callbacks"], schedule="cosine", is_table=False)
    (made,) = chosen_callbacks.make(found, tmp_path, np.zeros((2, 2)), METRICS)
    assert made.given == (1, {"b": 2})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--callbacks.patience", "3"], "`--callbacks.patience` must come after the callback that it is for"),
        (["--callbacks", "KLWarmUp", "--callbacks.steps", "["], "`--callbacks.steps` must be a value in YAML"),
        (["--callbacks", "os.system"], "such as --allow_import os. Received: os.system"),
        (["--callbacks", "a b"], "must be the name of a callback, such as TensorBoard. Received: 'a b'"),
        (["--callbacks", "{init_args: {a: 1}}"], "must be names of callbacks, or class_path with init_args"),
        (["--callbacks", "BackupAndRestore"], "each run has checkpoints, as --save_freq says"),
        (["--callbacks", "tfvae.callbacks.Checkpoints"], "each run has checkpoints, as --save_freq says"),
        (["--callbacks", "OrbaxCheckpoint"], "each run has checkpoints, as --save_freq says"),
        (["--callbacks", "LambdaCallback", "--callbacks.on_epoch_end", "print"], "it takes functions, which cannot be"),
        (["--callbacks", "keras.callbacks.LearningRateScheduler", "--callbacks.schedule", "x"], "it takes functions"),
        (["--callbacks", "SwapEMAWeights"], "give `--ema` instead"),
        (["--callbacks", "CSVLogger", "--callbacks.filename", "nodir/y.csv"], "in a folder that exists, and can be"),
        (["--callbacks", "CSVLogger", "--callbacks.filename", "."], "`--callbacks.filename` must be a file, or new"),
        (["--callbacks", "CSVLogger", "--callbacks.filename", "3"], "must be the path of a file. Received: 3"),
        (
            ["--callbacks", "ModelCheckpoint", "--callbacks.filepath", "/dev/null/a.keras"],
            "in a folder that can be made",
        ),
        (["--callbacks", "TensorBoard", "--callbacks.log_dir", "/dev/null"], "`--callbacks.log_dir` must be a folder"),
        (["--callbacks", "ReduceLROnPlateau"], "needs `--schedule constant`. Received: --schedule cosine"),
        (["--early_stopping", "0"], "`--early_stopping` must be an integer from 1 to 1000000, or null"),
        (["--seeds", "1,1"], "`--seeds` must be different seeds, such as 0,1,2"),
        (["--seeds", "1,2", "--seed", "3"], "`--seed` must not be given with `--seeds`. Received: --seed 3"),
    ],
)
def test_what_is_wrong_is_said_before_tensorflow_is_imported(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.noise, "import_tensorflow", lambda: pytest.fail("TensorFlow would be imported"))
    assert expected in error_line(capsys, ["train", *words])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["TensorBord"], "in keras.callbacks or tfvae.callbacks (did you mean TensorBoard?). Received: TensorBord"),
        (["tfvae.callbacks.Checkpoint"], "must be a subclass of keras.callbacks.Callback in tfvae.callbacks"),
        (["EarlyStopping", "--callbacks.patient", "3"], "(did you mean patience?). Received: --callbacks.patient"),
        (["ReduceLROnPlateau", "--callbacks.patienc", "3", "--schedule", "constant"], "(did you mean patience?)"),
        (["EarlyStopping", "--callbacks.patience", "many"], "`--callbacks.patience` of EarlyStopping must be a number"),
        (["EarlyStopping", "--callbacks.baseline", "x"], "`--callbacks.baseline` of EarlyStopping must be a number"),
        (["EarlyStopping", "--callbacks.mode", "up"], "`--callbacks.mode` of EarlyStopping must be auto, min or max"),
        (["EarlyStopping", "--callbacks.monitor", "3"], "`--callbacks.monitor` of EarlyStopping must be text"),
        (["EarlyStopping", "--callbacks.restore_best_weights", "1"], "must be true or false. Received: 1"),
        (["TensorBoard", "--callbacks.update_freq", "x"], "must be batch, epoch or a positive integer. Received: 'x'"),
        (["CSVLogger", "--callbacks.filename", "y", "--callbacks.separator", "ab"], "must be one character"),
    ],
)
def test_what_only_keras_knows_is_said_before_the_data_are_read(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfvae.data.load", lambda *_, **__: pytest.fail("the data would be read"))
    assert expected in error_line(capsys, ["train", "--callbacks", *words])
    assert not list(tmp_path.iterdir())


def test_what_only_the_run_knows_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"`--callbacks` ModelCheckpoint must be .* Received: {}: TypeError: .*filepath"
    ):
        make(tmp_path, "ModelCheckpoint")
    with pytest.raises(ValueError, match=r"monitor` of EarlyStopping must be one of elbo, .*mean val_elbo\?.* val_elb"):
        make(tmp_path, {"class_path": "EarlyStopping", "init_args": {"monitor": "val_elb"}})
    for filepath in ("{val_elb}.keras", "{}.keras", "{epoch:z}.keras"):
        with pytest.raises(ValueError, match=r"filepath` of ModelCheckpoint must be a path, in which \{epoch\}"):
            make(tmp_path, {"class_path": "ModelCheckpoint", "init_args": {"filepath": filepath}})
    with pytest.raises(ValueError, match=r"Pictures` must not be given for a table"):
        chosen_callbacks.check(["Pictures"], (), schedule="cosine", is_table=True)


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [("val_elbo", "max"), ("reconstruction_log_likelihood", "max"), ("val_kl", "min"), ("val_loss", "auto")],
)
def test_a_callback_knows_whether_its_metric_is_to_rise(monitor, expected, tmp_path, tiny_vae):
    made = make(
        tmp_path,
        *({"class_path": name, "init_args": {"monitor": monitor}} for name in ("EarlyStopping", "ReduceLROnPlateau")),
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": monitor, "filepath": "{epoch}.keras"}},
        metrics=[*METRICS, "val_kl", "reconstruction_log_likelihood"],
    )
    for callback in made:
        assert callback.mode == expected
        # Keras raises an error here, after the first epoch, if it does not know.
        callback.set_model(tiny_vae())
        callback._set_monitor_op()
    (given,) = make(tmp_path, {"class_path": "EarlyStopping", "init_args": {"monitor": "val_elbo", "mode": "min"}})
    assert given.mode == "min"
    with pytest.raises(ValueError, match=r"`--callbacks.mode` of EarlyStopping must be max or min for the metric val_"):
        make(tmp_path, {"class_path": "EarlyStopping", "init_args": {"monitor": "val_a"}}, metrics=["val_a"])


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for chosen in ("TensorBoard", {"class_path": "Pictures", "init_args": {"log_dir": "logs"}}):
        with pytest.raises(ImportError, match=r"needs `pip install 'tfvae\[tensorboard\]'`"):
            make(tmp_path, chosen)
    make(tmp_path, "Pictures")
    with pytest.raises(ImportError, match=r"`log_dir` needs `pip install 'tfvae\[tensorboard\]'`\. Received: logs"):
        callbacks.Pictures(np.zeros((2, 2)), log_dir="logs")
