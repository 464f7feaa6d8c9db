"""The time of the importance-sampled log p(x) in tfvae and in straightforward PyTorch and JAX, side by side.

    python benchmarks/likelihood.py [--images N] [--num-samples K] [--json PATH]

The model is dense 784-200-200-50. Each peer runs in its own process with the same weights, and evaluates the images in
blocks, in turn with the others; the ratio of a block is the peer's seconds over tfvae's. All estimate the same log p(x)
from different draws: the difference of their means over the images is also printed in standard errors.

A row for each block is appended to PATH; an interrupted run, started again with the same PATH, measures only the
missing blocks.
"""

import argparse
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from peers import architectures
from peers.worker import PACKAGES, Worker
from records import Records
from training import spread

SHAPE = "dense 784-200-200-50"
IMAGES = 10_000
NUM_SAMPLES = 5000
BLOCK = 500
# By name: the package that a peer needs, its module, its class, and its additional arguments.
PEERS = {
    "tfvae": ("tfvae", "tfvae_likelihood", "TfvaeLikelihood", {}),
    "torch": ("torch", "pytorch_likelihood", "TorchLikelihood", {}),
    "torch compiled": ("torch", "pytorch_likelihood", "TorchLikelihood", {"compiled": True}),
    "jax": ("jax", "jax_likelihood", "JaxLikelihood", {}),
}
# The one that the others are compared with.
REFERENCE = "tfvae"
# Means that differ by more standard errors than this are taken to be of different quantities.
MOST_ERRORS = 5.0


def build(peer: str, num_samples: int) -> Any:
    """Makes a peer in this process.

    Args:
        peer: a name of `PEERS`.
        num_samples: the importance samples of each image.
    """
    _, module, name, arguments = PEERS[peer]
    kind = getattr(importlib.import_module(f"peers.{module}"), name)
    architecture = architectures.ARCHITECTURES[SHAPE]
    return kind(architecture, architectures.weights(architecture), num_samples, **arguments)


def installed(peers: list[str]) -> list[str]:
    """The peers whose packages are installed; prints those whose packages are not.

    Args:
        peers: names of `PEERS`.
    """
    found = [peer for peer in peers if importlib.util.find_spec(PEERS[peer][0]) is not None]
    for peer in peers:
        if peer not in found:
            print(f"{peer:<16}none: {PEERS[peer][0]} is not installed")
    return found


def measure(workers: dict[str, Worker], x: np.ndarray, block: int) -> dict[str, Any]:
    """Measures one block of images, and returns its row: seconds and estimates by peer."""
    answers = {peer: each.call("estimate", x, block) for peer, each in workers.items()}
    return {
        "load": os.getloadavg()[0],
        "seconds": {peer: seconds for peer, (_, seconds) in answers.items()},
        "estimates": {peer: values.astype(float).tolist() for peer, (values, _) in answers.items()},
    }


def show(rows: list[dict[str, Any]], peers: list[str]) -> None:
    """Prints the table.

    Raises:
        ValueError: the estimates of a peer disagree with tfvae's.
    """
    estimates = {peer: np.concatenate([row["estimates"][peer] for row in rows]) for peer in peers}
    print(f"{'':<16}{'seconds':>10}{'peer / tfvae, by block':>28}{'mean log p(x)':>16}{'difference':>12}{'errors':>8}")
    for peer in peers:
        seconds = sum(row["seconds"][peer] for row in rows)
        ratios = [row["seconds"][peer] / row["seconds"][REFERENCE] for row in rows]
        difference = estimates[peer] - estimates[REFERENCE]
        errors = 0.0
        if peer != REFERENCE:
            errors = difference.mean() / (difference.std(ddof=1) / len(difference) ** 0.5)
        print(
            f"{peer:<16}{seconds:>10.1f}{spread(ratios, '.2f'):>28}{estimates[peer].mean():>16.3f}"
            f"{difference.mean():>12.4f}{errors:>8.1f}"
        )
        if not abs(errors) <= MOST_ERRORS:
            raise ValueError(
                f"{peer} must estimate what tfvae does. Received: means {errors:.1f} standard errors apart"
            )


def main() -> None:
    """Prints a table, and appends the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--num-samples", type=int, default=NUM_SAMPLES, help="importance samples of each image")
    parser.add_argument("--block", type=int, default=BLOCK, help="images that each peer evaluates in one turn")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    arguments = parser.parse_args()
    peers = installed([REFERENCE, *(peer for peer in arguments.peers if peer != REFERENCE)])
    records = Records(arguments.json, PACKAGES)
    x = architectures.data(architectures.ARCHITECTURES[SHAPE], arguments.images)
    setting = {"shape": SHAPE, "num_samples": arguments.num_samples, "size": arguments.block, "peers": peers}
    firsts = range(0, arguments.images, arguments.block)
    keys = [{**setting, "first": first, "last": min(first + arguments.block, len(x))} for first in firsts]
    if not all(records.find(key) for key in keys):
        workers = {peer: Worker(functools.partial(build, peer, arguments.num_samples)) for peer in peers}
        # Compiles for the size of a block, and for that of a smaller last block, before anything is timed.
        for size in {key["last"] - key["first"] for key in keys}:
            measure(workers, x[:size], 0)
        for key in keys:
            if not records.find(key):
                records.append([{**key, **measure(workers, x[key["first"] : key["last"]], key["first"])}])
        for each in workers.values():
            each.close()
    show([records.find(key)[0] for key in keys], peers)


if __name__ == "__main__":
    main()
