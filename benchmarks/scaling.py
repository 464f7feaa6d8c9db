"""Training speed, in examples per second, of one worker and of two, each with its own core.

    python benchmarks/scaling.py [--json PATH]

One process on one core, one process on two cores, and two workers on one core each train with the same global batch, in
turn, for several rounds. The efficiency is the rate of two workers over twice the rate of one; 1 would be perfect. One
process on two cores needs no communication, and is the alternative to two workers on one machine.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPES = {"dense 784-512-512-32": (784, (512, 512), 32), "dense 784-200-200-50": (784, (200, 200), 50)}
BATCH_SIZES = (128, 1024)
# The settings by name: the cores of each process.
SETTINGS = {"1 worker, 1 core": [{0}], "1 worker, 2 cores": [{0, 1}], "2 workers, 1 core each": [{0}, {1}]}
ROUNDS = 5
STEPS = 40


def measure(shape: str, batch_size: int) -> None:
    """Trains as a worker and prints the rate of its second epoch, in examples of the global batch per second."""
    import keras
    import numpy as np

    import tfvae

    strategy = tfvae.strategy("auto", timeout=120)
    columns, hidden, latent_dim = SHAPES[shape]
    x = np.random.default_rng(0).random((batch_size * STEPS, columns), dtype=np.float32)
    with strategy.scope():
        vae = tfvae.VAE(
            tfvae.networks.dense_encoder((columns,), hidden),
            tfvae.networks.dense_decoder(latent_dim, (columns,), hidden[::-1]),
            latent_dim,
        )
        vae.compile(keras.optimizers.Adam(1e-3), steps_per_execution=STEPS)
    times = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: times.append(time.perf_counter()))
    vae.fit(x, batch_size=batch_size, epochs=2, verbose=0, callbacks=[clock])
    print(len(x) / (times[1] - times[0]))


def free_ports(count: int) -> list[int]:
    """Ports of localhost on which nothing listens."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def rate(cores: list[set[int]], shape: str, batch_size: int) -> float:
    """The rate of one setting, in fresh processes."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(len(cores))]}
    processes = []
    for index, own in enumerate(cores):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(len(own))}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, __file__, "--measure", shape, str(batch_size), "--cores", *map(str, own)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return min(float(process.communicate()[0].splitlines()[-1]) for process in processes)


def main() -> None:
    """Prints a table of the rates and of the efficiency, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cores", nargs="+", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        # Must come before TensorFlow counts the cores.
        os.sched_setaffinity(0, arguments.cores)
        measure(arguments.measure[0], int(arguments.measure[1]))
        return
    rows = []
    print(f"{'examples per second: median (range)':<34}", *(f"{name:>26}" for name in SETTINGS), f"{'efficiency':>18}")
    for shape in SHAPES:
        for batch_size in BATCH_SIZES:
            rates = {name: [] for name in SETTINGS}
            for _ in range(arguments.rounds):
                for name, cores in SETTINGS.items():
                    rates[name].append(rate(cores, shape, batch_size))
            one, _, two = rates.values()
            efficiency = [b / (2 * a) for a, b in zip(one, two, strict=True)]
            cells = [f"{statistics.median(r):.0f} ({min(r):.0f} to {max(r):.0f})" for r in rates.values()]
            spread = f"{statistics.median(efficiency):.2f} ({min(efficiency):.2f} to {max(efficiency):.2f})"
            print(
                f"{f'{shape}, batch {batch_size}':<34}", *(f"{cell:>26}" for cell in cells), f"{spread:>18}", flush=True
            )
            rows.append({"shape": shape, "batch_size": batch_size, "rates": rates, "efficiency": efficiency})
    if arguments.json:
        arguments.json.write_text(json.dumps({"processor": platform.processor(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
