"""Workers that wait for each other: late, killed, duplicate or of another cluster, and connections by strangers."""

import contextlib
import fractions
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tfvae.distribute import rendezvous


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(rendezvous, "_PAUSE", 0.02)


@pytest.fixture
def start():
    """Starts a worker in a thread that is not waited for when a test fails."""

    def run(addresses, index, timeout=5.0):
        worker = Future()

        def meet():
            try:
                worker.set_result(rendezvous.meet(addresses, index, timeout))
            except Exception as error:
                worker.set_exception(error)

        threading.Thread(target=meet, daemon=True).start()
        return worker

    return run


@pytest.fixture
def start_process():
    """Starts a worker in a process, which can be killed."""
    script = (
        "import json, sys; from tfvae.distribute.rendezvous import meet; print(flush=True); meet(*json.load(sys.stdin))"
    )
    processes = []

    def run(addresses, index, timeout=20.0):
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        process.stdin.write(json.dumps([addresses, index, timeout]).encode())
        process.stdin.close()
        process.stdout.readline()
        # It is about to connect; this is long enough for it to do so.
        time.sleep(0.4)
        return process

    yield run
    for process in processes:
        with process:
            process.kill()


def connect(address):
    """Connects as soon as something listens at the address."""
    host, port = address.split(":")
    for _ in range(100):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), 5)
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {address}")


def errors(workers):
    return [worker.exception(10) for worker in workers]


def check_waiting(workers, seconds=0.2):
    time.sleep(seconds)
    assert not any(worker.done() for worker in workers)


# All workers start


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_all_go_on_together_whatever_the_order_of_arrival(free_addresses, start, order):
    addresses = free_addresses(3)
    workers = []
    for index in order:
        check_waiting(workers, 0.1)
        workers.append(start(addresses, index))
    assert errors(workers) == [None] * 3


def test_one_worker_waits_for_nobody():
    rendezvous.meet(["127.0.0.1:1"], 0, 1.0)


def test_many_workers_meet_at_once(free_addresses):
    addresses = free_addresses(40)
    with ThreadPoolExecutor(40) as pool:
        assert errors([pool.submit(rendezvous.meet, addresses, i, 10) for i in range(40)]) == [None] * 40


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_hosts_by_ipv6_and_by_name(free_addresses, start, host):
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    addresses = [address.replace("127.0.0.1", host) for address in free_addresses(2)]
    assert errors([start(addresses, index) for index in range(2)]) == [None, None]


def test_ports_can_be_bound_at_once(free_addresses):
    def meet_and_bind(addresses, index):
        rendezvous.meet(addresses, index, 5.0)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("0.0.0.0", int(addresses[index].split(":")[1])))
            server.listen()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            addresses = free_addresses(3)
            assert errors([pool.submit(meet_and_bind, addresses, index) for index in range(3)]) == [None] * 3


def test_the_leader_listens_no_more_when_the_others_go_on(free_addresses, start, monkeypatch):
    addresses = free_addresses(2)
    tell = rendezvous._tell

    def check(peers, **message):
        if message == {"missing": []}:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1])))
        tell(peers, **message)

    monkeypatch.setattr(rendezvous, "_tell", check)
    assert errors([start(addresses, index) for index in range(2)]) == [None, None]


# Some workers do not start in time


def late(*addresses, seconds=1):
    who = ", ".join(addresses)
    return f"All workers of `TF_CONFIG` must start within {seconds} seconds. Received: no answer from {who}"


@pytest.mark.parametrize(
    "absent", [(0,), (2, 3), *(pytest.param(absent, marks=pytest.mark.slow) for absent in [(1,), (0, 2, 3)])], ids=str
)
def test_all_say_who_did_not_come(free_addresses, start, absent):
    addresses = free_addresses(4)
    begin = time.monotonic()
    workers = [start(addresses, index, 1.0) for index in range(4) if index not in absent]
    found = errors(workers)
    assert 0.9 < time.monotonic() - begin < 3
    assert {type(error) for error in found} == {TimeoutError}
    # If the leader, the first worker, is absent, the others cannot learn who else is.
    expected = addresses[:1] if 0 in absent else [addresses[index] for index in absent]
    assert {str(error) for error in found} == {late(*expected)}


@pytest.mark.parametrize("first", [0, 1])
def test_all_give_up_with_the_first_that_does(free_addresses, start, first):
    addresses = free_addresses(4)
    begin = time.monotonic()
    workers = [start(addresses, first, 1.0)]
    check_waiting(workers)
    workers += [start(addresses, index, 20.0) for index in range(3) if index != first]
    assert [str(error) for error in errors(workers)] == [late(addresses[3])] * 3
    assert 0.9 < time.monotonic() - begin < 3


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "x", "1", True, None, 1j], ids=repr)
@pytest.mark.parametrize("count", [1, 2])
def test_timeout_is_a_positive_number(timeout, count):
    message = f"`timeout` must be a positive number of seconds. Received: timeout={timeout!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rendezvous.meet(["127.0.0.1:1", "127.0.0.1:2"][:count], 0, timeout)


@pytest.mark.parametrize("timeout", [10, 1e300, 10**400, fractions.Fraction(7, 2)], ids=["10", "1e300", "int", "7/2"])
def test_timeout_is_any_positive_number(free_addresses, start, timeout):
    addresses = free_addresses(2)
    follower = start(addresses, 1, timeout)
    check_waiting([follower], 0.1)
    assert errors([follower, start(addresses, 0, timeout)]) == [None, None]


@pytest.mark.parametrize("host", ["a..b", "-.invalid"])
def test_a_leader_whose_name_is_unknown_is_named(free_addresses, start, host):
    addresses = [f"{host}:5000", *free_addresses(1)]
    assert str(start(addresses, 1, fractions.Fraction(1, 2)).exception(10)) == late(f"{host}:5000", seconds=0.5)


def test_a_worker_that_is_killed_is_missed_until_it_comes_again(free_addresses, start, start_process):
    addresses = free_addresses(3)
    leader = start(addresses, 0)
    killed = start_process(addresses, 1)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    check_waiting([leader])
    others = [leader, start(addresses, 2)]
    check_waiting(others)
    assert errors([start(addresses, 1), *others]) == [None] * 3


def test_a_worker_that_is_killed_and_stays_away_is_named(free_addresses, start, start_process):
    addresses = free_addresses(3)
    leader = start(addresses, 0, 20.0)
    killed = start_process(addresses, 1)
    killed.kill()
    killed.wait()
    check_waiting([leader])
    others = [leader, start(addresses, 2, 1.0)]
    assert [str(error) for error in errors(others)] == [late(addresses[1])] * 2


def test_followers_wait_on_for_a_leader_that_is_killed(free_addresses, start, start_process):
    addresses = free_addresses(3)
    follower = start(addresses, 1, 10.0)
    start_process(addresses, 0).kill()
    check_waiting([follower])
    assert errors([follower, start(addresses, 0), start(addresses, 2)]) == [None] * 3


def test_of_two_workers_with_one_index_the_later_stays(free_addresses, start, monkeypatch):
    addresses = free_addresses(3)
    listen = rendezvous._listen

    def on_machines_of_their_own(address, deadline):
        return listen(address, deadline) if address == addresses[0] else contextlib.nullcontext()

    monkeypatch.setattr(rendezvous, "_listen", on_machines_of_their_own)
    leader = start(addresses, 0)
    first = start(addresses, 1)
    check_waiting([leader, first])
    second = start(addresses, 1)
    expected = f"`TF_CONFIG` must give each worker its own index. Received: a second worker for {addresses[1]}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        first.result(2)
    check_waiting([leader, second])
    assert errors([leader, second, start(addresses, 2)]) == [None] * 3


@pytest.mark.parametrize("count", [2, 3, 4])
def test_workers_of_different_clusters_all_say_so(free_addresses, start, count):
    addresses, others = free_addresses(3), free_addresses(3)
    workers = [start(addresses, 0), start(addresses, 1)]
    check_waiting(workers)
    cluster = [addresses[0], *others][:count]
    found = errors([*workers, start(cluster, count - 1)])
    assert {type(error) for error in found} == {ValueError}
    expected = "`TF_CONFIG` must have the same cluster in all workers. Received: "
    assert {str(error) for error in found} == {f"{expected}{addresses} and {cluster}"}


# Strangers, on whom the leader would have to wait if it served connections one after another

ALIKE = '{"tfvae": {"addresses": ADDRESSES, "index": INDEX}}\n'
STRANGERS = {
    "nothing": "",
    "garbage": "\0\u07ff\n\n",
    "half a line": '{"tfvae": ',
    "HTTP": "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nested": "[" * 60_000 + "\n",
    "null": "null\n",
    "no tfvae": "{}\n",
    "a number": '{"tfvae": 1}\n',
    "a list": '{"tfvae": [[1, 2]]}\n',
    "no index": '{"tfvae": {"addresses": []}}\n',
    "no addresses": '{"tfvae": {"index": 1}}\n',
    "late": '{"tfvae": {"late": "stranger"}}\n',
    "an answer": '{"tfvae": {"missing": []}}\n',
    **{
        f"index {index[:9]}": ALIKE.replace("INDEX", index)
        for index in ("0", "3", "-9", "1.0", "true", "null", '"1"', "[1]", "{}", "1" * 5000)
    },
}


# A stranger that sends nothing, something that is not JSON, other JSON, or almost the right message.
SOME = ["nothing", "garbage", "nested", "null", "late", "index 0", "index true"]


@pytest.mark.parametrize(
    "says",
    [pytest.param(says, id=who, marks=() if who in SOME else pytest.mark.slow) for who, says in STRANGERS.items()],
)
def test_the_leader_minds_no_stranger(free_addresses, start, says):
    addresses = free_addresses(3)
    begin = time.monotonic()
    leader = start(addresses, 0, 10.0)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stranger = stack.enter_context(connect(addresses[0]))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(says.replace("ADDRESSES", json.dumps(addresses)).encode())
        # A stranger that disconnects at once.
        connect(addresses[0]).close()
        check_waiting([leader], 0.1)
        assert errors([leader, start(addresses, 1, 10.0), start(addresses, 2, 10.0)]) == [None] * 3
    assert time.monotonic() - begin < 3


def test_silent_strangers_do_not_lengthen_the_wait(free_addresses, start):
    addresses = free_addresses(2)
    begin = time.monotonic()
    leader = start(addresses, 0, 1.0)
    with connect(addresses[0]), connect(addresses[0]):
        assert str(leader.exception(10)) == late(addresses[1])
    assert time.monotonic() - begin < 3


def test_a_line_without_end_is_cut(free_addresses, start):
    addresses = free_addresses(2)
    leader = start(addresses, 0)
    with connect(addresses[0]) as stranger, pytest.raises(ConnectionError):
        stranger.sendall(b"x" * 2**24)
    assert errors([leader, start(addresses, 1)]) == [None, None]


def test_a_message_in_pieces_is_one(free_addresses, start):
    addresses = free_addresses(2)
    leader = start(addresses, 0)
    message = ALIKE.replace("ADDRESSES", json.dumps(addresses)).replace("INDEX", "1").encode()
    with connect(addresses[0]) as worker:
        for byte in message[:-1]:
            worker.sendall(bytes([byte]))
            time.sleep(0.002)
        check_waiting([leader], 0.1)
        worker.sendall(message[-1:])
        assert leader.exception(2) is None


@pytest.mark.parametrize("says", ["echo", "HTTP/1.1 400 Bad Request\r\n\r\n", "", '{"tfvae": {}}\n'], ids=repr)
def test_a_follower_waits_for_the_leader_when_another_listens_there(free_addresses, start, says):
    addresses = free_addresses(2)
    server = socket.create_server(("127.0.0.1", int(addresses[0].split(":")[1])))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as connection:
                    heard = connection.recv(2**16)
                    connection.sendall(heard if says == "echo" else says.encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    follower = start(addresses, 1)
    leader = start(addresses, 0)
    check_waiting([follower, leader])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    assert errors([follower, leader]) == [None, None]


def take(address, reuse_port=False):
    return socket.create_server(("127.0.0.1", int(address.split(":")[1])), reuse_port=reuse_port)


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared as gRPC does"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_stays_in_use_is_named(free_addresses, start, index, shared):
    addresses = free_addresses(2)
    with take(addresses[index], shared):
        expected = f"`TF_CONFIG` must give this worker a port that is free. Received: {addresses[index]}: [Errno "
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}"):
            start(addresses, index, 0.5).result(3)


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_gets_free_is_waited_for(free_addresses, start, index):
    addresses = free_addresses(2)
    with take(addresses[index]):
        workers = [start(addresses, 0), start(addresses, 1)]
        check_waiting(workers)
    assert errors(workers) == [None, None]


def test_a_port_that_is_forbidden_is_not_waited_for(free_addresses, start, monkeypatch):
    def forbid(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    addresses = free_addresses(2)
    monkeypatch.setattr(socket, "create_server", forbid)
    with pytest.raises(ValueError, match=r"^`TF_CONFIG` must give this worker a port that is free\. .*denied"):
        start(addresses, 0, 5.0).result(1)
