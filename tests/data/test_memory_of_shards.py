"""Rows streamed from files take a bounded amount of memory."""

import pytest

MEMORY = """
    import re, sys
    import numpy as np, tensorflow as tf
    from tfvae.shards import look, stream, write_tfrecords

    def peak():
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

    def part(seed):
        return np.random.default_rng(seed).integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8)

    kind, count = sys.argv[1], int(sys.argv[2])
    if kind == "tfrecord":
        write_tfrecords((part(seed) for seed in range(count)), ".", rows_per_file=4096)
    else:
        for seed in range(count):
            np.savez(f"{seed}.npz", x=part(seed))
    files = look(f"*.{kind}")
    for batch in stream(files.subset([0]), batch_size=128):
        pass
    before = peak()
    assert sum(len(batch) for batch in stream(files, batch_size=128)) == 4096 * count
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tfrecord", "npz"])
def test_400_mb_are_streamed_in_200_mb(run_python, kind):
    assert int(run_python(MEMORY, kind, 32)) < 200e6
