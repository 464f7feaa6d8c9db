"""Threads that share a .tflite client: one interpreter behind a lock, which is what the client has, against a pool.

    python benchmarks/client_threads.py [--json PATH]

1, 2 and 4 threads call `encode` as often as they can, through one client, or through a pool of clients from which each
call takes a free one. All ways are timed in turn, for many short rounds. The columns:

- requests per second of the lock, over all rounds;
- that of each pool, divided by that of the lock in the same round: median and quartiles over the rounds; above 1 is
  faster;
- the megabytes of memory that each interpreter beyond the first adds.
"""

import argparse
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported
import numpy as np
from peers import architectures
from peers.architectures import ARCHITECTURES
from records import Records

from tfvae import export

SHAPES = ("dense 784-512-512-32", "convolutional 28x28x1")
BATCHES = (1, 64)
THREADS = (1, 2, 4)
POOLS = (2, 4)
ROUNDS = 20
SECONDS = 0.1
PACKAGES = ("tfvae", "ai-edge-litert", "numpy")


class Pool:
    """Clients of the same file, of which each call takes one that is free, or waits for one.

    Args:
        path: the .tflite file.
        size: how many clients there are.
    """

    def __init__(self, path: Path, size: int) -> None:
        # The client that was used last is taken first, because it is in the processor's cache.
        self._free: queue.LifoQueue[export.ExportedModel] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(export.load(path))

    def encode(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Calls `encode` of a free client."""
        client = self._free.get()
        try:
            return client.encode(x)
        finally:
            self._free.put(client)


def rate(encode: Callable[[np.ndarray], Any], x: np.ndarray, threads: int, seconds: float) -> float:
    """The requests per second of threads that call a function as often as they can."""
    end = time.perf_counter() + seconds
    counts = []

    def call() -> None:
        count = 0
        while time.perf_counter() < end:
            encode(x)
            count += 1
        counts.append(count)

    started = [threading.Thread(target=call) for _ in range(threads)]
    begin = time.perf_counter()
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def resident() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(path: Path, shape: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measures all ways with one file, and returns a row for each batch size and number of threads."""
    data = architectures.data(ARCHITECTURES[shape], max(BATCHES))
    ways: dict[str, Any] = {"lock": export.load(path)}
    ways["lock"].encode(data)
    before = resident()
    ways |= {f"pool of {size}": Pool(path, size) for size in POOLS}
    megabytes = (resident() - before) / sum(POOLS) / 1e6
    rows = []
    for batch in BATCHES:
        for threads in THREADS:
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    rates[name].append(rate(way.encode, data[:batch], threads, seconds))
            ratios = {name: [a / b for a, b in zip(each, rates["lock"], strict=True)] for name, each in rates.items()}
            rows.append(
                {"batch": batch, "threads": threads, "rates": rates, "ratios": ratios, "megabytes": megabytes}
                | {"shape": shape, "rounds": rounds, "seconds": seconds}
            )
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Prints a row of the table."""
    columns = [f"{row['shape']:<24}{row['batch']:>6}{row['threads']:>8}{statistics.mean(row['rates']['lock']):>12.0f}"]
    for name, ratios in row["ratios"].items():
        if name != "lock":
            low, median, high = statistics.quantiles(ratios, n=4)
            columns.append(f"{f'{median:.2f} ({low:.2f} to {high:.2f})':>24}")
    print(*columns, f"{row['megabytes']:>8.1f}", sep="", flush=True)


def main() -> None:
    """Prints the table, and appends its rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is timed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each is timed in a round")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES, help="all by default")
    arguments = parser.parse_args()
    records = Records(arguments.json, PACKAGES)
    pools = "".join(f"{f'pool of {size}':>24}" for size in POOLS)
    print(f"{'':<24}{'batch':>6}{'threads':>8}{'lock, 1/s':>12}{pools}{'MB':>8}")
    for shape in arguments.shapes:
        setting = {"shape": shape, "rounds": arguments.rounds, "seconds": arguments.seconds}
        if found := records.find(setting):
            for row in found:
                show(row)
            continue
        with tempfile.TemporaryDirectory() as folder:
            exported.write(shape, Path(folder))
            records.append(measure(Path(folder) / "float32.tflite", shape, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
