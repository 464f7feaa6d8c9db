"""Plots of walks, scores and classes, and plots in the place of axes that the user made."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tfvae import plots
from tfvae.evaluation import Calibration, PredictiveCheck, Recovery


@pytest.fixture(scope="module")
def walks():
    """Three walks of four images."""
    return (load_digits().images[:12] / 16.0).astype("float32").reshape(3, 4, 8, 8, 1)


def recovered():
    truth = np.arange(9.0)
    return Recovery({"a": truth}, {"a": truth + 0.1}, {"a": np.ones(9)}, {"a": np.arange(9)}, 99)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_traversals_of_images_are_rows_with_the_values_above(walks):
    figure = plots.traversals(walks, ["z[2]", "z[0]", "z[1]"], [-1, 0, 1, 2])
    assert len(figure.axes) == 12
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(shown, walks.reshape(12, 8, 8))
    assert [text for text in texts(figure) if text.startswith("z")] == ["z[2]", "z[0]", "z[1]"]
    assert [text for text in texts(figure) if not text.startswith("z")] == ["-1", "0", "+1", "+2"]
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[0] == tops[3] > tops[4] > tops[8]


def test_traversals_of_vectors_are_fans_of_lines(walks):
    x = walks.reshape(3, 4, 64)
    figure = plots.traversals(x, ["a", "b", "c"], [-1, 0, 1, 2])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c"]
    np.testing.assert_array_equal([[line.get_ydata() for line in axes.lines] for axes in figure.axes], x)


def test_interpolations_of_images_and_of_vectors(walks):
    assert len(plots.interpolations(walks).axes) == 12
    assert [len(axes.lines) for axes in plots.interpolations(walks.reshape(3, 4, 64)).axes] == [4, 4, 4]


def test_limits_are_black_and_white(walks):
    figure = plots.samples(walks[0], limits=(-1.0, 3.0))
    shown = np.stack([np.asarray(axes.images[0].get_array()) for axes in figure.axes])
    np.testing.assert_allclose(shown, (walks[0, ..., 0] + 1.0) / 4.0, rtol=1e-6)


def test_noise_beyond_the_limits_does_not_wash_images_out(walks):
    noisy = walks[0] + np.random.default_rng(0).normal(scale=0.5, size=walks[0].shape)
    shown = np.stack([axes.images[0].get_array() for axes in plots.samples(noisy, limits=(0.0, 1.0)).axes])
    np.testing.assert_allclose(shown, np.clip(noisy[..., 0], 0.0, 1.0))


def test_scores_above_the_threshold_have_another_colour():
    score = np.random.default_rng(0).normal(size=500)
    axes = plots.anomalies(score, 1.0).axes[0]
    heights = {color: 0.0 for color in {bar.get_facecolor() for bar in axes.patches}}
    for bar in axes.patches:
        heights[bar.get_facecolor()] += bar.get_height()
    assert len(heights) == 2
    assert sum(heights.values()) == 500
    assert f"{np.mean(score > 1.0):.2%} of 500" in axes.get_title()
    assert axes.lines[0].get_xdata()[0] == 1.0
    assert len({bar.get_facecolor() for bar in plots.anomalies(score).axes[0].patches}) == 1
    # A score that equals the threshold, as the highest of those it was calibrated on, is not above it.
    axes = plots.anomalies([0.1, 0.2, 0.7, 0.7], 0.7).axes[0]
    assert axes.get_title().startswith("0.00% of 4")
    assert sum(bar.get_height() for bar in axes.patches if bar.get_x() >= 0.7) == 0
    assert sum(bar.get_height() for bar in axes.patches) == 4


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, "0 1"), (4, "0 1 2 3 4"), (30, "0 1 2 5 10 20"), (600, "0 1 10 100"), (40_000, "0 1 10 100 1,000 10,000")],
)
def test_the_counts_of_scores_are_marked_with_whole_numbers(most, expected):
    axes = plots.anomalies(np.repeat([0.0, 1.0], [most, 1])).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == expected.split()
    assert len(axes.get_yticks(minor=True)) == 0


def test_classes_have_colours_and_shapes_of_their_own():
    loc = np.random.default_rng(0).normal(size=(90, 3))
    labels = np.repeat([f"class {number}" for number in range(9)], 10)
    figure = plots.latent(loc, labels=labels)
    drawn = figure.axes[0].collections
    assert [len(points.get_offsets()) for points in drawn] == [10] * 9
    looks = {(tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes()) for points in drawn}
    assert len(looks) == 9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == sorted(set(labels))


def test_classes_of_one_dimension_are_stacked():
    labels = np.repeat([True, False], [30, 70])
    axes = plots.latent(np.arange(100.0)[:, np.newaxis], labels=labels).axes[0]
    assert [sum(bar.get_height() for bar in bars) for bars in axes.containers] == [70, 30]


def test_a_few_points_far_off_leave_room_for_the_others_and_are_counted():
    loc = np.random.default_rng(0).normal(size=(200, 2))
    loc[7] = 1e4
    axes = plots.latent(loc).axes[0]
    assert axes.get_xlim()[1] < 10
    assert axes.get_title() == "1 of 200 points lie beyond the frame"
    assert plots.latent(loc[:7]).axes[0].get_title() == ""


def test_many_numbers_are_a_scale_of_colours():
    loc = np.random.default_rng(0).normal(size=(50, 2))
    figure = plots.latent(loc, labels=loc[:, 0])
    assert len(figure.axes) == 2
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), loc[:, 0])


@pytest.mark.parametrize("name", plots.__all__)
def test_every_plot_takes_the_place_of_axes_of_a_grid(name, walks):
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    calls = {
        "anomalies": lambda ax: plots.anomalies(np.arange(9.0), ax=ax),
        "calibration": lambda ax: plots.calibration(Calibration({"a": np.arange(50)}, 99), ax=ax),
        "contraction": lambda ax: plots.contraction(recovered(), ax=ax),
        "contributions": lambda ax: plots.contributions(np.ones((1, 2)), [["a", "b"]], ["row"], ax=ax),
        "history": lambda ax: plots.history({"elbo": [1.0, 2.0]}, ax=ax),
        "interpolations": lambda ax: plots.interpolations(walks, ax=ax),
        "latent": lambda ax: plots.latent(walks[0, :, :2, 0, 0], ax=ax),
        "marginals": lambda ax: plots.marginals(frame, frame, ax=ax),
        "predictive_check": lambda ax: plots.predictive_check(
            PredictiveCheck({"m": 1.0}, {"m": np.arange(9.0)}), ax=ax
        ),
        "posterior": lambda ax: plots.posterior({"mu": np.arange(9.0)}, ax=ax),
        "predictive": lambda ax: plots.predictive(np.ones((9, 3)), np.ones(3), ax=ax),
        "recovery": lambda ax: plots.recovery(recovered(), ax=ax),
        "reconstructions": lambda ax: plots.reconstructions(walks[0], walks[0], ax=ax),
        "samples": lambda ax: plots.samples(walks[0], ax=ax),
        "series": lambda ax: plots.series(np.ones((1, 5, 2)), ax=ax),
        "series_traversals": lambda ax: plots.series_traversals(np.ones((1, 3, 5, 2)), ["a"], range(3), ax=ax),
        "traversals": lambda ax: plots.traversals(walks, ["a", "b", "c"], range(4), ax=ax),
    }
    # Without a layout, in which texts beside each other would overlap.
    figure = Figure((8, 4))
    first, second = figure.subplots(1, 2)
    assert calls[name](second) is figure
    figure.draw_without_rendering()
    assert second not in figure.axes
    others = [axes for axes in figure.axes if axes is not first]
    assert others
    assert all(axes.get_figure() is not figure for axes in others)
    (part,) = figure.subfigs
    assert all(first.get_tightbbox().x1 <= axes.get_tightbbox().x0 for axes in others)
    (title,) = (text for text in part.texts if text.get_text() == part.get_suptitle())
    assert all(axes.get_tightbbox().y1 <= title.get_window_extent().y0 + 1 for axes in others)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: plots.traversals(x, ["a"], range(4)), r"`labels` must have a text for each of the D rows"),
        (
            lambda x: plots.traversals(x[0, :, :, 0, 0][:, :1].T, ["a"], [0]),
            r"`x` must have the shape \[D, V, \.\.\.\]",
        ),
        (lambda x: plots.samples(x[0], limits=(1.0, 0.0)), r"`limits` must be two numbers, the lower one first"),
        (lambda x: plots.samples(x[0], limits=1.0), r"`limits` must be two numbers"),
        (lambda x: plots.samples(x[0], ax=Figure().add_axes((0, 0, 1, 1))), r"`ax` must be matplotlib axes in a grid"),
        (lambda x: plots.samples(x[0], ax="left"), r"`ax` must be matplotlib axes in a grid"),
        (lambda x: plots.latent(np.ones((3, 2)), labels=[1, 2]), r"`labels` must hold one label per row of `loc`"),
        (lambda x: plots.latent(np.ones((50, 2)), labels=list(map(str, range(50)))), r"at most 49 classes"),
        (lambda x: plots.anomalies([np.nan]), r"`score` must hold finite values"),
        (lambda x: plots.anomalies([1.0], [1.0, 2.0]), r"`threshold` must be one number"),
    ],
)
def test_errors(call, message, walks):
    with pytest.raises(ValueError, match=message + r"(.|\n)*Received: "):
        call(walks)
