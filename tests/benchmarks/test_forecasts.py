"""The measures and the simplest forecast of benchmarks/forecasts.py; no other library is needed."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def forecasts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("forecasts")


@pytest.fixture(scope="module")
def one(forecasts):
    """Two years of months, 20 times, which rise by 1 from year to year, with noise."""
    months = np.arange(480)
    noise = 0.1 * np.random.default_rng(0).normal(size=480)
    return forecasts.Series(np.sin(2 * np.pi * months / 12) + months // 12 + noise, 12, 18)


def test_the_quantile_loss_by_hand(forecasts):
    # Below the value by 1, at it, and above it by 2: (0.1 * 1 + 0 + 0.1 * 2) / 3.
    found = forecasts.pinball(np.array([3.0]), np.array([[2.0, 3.0, 5.0]]))
    np.testing.assert_allclose(found, [0.1])
    # All of them above it by 1: (0.9 + 0.5 + 0.1) / 3.
    np.testing.assert_allclose(forecasts.pinball(np.array([0.0]), np.ones([1, 3])), [0.5])


def test_the_seasonal_naive_knows_steps_before_the_origin_only(forecasts, one):
    known, origins = forecasts.split(one)
    found = forecasts.seasonal_naive(one, known, origins, 0)
    assert found.shape == (20, 18, 3)
    for index, origin in enumerate(origins):
        changed = one.values.copy()
        changed[origin:] = 1e6
        alone = forecasts.seasonal_naive(one._replace(values=changed), known, origins[index : index + 1], 0)
        np.testing.assert_array_equal(alone[0], found[index])
    # What is a year ahead has risen by 1, and by 2 after another year.
    after = one.values[origins[0] : origins[0] + 18]
    np.testing.assert_allclose(found[0, :, 1], after, atol=0.6)


def test_origins_are_in_the_steps_that_are_not_learned_from(forecasts, one):
    known, origins = forecasts.split(one)
    assert known == origins[0] == 360
    assert origins[-1] + one.steps == len(one.values)


def test_draws_of_differences_become_quantiles_of_values(forecasts, one):
    known, origins = forecasts.split(one)
    differences, scale = forecasts._differences(one, known)
    np.testing.assert_allclose(differences[: known - 1].std(), 1, rtol=1e-5)
    exact = np.stack([differences[origin - 1 : origin + one.steps - 1] for origin in origins])
    draws = np.stack([exact - 1, exact, exact + 1])[..., np.newaxis]
    found = forecasts._quantiles(draws, one, origins, scale)
    expected = np.stack([one.values[origin : origin + one.steps] for origin in origins])
    np.testing.assert_allclose(found[..., 1], expected, atol=1e-5)
    # The draws differ by 1 at each step, and their sum by the number of steps; 80% of this are between the quantiles.
    widths = 1.6 * scale * np.arange(1, one.steps + 1)
    np.testing.assert_allclose(found[..., 2] - found[..., 0], np.broadcast_to(widths, expected.shape), rtol=1e-4)


def test_the_loss_is_relative_to_a_season_and_the_coverage_a_share(forecasts, one, monkeypatch):
    def beside(one, known, origins, seed):
        values = np.stack([one.values[origin : origin + one.steps] for origin in origins])
        quantiles = np.stack([values - 1, values, values + 1], axis=-1)
        quantiles[:, ::2] += 2
        return quantiles

    monkeypatch.setitem(forecasts.METHODS, "ETS", beside)
    result = forecasts.measure("years", one, "ETS", 0)
    assert result["coverage"] == 0.5
    known = forecasts.split(one)[0]
    # Each second step is off: (0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3; the others cost (0.1 + 0 + 0.1) / 3.
    loss = (2.2 / 3 + 0.2 / 3) / 2 / np.abs(one.values[12:known] - one.values[: known - 12]).mean()
    assert result["loss"] == pytest.approx(loss)
