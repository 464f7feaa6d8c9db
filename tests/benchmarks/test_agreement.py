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
