"""Every example runs; `digits_against_pca.py` by the test of the README, which quotes it, `cluster.py` by its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_no_example_without_a_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"cluster.py", "digits_against_pca.py", "own_networks.py"}


@pytest.mark.slow
def test_own_networks_learns_the_noise_and_tells_the_data_from_other_data():
    done = subprocess.run([sys.executable, EXAMPLES / "own_networks.py"], capture_output=True, text=True, check=True)
    scale, held_out, shuffled = (float(re.findall(r"-?\d+\.\d+", line)[-1]) for line in done.stdout.splitlines()[-3:])
    # A two-dimensional latent space can fold onto the circle, so nearly all of what is left is the noise.
    assert 0.09 < scale < 0.13
    assert held_out > shuffled + 50
