"""The arithmetic of benchmarks/synthetic.py; no other library is needed."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def synthetic():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("synthetic")


def rows(n, seed, shift=0.0, share=0.5):
    rng = np.random.default_rng(seed)
    a = rng.normal(shift, 1, n)
    frame = pd.DataFrame({"a": a, "b": a + rng.normal(0, 1, n), "c": np.where(rng.random(n) < share, "x", "y")})
    return frame.assign(d=pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 100, n), unit="D"))


def figures(synthetic, real, made):
    (real, made), categories = synthetic.encoded([real, made], list(real))
    assert categories == ["c"]
    return synthetic.compared(real, made, categories, 0)


def test_rows_of_the_same_distribution_are_hardly_told_apart(synthetic):
    same = figures(synthetic, rows(600, 0), rows(600, 1))
    assert same["marginals"] < 0.08
    assert same["pairs"] < 0.08
    assert abs(same["detector"] - 0.5) < 0.08


@pytest.mark.slow
def test_each_figure_sees_what_it_is_for(synthetic):
    real = rows(600, 0)
    shifted = figures(synthetic, real, rows(600, 1, shift=1.0, share=0.9))
    # Two normal distributions one standard deviation apart differ by 2 Phi(1/2) - 1 = 0.38, those of b by 0.28.
    assert shifted["marginals"] == pytest.approx(np.mean([0.38, 0.28, 0.4, 0.0]), abs=0.05)
    assert shifted["detector"] > 0.75
    independent = real.assign(b=real["b"].sample(frac=1, random_state=0).to_numpy())
    alone = figures(synthetic, real, independent)
    assert alone["marginals"] == 0
    # Of six pairs one lost its correlation, 0.69 by Spearman.
    assert alone["pairs"] == pytest.approx(0.69 / 2 / 6, abs=0.03)


def test_the_built_in_orders_have_every_kind_of_column(synthetic):
    columns = {column.name: column.kind for column in synthetic.Table.learn(synthetic.orders(400)).columns}
    assert set(columns.values()) == {"identifier", "category", "number", "count", "bool", "date"}
