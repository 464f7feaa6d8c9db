"""The arithmetic of benchmarks/anomalies.py; nothing here needs PyOD or trains a model."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    anomalies = importlib.import_module("anomalies")


@pytest.fixture
def folder(tmp_path):
    """Two data sets of 100 rows, the last 10 of them far from the others."""
    for name, seed in (("one", 0), ("two", 1)):
        x = np.random.default_rng(seed).normal(size=(100, 3))
        x[90:] += 20
        np.savez(tmp_path / f"{name}.npz", X=x, y=np.arange(100) >= 90)
    return tmp_path


def test_the_test_data_are_scaled_by_the_training_data(folder):
    train, test, labels = anomalies.split(folder / "one.npz", 0)
    assert train.shape == (70, 3)
    assert test.shape == (30, 3)
    assert labels.sum() == 3
    np.testing.assert_allclose([train.mean(axis=0), train.std(axis=0)], [[0] * 3, [1] * 3], atol=1e-12)


def test_results_in_the_file_are_not_computed_again(folder, monkeypatch, capsys):
    output = folder / "results.jsonl"
    given = {"set": "one", "method": "LOF", "seed": 0, "auroc": 0.25, "ap": 0.5, "seconds": 1.0}
    output.write_text(json.dumps(given) + "\n")
    arguments = ["--seeds", "1", "--methods", "IsolationForest", "LOF", "--output", output]
    monkeypatch.setattr(sys, "argv", ["anomalies.py", str(folder), *map(str, arguments)])
    anomalies.main()
    assert len(output.read_text().splitlines()) == 4
    table = capsys.readouterr().out
    assert "| one | 1.000 | 0.250 |" in table
    # LOF finds no group of 7 anomalies in `two` or finds it as well as IsolationForest, and is second in `one`.
    ranks = [float(cell) for cell in table.split("mean rank by AUROC | ")[1].split("\n")[0].strip(" |").split(" | ")]
    assert sum(ranks) == 3
    assert ranks[0] < ranks[1]
