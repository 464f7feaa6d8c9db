"""Strategies by name, on devices that are present, hidden or simulated; none starts another process."""

import json
import re

import pytest
import tensorflow as tf

import tfvae
from tfvae.distribute import strategies


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)


@pytest.fixture
def made(monkeypatch):
    """The arguments of the strategies that would be made; none is, because their devices may be missing."""
    calls = []
    for name in ("OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy", "TPUStrategy"):
        monkeypatch.setattr(tf.distribute, name, lambda *arguments, name=name: calls.append((name, *arguments)))
    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", "the TPU at {}".format)
    return calls


@pytest.fixture
def machine(monkeypatch):
    """Simulates GPUs, some of them hidden from TensorFlow, and local or remote TPUs."""

    def pretend(gpus=0, hidden=0, tpus=0, tpu_name=""):
        monkeypatch.setenv("TPU_NAME", tpu_name)
        there = {"GPU": gpus, "TPU": tpus, "CPU": 1}
        visible = {**there, "GPU": gpus - hidden}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["device"] * there[kind])
        for name in ("get_visible_devices", "list_logical_devices"):
            monkeypatch.setattr(tf.config, name, lambda kind: ["device"] * visible[kind])

    return pretend


@pytest.fixture
def tf_config(monkeypatch):
    """Sets TF_CONFIG to text, or to the JSON of any other value."""
    return lambda value: monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))


def cluster(jobs, task=("worker", 0)):
    return {"cluster": jobs, "task": dict(zip(("type", "index"), task, strict=True))}


TWO = ["a:1", "b:2"]


def is_default(strategy):
    return strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()


def fails(message, received):
    """Expects a ValueError whose message starts with `message` and ends with `received`."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}.*Received: {re.escape(received)}$")


# In this process, where TensorFlow is in use


def test_auto_changes_nothing_where_there_is_one_device(tf_config):
    assert is_default(tfvae.strategy())
    assert is_default(tfvae.strategy(devices=1))
    tf_config(cluster({"worker": ["a:1"]}))
    assert is_default(tfvae.strategy("auto"))


def test_one_device_is_the_cpu():
    strategy = tfvae.strategy("one_device")
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert [tf.DeviceSpec.from_string(name).device_type for name in strategy.extended.worker_devices] == ["CPU"]


@pytest.mark.parametrize(
    ("has", "arguments", "expected"),
    [
        ({"gpus": 1}, {"name": "one_device"}, ("OneDeviceStrategy", "/gpu:0")),
        ({"gpus": 1, "hidden": 1}, {"name": "one_device"}, ("OneDeviceStrategy", "/cpu:0")),
        ({"gpus": 2}, {}, ("MirroredStrategy", ["/gpu:0", "/gpu:1"])),
        ({"gpus": 3}, {"name": "mirrored"}, ("MirroredStrategy", ["/gpu:0", "/gpu:1", "/gpu:2"])),
        ({"gpus": 3}, {"name": "mirrored", "devices": 2}, ("MirroredStrategy", ["/gpu:0", "/gpu:1"])),
        ({"gpus": 3}, {"devices": 2}, ("MirroredStrategy", ["/gpu:0", "/gpu:1"])),
        ({"gpus": 3, "hidden": 1}, {}, ("MirroredStrategy", ["/gpu:0", "/gpu:1"])),
        ({"gpus": 2, "hidden": 2}, {"name": "mirrored"}, ("MirroredStrategy", ["/cpu:0"])),
        ({"tpus": 1}, {"name": "tpu"}, ("TPUStrategy", "the TPU at local")),
        ({"gpus": 2, "tpus": 1}, {}, ("TPUStrategy", "the TPU at local")),
        ({"tpu_name": "grpc://host:1"}, {"name": "tpu"}, ("TPUStrategy", "the TPU at grpc://host:1")),
        ({"gpus": 2, "tpu_name": "name"}, {}, ("TPUStrategy", "the TPU at name")),
    ],
    ids=str,
)
def test_the_devices_of_a_machine(machine, made, has, arguments, expected):
    machine(**has)
    tfvae.strategy(**arguments)
    assert made == [expected]


@pytest.mark.parametrize(
    ("has", "arguments"), [({"gpus": 1}, {}), ({"gpus": 2, "hidden": 1}, {}), ({"gpus": 2}, {"devices": 1})], ids=str
)
def test_auto_changes_nothing_where_one_gpu_is_used(machine, made, has, arguments):
    machine(**has)
    assert is_default(tfvae.strategy(**arguments))
    assert made == []


@pytest.mark.slow
def test_a_tpu_that_does_not_answer_is_named(monkeypatch):
    # TensorFlow for CPUs lacks the kernels for TPUs.
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(ValueError, match=r'^`name="tpu"` must have a TPU that answers\. Received: local: TPUs'):
        tfvae.strategy("tpu")


def test_without_a_tpu_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", None)
    for _ in range(2):
        with fails('`name="tpu"` must have a TPU, on this machine or named by TPU_NAME.', "neither"):
            tfvae.strategy("tpu")
        assert is_default(tfvae.strategy("auto"))
        monkeypatch.setenv("TPU_NAME", "")


@pytest.mark.parametrize("name", ["Mirrored", "", None, 1, "multi-worker", ["auto"]], ids=repr)
def test_an_unknown_name_is_an_error(name):
    with fails("`name` must be one of auto, one_device, mirrored, multi_worker, tpu.", f"name={name!r}"):
        tfvae.strategy(name)


@pytest.mark.parametrize("devices", [0, -1, 2.0, "2", True], ids=repr)
@pytest.mark.parametrize("name", ["auto", "mirrored", "one_device"])
def test_devices_are_counted(name, devices):
    with fails("`devices` must be an integer of at least 1.", f"devices={devices!r}"):
        tfvae.strategy(name, devices=devices)


@pytest.mark.parametrize("name", ["one_device", "multi_worker", "tpu"])
def test_devices_are_for_mirrored(tf_config, name):
    with fails(f'`devices` must be None for "{name}".', f"name={name!r}, devices=2"):
        tfvae.strategy(name, devices=2)
    tf_config(cluster({"worker": TWO}))
    with fails('`devices` must be None for "multi_worker".', "name='auto', devices=2"):
        tfvae.strategy(devices=2)


@pytest.mark.parametrize(("has", "available"), [({"gpus": 2}, 2), ({"gpus": 3, "hidden": 1}, 2)], ids=str)
def test_more_devices_than_there_are(machine, made, has, available):
    machine(**has)
    with fails(f"`devices` must be at most the number of GPUs, {available}.", "devices=3"):
        tfvae.strategy("mirrored", devices=3)
    assert made == []


# TF_CONFIG

OBJECT = 'be an object with the keys "cluster" and "task"'
ADDRESSES = 'have for "cluster" an object of lists of addresses "host:port"'
JOBS = 'have for "cluster" a list "worker", and perhaps one "chief"'
NO_ADDRESSES = ["b", "b:", "b:x", "b:-2", "b:0", "b:65536", "b:٣", ":2", "::1:2", "[::1]", "a/b:2", "a b:2", 2]
TASK = 'have for "task" an object with a "type" and an "index" that are in the cluster'
MALFORMED = {
    "empty": ("", "be JSON: Expecting value: line 1"),
    "100,000 brackets": ("[" * 100_000, "be JSON: maximum recursion depth exceeded"),
    "no JSON": ("{'cluster': {}}", "be JSON: Expecting property name"),
    "a list": ([], OBJECT),
    "null": ("null", OBJECT),
    "nothing": ({}, OBJECT),
    "no cluster": ({"task": {"type": "worker", "index": 0}}, OBJECT),
    "no task": ({"cluster": {"worker": TWO}}, OBJECT),
    "cluster of a list": (cluster(TWO), ADDRESSES),
    "worker of text": (cluster({"worker": "a:1"}), ADDRESSES),
    "worker by number": (cluster({"worker": {"0": "a:1"}}), ADDRESSES),
    **{f"address {address!r}": (cluster({"worker": ["a:1", address]}), ADDRESSES) for address in NO_ADDRESSES},
    "no job": (cluster({}), JOBS),
    "no worker": (cluster({"worker": []}), JOBS),
    "ps": (cluster({"worker": TWO, "ps": ["c:3"]}), JOBS),
    "evaluator": (cluster({"worker": TWO, "evaluator": ["c:3"]}), JOBS),
    "two chiefs": (cluster({"chief": TWO, "worker": ["c:3"]}), JOBS),
    "duplicates": (cluster({"worker": ["a:1", "a:1"]}), "name each address once"),
    "duplicates of two jobs": (cluster({"chief": ["a:1"], "worker": ["a:1"]}), "name each address once"),
    "task of a list": ({"cluster": {"worker": TWO}, "task": ["worker", 0]}, TASK),
    "no index": ({"cluster": {"worker": TWO}, "task": {"type": "worker"}}, TASK),
    "no type": ({"cluster": {"worker": TWO}, "task": {"index": 0}}, TASK),
    **{
        f"task {kind!r} {index!r}": (cluster({"worker": TWO}, (kind, index)), TASK)
        for kind, index in [
            *(("worker", index) for index in (2, -1, "2", "-1", "x", "", None, True, 0.5, [0])),
            *((kind, 0) for kind in ("chief", "ps", "evaluator", "Worker", None, ["worker"])),
        ]
    },
}


@pytest.mark.parametrize(("value", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_tf_config_is_shown(tf_config, monkeypatch, value, expected):
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", None)
    tf_config(value)
    received = value if isinstance(value, str) else json.dumps(value)
    if len(received) > 500:
        received = f"{received[:500]}... ({len(received)} characters)"
    for name in ("multi_worker", "auto"):
        with fails(f"The environment variable `TF_CONFIG` must {expected}", received):
            tfvae.strategy(name)


@pytest.fixture
def waits(monkeypatch):
    """How long would be waited, and for which workers; TensorFlow does not seem to be in use."""
    waits = []
    monkeypatch.setattr(strategies.private_apis, "limit_wait_for_workers", lambda *arguments: waits.append(arguments))
    monkeypatch.setattr(strategies.private_apis, "is_tensorflow_in_use", lambda: False)
    return waits


@pytest.mark.parametrize(
    ("jobs", "task", "expected"),
    [
        ({"worker": TWO}, ("worker", 1), [("worker", 2)]),
        ({"worker": TWO}, ("worker", "0"), [("worker", 2)]),
        ({"worker": ["[fd00::1]:1", "b-2.svc:65535"]}, ("worker", 0), [("worker", 2)]),
        ({"worker": TWO, "chief": ["c:3"]}, ("worker", 0), [("chief", 1), ("worker", 2)]),
        ({"worker": ["a:1"]}, ("worker", 0), None),
        ({"chief": ["c:3"], "worker": []}, ("chief", 0), None),
    ],
    ids=str,
)
def test_the_workers_to_wait_for_are_in_the_order_of_tensorflow(tf_config, made, waits, jobs, task, expected):
    tf_config(cluster(jobs, task))
    tfvae.strategy("multi_worker", timeout=7)
    assert made == [("MultiWorkerMirroredStrategy",)]
    if expected is None:
        assert waits == []
    else:
        tfvae.strategy()
        assert [(list(tasks.items()), seconds) for tasks, seconds in waits] == [(expected, 7.0), (expected, 300.0)]


# As TensorFlow words it.
BARRIER = """Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0.
The first task at the barrier: /job:worker/replica:0/task:0. Some timed out task names:
{}
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while calling RegisterTask:
:UNKNOWN:Error received from peer  {{grpc_message:"Some timed out task names:\\n/job:worker/replica:0/task:0\\n"}}"""
LATE = "All workers of `TF_CONFIG` must start within 7 seconds. Received: no answer from "
ONE = "/job:worker/replica:0/task:1"
NOT_FORMED = "`TF_CONFIG` must have the same cluster in all workers and give each its own index"


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (tf.errors.DeadlineExceededError(None, None, BARRIER.format(ONE)), TimeoutError, f"{LATE}b:2"),
        (
            tf.errors.DeadlineExceededError(None, None, BARRIER.format(f"/job:chief/replica:0/task:0\n{ONE}")),
            TimeoutError,
            f"{LATE}c:3, b:2",
        ),
        # No such task: a stranger's text is not printed.
        (
            tf.errors.DeadlineExceededError(None, None, BARRIER.format("/job:worker/replica:0/task:9")),
            TimeoutError,
            f"{LATE}c:3",
        ),
        (tf.errors.DeadlineExceededError(None, None, "Deadline Exceeded"), TimeoutError, f"{LATE}c:3"),
        (tf.errors.UnavailableError(None, None, "failed to connect"), TimeoutError, f"{LATE}c:3"),
        (
            tf.errors.UnknownError(None, None, "Could not start gRPC server"),
            ValueError,
            "`TF_CONFIG` must give this worker a port of this machine that is free. Received: a:1: 'Could not start",
        ),
        (tf.errors.AbortedError(None, None, "\x1b[31m incarnation"), ValueError, rf"{NOT_FORMED}.*'\\x1b\[31m incarn"),
        (tf.errors.InvalidArgumentError(None, None, "unknown"), ValueError, f"{NOT_FORMED}.*'unknown'"),
    ],
    ids=["one", "two", "stranger", "leader", "leader unavailable", "port", "incarnation", "cluster"],
)
def test_a_cluster_that_cannot_be_formed_is_explained(tf_config, monkeypatch, waits, error, kind, expected):
    def fail():
        raise error

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
    tf_config(cluster({"chief": ["c:3"], "worker": TWO}))
    with pytest.raises(kind, match=f"^{expected}"):
        tfvae.strategy("multi_worker", timeout=7)


LOST = tf.errors.UnavailableError(None, None, "Graph execution error:\n\nCollective ops is aborted by: \x1b[1mclosed\n")


@pytest.mark.parametrize("error", [LOST, tf.errors.AbortedError(None, None, "")], ids=["unavailable", "no message"])
def test_a_lost_worker_is_said_in_one_line(monkeypatch, error):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ConnectionError) as raised, strategies.naming_a_lost_worker():
        raise error
    assert str(raised.value).isprintable()
    assert "a worker was lost: 'Collective ops is aborted by: \\x1b[1mclosed'" in str(raised.value) or error is not LOST


@pytest.mark.parametrize("error", [ValueError("x"), tf.errors.InvalidArgumentError(None, None, "x"), LOST], ids=str)
def test_other_errors_are_raised_and_without_workers_none_is_lost(error):
    with pytest.raises(type(error)) as raised, strategies.naming_a_lost_worker():
        raise error
    assert raised.value is error


def test_what_must_come_before_all_else(tf_config):
    tf.constant(0.0)
    made = len(tf.config.list_logical_devices("CPU"))
    received = f"devices={made + 1}, with {made} made already"
    with fails("`devices` must be given before TensorFlow is first used", received):
        tfvae.strategy("mirrored", devices=made + 1)
    assert tfvae.strategy("mirrored", devices=made).num_replicas_in_sync == made
    assert tfvae.strategy("mirrored").num_replicas_in_sync == made
    with fails("The environment variable `TF_CONFIG` must be set", "no TF_CONFIG"):
        tfvae.strategy("multi_worker")
    tf_config(cluster({"worker": TWO}))
    for name in ("multi_worker", "auto"):
        with fails('`name="multi_worker"` must be given before TensorFlow is first used', "TensorFlow in use"):
            tfvae.strategy(name, timeout=0.5)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 10**30, "1", True, None, 1j], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_the_timeout_is_checked(tf_config, waits, timeout, count):
    tf_config(cluster({"worker": TWO[:count]}))
    with fails("`timeout` must be a positive number of seconds, at most 1e8.", f"timeout={timeout!r}"):
        tfvae.strategy("multi_worker", timeout=timeout)
    assert waits == []


def test_one_process_is_the_only_worker():
    for strategy in (
        tf.distribute.get_strategy(),
        tf.distribute.MirroredStrategy(["/cpu:0"]),
        tf.distribute.MultiWorkerMirroredStrategy(),
    ):
        assert strategies.workers() == strategies.workers(strategy) == (0, 1)
        with strategy.scope():
            assert strategies.workers() == (0, 1)
