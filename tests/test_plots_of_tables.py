"""Plots of tables: marginals beside each other, and contributions."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from tfvae import plots


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def table(rng, rows=200, shift=0.0):
    return pd.DataFrame(
        {
            "amount": rng.normal(shift, 1, rows),
            "items": rng.poisson(3, rows),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D"),
            "channel": rng.choice(["web", "shop", "a $ in a name that is long"], rows),
            "gift": rng.random(rows) < 0.3,
        }
    )


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_marginals_are_drawn_with_their_distances_the_least_alike_first(rng):
    real, generated = table(rng), table(rng, shift=3.0)
    figure = plots.marginals(real, generated)
    ks = scipy.stats.ks_2samp(real["amount"], generated["amount"]).statistic
    assert titles(figure)[0] == f"amount\nKS {ks:.2f}"
    tv = np.abs(real["channel"].value_counts(True) - generated["channel"].value_counts(True)).sum() / 2
    assert f"channel\nTV {tv:.2f}" in titles(figure)
    distances = [float(title.split()[-1]) for title in titles(figure)]
    assert distances == sorted(distances, reverse=True)
    assert len(figure.axes) == 5


def test_bars_are_the_shares_of_the_categories(rng):
    real = pd.DataFrame({"c": ["a"] * 6 + ["b"] * 4})
    axes = plots.marginals(real, pd.DataFrame({"c": ["a"] * 2 + ["d"] * 8})).axes[0]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(widths, [[0.6, 0.4, 0.0], [0.2, 0.0, 0.8]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "d"]


def test_rare_categories_are_drawn_together(rng):
    real = pd.DataFrame({"c": [f"c{i:02d}" for i in range(20)]})
    axes = plots.marginals(real, real).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "12 others"
    np.testing.assert_allclose([bar.get_width() for bar in axes.containers[0]], [0.05] * 8 + [0.6])


def test_histograms_have_whole_numbers_in_the_middle_of_bins_and_outliers_in_the_last(rng):
    real = pd.DataFrame({"n": rng.integers(0, 90, 5000)})
    generated = real.assign(n=real["n"].where(real.index > 100, 10**6))
    axes = plots.marginals(real, generated).axes[0]
    edges = axes.patches[0].get_xy()[:, 0]
    assert set(np.unique(edges) % 3) == {2.5}
    assert axes.get_xlim()[1] < 100


def test_kinds_decide_what_is_drawn_and_missing_values_are_left_out(rng):
    real = table(rng)
    real.loc[:50, "amount"] = np.nan
    real["when"] = real["when"].dt.strftime("%Y-%m-%d")
    figure = plots.marginals(real, real, {"when": "date", "items": "category", "amount": "number"})
    assert sorted(titles(figure)) == ["amount\nKS 0.00", "items\nTV 0.00", "when\nKS 0.00"]


@pytest.mark.parametrize("first", ["0001-01-01", "1700-01-01", "2024-01-01"])
@pytest.mark.parametrize("last", ["2024-03-01", "9999-12-31"])
def test_dates_of_any_year_are_drawn(first, last, tmp_path):
    frame = pd.DataFrame({"when": [first, "2024-02-01", last] * 10})
    plots.marginals(frame, frame, {"when": "date"}).savefig(tmp_path / "dates.png")


def test_texts_that_are_no_numbers_and_no_iso_dates_are_bars():
    frame = pd.DataFrame({"when": ["31.05.2024", "01.06.2024"] * 5})
    assert titles(plots.marginals(frame, frame, {"when": "date"})) == ["when\nTV 0.00"]


def test_only_the_columns_that_are_least_alike_are_drawn(rng):
    real = pd.DataFrame(rng.normal(size=(50, 40))).add_prefix("column_")
    generated = real.assign(column_17=real["column_17"] + 9)
    figure = plots.marginals(real, generated, max_columns=5)
    assert len(figure.axes) == 5
    assert titles(figure)[0] == "column_17\nKS 1.00"
    assert "(5 of 40)" in figure.get_suptitle()


def test_contributions_are_bars_in_descending_order(rng):
    nats = np.array([[1.0, -2.0, 5.0, 0.5], [3.0, 1.0, 2.0, 0.0]])
    labels = [["a = 1", "b = $", "c", "d"], ["a = 2", "b", "c", "d"]]
    figure = plots.contributions(nats, labels, ["row 1", "row 2"], max_columns=3)
    assert titles(figure) == ["row 1", "row 2"]
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [5.0, 1.0, 0.5]
    assert [label.get_text() for label in first.get_yticklabels()] == ["c", "a = 1", "d"]
    assert [bar.get_width() for bar in second.patches] == [3.0, 2.0, 1.0]


@pytest.mark.slow
def test_labels_do_not_overlap_and_are_within_the_page(rng, tmp_path):
    rows, columns = 5, 30
    real = pd.DataFrame(
        {
            f"a name that is long, number {i}": rng.choice([f"a category {j} of many" for j in range(9)], 50)
            for i in range(9)
        }
    )
    long = [[f"a column with a long name {i} = {'v' * 60}" for i in range(columns)]] * rows
    for figure in (
        plots.marginals(real, real),
        plots.contributions(rng.normal(size=(rows, columns)), long, ["t" * 200] * rows),
    ):
        figure.savefig(tmp_path / "figure.png")
        width = figure.bbox.width
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
            assert all(a.y0 >= b.y1 - 1 for a, b in itertools.pairwise(boxes))
            assert min(box.x0 for box in boxes) >= 0
            assert axes.title.get_window_extent().x1 <= width
            assert axes._left_title.get_window_extent().x1 <= width


NANS = pd.DataFrame({"a": [np.nan]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.marginals(np.ones((2, 2)), NANS), "`real` must be a data frame"),
        (lambda: plots.marginals(NANS, np.ones((2, 2))), "`generated` must be a data frame"),
        (lambda: plots.marginals(NANS, NANS), "must have a column with values in common"),
        (lambda: plots.marginals(NANS, NANS, {"b": "number"}), "must have the column 'b'"),
        (lambda: plots.marginals(NANS, NANS, ["a"]), "`kinds` must be the kinds of columns by name"),
        (lambda: plots.marginals(NANS[["a", "a"]], NANS), "`real` must be a table whose columns have different names"),
        (lambda: plots.marginals(NANS, NANS, max_columns=0), "`max_columns` must be at least 1"),
        (lambda: plots.contributions(np.ones((1, 2)), [["a"]], ["t"]), r"`nats` must have the shape \[B, C\]"),
        (lambda: plots.contributions(np.full((1, 1), np.nan), [["a"]], ["t"]), "`nats` must hold finite values"),
        (lambda: plots.samples(pd.DataFrame({"a": [1.0]})), "`x` must be an array.*tfvae.plots.marginals"),
        (lambda: plots.reconstructions(NANS, NANS), "`x` must be an array.*tfvae.plots.marginals"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message + r".* Received: "):
        call()
