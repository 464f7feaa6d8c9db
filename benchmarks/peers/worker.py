"""Runs each peer in its own process, so that the thread pools of several frameworks do not disturb each other."""

import functools
import importlib
import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from peers.architectures import ARCHITECTURES

# By name: the module of a peer, its class, and its additional arguments.
PEERS = {
    "tfvae": ("tfvae_vae", "TfvaePeer", {}),
    "keras": ("keras_vae", "KerasPeer", {}),
    "keras tuned": ("keras_vae", "KerasPeer", {"tuned": True}),
    "torch": ("pytorch_vae", "TorchPeer", {}),
    "torch compiled": ("pytorch_vae", "TorchPeer", {"compiled": True}),
    "jax": ("jax_vae", "JaxPeer", {}),
    "jax scan": ("jax_vae", "JaxPeer", {"scan": True}),
    "pythae": ("pythae_vae", "PythaePeer", {}),
}
# The distributions whose versions are recorded with the results.
PACKAGES = ("tfvae", "tensorflow", "tensorflow-probability", "keras", "torch", "jax", "pythae", "numpy")


def build(peer: str, shape: str, batch_size: int, k: int) -> Any:
    """Makes a peer in this process.

    Args:
        peer: a name of `PEERS`.
        shape: a name of `ARCHITECTURES`.
        batch_size: B, the number of examples in a step.
        k: the number of draws of z for each example.
    """
    module, name, arguments = PEERS[peer]
    kind = getattr(importlib.import_module(f"peers.{module}"), name)
    return kind(ARCHITECTURES[shape], batch_size, k, **arguments)


class WorkerError(Exception):
    """A worker failed; the message gives the reason."""


class Worker:
    """A process that holds an object and calls its methods.

    Args:
        make: makes the object, in the new process; it must be possible to pickle.
        memory: the most bytes of memory that the process may use, or None for no limit.

    """

    def __init__(self, make: Callable[[], Any], memory: int | None = None) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, memory), daemon=True)
        self._process.start()
        other.close()
        self._is_ready = False

    def ready(self) -> None:
        """Waits until the object is made. `call` waits by itself; call this to make several workers ready at once.

        Raises:
            WorkerError: the object could not be made.
        """
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object in the process, and returns its result.

        Args:
            method: the name of the method.
            arguments: the arguments of the method.

        Raises:
            WorkerError: the method raised an error, or the process ended.
        """
        self.ready()
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise self._ended() from error
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            value, reason = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if reason:
            raise WorkerError(reason)
        return value

    def _ended(self) -> WorkerError:
        self._process.join()
        return WorkerError(f"the process ended with exit code {self._process.exitcode}")


def peer_worker(peer: str, shape: str, batch_size: int, k: int, memory: int | None = None) -> Worker:
    """Makes a worker that holds a peer. For the arguments see `build` and `Worker`."""
    return Worker(functools.partial(build, peer, shape, batch_size, k), memory)


def _serve(connection: Connection, make: Callable[[], Any], memory: int | None) -> None:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        owner = make()
        connection.send((None, None))
        while True:
            method, arguments = connection.recv()
            connection.send((getattr(owner, method)(*arguments), None))
    except EOFError:
        pass
    except NotImplementedError as error:
        connection.send((None, str(error)))
    except Exception as error:
        traceback.print_exc()
        first, *others = filter(None, traceback.format_exception_only(error)[-1].split("\n"))
        # The last line of a TensorFlow error has its cause.
        connection.send((None, f"{first} {others[-1]}" if first.endswith(":") and others else first))
