"""Hides from stderr what TensorFlow and LiteRT log at every start, which no user can act on."""

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from tfvae.cli.record import Warnings

# Written by C++ before TensorFlow reads TF_CPP_MIN_LOG_LEVEL: lines of level INFO, the line that announces them, and
# the search for a GPU where there is no driver (error 303). And what the converter to TFLite says of the loop of a
# recurrent layer, after which `tfvae.export.tflite` says, in a warning or an error, what becomes of it.
_NOISE = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|E\d{4} .* failed call to cuInit: .*\(303\)"
    rb"|INFO: Created TensorFlow Lite XNNPACK delegate|loc\(.*TensorList|error: Lowering tensor list ops is failed"
)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Holds back stderr, and at the end of the `with` writes everything to it but the noise."""
    sys.stderr.flush()
    # A file rather than a pipe, whose reader would wait for the lock that C++ holds while it logs.
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _NOISE.match(line):
                    os.write(2, line)


def import_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices, without the noise of both."""
    with hidden():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def noted_warnings() -> Iterator[Warnings]:
    """Notes the warnings that are given, which are shown as before."""
    noted = Warnings()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_and_note(message: Warning | str, *arguments: Any, **others: Any) -> None:
            show(message, *arguments, **others)
            noted.note(" ".join(str(message).split()))

        warnings.showwarning = show_and_note
        yield noted


def warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as the user of a command needs it: one line, without the place in the code."""
    return f"tfvae: warning: {' '.join(str(message).split())}\n"
