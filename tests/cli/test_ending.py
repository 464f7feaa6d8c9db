"""How a command ends that is interrupted or meets a full disk, and what it keeps."""

import ctypes
import errno
import io
import json
import os
import re
import signal
import sys
import time
import warnings

import numpy as np
import pytest

from tests.helpers.processes import COMMAND
from tfvae import __main__
from tfvae.cli import commands, ending

TRAIN = ["train", "digits", "--hidden", "[16]", "--latent_dim", "2", "--num_samples", "20"]


@pytest.fixture
def handlers():
    """Those of a command in the foreground, whatever started the tests; restores them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(capsys, raise_it):
    """The exit code and the line with which a command ends in which something is raised."""
    with pytest.raises(SystemExit) as raised, ending.in_one_line():
        raise_it()
    (line,) = capsys.readouterr().err.splitlines()
    return raised.value.code, line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_one_line_and_its_code(number, code, handlers, capsys):
    assert ended(capsys, lambda: signal.raise_signal(number)) == (code, "tfvae: interrupted")
    # A second one is not waited for.
    assert signal.getsignal(number) is signal.SIG_DFL


def test_sigterm_is_caught_where_tensorflow_has_taken_the_place_of_the_handler(handlers, capsys):
    def end():
        # As TensorFlow does when workers connect, which Python does not see.
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(signal.SIG_IGN))
        ending.catch_sigterm_again()
        signal.raise_signal(signal.SIGTERM)

    assert ended(capsys, end) == (143, "tfvae: interrupted")


def test_a_signal_that_the_shell_lets_a_command_ignore_is_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ending.in_one_line():
        signal.raise_signal(signal.SIGINT)


def test_the_line_of_an_error_of_a_file_has_its_notes(handlers, capsys):
    def fail():
        error = OSError(errno.ENOSPC, "No space left on device", "a.keras")
        error.add_note("b keeps\nmuch")
        raise error

    line = "tfvae: error: [Errno 28] No space left on device: 'a.keras'; b keeps much"
    assert ended(capsys, fail) == (1, line)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_the_output_cannot_show_is_escaped(encoding, handlers, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(commands, "main", lambda: print("Wrote \udcff.npz"))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    __main__.main()
    output.flush()
    assert output.buffer.getvalue() == b"Wrote \\udcff.npz\n"


# Real processes

MOMENTS = {
    "loading": "from tfvae.data import loading as module; name = 'read'",
    "training": "from tfvae.callbacks import Checkpoints as module; name = '_save'",
    "evaluation": "from tfvae.cli import run_folder as module; name = 'evaluation'",
    "export": "from tfvae.cli import exports as module; name = 'write'",
}
# What takes longest after a training, and is not what is tested.
SHORT = """
from tfvae.cli import exports, run_folder
exports.write = run_folder.draw = lambda *_, **__: None
"""
# Ends with a signal in a function, when it is called a second time if a training calls it often.
INTERRUPTED = """
import signal
{moment}
function, calls = getattr(module, name), []
def interrupted(*arguments, **keywords):
    calls.append(name)
    if len(calls) == (2 if name == "_save" else 1):
        signal.raise_signal({number})
    return function(*arguments, **keywords)
setattr(module, name, interrupted)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_training_says_what_it_keeps_and_goes_on(moment, number, code, processes, tmp_path):
    script = SHORT + INTERRUPTED.format(moment=MOMENTS[moment], number=int(number)) + COMMAND
    done = processes.start(script, *TRAIN, "--epochs", "2", folder=tmp_path)
    assert done.wait() == code
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    kept = {
        "loading": "nothing was written",
        "training": "runs/digits keeps the training up to epoch 0: the same command with --resume goes on from there",
    }
    after = "runs/digits keeps the trained model, and what was written after it: the same command with --resume goes on"
    assert line.startswith("tfvae: interrupted; " + kept.get(moment, after))
    assert not list(tmp_path.rglob(".tmp-*"))
    resumed = processes.start(SHORT + COMMAND, *TRAIN, "--epochs", "2", "--resume", folder=tmp_path)
    assert resumed.wait() == 0, resumed.stderr
    assert (tmp_path / "runs/digits/evaluation.txt").is_file()


@pytest.mark.slow
def test_sigterm_ends_the_workers_of_a_cluster(processes, free_addresses, tmp_path):
    cluster = {"worker": free_addresses(2)}
    arguments = [*TRAIN, "--epochs", "100000", "--strategy", "multi_worker"]
    workers = []
    for index in range(2):
        variables = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        workers.append(processes.start(COMMAND, *arguments, folder=tmp_path, environment=variables))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/digits/checkpoints/0*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    assert [worker.wait(60) for worker in workers] == [143, 143]
    lines = [worker.stderr.splitlines()[-1] for worker in workers]
    assert lines[0].startswith("tfvae: interrupted; runs/digits keeps the training up to epoch")
    assert lines[1].startswith("tfvae: interrupted")


@pytest.mark.slow
def test_of_two_trainings_of_one_name_one_trains_and_one_is_told(processes, tmp_path):
    for number in range(10):
        arguments = [*TRAIN, "--epochs", "3", "--name", f"run{number}"]
        both = [processes.start(SHORT + COMMAND, *arguments, folder=tmp_path) for _ in range(2)]
        codes = [process.wait() for process in both]
        assert sorted(codes) == [0, 2], [process.stderr for process in both]
        refused = both[codes.index(2)].stderr
        assert "Traceback" not in refused
        # The second is told so, or came when the first had ended.
        assert re.search("is in use by another training|holds a trained model", refused.splitlines()[-1])
        assert (tmp_path / f"runs/run{number}/evaluation.txt").is_file()


@pytest.mark.slow
def test_a_killed_training_does_not_lock_its_run(processes, tmp_path):
    arguments = [*TRAIN, "--epochs", "500"]
    first = processes.start(COMMAND, *arguments, folder=tmp_path)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/digits/checkpoints/0*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = processes.start(COMMAND, *arguments, "--resume", folder=tmp_path)
    assert second.wait() == 2
    assert second.stderr.splitlines()[-1].startswith("tfvae: error: runs/digits is in use by another training")
    first.kill()
    first.wait()
    third = processes.start(limited(5_000) + COMMAND, *arguments, "--resume", folder=tmp_path)
    # It got as far as writing a checkpoint.
    assert third.wait() == 1, third.stderr


def limited(size):
    """Code that lets the process write no file larger than this many bytes, which it is told as by a full disk."""
    return f"\nimport resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"


@pytest.fixture(scope="module")
def run(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert processes.start(COMMAND, *TRAIN, "--epochs", "2", folder=folder).wait() == 0
    np.save(folder / "x.npy", np.zeros([1000, 8, 8, 1]))
    return folder


COMMANDS = {
    "predict": (["predict", "--model", "saved_models/digits/digits.tflite", "--input", "x.npy"], "y.npz", 20_000),
    "predict of a SavedModel": (["predict", "--model", "saved_models/digits", "--input", "x.npy"], "y.npz", 20_000),
    "detect": (["detect", "--model", "saved_models/digits/digits.tflite", "--input", "x.npy"], "y.csv", 20_000),
    "generate an array": (["generate", "runs/digits", "--n", "1000"], "y.npy", 20_000),
    "generate a picture": (["generate", "runs/digits"], "y.png", 5_000),
    "export": (["export", "runs/digits"], "new", 10_000),
    "verify": (["verify", "runs/digits", "--saved_model", "saved_models/digits"], "y.json", 4_000),
}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_earlier_files_alone(name, run, processes):
    arguments, output, size = COMMANDS[name]
    earlier = run / output
    if name != "export":
        earlier.write_bytes(b"earlier")
    before = contents(run)
    done = processes.start(limited(size) + COMMAND, *arguments, "--output", output, folder=run)
    assert done.wait() in (1, 2)
    assert "Traceback" not in done.stderr
    assert re.match("tfvae: error: .*(File too large|No space left).*", done.stderr.splitlines()[-1])
    after = contents(run)
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if ".tmp-" in str(path)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [5_000, 40_000, 60_000], ids=lambda size: f"{size} bytes")
def test_a_training_that_fills_the_disk_goes_on_when_there_is_room(size, processes, tmp_path):
    done = processes.start(limited(size) + COMMAND, *TRAIN, "--epochs", "2", folder=tmp_path)
    assert done.wait() in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert re.match("tfvae: error: .*File too large.*", done.stderr.splitlines()[-1])
    resumed = processes.start(SHORT + COMMAND, *TRAIN, "--epochs", "2", "--resume", folder=tmp_path)
    assert resumed.wait() == 0, resumed.stderr
