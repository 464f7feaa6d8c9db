"""A process of its own for each peer, so that the thread pools of several frameworks do not disturb each other."""

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

# By name, the module and the class of a peer, and the arguments that it has beside those of every peer.
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
# The distributions whose versions say what was compared.
PACKAGES = ("tfvae", "tensorflow", "tensorflow-probability", "keras", "torch", "jax", "pythae", "numpy")


def build(peer: str, shape: str, batch_size: int, k: int) -> Any:
    """Makes a peer in this process.

    Args:
        peer: a name of `PEERS`.
        shape: a name of `ARCHITECTURES`.
        batch_size: B, the examples of a step.
        k: the draws of z for each example.
    """
    module, name, arguments = PEERS[peer]
    kind = getattr(importlib.import_module(f"peers.{module}"), name)
    return kind(ARCHITECTURES[shape], batch_size, k, **arguments)


class WorkerError(Exception):
    """What a worker could not do, with the reason as its message."""


class Worker:
    """A process that holds an object and calls its methods.

    Args:
        make: makes the object, in the process: a function of a module, with its arguments.
        memory: the most bytes of memory that the process may have, or None for any.

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
        """Waits until the object is made, so that several may be made at once; `call` does it too.

        Raises:
            WorkerError: it cannot be made.
        """
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object, and returns what it returns.

        Args:
            method: its name.
            arguments: its arguments.

        Raises:
            WorkerError: it raised, or the process ended.
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
    """A worker that holds a peer; the arguments are those of `build` and of `Worker`."""
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
        # TensorFlow says last what it was.
        connection.send((None, f"{first} {others[-1]}" if first.endswith(":") and others else first))
