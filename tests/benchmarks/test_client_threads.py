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
    callers = []

    def encode(x):
        callers.append(threading.get_ident())
        time.sleep(0.001)

    start = time.perf_counter()
    rate = client_threads.rate(encode, None, 3, 0.2)
    seconds = time.perf_counter() - start
    assert len(set(callers)) > 1
    # No thread stops before the time is over.
    assert len(callers) / seconds <= rate <= len(callers) / 0.2


def test_a_row_shows_rates_and_the_quartiles_of_their_ratio(client_threads, capsys):
    rates = {"lock": [1, 2, 3, 4, 5], "pool": [2, 6, 12, 20, 30]}
    client_threads.show({"shape": "any", "batch": 64, "threads": 4, "rates": rates, "megabytes": 2.5})
    assert capsys.readouterr().out.split() == ["any", "64", "4", "3", "14", "4.00", "(3.00", "to", "5.00)", "2.5"]
