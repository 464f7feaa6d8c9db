"""The arithmetic of benchmarks/client_threads.py."""

import importlib
import threading
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def client_threads():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("client_threads")


def test_the_rate_counts_the_calls_of_all_threads(client_threads):
    lock = threading.Lock()

    def locked(seconds):
        with lock:
            time.sleep(seconds)

    assert 2 * client_threads.rate(locked, 0.01, 4, 0.1) < client_threads.rate(time.sleep, 0.01, 4, 0.1) <= 400


def test_a_row_shows_rates_and_the_quartiles_of_their_ratio(client_threads, capsys):
    rates = {"lock": [1, 2, 3, 4, 5], "pool": [2, 6, 12, 20, 30]}
    client_threads.show({"shape": "any", "batch": 64, "threads": 4, "rates": rates, "megabytes": 2.5})
    assert capsys.readouterr().out.split() == ["any", "64", "4", "3", "14", "4.00", "(3.00", "to", "5.00)", "2.5"]
