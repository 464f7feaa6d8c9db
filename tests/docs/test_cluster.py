"""The examples of clusters and the command line in real processes, one of which is killed; Kubernetes; Ray.

The test of Ray needs tfvae[ray]; `-m "slow and not ray"` leaves it out.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from tfvae.cli.commands import main
from tfvae.data import shards

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


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
    assert_valid(arguments, capsys)


def assert_valid(arguments, capsys):
    """The arguments are valid if the command fails only when it looks for the data."""
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--strategy", "one_device"])
    assert "/data/*.tfrecord" in capsys.readouterr().err


def test_the_shell_loop_starts_a_failed_worker_again(tmp_path, capsys):
    (loop,) = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs/distributed.md").read_text(), re.MULTILINE | re.DOTALL)
    # In place of `tfvae`, a command that prints what it was given and fails the first time.
    commands = {"tfvae": 'printf "%s\\n" "$@"; test -e failed || { touch failed; exit 1; }', "sleep": "exit 0"}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", loop], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    arguments = done.stdout.splitlines()
    assert arguments[: len(arguments) // 2] == arguments[len(arguments) // 2 :]
    assert_valid(arguments[: len(arguments) // 2], capsys)


# The command line in two workers, one of which is killed.

TRAIN = """
    import sys
    from tfvae.__main__ import main

    sys.argv[1:] = ["train", *sys.argv[1:], "--strategy", "multi_worker", "--resume"]
    main()
"""


def flags(pattern, folder):
    small = {"hidden": "[4]", "latent_dim": 1, "batch_size": 4, "epochs": 8, "save_freq": 5, "num_samples": 10}
    paths = {"name": "big", "runs": folder / "runs", "saved_models": folder / "saved_models"}
    return [pattern, *(f"--{name}={value}" for name, value in {**small, **paths}.items())]


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def has_checkpoint(folder):
    """Whether a training of two workers has a checkpoint of a step, and is not at its end."""
    names = sorted(path.name for path in folder.glob("runs/big/checkpoints/0*.weights.h5"))
    return bool(names) and "000000-000000000" < names[-1][:16] < "000006"


def weights(folder):
    return keras.saving.load_model(folder / "runs/big/model.keras").get_weights()


def assert_same(found, expected):
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.fixture(scope="module")
def undisturbed(pattern, run_workers, tmp_path_factory):
    """The weights that two workers of `tfvae train` find."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_workers(TRAIN, 2, *flags(pattern, folder), timeout=240)
    return weights(folder)


@pytest.mark.slow
def test_a_worker_of_the_command_line_that_is_killed_changes_nothing(
    pattern, undisturbed, processes, free_addresses, run_workers, tmp_path
):
    addresses = free_addresses(2)
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(processes.start(TRAIN, *flags(pattern, tmp_path), environment={"TF_CONFIG": json.dumps(config)}))
    wait_until(lambda: has_checkpoint(tmp_path))
    workers[1].kill()
    assert workers[1].wait() == -signal.SIGKILL
    assert workers[0].wait(60) == 1
    (line,) = [line for line in workers[0].stderr.splitlines() if line.startswith("tfvae: error:")]
    assert "a worker was lost: " in line
    assert "Traceback" not in workers[0].stderr
    run_workers(TRAIN, 2, *flags(pattern, tmp_path), timeout=240)
    assert_same(weights(tmp_path), undisturbed)
    assert (tmp_path / "runs/big/evaluation.txt").is_file()


RAY = """
import runpy, sys
import ray

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=sys.argv[1])
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def short_folder():
    """A folder for sockets, whose paths have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield folder


def workers_of(driver):
    """The processes of Ray's workers that descend from a process."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            # It has ended.
            continue

    def descends(pid):
        return pid == driver or (pid in parents and descends(parents[pid]))

    return sorted(pid for pid in found if descends(pid))


@pytest.mark.slow
@pytest.mark.ray
def test_ray_starts_the_workers_again_and_the_end_is_the_same(pattern, undisturbed, short_folder, tmp_path):
    # Ray keeps its record of the run in the home folder.
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RAY, short_folder, EXAMPLES / "ray_cluster.py", *flags(pattern, tmp_path)]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: driver.poll() is not None or has_checkpoint(tmp_path), 400)
        killed = workers_of(driver.pid)
        assert len(killed) == 2, (tmp_path / "log").read_text()[-3000:]
        os.kill(killed[1], signal.SIGKILL)
        others = wait_until(lambda: [pid for pid in workers_of(driver.pid) if pid not in killed], 120)
        assert others
        assert driver.wait(400) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()
    assert_same(weights(tmp_path), undisturbed)
    assert (tmp_path / "runs/big/evaluation.txt").is_file()
