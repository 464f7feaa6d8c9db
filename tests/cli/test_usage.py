"""What the command line says of itself, and of a command that is used wrongly."""

import pytest
import yaml

from tests.helpers.processes import COMMAND
from tests.helpers.usage import error_line
from tfvae.cli import commands


def test_print_config_shows_every_part(capsys):
    with pytest.raises(SystemExit) as raised:
        commands.main(["train", "--print_config"])
    assert raised.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["objective"]["init_args"] == {
        "beta": 1.0,
        "num_samples": 1,
        "analytic_kl": True,
        "sticking_the_landing": False,
    }
    assert config["data"] == "digits"
    assert "config_yaml" not in config


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "no_such_data"], "no_such_data"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--likelihood", "Normal", "--likelihood.scale", "-1"], "`scale` must be"),
        (["train", "--likelihood", "Gaussian"], "Gaussian"),
        (["train", "--network", "transformer"], "transformer"),
        (["train", "--nonsense", "1"], "nonsense"),
        (["train", "--latent_dim", "two"], "latent_dim"),
        (["train", "--objective.num_samples", "0"], "num_samples"),
        (["train", "--activation", "nonsense"], "nonsense"),
        (["train", "--name", "a/b"], "--name"),
        (["train", "--name", ".."], "--name"),
        (["train", "--seed", "-1"], "`--seed` must be"),
        (["verify", "nowhere"], "`--saved_model` or `--tflite` or `--onnx`"),
        (["verify", "nowhere", "--tflite", "no.tflite"], "no.tflite"),
        (["verify", "nowhere", "--saved_model", "."], "nowhere"),
        (["predict", "--model", "nowhere", "--input", "x.npy", "--output", "y.npz"], "nowhere"),
        (["predict"], "input"),
        (["evaluate", "nowhere"], "nowhere"),
        (["generate", "nowhere"], "nowhere"),
        (["generate", "nowhere", "--output", "x.gif"], ".png or .npy or .csv"),
        (["export", "nowhere"], "nowhere"),
        ([], "The command must be one of train"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in error_line(capsys, arguments)
    assert not list(tmp_path.iterdir())


def test_a_config_with_a_name_that_is_none_is_told_the_nearest(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("learning_rat: 1.0\n")
    line = error_line(capsys, ["train", "--config", str(tmp_path / "config.yaml")])
    assert "`--config` must be" in line
    assert "learning_rat (did you mean learning_rate?)" in line


def test_a_usage_error_of_the_process_has_no_traceback(processes):
    done = processes.start(COMMAND, "train", "no_such_data")
    assert done.wait() == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tfvae: error: ")


@pytest.mark.slow
def test_the_module_runs_as_the_command(run_python):
    output = run_python("import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_module('tfvae', run_name='__main__')")
    for command in ("train", "evaluate", "generate", "export"):
        assert command in output
