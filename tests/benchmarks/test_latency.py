"""The arithmetic of benchmarks/latency.py, and the errors it raises; nothing here needs a peer to be installed."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of the benchmarks by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def latency(benchmark):
    return benchmark("latency")


@pytest.fixture
def runtime(benchmark, tmp_path):
    """Makes a runtime that multiplies its input [B, 2, 2, 1], and the `Timed` that its process would run."""
    runtimes = benchmark("runtimes")
    x = np.arange(16, dtype=np.float32).reshape(4, 2, 2, 1)
    np.savez(tmp_path / "questions.npz", x=x, mean=2 * x)

    def make(factor, is_exact=True, channels_first=False):
        runtime = runtimes.Runtime(
            "multiplication",
            str(factor),
            1,
            lambda folder, shape: {"reconstruct": lambda x: [factor * x]},
            is_exact=is_exact,
            channels_first=channels_first,
        )
        return runtime, runtimes.Timed(runtime, tmp_path, "any")

    return make


class Worker:
    """Stands in for the worker process, and calls the methods in this one."""

    def __init__(self, timed):
        self.timed = timed

    def call(self, method, *arguments):
        return getattr(self.timed, method)(*arguments)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_runtime_that_agrees_with_keras_is_timed(latency, runtime, channels_first):
    right, timed = runtime(2.0, channels_first=channels_first)
    assert latency.check({right: Worker(timed)}, "reconstruct", 4) == {right: 0.0}
    times = timed.times("reconstruct", 2, seconds=0.01)
    assert len(times) > 10
    assert min(times) > 0
    assert sum(times) > 0.005e9


@pytest.mark.parametrize("factor", [2.001, float("nan")])
def test_one_that_does_not_is_an_error_unless_it_is_quantised(latency, runtime, factor):
    exact, coarse = runtime(factor), runtime(factor, is_exact=False)
    with pytest.raises(ValueError, match=f"multiplication, {factor} must answer as Keras does"):
        latency.check({exact[0]: Worker(exact[1])}, "reconstruct", 4)
    difference = latency.check({coarse[0]: Worker(coarse[1])}, "reconstruct", 4)[coarse[0]]
    np.testing.assert_allclose(difference, (factor - 2) * 15, rtol=1e-3)


def test_the_figures_are_of_all_calls_and_the_ratios_of_each_round(latency):
    own = latency.figures([[1000, 3000, 2000], [4000, 4000]], batch=64)
    assert own["microseconds"] == 3.0
    assert own["quartiles"] == [2.0, 4.0]
    assert own["examples_per_second"] == pytest.approx(5 * 64 / 14e-6)
    assert own["microseconds_by_round"] == [2.0, 4.0]
    named = {"model": "", "threads": 1}
    rows = [
        {"runtime": "own", **named, **own},
        {"runtime": latency.REFERENCE, **named, **latency.figures([[1000], [8000]], batch=64)},
        {"runtime": "own", **named, "threads": 2, **own},
        {"runtime": "other", **named, "reason": "it is not installed"},
    ]
    latency.add_ratios(rows)
    assert [row.get("ratios") for row in rows] == [[2.0, 0.5], [1.0, 1.0], None, None]
    assert [latency.line({**row, "difference": 0.0}) for row in rows][3].endswith("it is not installed")


def test_a_case_that_imports_what_it_must_not_is_an_error(benchmark, tmp_path, monkeypatch):
    startup = benchmark("startup")
    assert {"tensorflow", "keras"} <= set(startup.CASES["tfvae.export.load: .tflite"].without)
    case = startup.Case(lambda folder: iter(["import"]), without=("numpy",))
    monkeypatch.setitem(startup.CASES, "light", case)
    with pytest.raises(ImportError, match=r"light must import none of \['numpy'\]"):
        startup.measure("light", tmp_path)
