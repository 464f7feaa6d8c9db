"""Plots of inference show what was found: calibration, predictive checks, recovery and contraction."""

import numpy as np
import pytest

from tfvae import evaluation, plots
from tfvae.evaluation.simulated import Recovery
from tfvae.inference.draws import Draws


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


def test_a_posterior_has_the_interval_the_weighted_mean_and_the_known_value_of_each_element():
    values = np.random.default_rng(0).normal(size=(2000, 2)) + np.array([0.0, 5.0])
    log_weights = values[:, 0]
    draws = Draws({"mu": values, "k": np.arange(2000) % 3}, log_weights)
    figure = plots.posterior(draws, truth={"mu": [1.0, 5.0]})
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes] == ["mu[0]", "mu[1]", "k"]
    mean = draws.expectation(lambda z: z["mu"])
    assert mean[0] > 0.8
    table = draws.summary()
    for axes, name, expected, known in zip(figure.axes, table.index, mean, (1.0, 5.0), strict=False):
        interval, of_mean, of_truth = axes.lines
        assert of_mean.get_xdata()[0] == pytest.approx(expected)
        assert of_truth.get_xdata()[0] == known
        np.testing.assert_allclose(interval.get_xdata(), table.loc[name, ["5%", "95%"]], atol=0.02)
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1.0)
    assert len(figure.axes[2].patches) == 3
    raw = plots.posterior(draws, ["mu"], corrected=False, max_panels=1)
    assert raw.axes[0].lines[1].get_xdata()[0] == pytest.approx(values[:, 0].mean())
    assert "1 of 2 elements" in raw.get_suptitle()


def test_predictions_are_a_band_beside_the_data():
    generator = np.random.default_rng(0)
    figure = plots.predictive({"y": generator.poisson(2.0, (400, 50)), "t": 0.0}, {"y": np.full(50, 2)})
    (axes,) = figure.axes
    band, mean, data = axes.patches
    assert list(mean.get_data().edges[:3]) == [-0.5, 0.5, 1.5]
    np.testing.assert_allclose(mean.get_data().values[:3], np.exp(-2) * np.array([1, 2, 2]), atol=0.02)
    assert data.get_data().values[2] == 1.0
    assert band.get_data().values[2] < 0.5
    assert band.get_data().baseline[2] > 0.1
    figure = plots.predictive(generator.normal(size=(30, 4, 5)), np.zeros((4, 5)))
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.posterior({}), "`draws` must be draws by name"),
        (lambda: plots.posterior({"a": np.ones(3)}, ["b"]), "`names` must be among"),
        (lambda: plots.posterior({"a": np.ones(3)}, truth={"b": 1.0}), "`truth` must be among"),
        (lambda: plots.posterior({"a": np.ones(3)}, truth={"a": [1.0]}), r"`truth` must have the shape \[\] of 'a'"),
        (lambda: plots.posterior({"a": np.ones(3)}, probability=1.0), "`probability` must be between 0 and 1"),
        (lambda: plots.posterior({"a": np.ones(3)}, max_panels=0), "`max_panels` must be at least 1"),
        (lambda: plots.posterior({"a": np.array([np.nan])}), "`draws` must hold finite values"),
        (lambda: plots.posterior({"a": np.ones(3)}, []), "`names` must be those of one latent variable at least"),
        (lambda: plots.posterior({"a": 1.0}), r"`draws` must have the shape \[S, \.\.\.\]"),
        (lambda: plots.posterior({"a": [[1.0], [2.0, 3.0]]}), "`draws` must hold numbers"),
        (lambda: plots.posterior({"a": np.ones((3, 0))}), "`draws` must hold finite values, at least one"),
        (lambda: plots.predictive(np.ones((0, 3)), np.ones(3)), "`replicated` must hold finite values, at least one"),
        (lambda: plots.predictive(np.ones((3, 0)), np.ones(0)), "`observed` must hold finite values, at least one"),
        (lambda: plots.predictive({}, {}), "`observed` must have names"),
        (lambda: plots.calibration(None), r"`result` must be what tfvae\.evaluation\.calibration returns"),
        (lambda: plots.predictive_check(evaluation.PredictiveCheck({}, {})), "`result` must be what .*, and not empty"),
        (lambda: plots.predictive(np.ones((3, 2)), np.ones(3)), r"`replicated` must have the shape \[S, 3\]"),
        (lambda: plots.predictive({"a": np.ones((3, 2))}, np.ones(2)), "`observed` must be data by name"),
        (lambda: plots.predictive({"a": np.ones((3, 2))}, {"b": np.ones(2)}), "`observed` must have names, all among"),
    ],
)
def test_posteriors_and_predictions_refuse_what_is_none(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
