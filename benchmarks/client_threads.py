"""Threads that share a .tflite client, which has a pool of interpreters, against the same client behind a lock.

    python benchmarks/client_threads.py [--json PATH]

1, 2 and 4 threads call `encode` as often as they can. Both ways are timed in turn, for many short rounds. The columns:

- requests per second of the lock, over all rounds;
- those of the pool, over all rounds;
- the second divided by the first in the same round: median and quartiles over the rounds; above 1 the pool is faster;
- the megabytes of memory that each interpreter of the pool beyond the first adds.
"""

import os
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

BATCHES = (1, 64)
THREADS = (1, 2, 4)
ROUNDS = 20
SECONDS = 0.1
PACKAGES = ("tfvae", "ai-edge-litert", "numpy")


def rate(encode: Callable[[np.ndarray], Any], x: np.ndarray, threads: int, seconds: float) -> float:
    """The requests per second of threads that call a function as often as they can."""
    begin = time.perf_counter()
    end = begin + seconds
    counts = []

    def call() -> None:
        count = 0
        while time.perf_counter() < end:
            encode(x)
            count += 1
        counts.append(count)

    started = [threading.Thread(target=call) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def resident() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def megabytes(path: Path, x: np.ndarray) -> float:
    """The memory of an interpreter, without what the first of a process takes."""
    clients = []
    for _ in range(2):
        before = resident()
        clients.append(export.load(path))
        clients[-1].encode(x)
    return (resident() - before) / 1e6


def measure(path: Path, shape: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measures both ways with one file, and returns a row for each batch size and number of threads."""
    data = architectures.data(ARCHITECTURES[shape], max(BATCHES))
    added = megabytes(path, data)
    client, lock = export.load(path), threading.Lock()

    def locked(x: np.ndarray) -> None:
        with lock:
            client.encode(x)

    ways = {"lock": locked, "pool": client.encode}
    rows = []
    for batch in BATCHES:
        for threads in THREADS:
            rates: dict[str, list[float]] = {name: [] for name in ways}
            # Makes the interpreters, and those pack their weights.
            rate(client.encode, data[:batch], threads, seconds)
            for _ in range(rounds):
                for name, encode in ways.items():
                    rates[name].append(rate(encode, data[:batch], threads, seconds))
            rows.append(
                {"shape": shape, "rounds": rounds, "seconds": seconds, "batch": batch, "threads": threads}
                | {"rates": rates, "megabytes": added}
            )
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Prints a row of the table."""
    lock, pool = row["rates"]["lock"], row["rates"]["pool"]
    low, median, high = np.percentile(np.divide(pool, lock), [25, 50, 75])
    print(
        f"{row['shape']:<24}{row['batch']:>6}{row['threads']:>8}{statistics.mean(lock):>11.0f}"
        f"{statistics.mean(pool):>11.0f}{f'{median:.2f} ({low:.2f} to {high:.2f})':>23}{row['megabytes']:>8.1f}",
        flush=True,
    )


def main() -> None:
    """Prints the table, and appends its rows to a file."""
    arguments = exported.arguments(__doc__, ROUNDS, SECONDS)
    records = Records(arguments.json, PACKAGES)
    print(f"{'':<24}{'batch':>6}{'threads':>8}{'lock, 1/s':>11}{'pool, 1/s':>11}{'pool over lock':>23}{'MB':>8}")
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
