"""The cluster example in real processes, and the Kubernetes manifest that runs the command line on a cluster."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from tfvae.cli.commands import main
from tfvae.data import shards

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """Six files of 40 or 50 examples of 4 numbers near a line."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for index in range(6):
        z = rng.normal(size=(40 + 10 * (index % 2), 1))
        x = z @ np.ones((1, 4)) + 0.1 * rng.normal(size=(len(z), 4))
        shards.write_tfrecords(x.astype("float32"), folder / str(index), rows_per_file=100)
    return f"{folder}/*/*.tfrecord"


RUN = """
    import runpy, sys

    path, *sys.argv[1:] = sys.argv[1:]
    runpy.run_path(path, run_name="__main__")
"""


@pytest.mark.slow
def test_two_workers_train_on_their_shards_and_the_first_one_exports(pattern, run_workers, tmp_path):
    arguments = (EXAMPLES / "cluster.py", pattern, tmp_path, "--epochs", 3)
    first, second = run_workers(RUN, 2, *arguments, timeout=120)
    assert "exported" in first
    assert "exported" not in second
    losses = [float(loss) for loss in re.findall(r" loss: (\S+)", first)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert (tmp_path / "served/1/saved_model.pb").is_file()
    # One file is held out. One worker has 3 of the other 5 files: more rows than its share of one step, which is 128.
    assert keras.saving.load_model(tmp_path / "vae.keras").optimizer.iterations == 3 * 2
    # Run again with more epochs, it continues where it stopped.
    arguments = (*arguments[:-1], 4)
    assert len(re.findall(r" loss: (\S+)", run_workers(RUN, 2, *arguments, timeout=120)[0])) == 1


@pytest.mark.slow
def test_the_example_runs_on_one_machine(pattern, tmp_path):
    command = [sys.executable, EXAMPLES / "cluster.py", pattern, tmp_path, "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "served/1/saved_model.pb").is_file()


def test_the_manifest_makes_a_tf_config_and_a_command_that_exist(tmp_path, capsys):
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    workers = int(container["env"][0]["value"])
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == workers
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}

    # Replaces the command by one that prints what it was given.
    (tmp_path / "tfvae").write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    (tmp_path / "tfvae").chmod(0o755)
    environment = {**os.environ, "WORKERS": str(workers), "JOB_COMPLETION_INDEX": "2"}
    environment["PATH"] = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(container["command"], env=environment, capture_output=True, text=True, check=True)
    config, *arguments = done.stdout.splitlines()
    name, domain = job["metadata"]["name"], pod["subdomain"]
    assert json.loads(config) == {
        "cluster": {"worker": [f"{name}-{index}.{domain}:12345" for index in range(workers)]},
        "task": {"type": "worker", "index": 2},
    }
    # The arguments are valid: the command fails only when it looks for the data.
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--strategy", "one_device"])
    assert "/data/*.tfrecord" in capsys.readouterr().err
