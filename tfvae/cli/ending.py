"""How a command ends that is interrupted, or that fails on a file: with one line, which says how to go on."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# The exit code of a command that failed after its arguments had been found right.
FAILURE = 1


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turns SIGINT, SIGTERM and errors of files in the body of the `with` into one line and an exit code.

    The code is 130 after SIGINT (Ctrl-C), 143 after SIGTERM, and 1 after an error such as a full disk. The notes of the
    exception, which say what is kept, are part of the line. A second signal ends the process at once.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell lets the commands that it runs in the background ignore Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        _exit("interrupted", interrupt, 128 + number)
    except OSError as error:
        _exit(f"error: {error}", error, FAILURE)


def catch_sigterm_again() -> None:
    """Installs the handler of `in_one_line` once more, if it was: TensorFlow takes its place when workers connect."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def _exit(message: str, error: BaseException, code: int) -> NoReturn:
    if sys.stdout.isatty():
        # The line of progress may be unfinished.
        print()
    words = "; ".join([message, *getattr(error, "__notes__", ())]).split()
    print("tfvae:", *words, file=sys.stderr)
    raise SystemExit(code) from error
