"""Plots of windows of time series."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tfvae import plots

X = np.random.default_rng(0).normal(size=(5, 12, 2))


def test_windows_are_columns_and_channels_rows_with_lines_bands_and_marks():
    gap = np.where(np.arange(12)[:, None] == 4, np.nan, X)
    marked = np.zeros(X.shape, bool)
    marked[1, 3:5, 0] = True
    figure = plots.series(
        gap, X + 1, (X, X + 2), channels=["load", "$heat"], titles=list("vwxyz"), marked=marked, max_examples=3
    )
    assert len(figure.axes) == 6
    first, second = figure.axes[:2]
    np.testing.assert_array_equal(first.lines[0].get_ydata(), gap[0, :, 0])
    np.testing.assert_array_equal(first.lines[1].get_ydata(), X[0, :, 0] + 1)
    assert len(first.collections) == 1
    assert (len(first.patches), len(second.patches)) == (0, 2)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["v", "w", "x"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["load", "", "", r"\$heat", "", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "reconstruction"]


def test_channels_beyond_the_most_are_counted_in_the_title():
    figure = plots.series(np.zeros([1, 4, 10]), max_channels=3)
    assert len(figure.axes) == 3
    assert figure.get_suptitle() == "Windows (3 of 10 channels)"


def test_traversals_have_a_line_for_each_point_a_row_for_each_dimension_and_a_column_for_each_channel():
    x = np.random.default_rng(0).normal(size=(3, 5, 12, 2))
    figure = plots.series_traversals(x, ["z[1]", "z[0]", "z[2]"], [-2, -1, 0, 1, 2], channels=["load", "heat"])
    *panels, bar = figure.axes
    assert [len(axes.lines) for axes in panels] == [5] * 6
    np.testing.assert_array_equal(panels[3].lines[4].get_ydata(), x[1, 4, :, 1])
    assert [axes.get_title() for axes in panels[:2]] == ["load", "heat"]
    assert bar.get_ylabel() == "standard deviations"


def test_a_plot_takes_the_place_of_axes():
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plots.series(X[:1], ax=axes[0]) is figure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[0]}, "`x` must have the shape [N, T, C], with at least one window. Received: shape [12, 2]"),
        ({"x": X[:0]}, "`x` must have the shape [N, T, C]"),
        ({"x": pd.DataFrame(X[0])}, "`x` must be an array [N, T, C] of windows. Received: a data frame"),
        ({"x": "abc"}, "`x` must hold numbers"),
        ({"x": np.where(X > 1, np.inf, X)}, "`x` must be finite, or NaN"),
        ({"mean": X[:2]}, "`mean` must have the shape of `x`, [5, 12, 2]. Received: shape [2, 12, 2]"),
        ({"interval": [X]}, "`interval` must be two arrays"),
        ({"interval": (X, X[:1])}, "`interval` must have the shape of `x`"),
        ({"marked": X[0] > 0}, "`marked` must have the shape of x"),
        ({"channels": ["a"]}, "`channels` must be a name for each of the 2 channels. Received: 1 names"),
        ({"titles": ["a"]}, "`titles` must be a text for each of the 5 windows. Received: 1"),
        ({"max_examples": 0}, "`max_examples` must be at least 1"),
        ({"ax": 3}, "`ax` must be matplotlib axes"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        plots.series(**{"x": X, **arguments})
    assert "Received: " in str(error.value)


def test_traversals_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=re.escape("`x` must have the shape [D, V, T, C], `labels` have D texts")):
        plots.series_traversals(X, ["a"], [1])
