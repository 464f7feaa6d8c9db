"""The made series and the arithmetic of benchmarks/series_anomalies.py; only the test of its measures needs aeon."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

KINDS = ["spike", "level", "trend", "period", "variance", "between"]


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield {name: importlib.import_module(f"series_{name}") for name in ("sets", "methods", "anomalies")}


def runs(labels):
    """The number of runs of 1 in labels [T]."""
    return np.count_nonzero(np.diff(labels, prepend=0) == 1)


def test_every_kind_is_tested(modules):
    assert set(modules["sets"].KINDS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_faults_are_where_the_labels_are(modules, kind):
    sets = modules["sets"]
    clean, frame = sets.clean(3), sets.made(kind, 3)
    labels, faulty = frame["label"].to_numpy(), frame[["x0", "x1", "x2"]].to_numpy()
    assert runs(labels) == sets.FAULTS
    assert labels[: sets.TRAIN].sum() == 0
    assert frame["train"].sum() == sets.TRAIN
    np.testing.assert_array_equal(faulty[labels == 0], clean[labels == 0])
    is_changed = ~np.isclose(faulty, clean, rtol=0, atol=1e-12)
    assert is_changed.any(axis=1)[labels == 1].mean() > 0.95
    starts = np.flatnonzero(np.diff(labels, prepend=0) == 1)
    channels = [is_changed[start : start + 10].any(axis=0).sum() for start in starts]
    assert channels == [3 if kind == "period" else 1] * sets.FAULTS
    assert (frame == sets.made(kind, 3)).all(axis=None)
    assert not np.array_equal(faulty, sets.made(kind, 4)[["x0", "x1", "x2"]].to_numpy())


def test_a_fault_between_channels_is_an_earlier_part_of_the_same_channel(modules):
    sets = modules["sets"]
    clean = sets.clean(0)
    faulty, labels = sets.plant(clean, "between", np.random.default_rng(0), sets.TRAIN, faults=1)
    steps = np.flatnonzero(labels)[sets.FADE : -sets.FADE]
    channel = int((faulty != clean).any(axis=0).argmax())
    earlier = np.lib.stride_tricks.sliding_window_view(clean[: steps[0], channel], len(steps))
    assert (earlier == faulty[steps, channel]).all(axis=1).any()


def test_a_series_is_read_and_standardised_by_its_training_part(modules, tmp_path):
    sets, anomalies = modules["sets"], modules["anomalies"]
    x, labels = np.random.default_rng(0).normal(5, 3, (100, 2)), np.arange(100) >= 90
    frame = sets.table(x, labels.astype(int), 60)
    frame.to_csv(tmp_path / "level-0.csv", index=False)
    train, test, of_test = anomalies.parts(tmp_path / "level-0.csv", learns_from_all=False)
    np.testing.assert_allclose(train, (x[:60] - x[:60].mean(0)) / x[:60].std(0))
    np.testing.assert_allclose(test, (x[60:] - x[:60].mean(0)) / x[:60].std(0))
    np.testing.assert_array_equal(of_test, labels[60:])
    whole, scored, of_all = anomalies.parts(tmp_path / "level-0.csv", learns_from_all=True)
    assert whole is scored
    np.testing.assert_allclose(whole.std(axis=0), 1)
    np.testing.assert_array_equal(of_all, labels)
    frame.drop(columns="train").to_csv(tmp_path / "level-1.csv", index=False)
    assert len(anomalies.parts(tmp_path / "level-1.csv", learns_from_all=False)[0]) == 100


def test_the_score_of_a_step_is_the_mean_over_the_windows_that_hold_it(modules):
    found = modules["methods"]._of_steps(np.array([1.0, 3.0, 8.0]), np.zeros([4, 2]), 2)
    np.testing.assert_allclose(found, [1, 2, 5.5, 8])


def test_the_moving_average_sees_a_spike(modules):
    x = np.zeros([100, 2])
    x[40, 1] = 1
    scores = modules["methods"].moving_average(x, x, 9, 0)
    assert scores.argmax() == 40
    np.testing.assert_allclose(scores[[35, 36, 44, 45, 99]], [0, 1 / 9, 1 / 9, 0, 0])


@pytest.mark.slow
@pytest.mark.extra
def test_the_volumes_are_those_of_their_definition(modules):
    # Widths 0 and 1 leave the label as it is, and the areas are 1. With 2 the step before it is sqrt(1/2), so that
    # there are P = (1 + 1.7071) / 2 positives and 5 - P negatives. The thresholds then give these rates:
    recall, precision = [0, 1 / 1.35355, 1], [1, 1, 1.7071 / 2]
    of_precision = np.trapezoid(precision, recall)
    false_positive = [0, 0, (2 - 1.7071) / (5 - 1.35355), 1]
    of_rates = np.trapezoid([0, 1 / 1.35355, 1, 1], false_positive)
    scores = np.array([0.0, 0.5, 1.0, 0.2, 0.1])
    found = modules["anomalies"].volumes(np.array([0, 0, 1, 0, 0]), scores, 2)
    np.testing.assert_allclose(found, [(2 + of_precision) / 3, (2 + of_rates) / 3], rtol=1e-4)


def test_results_in_the_file_are_not_computed_again(modules, tmp_path, monkeypatch, capsys):
    anomalies, rows = modules["anomalies"], []
    given = {"tfvae VAE": [0.5, 0.7, 0.9], "random": [0.1, 0.2, 0.3]}
    for index, name in enumerate(["level-0", "level-1", "spike-0"]):
        (tmp_path / f"{name}.csv").touch()
        for method, values in given.items():
            setting = {"set": name, "method": method, "seed": 0, "length": 50, "learns_from_all": False}
            rows.append({**setting, "vus_pr": values[index], "vus_roc": 0.5, "ap": 0.25, "seconds": 2.0})
    output = tmp_path / "results.jsonl"
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [str(tmp_path), "--methods", "tfvae VAE", "random", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["series_anomalies.py", *arguments])
    anomalies.main()
    assert len(output.read_text().splitlines()) == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| method | level | spike | all, VUS-PR | all, VUS-ROC | all, AP | tfvae VAE is better by | seconds |"
    )
    # The differences are 0.4, 0.5 and 0.6, whose standard error is 0.1 / sqrt(3).
    assert lines[2] == "| tfvae VAE | 0.60 ± 0.10 | 0.90 | 0.70 ± 0.12 | 0.50 ± 0.00 | 0.25 ± 0.00 |  | 2.0 |"
    assert lines[3] == ("| random | 0.15 ± 0.05 | 0.30 | 0.20 ± 0.06 | 0.50 ± 0.00 | 0.25 ± 0.00 | 0.50 ± 0.06 | 2.0 |")


@pytest.mark.slow
def test_the_windows_of_tfvae_see_a_spike(modules, monkeypatch):
    monkeypatch.setattr(modules["methods"], "EPOCHS", 2)
    x = np.sin(np.arange(1200) / 5)[:, np.newaxis] + 0.1 * np.random.default_rng(0).normal(size=(1200, 1))
    x[1000] += 5
    scores = modules["methods"].windows_vae(x[:800], x[800:], 20, 0)
    assert scores.shape == (400,)
    assert scores.argmax() == 200
