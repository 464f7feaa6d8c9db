"""What the README says is executed and compared."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import pages
from tfvae.cli import commands

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    """The text of every fenced block in a language."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == language]


def test_the_python_of_the_readme_runs_from_top_to_bottom(run_python, tmp_path):
    run_python("import os, sys\nos.chdir(sys.argv[1])\n" + pages.python(README), tmp_path)
    assert (tmp_path / "saved_models/digits/1/saved_model.pb").is_file()
    assert (tmp_path / "saved_models/digits/digits.tflite").is_file()
    assert (tmp_path / "request.json").is_file()


def test_fit_to_export_is_ten_lines():
    assert len(blocks("python")[0].strip().splitlines()) <= 12
    assert ".fit(" in blocks("python")[0]


def test_the_two_commands_stand_in_one_block():
    train, test = blocks("sh")[0].strip().splitlines()
    assert train.endswith("tfvae train digits")
    assert test.endswith("bin/pytest")


@pytest.mark.slow
def test_the_training_command_prints_what_the_readme_shows(tmp_path):
    command = [sys.executable, "-m", "tfvae", "train", "digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (block,) = [block for block in blocks("") if "held out" in block]

    def figures(text, label):
        (line,) = [line for line in text.splitlines() if line.startswith(label)]
        return [float(number) for number in line.split()[-2:]]

    for label, tolerance in (("ELBO", 3.0), ("log-likelihood", 3.0), ("KL", 1.0)):
        # As below, within the spread over seeds.
        np.testing.assert_allclose(figures(block, label)[0], figures(done.stdout, label)[0], atol=tolerance)

    def rows(text):
        """The rows of the table of differences."""
        table = text.split("largest difference from the Keras model, by format\n")[1].split("\n\n")[0]
        return [line.split() for line in table.splitlines()]

    assert [row[:2] for row in rows(block)[1:]] == [row[:2] for row in rows(done.stdout)[1:]]
    for row in rows(block)[1:] + rows(done.stdout)[1:]:
        assert all(float(difference) <= 1e-4 * float(row[2]) for difference in row[3:])
    for path in re.findall(r"`((?:runs|saved_models)/digits/[^`]*)`", README.split("## From fit")[0]):
        assert (tmp_path / path).exists(), path


@pytest.mark.slow
def test_the_figures_against_pca_are_those_of_the_example():
    """And the VAE beats PCA by a margin that a nonlinear model should reach: 8 nats with 8 latents, 5 with 16."""
    script = ROOT / "examples/digits_against_pca.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    received = np.array([line.split() for line in done.stdout.splitlines()[1:]], float)
    (block,) = [block for block in blocks("") if "latent_dim" in block]
    documented = np.array([line.split() for line in block.splitlines()[1:]], float)
    np.testing.assert_array_equal(received[:, 0], [8, 16])
    np.testing.assert_allclose(documented[:, 1], received[:, 1], atol=0.02)
    # Another processor sums in another order and so trains another model: within the spread over seeds.
    np.testing.assert_allclose(documented[:, 2], received[:, 2], atol=3.0)
    assert np.all(received[:, 2] - received[:, 1] > [8, 5])


def test_the_flags_that_the_readme_names_exist(capsys):
    for command in ("train", "evaluate", "generate", "export", "verify", "predict", "detect"):
        with pytest.raises(SystemExit):
            commands.main([command, "--help"])
    output = capsys.readouterr().out
    of_the_server = {"model_config_file"}
    for flag in set(re.findall(r"--([a-z_]+)[ `.=]", README)) - of_the_server:
        assert f"--{flag}" in output, flag
