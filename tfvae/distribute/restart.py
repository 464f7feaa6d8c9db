"""A program that starts itself again when one of the workers that it trains with is lost."""

import contextlib
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

# What a collective operation of TensorFlow raises in the workers that are left.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


@contextlib.contextmanager
def on_lost_worker(*arguments: str) -> Iterator[None]:
    """Replaces this process by a new one of the same command, where a worker is lost in the body.

    TensorFlow cannot take a worker back: all must begin anew. So the new process makes its strategy again, which waits
    for the lost worker for a limited time, and the training goes on from its newest checkpoint. Put into the body what
    makes the strategy and the model, in which all workers take part, and `fit` with `tfvae.callbacks.Checkpoints` among
    the callbacks; have the lost worker started again by what started it.

    Args:
        arguments: added to the command, unless they are there.
    """
    try:
        yield
    except _LOST as error:
        if "TF_CONFIG" not in os.environ:
            # No worker can be lost: the error is another one, which would come again.
            raise
        lines = error.message.splitlines()
        reason = next((line for line in lines if "aborted" in line), lines[0])
        print(f"tfvae: a worker was lost, starting again: {reason}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # A port that stayed open would be taken for the new process's.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        command = [*sys.orig_argv, *(argument for argument in arguments if argument not in sys.orig_argv)]
        os.execv(sys.executable, command)
