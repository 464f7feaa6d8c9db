"""Training speed of VAEs of windows, in windows per second, of tfvae and PyTorch with the same networks and weights.

    python benchmarks/sequences_speed.py [--kinds NAME ...] [--peers NAME ...] [--steps N] [--rounds R] [--json PATH]

Windows of 128 steps and 8 channels, with gaps and padding, in batches of 64; the networks are a GRU ("recurrent"),
dilated convolutions ("temporal") and a Transformer, with the defaults of `tfvae.networks`. Each peer runs in its own
process. First, all must compute the same loss from the same weights, windows and noise. Then they train in turn, round
after round, an epoch of N steps each; the ratio of a round is tfvae's rate over the peer's. "tfvae XLA" is compiled
with jit_compile=True. TF_NUM_INTRAOP_THREADS sets the threads of an operation of every peer.

The rows of each kind are appended to PATH; an interrupted run, started again with the same PATH, measures only the
missing kinds.
"""

import argparse
import functools
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from peers import sequences, worker
from records import Records
from training import REFERENCE, check_same, spread

BATCH_SIZE, STEPS, ROUNDS = 64, 20, 5
KINDS = ("recurrent", "temporal", "transformer")
PEERS = {
    "tfvae": ("tfvae_sequences", "TfvaeSequences", {}),
    "tfvae XLA": ("tfvae_sequences", "TfvaeSequences", {"by_xla": True}),
    "torch": ("pytorch_sequences", "TorchSequences", {}),
    "torch compiled": ("pytorch_sequences", "TorchSequences", {"compiled": True}),
}


def build(peer: str, kind: str) -> Any:
    """Makes a peer in this process."""
    module, name, arguments = PEERS[peer]
    return getattr(importlib.import_module(f"peers.{module}"), name)(kind, BATCH_SIZE, **arguments)


def measure(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """Measures all peers with one kind of network, and returns a row for each."""
    kind, steps = setting["kind"], setting["steps"]
    workers = {peer: worker.Worker(functools.partial(build, peer, kind)) for peer in setting["peers"]}
    try:
        weights = workers[REFERENCE].call("weights")
        x = sequences.data(BATCH_SIZE, seed=1)
        epsilon = np.random.default_rng(2).normal(size=(1, BATCH_SIZE, sequences.LATENT_DIM)).astype(np.float32)
        losses = {}
        for peer, each in workers.items():
            each.call("load", weights)
            losses[peer] = each.call("loss", x, epsilon)
        check_same(losses)
        # The first epoch compiles, and does not count.
        first = {peer: each.call("epoch", steps) for peer, each in workers.items()}
        load, rounds = os.getloadavg()[0], []
        for _ in range(setting["rounds"]):
            rounds.append({peer: each.call("epoch", steps) for peer, each in workers.items()})
    finally:
        for each in workers.values():
            each.close()
    rows = []
    for peer in workers:
        rates = [steps * BATCH_SIZE / seconds[peer] for seconds in rounds]
        ratios = [seconds[peer] / seconds[REFERENCE] for seconds in rounds]
        rows.append(
            {"peer": peer, **setting, "load": load, "loss": losses[peer], "first": first[peer]}
            | {"rates": rates, "ratios": ratios}
        )
    return rows


def main() -> None:
    """Prints a table for each kind of network, and appends the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--steps", type=int, default=STEPS, help="the steps of an epoch")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    arguments = parser.parse_args()
    records = Records(arguments.json, worker.PACKAGES)
    peers = [REFERENCE, *(peer for peer in arguments.peers if peer != REFERENCE)]
    for kind in arguments.kinds:
        setting = {"kind": kind, "peers": peers, "steps": arguments.steps, "rounds": arguments.rounds}
        setting["threads"] = os.environ.get("TF_NUM_INTRAOP_THREADS")
        rows = records.find(setting)
        if not rows:
            rows = measure(setting)
            records.append(rows)
        print(f"\n{kind}, batch {BATCH_SIZE}, {arguments.steps} steps, load {rows[0]['load']:.1f}")
        print(f"  {'':<16}{'windows per second':>26}{'tfvae / peer':>24}{'first epoch':>14}")
        for row in rows:
            rate, ratio = spread(row["rates"], ".0f"), spread(row["ratios"], ".2f")
            print(f"  {row['peer']:<16}{rate:>26}{ratio:>24}{row['first']:>12.1f} s", flush=True)


if __name__ == "__main__":
    main()
