"""Plots of inference show what was found: calibration, predictive checks, recovery and contraction."""

import numpy as np
import pytest

from tfvae import evaluation, plots
from tfvae.evaluation.simulated import Recovery


def test_calibration_shows_the_ranks_the_band_and_where_they_leave_it():
    generator = np.random.default_rng(0)
    ranks = {"right": generator.integers(0, 100, 80), "low": generator.integers(0, 50, 80)}
    result = evaluation.Calibration(ranks, 99)
    figure = plots.calibration(result)
    of_low, _, of_right, p = figure.axes
    assert of_low.get_title(loc="left").startswith("low\nranks p=0.000")
    bands = result.bands("right")
    np.testing.assert_array_equal(of_right.lines[0].get_ydata(), bands.difference)
    assert len(of_right.lines[1].get_xdata()) == 0
    assert len(of_low.lines[1].get_xdata()) > 10
    assert sum(bar.get_height() for bar in p.patches) == 80
    assert p.get_title(loc="left").startswith("\nsymmetry p=")
    assert len(plots.calibration(result, max_latents=1).axes) == 2
    with pytest.raises(ValueError, match="`max_latents` must be at least 1"):
        plots.calibration(result, max_latents=0)


def test_a_predictive_check_shows_the_data_among_the_replications():
    values = {"mean": np.random.default_rng(0).normal(size=50), "count": np.arange(50) % 3, "constant": np.ones(50)}
    figure = plots.predictive_check(evaluation.PredictiveCheck({"mean": 0.5, "count": 9.0, "constant": 1.0}, values))
    assert [axes.get_title(loc="left") for axes in figure.axes][1:] == ["count\np=0", "constant\np=0.5"]
    for axes, line in zip(figure.axes, (0.5, 9.0, 1.0), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == 50
        assert axes.lines[0].get_xdata()[0] == line
    assert [bar.get_height() for bar in figure.axes[1].patches] == [17, 17, 16]


@pytest.fixture(scope="module")
def found():
    """300 data sets, of which the first latent variable is recovered well, the second hardly, the third is constant."""
    rng = np.random.default_rng(0)
    found = Recovery({}, {}, {}, {}, 99)
    for name, noise in (("a", 0.1), ("b[0]", 3.0)):
        truth = rng.normal(size=300)
        shrinkage = 1 / (1 + noise**2)
        found.truth[name], found.mean[name] = truth, shrinkage * (truth + noise * rng.normal(size=300))
        found.sd[name] = np.full(300, noise * np.sqrt(shrinkage))
        found.ranks[name] = rng.integers(0, 100, 300)
    found.truth["c"], found.mean["c"], found.sd["c"] = np.ones(300), rng.normal(1, 0.1, 300), np.full(300, 0.1)
    found.ranks["c"] = rng.integers(0, 100, 300)
    return found


def test_recovery_shows_means_over_known_values_the_worst_first(found):
    figure = plots.recovery(found)
    assert [axes.get_title("left").split("\n")[0] for axes in figure.axes] == ["b[0]", "a", "c"]
    points = figure.axes[1].get_lines()[1].get_xydata()
    np.testing.assert_allclose(points, np.stack([found.truth["a"], found.mean["a"]], axis=1))
    (bars,) = figure.axes[1].containers[0].lines[2]
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * found.sd["a"])
    assert "2 of 3" in plots.recovery(found, max_latents=2).get_suptitle()


def test_contraction_shows_errors_in_standard_deviations(found):
    figure = plots.contraction(found)
    panel = {axes.get_title("left").split("\n")[0]: axes for axes in figure.axes}["a"]
    points = np.concatenate([line.get_xydata() for line in panel.get_lines()[3:]])
    z = (found.mean["a"] - found.truth["a"]) / found.sd["a"]
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(z))
    np.testing.assert_allclose(points[:, 0], 1 - found.sd["a"][0] ** 2 / found.truth["a"].var())


@pytest.mark.parametrize("plot", [plots.recovery, plots.contraction])
def test_plots_of_recovery_refuse_what_is_none(plot, found):
    with pytest.raises(ValueError, match=r"^`found` must be what tfvae\.evaluation\.recovery returns\. Received: 3$"):
        plot(3)
    with pytest.raises(ValueError, match=r"^`max_latents` must be at least 1\. Received: max_latents=0$"):
        plot(found, max_latents=0)
