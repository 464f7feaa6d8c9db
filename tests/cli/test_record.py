"""training.json: what is kept of all sessions of a training, and the command that its model card has."""

import shlex
import types
import warnings

import keras
import numpy as np
import pytest
import yaml

from tfvae.cli import command_of_run, commands, noise, record, run_folder

CONFIG = "data: x.npy\nbatch_size: 4\nvalidation_fraction: 0.5\nbinarize: null\nimage_size: null\nseed: 0\n"


def test_warnings_are_in_the_record_from_when_they_are_given(tmp_path):
    for texts in (("of the data", "of the training"), ("of the data", "of the resumed training")):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *_: None
            with noise.noted_warnings() as noted:
                warnings.warn(texts[0], stacklevel=1)
                noted.keep_in(tmp_path)
                warnings.warn(texts[1], stacklevel=1)
                assert record.texts(tmp_path, "warnings")[-1] == texts[1]
    assert record.texts(tmp_path, "warnings") == ["of the data", "of the training", "of the resumed training"]


def test_the_record_can_be_read_again_however_many_warnings_there_were(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_MOST_TEXTS", 3)
    noted = record.Warnings()
    noted.keep_in(tmp_path)
    noted.note("x" * 10**6)
    for number in range(5):
        noted.note(f"{number}")
    (long, *others) = record.texts(tmp_path, "warnings")
    assert long == "x" * 5000 + " ..."
    assert others == [f"{number}" for number in range(2)]


def test_a_record_with_something_else_for_texts_is_named(tmp_path):
    record.add(tmp_path, warnings="none")
    with pytest.raises(ValueError, match=r"a list of texts as `warnings` was expected\. Received: .*with 'none'"):
        record.add_texts(tmp_path, "warnings", ["x"])


def test_the_report_has_the_commands_and_warnings_of_all_sessions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    np.save("x.npy", np.zeros([6, 2], np.float32))
    for command in ("tfvae train", "tfvae train --resume", "tfvae train --resume"):
        record.add_texts(tmp_path, "commands", [command])
    record.add_texts(tmp_path, "warnings", ["of the first session"])
    given = {}
    monkeypatch.setattr(run_folder, "write_report", lambda *_, **others: given.update(others))
    model, pipelines = types.SimpleNamespace(table=None), run_folder.load_data(tmp_path)
    run_folder.report(model, tmp_path, pipelines, np.zeros((3, 2)), None, None, 5, 0, label=None)
    assert given["warnings"] == ["of the first session"]
    assert given["facts"]["Command"] == "tfvae train"
    assert given["facts"]["Resumed by"] == "tfvae train --resume"


def config_of(words, capsys):
    """The config.yaml of a command."""
    with pytest.raises(SystemExit):
        commands.main([*words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--hidden 8 --epochs 3 --learning_rate 0.1 --jit_compile true --image_size 8 --seed 3 --split_seed 0 --name a",
        "--likelihood.scale 0.5 --objective.beta 2 --early_stopping 3",
        "--likelihood Missing --likelihood.likelihood Bernoulli --posterior LowRankNormal --posterior.rank 3",
        "--prior VampPrior --prior.num_components 7 --prior.bounds [0,1] --objective IWAE --objective.num_samples 4",
        "--callbacks KLWarmUp --callbacks.steps 5 --callbacks TensorBoard --callbacks.profile_batch [2,3]",
        '--drop a,"b|c" --kinds "d,e=count",f=bool --callbacks TerminateOnNaN',
    ],
)
def test_the_command_of_a_model_card_is_that_of_the_run(words, capsys):
    config = config_of(["train", "digits", *words.split()], capsys)
    command = command_of_run.command(config)
    assert config_of(shlex.split(command)[1:], capsys) == config
    if not words:
        assert command == "tfvae train digits"


def test_the_command_of_a_model_card_has_no_paths_and_no_secrets():
    config = {
        "data": "/home/me/secret/x y.csv",
        "name": "x",
        "runs": "/home/me/runs",
        "saved_models": "/home/me/models",
        "allow_import": ["my"],
        "callbacks": [
            {"class_path": "CSVLogger", "init_args": {"filename": "/home/me/y.csv"}},
            {"class_path": "my.Logger", "init_args": {"key": "0123"}},
        ],
        "prior": {"class_path": "my.Prior", "init_args": {"path": "/home/me/p.npy"}},
    }
    assert command_of_run.command(config) == (
        "tfvae train 'x y.csv' --name x --allow_import my --callbacks CSVLogger --callbacks.filename y.csv "
        "--callbacks my.Logger --callbacks.key ... --prior my.Prior --prior.path p.npy"
    )


@pytest.mark.slow
def test_a_resumed_training_reports_the_warnings_from_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32))
    (tmp_path / "warns_and_ends.py").write_text(
        "import pathlib, warnings, keras\n"
        "class Ends(keras.callbacks.Callback):\n"
        "    def on_epoch_begin(self, epoch, logs=None):\n"
        "        if epoch == 1 and not pathlib.Path('ended').exists():\n"
        "            pathlib.Path('ended').touch()\n"
        "            warnings.warn('it was given in the first session')\n"
        "            raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", "x.npy", "--hidden", "4", "--latent_dim", "2", "--num_samples", "2", "--epochs", "2"]
    words += ["--export", "none", "--pictures", "false", "--allow_import", "warns_and_ends"]
    words += ["--callbacks", "warns_and_ends.Ends"]
    with pytest.warns(UserWarning, match="it was given in the first session"), pytest.raises(KeyboardInterrupt):
        commands.main(words)
    keras.utils.clear_session()
    commands.main([*words, "--resume"])
    report = (tmp_path / "runs/x/report.html").read_text()
    assert "it was given in the first session" in report
    assert "--callbacks warns_and_ends.Ends</dd>" in report
    assert "<dt>Resumed by</dt>" in report
