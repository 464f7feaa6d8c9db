"""Draws with importance weights: against ArviZ's PSIS and NumPy, and the warning about unreliable draws."""

import functools
import sys
import warnings

import arviz_base
import arviz_stats
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats
from scipy.special import logsumexp

from tfvae import Draws, VariationalInference, posteriors
from tfvae.evaluation import LogLikelihood

tfd = tfp.distributions


@pytest.fixture
def draws():
    """4000 draws of q = N(0, 1) for the posterior N(0.3, 0.9), with log p(data) = -7; and latents of other shapes."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=4000)
    latents = {"x": x, "m": generator.normal(size=(4000, 2, 3)), "v": generator.normal(size=(4000, 2))}
    return Draws(latents, stats.norm.logpdf(x, 0.3, 0.9) - stats.norm.logpdf(x) - 7.0)


def test_names_and_values(draws):
    assert list(draws) == ["x", "m", "v"]
    assert len(draws) == 3
    assert draws["m"].shape == (4000, 2, 3)
    with pytest.raises(KeyError):
        draws["y"]


def test_the_repr_is_one_line_whatever_the_number_of_draws(draws):
    assert (
        repr(draws)
        == f"Draws(x: [4000], m: [4000, 2, 3], v: [4000, 2]; pareto_k={draws.pareto_k:.2f}, elbo={draws.elbo:.6g})"
    )


def test_elbo_and_its_standard_error(draws):
    assert draws.elbo == pytest.approx(draws.log_weights.mean())
    assert draws.elbo_standard_error == pytest.approx(stats.sem(draws.log_weights))
    exact = -7.0 - (np.log(0.9) + (1 + 0.3**2) / (2 * 0.9**2) - 0.5)
    assert abs(draws.elbo - exact) < 4 * draws.elbo_standard_error


def test_log_evidence(draws):
    assert draws.log_evidence == pytest.approx(logsumexp(draws.log_weights) - np.log(4000))
    # The weights have a standard deviation of 0.35.
    assert draws.log_evidence == pytest.approx(-7.0, abs=4 * 0.35 / np.sqrt(4000))
    assert draws.log_evidence > draws.elbo


def test_weights_are_those_of_arviz(draws):
    # ArviZ takes the log-likelihood of an observation to leave out, whose weight is its inverse.
    log_weights, pareto_k = arviz_stats.base.array_stats.psislw(-draws.log_weights)
    np.testing.assert_allclose(draws.weights, np.exp(log_weights))
    assert draws.pareto_k == float(pareto_k)
    assert draws.weights.sum() == pytest.approx(1.0)


def test_log_weights_are_left_as_they_are(draws):
    before = draws.log_weights.copy()
    assert draws.pareto_k < 0.5
    np.testing.assert_array_equal(draws.log_weights, before)


def test_expectations(draws):
    square = lambda latents: latents["x"] ** 2  # noqa: E731
    assert draws.expectation(square, corrected=False) == pytest.approx(np.mean(draws["x"] ** 2))
    assert draws.expectation(square) == pytest.approx(np.average(draws["x"] ** 2, weights=draws.weights))
    # The corrected expectation has a standard error of 0.02.
    assert draws.expectation(square) == pytest.approx(0.9**2 + 0.3**2, abs=0.08)
    assert draws.expectation(lambda latents: latents["m"]).shape == (2, 3)
    np.testing.assert_allclose(
        draws.expectation(lambda latents: latents["m"]), np.average(draws["m"], axis=0, weights=draws.weights)
    )
    assert draws.expectation(lambda latents: latents["x"] > 0.3) == pytest.approx(0.5, abs=0.05)


def test_the_summary_has_a_row_for_each_number(draws):
    summary = draws.summary()
    assert list(summary.columns) == ["mean", "sd", "5%", "50%", "95%", "mcse_mean", "pareto_k"]
    numbers = [f"m[{i}, {j}]" for i in range(2) for j in range(3)]
    assert list(summary.index) == ["x", *numbers, "v[0]", "v[1]"]
    assert summary.loc["m[1, 2]", "mean"] == pytest.approx(np.average(draws["m"][:, 1, 2], weights=draws.weights))
    assert (summary["pareto_k"] == draws.pareto_k).all()


def test_the_corrected_summary_is_that_of_the_posterior(draws):
    row = draws.summary().loc["x"]
    posterior = stats.norm(0.3, 0.9)
    assert abs(row["mean"] - 0.3) < 4 * row["mcse_mean"]
    assert row["sd"] == pytest.approx(0.9, rel=0.05)
    np.testing.assert_allclose(row[["5%", "50%", "95%"]], posterior.ppf([0.05, 0.5, 0.95]), atol=0.12)
    deviations = draws["x"] - row["mean"]
    assert row["mcse_mean"] == pytest.approx(np.sqrt(np.sum((draws.weights * deviations) ** 2)))


def test_the_summary_of_q_is_that_of_numpy(draws):
    row = draws.summary(corrected=False).loc["x"]
    x = draws["x"]
    assert row["mean"] == pytest.approx(x.mean())
    assert row["sd"] == pytest.approx(x.std())
    np.testing.assert_allclose(row[["5%", "50%", "95%"]], np.quantile(x, [0.05, 0.5, 0.95], method="hazen"))
    assert row["mcse_mean"] == pytest.approx(x.std() / np.sqrt(4000))


def test_resampling_gives_draws_of_the_posterior(draws):
    again = draws.resample(seed=0)
    assert {name: values.shape for name, values in again.items()} == {"x": (4000,), "m": (4000, 2, 3), "v": (4000, 2)}
    assert again["x"].mean() == pytest.approx(0.3, abs=4 * 0.9 * np.sqrt(2 / 4000))
    # Rows stay together.
    rows = {x: v for x, v in zip(draws["x"], draws["v"][:, 0], strict=True)}
    assert all(rows[x] == v for x, v in zip(again["x"], again["v"][:, 0], strict=True))
    np.testing.assert_array_equal(draws.resample(seed=0)["x"], again["x"])
    assert np.any(draws.resample(seed=1)["x"] != again["x"])
    assert np.any(draws.resample()["x"] != draws.resample()["x"])
    assert draws.resample(10, seed=0)["m"].shape == (10, 2, 3)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5])
def test_a_number_of_draws_that_is_none_is_refused(draws, num_samples):
    with pytest.raises(ValueError, match=r"^`num_samples` must be an integer of at least 1\. Received: num_samples="):
        draws.resample(num_samples)


def test_a_tree_of_arviz(draws):
    data = draws.to_arviz()
    assert set(data.groups) == {"/", "/posterior", "/sample_stats"}
    assert dict(data.posterior.sizes) == {"chain": 1, "draw": 4000, "m_dim_0": 2, "m_dim_1": 3, "v_dim_0": 2}
    assert set(data.posterior.data_vars) == {"x", "m", "v"}
    np.testing.assert_array_equal(data.posterior["x"][0], draws.resample(seed=0)["x"])
    # The weights stay with their draws.
    order = np.argsort(draws["x"])
    places = order[np.searchsorted(draws["x"], data.posterior["x"][0], sorter=order)]
    np.testing.assert_array_equal(data.sample_stats["log_weights"][0], draws.log_weights[places])
    assert float(data.sample_stats["pareto_k"]) == draws.pareto_k
    of_q = draws.to_arviz(corrected=False)
    np.testing.assert_array_equal(of_q.posterior["m"][0], draws["m"])
    np.testing.assert_array_equal(of_q.sample_stats["log_weights"][0], draws.log_weights)
    assert data.attrs["inference_library"] == "tfvae"
    assert data.attrs["pareto_k"] == draws.pareto_k
    assert data.attrs["elbo"] == draws.elbo
    summary = arviz_stats.summary(data, var_names=["x"], kind="stats", round_to=None)
    assert summary.loc["x", "mean"] == pytest.approx(0.3, abs=0.1)


def test_a_tree_of_draws_without_weights_has_the_posterior_alone(draws):
    data = Draws(draws.latents, None).to_arviz()
    assert set(data.groups) == {"/", "/posterior"}
    np.testing.assert_array_equal(data.posterior["x"][0], draws["x"])


def test_a_tree_needs_arviz(draws, monkeypatch):
    monkeypatch.setitem(sys.modules, arviz_base.__name__, None)
    with pytest.raises(ImportError, match=r"pip install 'tfvae\[arviz\]'. Received: "):
        draws.to_arviz()


def test_weights_whose_largest_are_all_equal_have_no_tail_to_fit():
    log_weights = np.where(np.arange(2000) < 500, 1.0, 0.0)
    draws = Draws({"x": log_weights}, log_weights)
    assert draws.pareto_k == np.inf
    np.testing.assert_allclose(draws.weights, np.exp(log_weights) / np.exp(log_weights).sum())


@pytest.mark.parametrize("level", [0.0, -1e4, 1e6])
def test_equal_weights_have_no_tail(level):
    generator = np.random.default_rng(0)
    # Rounding noise, like that of the difference of two log densities in float32.
    noise = np.spacing(np.float32(abs(level) + 10.0)) * generator.integers(-2, 3, size=2000)
    draws = Draws({"x": generator.normal(size=2000)}, level + noise)
    assert draws.pareto_k == -np.inf
    np.testing.assert_allclose(draws.weights, 1 / 2000)
    assert draws.summary()["pareto_k"].item() == -np.inf
    assert draws.log_evidence == pytest.approx(level, abs=0.3)


def test_a_heavy_tail_is_seen_at_any_level():
    # The weights have a Pareto distribution of shape 1.
    log_weights = np.random.default_rng(0).exponential(size=2000)
    for level in (0.0, 1e4):
        assert Draws({"x": log_weights}, level + log_weights).pareto_k == pytest.approx(1.0, abs=0.3)


def test_of_few_draws_the_shape_of_the_tail_is_not_known():
    log_weights = np.random.default_rng(0).normal(size=10)
    draws = Draws({"x": np.arange(10.0)}, log_weights)
    assert np.isnan(draws.pareto_k)
    np.testing.assert_allclose(draws.weights, np.exp(log_weights - logsumexp(log_weights)))


def test_draws_where_the_posterior_is_zero_count_for_nothing():
    generator = np.random.default_rng(0)
    x = generator.normal(size=2000)
    draws = Draws({"x": x}, np.where(x > 0, 0.1 * x, -np.inf))
    np.testing.assert_allclose(draws.weights[x <= 0], 0.0, atol=1e-12)
    assert draws.log_evidence == pytest.approx(np.log(np.mean(np.where(x > 0, np.exp(0.1 * x), 0))))


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (1.5 * np.random.default_rng(0).exponential(size=2000), r"^q is far from the posterior: k-hat is"),
        (
            np.log1p(3e-5 * np.random.default_rng(0).pareto(0.7, size=2000)),
            r"^k-hat is \d\.\d+, above 0\.7, but the importance weights hardly vary: their standard deviation is",
        ),
    ],
)
def test_a_heavy_tail_of_weights_that_hardly_vary_is_not_called_a_wrong_answer(log_weights, message):
    with pytest.warns(UserWarning, match=message):
        Draws({}, log_weights).warn_where_far()
    estimate = LogLikelihood.of_log_weights(log_weights[:, None])
    found = "hardly vary, so that log p" if "hardly" in message else "probably too low"
    with pytest.warns(UserWarning, match=rf"^k-hat is above 0\.7 for 100% of the examples.*{found}"):
        estimate.warn_where_far(2000, "")


# The draws of a fit


def correlated(latents, _):
    covariance = 0.05 * np.eye(8, dtype="float32") + 0.95
    return tfd.MultivariateNormalFullCovariance(tf.zeros(8), covariance).log_prob(latents["x"])


@functools.cache
def fitted(family):
    model = VariationalInference(correlated, {"x": (8,)}, posterior=family())
    model.fit(epochs=1, verbose=0)
    return model


def test_a_q_that_misses_a_correlation_is_warned_of():
    model = fitted(posteriors.DiagonalNormal)
    with pytest.warns(UserWarning, match=r"^q is far from the posterior: k-hat is [0-9.]+, above 0\.7"):
        draws = model.draw(seed=4)
    assert draws.pareto_k > 0.7
    assert draws.elbo < -0.5


@pytest.mark.slow
def test_a_q_that_is_exact_is_not_warned_of():
    model = fitted(posteriors.FullCovarianceNormal)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draws = model.draw(seed=0)
        model.draw(3, seed=0)
    assert draws.pareto_k < 0.5
    assert draws.log_evidence == pytest.approx(0.0, abs=1e-3)
    assert draws.elbo == pytest.approx(0.0, abs=1e-3)
    assert draws["x"].shape == (2000, 8)


@pytest.mark.slow
def test_seeds_of_draws():
    model = fitted(posteriors.FullCovarianceNormal)
    first = model.draw(150, seed=1)
    assert first["x"].shape == (150, 8)
    assert len(np.unique(first["x"][:, 0])) == 150
    np.testing.assert_array_equal(model.draw(150, seed=1)["x"], first["x"])
    np.testing.assert_array_equal(model.draw(150, seed=1).log_weights, first.log_weights)
    # A larger number of draws begins with the same ones.
    np.testing.assert_array_equal(model.draw(301, seed=1)["x"][:150], first["x"])
    assert np.any(model.draw(150, seed=2)["x"] != first["x"])
    assert np.any(model.draw(150)["x"] != model.draw(150)["x"])
    with pytest.raises(ValueError, match=r"^`num_samples` must be an integer.*Received: num_samples=0"):
        model.draw(0)


def test_weights_of_which_many_equal_the_cutoff_of_the_tail_are_not_nan():
    # 2,000 weights of two values and a few above: the smallest of the tail is also that below it.
    log_weights = np.concatenate([np.full(1000, -2.0), np.zeros(970), np.linspace(0.1, 1.0, 30)])
    draws = Draws({"x": np.arange(2000.0)}, log_weights)
    np.testing.assert_allclose(draws.weights.sum(), 1.0)
    assert np.isfinite(draws.summary().to_numpy()[:, :-1].astype(float)).all()
    assert len(draws.resample(seed=0)["x"]) == 2000
