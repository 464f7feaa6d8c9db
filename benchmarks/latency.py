"""Latency and throughput of `encode` and `reconstruct` in every runtime that can run a trained model.

    python benchmarks/latency.py [--json PATH]

Every runtime has the same weights, maps a NumPy array to NumPy arrays, and runs in its own process. After a check that
their answers agree with Keras's, all are timed in turn, for several rounds. The columns:

- median, quartiles and 99th percentile of the microseconds per call, over all calls of all rounds;
- examples per second, over all rounds together;
- the median time of a call, divided by that of ONNX Runtime in the same round with the same number of threads (or with
  the most threads, for a runtime that chooses by itself): median and range over the rounds; below 1 is faster;
- the largest difference from Keras's answers.

With --json, the rows of each table are appended to the file; an interrupted run, started again, measures only the
missing tables.
"""

import functools
import importlib.util
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import exported
import numpy as np
from peers.worker import Worker
from records import Records
from runtimes import OPERATIONS, REFERENCE, RUNTIMES, THREADS, Runtime, Timed

BATCHES = (1, 64)
ROUNDS = 5
SECONDS = 0.4
# The largest difference from Keras's answers that a runtime may have if it computes in float32.
TOLERANCE = 1e-4
PACKAGES = ("tfvae", "tensorflow", "keras", "ai-edge-litert", "onnxruntime", "torch", "numpy")


def open_runtimes(shape: str, folder: Path) -> dict[Runtime, Worker | str]:
    """Starts a worker for each runtime; a runtime that cannot be started gets the reason instead."""
    exported.write(shape, folder)
    workers = {}
    for runtime in RUNTIMES:
        missing = [package for package in runtime.packages if importlib.util.find_spec(package) is None]
        if missing:
            workers[runtime] = f"{missing[0]} is not installed"
        else:
            workers[runtime] = Worker(functools.partial(Timed, runtime, folder, shape))
    return workers


def check(workers: dict[Runtime, Worker], operation: str, batch: int) -> dict[Runtime, float]:
    """The largest difference of each runtime from Keras's answers.

    Raises:
        ValueError: a runtime that computes in float32 disagrees with Keras.
    """
    differences = {runtime: worker.call("difference", operation, batch) for runtime, worker in workers.items()}
    for runtime, difference in differences.items():
        if runtime.is_exact and not difference <= TOLERANCE:
            raise ValueError(f"{runtime.label} must answer as Keras does. Received: a difference of {difference:.3g}")
    return differences


def figures(times: list[list[int]], batch: int) -> dict[str, Any]:
    """The statistics of the calls' times, as they stand in a row.

    Args:
        times: for each round, the nanoseconds of each call.
        batch: the number of examples in a call.
    """
    calls = np.concatenate(times)
    lower, median, upper, last = np.percentile(calls, [25, 50, 75, 99]) / 1e3
    return {
        "calls": len(calls),
        "microseconds": float(median),
        "quartiles": [float(lower), float(upper)],
        "p99": float(last),
        "examples_per_second": float(1e9 * batch * len(calls) / calls.sum()),
        "microseconds_by_round": [float(np.median(each)) / 1e3 for each in times],
    }


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Adds to each row, for each round, its median time over that of the reference with as many threads."""
    references = {row["threads"]: row for row in rows if (row["runtime"], row["model"]) == (REFERENCE, "")}
    for row in rows:
        reference = references.get(row["threads"] or max(THREADS), {})
        if "microseconds" in row and "microseconds" in reference:
            pairs = zip(row["microseconds_by_round"], reference["microseconds_by_round"], strict=True)
            row["ratios"] = [own / other for own, other in pairs]


def line(row: dict[str, Any]) -> str:
    """Formats a row of the table."""
    name = f"{', '.join(part for part in (row['runtime'], row['model']) if part):<40}{row['threads'] or '':>3}"
    if "reason" in row:
        return f"{name}  {row['reason']}"
    quartiles = "{:.1f} to {:.1f}".format(*row["quartiles"])
    ratio = ""
    if "ratios" in row:
        ratio = f"{statistics.median(row['ratios']):.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
    return (
        f"{name}{row['microseconds']:>11.1f}{quartiles:>24}{row['p99']:>11.1f}{row['examples_per_second']:>12.0f}"
        f"{ratio:>30}{row['difference']:>12.1e}"
    )


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table of one setting."""
    first = rows[0]
    print(f"\n{first['shape']}, {first['operation']}, batch {first['batch']}")
    header = f"{'':<36}{'threads':>7}{'median us':>11}{'quartiles':>24}{'p99':>11}{'examples/s':>12}"
    print(f"{header}{'over ONNX Runtime':>30}{'difference':>12}")
    print(*map(line, rows), sep="\n", flush=True)


def measure(workers: dict[Runtime, Worker | str], setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Measures all runtimes in one setting, and returns a row for each."""
    operation, batch = setting["operation"], setting["batch"]
    opened = {
        runtime: worker
        for runtime, worker in workers.items()
        if not isinstance(worker, str) and batch in (runtime.batches or (batch,))
    }
    differences = check(opened, operation, batch)
    load = os.getloadavg()[0]
    times = {runtime: [] for runtime in opened}
    for _ in range(setting["rounds"]):
        for runtime, worker in opened.items():
            times[runtime].append(worker.call("times", operation, batch, setting["seconds"]))
    rows = []
    for runtime, worker in workers.items():
        row = {**setting, "runtime": runtime.name, "model": runtime.model, "threads": runtime.threads, "load": load}
        if runtime in opened:
            rows.append({**row, **figures(times[runtime], batch), "difference": differences[runtime]})
        elif isinstance(worker, str):
            rows.append({**row, "reason": worker})
    add_ratios(rows)
    return rows


def main() -> None:
    """Prints the tables, and appends their rows to a file."""
    arguments = exported.arguments(__doc__, ROUNDS, SECONDS)
    records = Records(arguments.json, PACKAGES)
    for shape in arguments.shapes:
        settings = [
            {"shape": shape, "operation": operation, "batch": batch}
            | {"rounds": arguments.rounds, "seconds": arguments.seconds}
            for operation in OPERATIONS
            for batch in BATCHES
        ]
        with tempfile.TemporaryDirectory() as folder:
            workers = {}
            for setting in settings:
                if not records.find(setting):
                    workers = workers or open_runtimes(shape, Path(folder))
                    records.append(measure(workers, setting))
                show(records.find(setting))
            for worker in workers.values():
                if isinstance(worker, Worker):
                    worker.close()


if __name__ == "__main__":
    main()
