"""Workers that start at different times wait for each other, for a limited time.

TensorFlow waits for an hour and does not say for whom. Here all workers come to the first one, on the port on which
TensorFlow listens next, and go on together.
"""

import contextlib
import json
import numbers
import socket
import time
from collections.abc import Sequence
from typing import Any

# Between two attempts, in seconds.
_PAUSE = 0.2
# For a message of a peer that is there, in seconds.
_PATIENCE = 5.0


def meet(addresses: Sequence[str], index: int, timeout: float) -> None:
    """Returns in all workers once all have called it.

    Args:
        addresses: "host:port" of every worker, the same in all.
        index: the number of this worker.
        timeout: how many seconds to wait.

    Raises:
        ValueError: `timeout` is out of its range, or the workers do not have the same addresses.
        TimeoutError: a worker did not come in time.
    """
    is_number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout < float("inf")):
        raise ValueError(f"`timeout` must be a positive number of seconds. Received: timeout={timeout!r}")
    if len(addresses) > 1:
        (_lead if index == 0 else _follow)(list(addresses), index, float(timeout))


def _lead(addresses: list[str], index: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    arrived: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(addresses[index], deadline))
        while len(arrived) < len(addresses) - 1:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                peer = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = [f"{i} at {address}" for i, address in enumerate(addresses) if i and i not in arrived]
                message = _late(f"worker {', worker '.join(missing)}", timeout)
                _tell(arrived, {"error": message})
                raise TimeoutError(message) from None
            received = _receive(peer, _PATIENCE)
            if received is None:
                continue
            if received.get("addresses") != addresses:
                message = f"`TF_CONFIG` must have one cluster in all workers. Received: {addresses} and {received}"
                _tell({**arrived, -1: peer}, {"error": message})
                raise ValueError(message)
            # One that was killed and started again comes a second time.
            arrived[received["index"]] = peer
        _tell(arrived, {"error": None})
        # The side that closes first keeps the port for a while, which must not be this one.
        for peer in arrived.values():
            _receive(peer, _PATIENCE)


def _follow(addresses: list[str], index: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while (remaining := deadline - time.monotonic()) > 0:
        answer = None
        with contextlib.suppress(OSError), _connect(addresses[0], min(_PATIENCE, remaining)) as leader:
            leader.sendall(_line({"addresses": addresses, "index": index}))
            answer = _receive(leader, max(deadline - time.monotonic(), 1e-3))
        if answer is None:
            time.sleep(_PAUSE)
        elif answer["error"] is None:
            return
        else:
            raise TimeoutError(answer["error"])
    raise TimeoutError(_late(f"worker 0 at {addresses[0]}", timeout))


def _late(who: str, timeout: float) -> str:
    return f"All workers of `TF_CONFIG` must start within {timeout:g} seconds. Received: no answer from {who}"


def _listen(address: str, deadline: float) -> socket.socket:
    port = int(address.rpartition(":")[2])
    while True:
        try:
            return socket.create_server(("", port))
        except OSError as error:
            # A worker that has just been killed may still hold the port.
            if time.monotonic() > deadline:
                raise ValueError(
                    f"`TF_CONFIG` must give this worker a port that is free. Received: {address}: {error}"
                ) from error
            time.sleep(_PAUSE)


def _connect(address: str, patience: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), patience)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps({"tfvae": message}).encode() + b"\n"


def _tell(peers: dict[int, socket.socket], message: dict[str, Any]) -> None:
    for peer in peers.values():
        # A peer that is gone will be missed by TensorFlow.
        with contextlib.suppress(OSError):
            peer.sendall(_line(message))


def _receive(peer: socket.socket, patience: float) -> dict[str, Any] | None:
    """The message of a peer; None when it said none, or something else: not every process that connects is a worker."""
    peer.settimeout(patience)
    try:
        with peer.makefile("rb") as file:
            return json.loads(file.readline(2**16))["tfvae"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
