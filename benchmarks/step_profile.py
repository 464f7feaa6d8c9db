"""Where the time of a training step goes, by kind of operation, measured by TensorFlow's profiler.

    python benchmarks/step_profile.py --shape NAME --batch-size B [--num-samples K]

The model is that of `benchmarks/training.py`, compiled with an optimizer and nothing else. Operations that run in
parallel are each counted in full, so without XLA the sum may exceed the time of the step. The profiler itself takes
time too.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

import tensorflow as tf
from peers import architectures, tfvae_vae
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# About how many examples an epoch has; one epoch is profiled.
EXAMPLES = 20_000
MOST_ROWS = 20
# The profiler names TensorFlow's operations "name:kind", and XLA's "kind.number", "..._fusion" or "wrapped_...".
KINDS = re.compile(
    r"(?P<name>[\w/-]+:)(?P<kind>\w+)|(?P<xla>[\w-]+?)(_\d+)?(\.\d+)|(?P<alone>[\w-]+_fusion|wrapped_[\w-]+)"
)
# Operations that contain others, whose time would be counted twice.
WHOLES = ("while", "call", "conditional", "__inference")


def kind_of(event: str) -> str | None:
    """The kind of operation that a profiler event records; None if the event is not an operation.

    Args:
        event: the name of the event.
    """
    match = KINDS.fullmatch(event)
    if match is None:
        return None
    kind = match["kind"] or match["xla"] or match["alone"]
    if kind.startswith(WHOLES):
        return None
    return "XLA: fusions" if kind.endswith("fusion") else f"XLA: {kind}" if match["kind"] is None else kind


def seconds_by_kind(folder: Path) -> dict[str, tuple[float, int]]:
    """The total seconds and the number of operations in a profile, by kind.

    Args:
        folder: the folder that the profiler wrote.
    """
    seconds, numbers = collections.Counter(), collections.Counter()
    for path in folder.rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        for plane in space.planes:
            for line in plane.lines:
                for event in line.events:
                    kind = kind_of(plane.event_metadata[event.metadata_id].name)
                    if kind is not None:
                        seconds[kind] += event.duration_ps / 1e12
                        numbers[kind] += 1
    return {kind: (value, numbers[kind]) for kind, value in seconds.most_common()}


def main() -> None:
    """Prints the table."""
    shapes = list(architectures.ARCHITECTURES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes, default=shapes[0], metavar="NAME", help=", ".join(shapes))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=1, help="draws of z for each example")
    arguments = parser.parse_args()
    architecture = architectures.ARCHITECTURES[arguments.shape]
    peer = tfvae_vae.TfvaePeer(architecture, arguments.batch_size, arguments.num_samples)
    peer.load(architectures.weights(architecture))
    steps = max(1, EXAMPLES // arguments.batch_size // arguments.num_samples)
    # The first epoch compiles, and is not timed.
    own = min([peer.epoch(steps) for _ in range(4)][1:]) / steps
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            peer.epoch(steps)
        table = seconds_by_kind(Path(folder))
    print(f"{arguments.shape}, batch {arguments.batch_size}, k = {arguments.num_samples}: {1e3 * own:.2f} ms a step")
    print(f"{'':<44}{'number a step':>14}{'ms a step':>12}{'of the step':>14}")
    for kind, (value, number) in list(table.items())[:MOST_ROWS]:
        print(f"{kind:<44}{number / steps:>14.1f}{1e3 * value / steps:>12.3f}{value / steps / own:>14.0%}")


if __name__ == "__main__":
    main()
