"""Makes a `tf.distribute` strategy from its name, or raises an error that says why it cannot work here."""

import contextlib
import json
import numbers
import os
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

import tensorflow as tf

from tfvae import checks, private_apis

Name = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]

# TensorFlow numbers the training tasks in this order: the chief, if there is one, before the workers.
_TRAINING_JOBS = ("chief", "worker")
_BEFORE = "before TensorFlow is first used: call `tfvae.strategy` once, before any model, tensor or dataset is made"
# The errors that TensorFlow's collective operations raise in the remaining workers.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def strategy(name: Name = "auto", *, devices: int | None = None, timeout: float = 300.0) -> tf.distribute.Strategy:
    """Makes a `tf.distribute` strategy. Build and compile the model, and load its data, in `with strategy.scope():`.

    Args:
        name: one of

            - "auto": "multi_worker" if TF_CONFIG names several workers, "tpu" if there is a TPU, "mirrored" if there
              are several GPUs or `devices` is more than 1; else TensorFlow's default, which changes nothing;
            - "one_device": the first GPU, or the CPU;
            - "mirrored": all GPUs of this machine, or its logical CPU devices;
            - "multi_worker": all workers that the environment variable TF_CONFIG names; each of them must call this
              once, before TensorFlow is first used;
            - "tpu": the TPU of this machine, or the one that the environment variable TPU_NAME names.
        devices: for "mirrored", how many devices; None takes all. Without GPUs the CPU is split into that many logical
            devices, which is no faster but lets you test the program; this needs TensorFlow not to be in use yet.
        timeout: for "multi_worker", how many seconds to wait for the other workers, at most 1e8. If the first worker is
            the one that is missing, TensorFlow gives up after up to twice as long.

    Returns:
        The strategy.

    Raises:
        ValueError: the strategy cannot work here, TF_CONFIG is malformed, or an argument is out of its range.
        TimeoutError: a worker did not connect in time.
    """
    if name not in get_args(Name):
        raise ValueError(f"`name` must be one of {', '.join(get_args(Name))}. Received: name={checks.shown(name)}")
    if devices is not None:
        devices = checks.positive_integer("devices", devices)
    chosen = _best(devices) if name == "auto" else name
    if chosen is None:
        return tf.distribute.get_strategy()
    if devices is not None and chosen != "mirrored":
        raise ValueError(
            f'`devices` must be None for "{chosen}". Received: name={name!r}, devices={checks.shown(devices)}'
        )
    if chosen == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if tf.config.get_visible_devices("GPU") else "/cpu:0")
    if chosen == "mirrored":
        return tf.distribute.MirroredStrategy(_local_devices(devices))
    if chosen == "multi_worker":
        return _multi_worker(timeout)
    return _tpu()


def workers(strategy: tf.distribute.Strategy | None = None) -> tuple[int, int]:
    """The index of this process among the workers of a strategy, and the number of workers.

    Args:
        strategy: the strategy; None means the one in whose scope this is called.

    Returns:
        The index, 0 for the chief, and the count; (0, 1) unless the strategy has several workers.
    """
    strategy = tf.distribute.get_strategy() if strategy is None else strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    return private_apis.worker_of(strategy)


def is_chief() -> bool:
    """Whether this process is the first of the workers that TF_CONFIG names; True if TF_CONFIG is not set."""
    if "TF_CONFIG" not in os.environ:
        return True
    cluster, task_type, index = _tf_config()
    return _training_tasks(cluster)[0] == (task_type, index)


@contextlib.contextmanager
def naming_a_lost_worker() -> Iterator[None]:
    """Says in one line that another worker was lost, where TensorFlow's own errors speak of collective operations.

    Raises:
        ConnectionError: another worker was lost. TensorFlow cannot take it back: all must start again.
    """
    try:
        yield
    except _LOST as error:
        if "TF_CONFIG" not in os.environ:
            # There are no other workers, so the error has another cause.
            raise
        lines = error.message.splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "aborted" in line), lines[0])
        raise ConnectionError(
            "All workers of `TF_CONFIG` must run until the training ends; start all of them again, with `--resume`. "
            f"Received: a worker was lost: {reason!a}"
        ) from error


def _best(devices: int | None) -> str | None:
    if "TF_CONFIG" in os.environ and len(_training_tasks(_tf_config()[0])) > 1:
        return "multi_worker"
    if _has_tpu():
        return "tpu"
    if (devices or 1) > 1 or (devices is None and len(tf.config.get_visible_devices("GPU")) > 1):
        return "mirrored"
    return None


def _local_devices(count: int | None) -> list[str]:
    """The names of `count` devices of this machine."""
    gpus = tf.config.get_visible_devices("GPU")
    if count is not None and not gpus:
        _split_the_cpu(count)
    kind = "GPU" if gpus else "CPU"
    available = len(tf.config.list_logical_devices(kind))
    if (count or 1) > available:
        raise ValueError(f"`devices` must be at most the number of {kind}s, {available}. Received: devices={count}")
    return [f"/{kind.lower()}:{index}" for index in range(count or available)]


def _split_the_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        available = len(tf.config.list_logical_devices("CPU"))
        if available < count:
            raise ValueError(
                f"`devices` must be given {_BEFORE}. Received: devices={count}, with {available} made already"
            ) from error


def _multi_worker(timeout: float) -> tf.distribute.Strategy:
    if "TF_CONFIG" not in os.environ:
        raise _malformed("be set: each worker needs the addresses of all, and its own index", "no TF_CONFIG")
    cluster, task_type, index = _tf_config()
    is_number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout <= 1e8):
        raise ValueError(
            f"`timeout` must be a positive number of seconds, at most 1e8. Received: timeout={checks.shown(timeout)}"
        )
    if private_apis.is_tensorflow_in_use():
        raise ValueError(f'`name="multi_worker"` must be given {_BEFORE}. Received: TensorFlow in use')
    tasks = {job: len(cluster[job]) for job in _TRAINING_JOBS if cluster.get(job)}
    if sum(tasks.values()) > 1:
        private_apis.limit_wait_for_workers(tasks, float(timeout))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.DeadlineExceededError, tf.errors.UnavailableError) as error:
        missing = ", ".join(cluster[job][i] for job, i in _missing(error.message, tasks))
        raise TimeoutError(
            f"All workers of `TF_CONFIG` must start within {timeout:g} seconds. Received: no answer from {missing}"
        ) from error
    except tf.errors.UnknownError as error:
        raise ValueError(
            "`TF_CONFIG` must give this worker a port of this machine that is free. Received: "
            f"{cluster[task_type][index]}: {error.message!a}"
        ) from error
    except tf.errors.OpError as error:
        raise ValueError(
            "`TF_CONFIG` must have the same cluster in all workers and give each its own index, and workers that are "
            f"left from an earlier start must have ended. Received: {cluster[task_type][index]}: "
            f"{error.message!a}"
        ) from error


def _missing(message: str, tasks: dict[str, int]) -> list[tuple[str, int]]:
    """The tasks that an error of TensorFlow says it waited for; the leader if it says nothing: that one knows."""
    _, _, named = message.partition("timed out task names:")
    found = [(job, int(index)) for job, index in re.findall(r"^/job:(\w+)/replica:0/task:(\d+)$", named, re.MULTILINE)]
    return [(job, i) for job, i in sorted(found) if i < tasks.get(job, 0)] or [(next(iter(tasks)), 0)]


def _tf_config() -> tuple[dict[str, list[str]], str, int]:
    """Reads the cluster, and this task's type and index, from TF_CONFIG.

    Raises:
        ValueError: TF_CONFIG is malformed.
    """
    text = os.environ["TF_CONFIG"]
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"be JSON: {error}", text) from error
    if not (isinstance(config, dict) and {"cluster", "task"} <= set(config)):
        raise _malformed('be an object with the keys "cluster" and "task"', text)
    cluster, task = config["cluster"], config["task"]
    if not (isinstance(cluster, dict) and all(_are_addresses(addresses) for addresses in cluster.values())):
        raise _malformed('have for "cluster" an object of lists of addresses "host:port"', text)
    if not (set(cluster) <= set(_TRAINING_JOBS) and len(cluster.get("chief", [])) <= 1 and _training_tasks(cluster)):
        raise _malformed('have for "cluster" a list "worker", and perhaps one "chief"', text)
    addresses = [address for job in cluster.values() for address in job]
    if len(set(addresses)) < len(addresses):
        raise _malformed("name each address once", text)
    index = _index(task.get("index")) if isinstance(task, dict) else None
    if index is None or (task.get("type"), index) not in _training_tasks(cluster):
        raise _malformed('have for "task" an object with a "type" and an "index" that are in the cluster', text)
    return cluster, task["type"], index


def _index(value: Any) -> int | None:
    """The index of a task, which TensorFlow accepts as a number or as a string of digits; None if it is neither."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _are_addresses(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and _is_address(value) for value in values)


def _is_address(value: str) -> bool:
    """Whether `value` is "host:port", where the host may be an IPv6 address in brackets."""
    match = re.fullmatch(r"(?:\[[^\s\[\]/]+\]|[^\s\[\]/:]+):([0-9]{1,5})", value)
    return match is not None and 0 < int(match[1]) < 2**16


def _training_tasks(cluster: dict[str, list[str]]) -> list[tuple[str, int]]:
    return [(job, index) for job in _TRAINING_JOBS for index in range(len(cluster.get(job, [])))]


def _malformed(expected: str, received: str) -> ValueError:
    shown = received if len(received) <= 500 else f"{received[:500]}... ({len(received)} characters)"
    return ValueError(f"The environment variable `TF_CONFIG` must {expected}. Received: {shown}")


def _has_tpu() -> bool:
    return bool(os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU"))


def _tpu() -> tf.distribute.Strategy:
    if not _has_tpu():
        raise ValueError('`name="tpu"` must have a TPU, on this machine or named by TPU_NAME. Received: neither')
    tpu = os.environ.get("TPU_NAME") or "local"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
    except (tf.errors.OpError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f'`name="tpu"` must have a TPU that answers. Received: {tpu}: {error}') from error
    return tf.distribute.TPUStrategy(resolver)
