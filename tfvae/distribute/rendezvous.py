"""Workers that start at different times wait for each other, for a limited time.

TensorFlow waits for an hour and does not say for whom. Here all workers come to the first one, on the port on which
TensorFlow listens next, and go on together.
"""

import contextlib
import errno
import json
import numbers
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

# Between two attempts, in seconds.
_PAUSE = 0.2
# For one attempt to connect or to send, in seconds.
_PATIENCE = 5.0


def meet(addresses: Sequence[str], index: int, timeout: float) -> None:
    """Returns in all workers once all have called it.

    Args:
        addresses: "host:port" of every worker, the same in all, each once.
        index: the number of this worker.
        timeout: how many seconds to wait.

    Raises:
        ValueError: `timeout` is out of its range, the port of this worker is not free, the workers do not have the same
            addresses, or two have the same index.
        TimeoutError: a worker did not come in time.
    """
    is_number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout < float("inf")):
        raise ValueError(f"`timeout` must be a positive number of seconds. Received: timeout={timeout!r}")
    if len(addresses) > 1:
        # Sockets take no time without end.
        timeout = float(min(timeout, 1e8))
        deadline = time.monotonic() + timeout
        # A worker that only follows holds its port too: TensorFlow would share it with a process that was left behind.
        with _listen(addresses[index], deadline) as server:
            if index == 0:
                _lead(server, list(addresses), deadline, timeout)
            else:
                _follow(list(addresses), index, deadline, timeout)


def _lead(server: socket.socket, addresses: list[str], deadline: float, timeout: float) -> None:
    arrived: dict[int, _Peer] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as connections:
        selector.register(server, selectors.EVENT_READ)
        while missing := [address for i, address in enumerate(addresses) if i and i not in arrived]:
            _tell(arrived.values(), missing=missing)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                late = _late(missing, timeout)
                _tell(arrived.values(), late=late)
                raise TimeoutError(late)
            for key, _ in selector.select(min(remaining, _PATIENCE)):
                if key.fileobj is server:
                    connection = connections.enter_context(server.accept()[0])
                    connection.settimeout(_PATIENCE)
                    selector.register(connection, selectors.EVENT_READ, _Peer(connection))
                elif not _hear(key.data, addresses, arrived):
                    selector.unregister(key.fileobj)
                    key.data.close()
        # First, so that nobody comes to this port before TensorFlow listens there.
        server.close()
        _tell(arrived.values(), missing=[])


def _hear(peer: "_Peer", addresses: list[str], arrived: dict[int, "_Peer"]) -> bool:
    """Adds the sender of a message to those who arrived; False when it is gone again, or is no worker."""
    try:
        messages = peer.receive()
    except OSError:
        for index in [index for index, other in arrived.items() if other is peer]:
            del arrived[index]
        return False
    for message in messages:
        if "late" in message and peer in arrived.values():
            # The first to give up says for whom it waited; if the others waited on, they would miss that one as well.
            _tell(arrived.values(), late=message["late"])
            raise TimeoutError(message["late"])
        cluster, number = message.get("addresses"), message.get("index")
        if not isinstance(cluster, list) or type(number) is not int:
            return False
        if cluster != addresses:
            wrong = f"`TF_CONFIG` must have the same cluster in all workers. Received: {addresses} and {cluster}"
            _tell([*arrived.values(), peer], wrong=wrong)
            raise ValueError(wrong)
        if not 0 < number < len(addresses):
            return False
        if number in arrived:
            # The later one stays: the connection of a machine that failed may look alive.
            wrong = (
                f"`TF_CONFIG` must give each worker another index. Received: a second worker for {addresses[number]}"
            )
            _tell([arrived[number]], wrong=wrong)
        arrived[number] = peer
    return True


def _follow(addresses: list[str], index: int, deadline: float, timeout: float) -> None:
    nobody: dict[str, Any] = {"missing": addresses[:1]}
    answer = nobody
    while answer.get("missing") and (remaining := deadline - time.monotonic()) > 0:
        try:
            with _connect(addresses[0], min(_PATIENCE, remaining)) as connection:
                leader = _Peer(connection)
                leader.send(addresses=addresses, index=index)
                while answer.get("missing"):
                    connection.settimeout(max(deadline - time.monotonic(), 1e-3))
                    with contextlib.suppress(TimeoutError):
                        answer = [answer, *leader.receive()][-1]
                    if answer.get("missing") and time.monotonic() > deadline:
                        answer = {"late": _late(answer["missing"], timeout)}
                        leader.send(**answer)
                # A process that connects to a port where nobody listens may get that very port, and hear itself.
                if not answer.keys() & {"missing", "late", "wrong"}:
                    raise ConnectionError("what answers is no leader")
        except (OSError, UnicodeError):
            answer = nobody
            time.sleep(_PAUSE)
    if "wrong" in answer:
        raise ValueError(answer["wrong"])
    if "late" in answer or answer["missing"]:
        raise TimeoutError(answer.get("late") or _late(answer["missing"], timeout))


def _late(missing: list[str], timeout: float) -> str:
    who = ", ".join(missing)
    return f"All workers of `TF_CONFIG` must start within {timeout:g} seconds. Received: no answer from {who}"


def _listen(address: str, deadline: float) -> socket.socket:
    port = int(address.rpartition(":")[2])
    # As gRPC does, which takes IPv4 and IPv6.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            # A worker that has just been killed may still hold the port.
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ValueError(
                    f"`TF_CONFIG` must give this worker a port that is free. Received: {address}: {error}"
                ) from error
            time.sleep(_PAUSE)


def _connect(address: str, patience: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), patience)


def _tell(peers: Iterable["_Peer"], **message: Any) -> None:
    for peer in peers:
        # A peer that is gone will be missed, here or by TensorFlow.
        with contextlib.suppress(OSError):
            peer.send(**message)


class _Peer:
    """The other end of a connection, which sends messages, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._heard = b""

    def send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps({"tfvae": message}).encode() + b"\n")

    def close(self) -> None:
        self._connection.close()

    def receive(self) -> list[dict[str, Any]]:
        """Waits until something comes, and returns the messages that are complete.

        Raises:
            OSError: the peer is gone, or says something else: not every process that connects is a worker.
        """
        heard = self._connection.recv(2**16)
        *lines, self._heard = (self._heard + heard).split(b"\n")
        try:
            messages = [dict(json.loads(line)["tfvae"]) for line in lines]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConnectionError("no message") from error
        if not heard or len(self._heard) > 2**20:
            raise ConnectionError("no message")
        return messages
