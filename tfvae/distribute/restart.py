"""Restarts a program when one of the other workers in its training is lost."""

import contextlib
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

# The errors that TensorFlow's collective operations raise in the remaining workers.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


@contextlib.contextmanager
def on_lost_worker(*arguments: str) -> Iterator[None]:
    """Runs the same command again in place of this process if another worker is lost in the body of the `with`.

    TensorFlow cannot take a lost worker back: all workers must start again. The new process makes its strategy again,
    which waits a limited time for the lost worker, and training resumes from the newest checkpoint. The body must
    create the strategy and the model, since all workers take part in that, and call `fit` with
    `tfvae.callbacks.Checkpoints` among the callbacks. Whatever started the lost worker must start it again.

    Args:
        arguments: command-line arguments to add to the command, unless it has them already.
    """
    try:
        yield
    except _LOST as error:
        if "TF_CONFIG" not in os.environ:
            # There are no other workers: the error has another cause, and would only recur after a restart.
            raise
        lines = error.message.splitlines()
        reason = next((line for line in lines if "aborted" in line), lines[0])
        print(f"tfvae: a worker was lost, starting again: {reason}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # Open sockets would survive execv, and keep the port that the new process needs.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        command = [*sys.orig_argv, *(argument for argument in arguments if argument not in sys.orig_argv)]
        os.execv(sys.executable, command)
