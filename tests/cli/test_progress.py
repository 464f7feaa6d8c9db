"""The line of progress of a training."""

import io
import re
import sys
import time

import pytest

from tfvae.cli.progress import ProgressLine

LOGS = {"loss": 1.23456, "val_loss": 2.0}


class Terminal(io.StringIO):
    """What is written to a terminal of 80 columns."""

    def isatty(self):
        return True


@pytest.fixture
def printed(monkeypatch):
    """Runs 2 epochs of 3 steps, each of which takes a second, and returns what was printed."""

    def run(stream, metrics=LOGS):
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", "80")
        line = ProgressLine()
        line.set_params({"epochs": 2, "steps": 3})
        for epoch in range(2):
            line.on_epoch_begin(epoch)
            for step in range(3):
                now[0] += 1
                line.on_train_batch_end(step, {"loss": 1.0})
            line.on_epoch_end(epoch, metrics)
        return stream.getvalue()

    return run


def test_elsewhere_than_in_a_terminal_there_is_one_line_an_epoch_without_control_codes(printed):
    assert printed(io.StringIO()).split("\n") == [
        "Epoch 1/2  step 3/3  3.0 s  3.0 s left  loss 1.235  val_loss 2",
        "Epoch 2/2  step 3/3  3.0 s  loss 1.235  val_loss 2",
        "",
    ]


def test_in_a_terminal_the_line_of_an_epoch_is_updated(printed):
    output = printed(Terminal())
    assert output.count("\n") == 2
    assert re.sub(" {2,}", "  ", output.split("\n")[0]).split("\r") == [
        "",
        "Epoch 1/2  step 1/3  1.0 s  loss 1  ",
        "Epoch 1/2  step 2/3  2.0 s  4.0 s left  loss 1  ",
        "Epoch 1/2  step 3/3  3.0 s  3.0 s left  loss 1  ",
        "Epoch 1/2  step 3/3  3.0 s  3.0 s left  loss 1.235  val_loss 2  ",
    ]
    # Nothing but the return to the start of the line, which must not be longer than a line.
    assert not re.search(r"[^\r\n -~]", output)


def test_a_line_is_not_longer_than_the_terminal_is_wide(printed):
    output = printed(Terminal(), {f"metric_{number}": 1.0 for number in range(20)})
    assert {len(line) for line in re.split("[\r\n]+", output)} == {0, 79}
