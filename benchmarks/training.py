"""Training speed, in examples per second, of tfvae and its peers with the same weights, data, batches and optimizer.

    python benchmarks/training.py [--shapes NAME ...] [--batch-sizes B ...] [--num-samples K ...] [--json PATH]

tfvae is compiled with an optimizer and nothing else, and runs as `fit` chooses. Each peer runs in its own process.
First, all must compute the same loss from the same weights, examples and noise. Then they train in turn, round after
round, in epochs of the same number of steps; the ratio of a round is tfvae's rate over the peer's. K = 1 is the ELBO, a
larger K the importance weighted bound.

The rows of each setting are appended to PATH; an interrupted run, started again with the same PATH, measures only the
missing settings. After a change to tfvae, use another PATH.
"""

import argparse
import itertools
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import architectures, worker
from records import Records, available_memory

BATCH_SIZES = (32, 128, 1024)
NUM_SAMPLES = (1, 5, 50)
ROUNDS = 5
SECONDS = 1.0
# The one that the others are compared with.
REFERENCE = "tfvae"
# Losses whose relative difference is larger are taken to be of different functions.
TOLERANCE = 1e-4
EXAMPLES_OF_THE_CHECK = 64
# For the slowest peer, an epoch may take up to this many times as long as intended.
PATIENCE = 8
# The fewest steps of an epoch, if the fastest peer does them in time: with fewer, the fixed cost of an epoch dominates.
FEW_STEPS = 20


class Race:
    """The peers in one setting, each in its own process. A peer that fails is dropped, and its reason is kept.

    Args:
        peers: the names of the peers, tfvae first.
        shape: the name of an architecture.
        batch_size: B.
        k: the number of draws of z for each example.
        memory: the most bytes of memory for each process.
    """

    def __init__(self, peers: list[str], shape: str, batch_size: int, k: int, memory: int) -> None:
        self.architecture, self.k = architectures.ARCHITECTURES[shape], k
        self.workers = {peer: worker.peer_worker(peer, shape, batch_size, k, memory) for peer in peers}
        self.reasons: dict[str, str] = {}

    def call(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Calls a method of each peer, one after the other, and returns the results by peer."""
        return self._each(lambda each: each.call(method, *arguments))

    def _each(self, ask: Callable[[worker.Worker], Any], first: int = 0) -> dict[str, Any]:
        """Asks each worker that has not failed, in turn, starting with number `first`, and returns the answers."""
        answers = {}
        peers = [peer for peer in self.workers if peer not in self.reasons]
        first %= max(len(peers), 1)
        for peer in peers[first:] + peers[:first]:
            try:
                answers[peer] = ask(self.workers[peer])
            except worker.WorkerError as error:
                self.reasons[peer] = str(error)
                self.workers[peer].close()
        return answers

    def losses(self) -> dict[str, float]:
        """The loss of each peer at the same examples and noise."""
        x = architectures.data(self.architecture, EXAMPLES_OF_THE_CHECK, seed=1)
        return self.call("loss", x, architectures.noise(self.architecture, self.k, EXAMPLES_OF_THE_CHECK))

    def choose_steps(self, seconds: float) -> int:
        """The steps in an epoch of about this many seconds, and at most `PATIENCE` times as many for the slowest."""
        steps = 1
        for _ in range(3):
            # The first epoch compiles, and does not count.
            _, *tries = [self.call("epoch", steps) for _ in range(3 if steps > 1 else 2)]
            times = [min(each[peer] for each in tries) / steps for peer in tries[-1]]
            if not times:
                break
            before = steps
            least = FEW_STEPS if min(times) * FEW_STEPS <= seconds else 1
            steps = max(least, round(min(seconds / statistics.median(times), PATIENCE * seconds / max(times))))
            # An epoch also has a fixed cost, so times from few steps say little about many: measure again.
            if steps <= 2 * before:
                break
        return steps

    def stretch(self, steps: int, seconds: float, first: int) -> dict[str, float]:
        """The mean seconds of an epoch for each peer, over epochs that together take about `seconds`, and at least one.

        Args:
            steps: the number of steps in an epoch.
            seconds: about how long to measure each peer.
            first: the number of the peer that begins.
        """

        def mean(each: worker.Worker) -> float:
            times = [each.call("epoch", steps)]
            while sum(times) + times[0] / 2 < seconds:
                times.append(each.call("epoch", steps))
            return statistics.mean(times)

        return self._each(mean, first)

    def close(self) -> None:
        """Ends the processes."""
        for each in self.workers.values():
            each.close()


def check_same(losses: dict[str, float]) -> None:
    """Raises ValueError unless all losses agree."""
    first = next(iter(losses), None)
    for peer, loss in losses.items():
        if not math.isclose(loss, losses[first], rel_tol=TOLERANCE):
            raise ValueError(f"the loss of {peer} must be that of {first}, {losses[first]}. Received: {loss}")


def measure(setting: dict[str, Any], peers: list[str], memory: int) -> list[dict[str, Any]]:
    """Measures all peers in one setting, and returns a row for each."""
    race = Race(peers, setting["shape"], setting["batch_size"], setting["k"], memory)
    try:
        race.call("load", architectures.weights(race.architecture))
        before = race.losses()
        check_same(before)
        steps = race.choose_steps(setting["seconds"])
        race.call("epoch", steps)
        # All peers have trained for the same number of steps at this point.
        after = race.losses()
        load = os.getloadavg()[0]
        rounds = [race.stretch(steps, setting["seconds"], number) for number in range(setting["rounds"])]
    finally:
        race.close()
    rows = []
    for peer in peers:
        row = {"peer": peer, **setting, "steps": steps, "load": load}
        if peer in race.reasons:
            rows.append({**row, "reason": race.reasons[peer]})
            continue
        rates = [steps * setting["batch_size"] / seconds[peer] for seconds in rounds]
        compared = rounds if REFERENCE not in race.reasons else []
        ratios = [seconds[peer] / seconds[REFERENCE] for seconds in compared]
        rows.append({**row, "rates": rates, "ratios": ratios, "loss_before": before[peer], "loss_after": after[peer]})
    return rows


def spread(values: list[float], form: str) -> str:
    """Formats the median and the quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def fastest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the fastest peer other than tfvae; None if all others failed."""
    rows = [row for row in rows if "rates" in row and row["peer"] != REFERENCE]
    return max(rows, key=lambda row: statistics.median(row["rates"]), default=None)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table of one setting."""
    first = rows[0]
    print(f"\n{first['shape']}, batch {first['batch_size']}, k = {first['k']}, {first['steps']} steps")
    print(f"  {'':<16}{'examples per second':>30}{'tfvae / peer':>24}{'loss':>12}")
    for row in rows:
        if "reason" in row:
            print(f"  {row['peer']:<16}{'none: ' + row['reason']}")
            continue
        rate, ratio = spread(row["rates"], ".0f"), spread(row["ratios"], ".2f") if row["ratios"] else ""
        print(f"  {row['peer']:<16}{rate:>30}{ratio:>24}{row['loss_after']:>12.2f}", flush=True)


def summarize(settings: list[list[dict[str, Any]]]) -> None:
    """Prints the fastest peer in each setting, and how tfvae compares with it."""
    print(f"\n{'':<50}{'tfvae':>10}  {'fastest peer':<16}{'its rate':>10}{'tfvae / peer':>24}")
    for rows in settings:
        best, own = fastest(rows), next((row for row in rows if row["peer"] == REFERENCE and "rates" in row), None)
        if best is None or own is None:
            continue
        name = f"{own['shape']}, batch {own['batch_size']}, k = {own['k']}"
        rates = [statistics.median(row["rates"]) for row in (own, best)]
        ratio = spread(best["ratios"], ".2f")
        print(f"{name:<50}{rates[0]:>10.0f}  {best['peer']:<16}{rates[1]:>10.0f}{ratio:>24}")


def main() -> None:
    """Prints a table for each setting and a summary of all, and appends the rows as JSON."""
    shapes, peers = list(architectures.ARCHITECTURES), list(worker.PEERS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=shapes, default=shapes, metavar="NAME", help=", ".join(shapes))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--num-samples", nargs="+", type=int, default=NUM_SAMPLES, help="draws of z for each example")
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="NAME", help=", ".join(peers))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="about how long each is measured in a round")
    parser.add_argument("--memory", type=float, help="the most GB for each process; by default half of what is free")
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    arguments = parser.parse_args()
    memory = int(arguments.memory * 2**30) if arguments.memory else available_memory() // 2
    records = Records(arguments.json, worker.PACKAGES)
    chosen = [REFERENCE, *(peer for peer in arguments.peers if peer != REFERENCE)]
    settings = []
    for shape, batch_size, k in itertools.product(arguments.shapes, arguments.batch_sizes, arguments.num_samples):
        setting = {"shape": shape, "batch_size": batch_size, "k": k}
        setting |= {"rounds": arguments.rounds, "seconds": arguments.seconds, "peers": chosen}
        rows = records.find(setting)
        if not rows:
            rows = measure(setting, chosen, memory)
            records.append(rows)
        show(rows)
        settings.append(rows)
    summarize(settings)


if __name__ == "__main__":
    main()
