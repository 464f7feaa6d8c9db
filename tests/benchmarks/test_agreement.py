"""The arithmetic of benchmarks/agreement.py; nothing here needs a runtime to be installed."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def agreement():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("agreement")


def test_the_largest_difference_is_relative_to_the_largest_value_of_its_output(agreement):
    expected = {
        "score": {"elbo": np.array([-100.0, 50.0]), "kl": np.array([2.0, 1.0])},
        "encode": {"loc": np.ones((2, 3))},
    }
    answers = {
        "score": {"elbo": np.array([-100.0, 51.0]), "kl": np.array([2.0, 0.9])},
        "encode": {"loc": np.ones(6)},
    }
    assert agreement.largest(answers, expected) == {"score": pytest.approx(0.05), "encode": 0.0}


def test_what_was_never_written_is_not_hidden_by_an_output_that_is_right(agreement):
    expected = {"score": {"elbo": np.ones(2), "kl": np.ones(2)}}
    for wrong in ("elbo", "kl"):
        answers = {"score": {**expected["score"], wrong: np.array([np.nan, 1.0])}}
        assert np.isnan(agreement.largest(answers, expected)["score"])


def test_a_runtime_that_is_not_installed_is_named(agreement, monkeypatch, tmp_path):
    monkeypatch.delenv(agreement.browser.MODULES, raising=False)
    monkeypatch.setattr(agreement.importlib.util, "find_spec", lambda name: None)
    for ask, name in (
        (agreement.onnx_runtime, "onnxruntime is not installed"),
        (agreement.openvino, "openvino is not installed"),
        (lambda path, inputs: agreement.litert_js(path, inputs, "wasm"), "must be"),
    ):
        with pytest.raises(agreement.MissingError, match=name):
            ask(tmp_path, {})


def test_what_the_gpu_delegate_leaves_to_the_cpu_is_counted(agreement):
    said = """INFO: a line
ERROR: Following operations are not supported by GPU delegate:
SUB: Max version supported: 2. Requested version 3.
SUM: Unknown layout.
33 operations will run on the GPU, and the remaining 16 operations will run on the CPU.
I1130 another line
ERROR: Following operations are not supported by GPU delegate:
MUL: Tensor dimensions must be less than 5. name
40 operations will run on the GPU, and the remaining 9 operations will run on the CPU.
"""
    assert agreement.refused(said) == (16, {"MUL", "SUB", "SUM"})
    assert agreement.refused("INFO: a line") == (0, set())


@pytest.mark.slow
def test_the_table_has_a_row_for_each_runtime_that_reads_what_was_written(agreement, monkeypatch, capsys):
    monkeypatch.setattr(agreement, "_EPOCHS", 1)
    in_python = {
        name: each for name, each in agreement.RUNTIMES.items() if not name.startswith(("LiteRT.js", "OpenVINO"))
    }
    monkeypatch.setattr(agreement, "RUNTIMES", in_python)
    agreement.show_agreement(("dense-Normal",), 2)
    rows = [line.strip("|").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [runtime.strip() for runtime, *_ in rows[2:]] == list(in_python)
    assert all(float(difference) < 1e-5 for _, *differences in rows[2:] for difference in differences)
