"""What is restarted, and when; test_kills.py kills real workers."""

import os
import sys

import pytest
import tensorflow as tf

from tfvae.distribute import restart

LOST = tf.errors.UnavailableError(None, None, "Graph execution error:\n\nCollective ops is aborted by: Socket closed\n")


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have replaced this process."""
    commands = []
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append((path, command)))
    monkeypatch.setattr(os, "closerange", lambda *_: None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "program", "--name", "x"])
    monkeypatch.setenv("TF_CONFIG", "{}")
    return commands


@pytest.mark.parametrize("error", [LOST, tf.errors.AbortedError(None, None, "aborted")])
def test_the_same_command_is_run_again(error, commands, capsys):
    with restart.on_lost_worker("--resume", "--name"):
        raise error
    assert commands == [(sys.executable, ["python", "-m", "program", "--name", "x", "--resume"])]
    assert "a worker was lost, starting again: " in capsys.readouterr().err


def test_the_reason_is_said_in_one_line(commands, capsys):
    with restart.on_lost_worker():
        raise LOST
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Collective ops is aborted by: Socket closed")


@pytest.mark.parametrize(
    "error", [ValueError("x"), tf.errors.InvalidArgumentError(None, None, "x"), KeyboardInterrupt()]
)
def test_other_errors_are_raised(error, commands):
    with pytest.raises(type(error)), restart.on_lost_worker():
        raise error
    assert commands == []


def test_without_workers_no_worker_is_lost(commands, monkeypatch):
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(tf.errors.UnavailableError), restart.on_lost_worker():
        raise LOST
    assert commands == []
