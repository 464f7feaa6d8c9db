"""A bad input to the command line: what is wrong, how it is made, and which exit codes are right."""

import dataclasses
import pathlib
from collections.abc import Callable

USAGE = frozenset({2})
FINE = frozenset({0})
EITHER = FINE | USAGE

# The run that all others are made from: a table of 60 rows, and networks that cost nothing.
TRAIN = [
    "train",
    "x.npy",
    "--hidden",
    "[4]",
    "--latent_dim",
    "2",
    "--num_samples",
    "4",
    "--epochs",
    "2",
    "--batch_size",
    "20",
]
QUICK = """
from tfvae.export import verification
latency = verification._latency
verification._latency = lambda call, x, calls: latency(call, x, min(calls, 2))
"""
WITHOUT_EXPORTS = """
from tfvae.cli import exports, run_folder
exports.write = run_folder.draw = lambda *_, **__: None
"""


@dataclasses.dataclass
class Case:
    """A command that is given something bad.

    Attributes:
        kind: the line of the table.
        name: what is bad.
        arguments: the arguments of `tfvae`.
        make: makes what is bad, in a copy of the folder of the run.
        environment: environment variables.
        codes: the exit codes that are right.
        before: code that runs before the command.
    """

    kind: str
    name: str
    arguments: list[str]
    make: Callable[[pathlib.Path], None] | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    codes: frozenset[int] = USAGE
    before: str = QUICK
