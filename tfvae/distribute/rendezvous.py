"""Workers that start at different times wait for each other, for a limited time.

TensorFlow itself waits for up to an hour and does not say which worker is missing. Here all workers first connect to
the first one (the leader), on the port on which TensorFlow will listen afterwards, and then continue together.
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

# Seconds between two attempts to connect.
_PAUSE = 0.2
# Seconds that one attempt to connect or send may take.
_PATIENCE = 5.0


def meet(addresses: Sequence[str], index: int, timeout: float) -> None:
    """Blocks until every worker has called this function.

    Args:
        addresses: the distinct "host:port" of every worker; the same list in all workers.
        index: the index of this worker in `addresses`.
        timeout: how many seconds to wait.

    Raises:
        ValueError: `timeout` is out of its range, the port of this worker is not free, the workers were given different
            addresses, or two have the same index.
        TimeoutError: a worker did not connect in time.
    """
    is_number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout < float("inf")):
        raise ValueError(f"`timeout` must be a positive number of seconds. Received: timeout={timeout!r}")
    if len(addresses) > 1:
        # Sockets reject very large timeouts.
        timeout = float(min(timeout, 1e8))
        deadline = time.monotonic() + timeout
        # Every worker binds its own port, to find out whether a leftover process holds it: TensorFlow would share it.
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
        # Closed before the workers are told to go on, so that none connects here before TensorFlow listens.
        server.close()
        _tell(arrived.values(), missing=[])


def _hear(peer: "_Peer", addresses: list[str], arrived: dict[int, "_Peer"]) -> bool:
    """Reads messages from a peer and adds it to `arrived`; False if it has disconnected or is not a worker."""
    try:
        messages = peer.receive()
    except OSError:
        for index in [index for index, other in arrived.items() if other is peer]:
            del arrived[index]
        return False
    for message in messages:
        if "late" in message and peer in arrived.values():
            # The first worker to give up names those it waited for; the others stop, for they would miss it as well.
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
            # The newer connection is kept: the older may belong to a machine that failed, and only look alive.
            wrong = (
                f"`TF_CONFIG` must give each worker its own index. Received: a second worker for {addresses[number]}"
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
                # If nobody listens, the system may choose the target as local port, and the socket talks to itself.
                if not answer.keys() & {"missing", "late", "wrong"}:
                    raise ConnectionError("the process that answers is not the leader")
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
    # Like gRPC, which accepts both IPv4 and IPv6.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            # A worker that was just killed may hold the port for a moment longer.
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
        # The loss of a peer is noticed elsewhere, here or in TensorFlow.
        with contextlib.suppress(OSError):
            peer.send(**message)


class _Peer:
    """The other end of a connection; exchanges messages as lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._heard = b""

    def send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps({"tfvae": message}).encode() + b"\n")

    def close(self) -> None:
        self._connection.close()

    def receive(self) -> list[dict[str, Any]]:
        """Waits until data arrives, and returns the messages that are complete.

        Raises:
            OSError: the peer has disconnected, or sent something that is not a message, as a process that is not a
                worker may do.
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
