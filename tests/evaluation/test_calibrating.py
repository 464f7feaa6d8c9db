"""Calibration over simulated data sets: ranks against closed-form posteriors, and what is wrong is found."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import AmortizedInference, Draws, VariationalInference, posteriors
from tfvae.evaluation import Calibration, calibration
from tfvae.evaluation.calibrating import from_model
from tfvae.evaluation.uniformity import bands, p_value, symmetry_p_value
from tfvae.inference.convergence import Convergence
from tfvae.inference.refitting import Refitting

tfd = tfp.distributions

# mu ~ N(0, 3) and y_n ~ N(mu, 2), of which there are four.
NAMED = {"mu": tfd.Normal(0.0, 3.0), "y": lambda mu: tfd.Sample(tfd.Normal(mu, 2.0), 4)}
PINNED = tfd.JointDistributionNamed(NAMED).experimental_pin(y=np.zeros(4, np.float32))
SD = (1 / 9 + 4 / 4) ** -0.5


def log_joint(latents, y):
    return tfd.Normal(0.0, 3.0).log_prob(latents["mu"]), tfd.Normal(latents["mu"][:, None], 2.0).log_prob(y)


def simulate(seed):
    generator = np.random.default_rng(seed)
    mu = generator.normal(0.0, 3.0)
    return {"mu": mu}, generator.normal(mu, 2.0, size=4)


def simulate_by_name(seed):
    latents, y = simulate(seed)
    return latents, {"y": y}


@pytest.mark.parametrize(
    ("model", "latents", "given", "arguments"),
    [
        pytest.param(PINNED, None, simulate_by_name, {}, id="pinned"),
        pytest.param(PINNED, None, simulate_by_name, {"epochs": 1}, id="pinned, one by one"),
        pytest.param(log_joint, {"mu": ()}, simulate, {}, id="function"),
        pytest.param(log_joint, {"mu": ()}, simulate, {"epochs": 1}, id="function, one by one"),
    ],
)
@pytest.mark.slow
def test_ranks_are_those_of_the_closed_form(model, latents, given, arguments):
    inference = VariationalInference(model, latents)
    pairs = []

    def simulate(seed):
        pairs.append(given(seed))
        return pairs[-1]

    count = 3 if arguments else 100
    found = calibration(inference, simulate, count, **arguments)
    means = [np.sum(y["y"] if isinstance(y, dict) else y) / 4 * SD**2 for _, y in pairs]
    expected = stats.norm.cdf([latents["mu"] for latents, _ in pairs], means, SD)
    # Four standard errors of a share of 1000 draws, and a little for one epoch.
    np.testing.assert_allclose(found.ranks["mu"] / 1000, expected, atol=0.08)
    assert np.ptp(found.ranks["mu"]) > 200
    assert found.num_draws == 1000
    assert found.pareto_k.shape == (count,)
    if not arguments:
        # Of 3 data sets no p-value is small.
        assert found.p_value > 0.01
    # The model itself is not fitted.
    with pytest.raises(ValueError, match=r"Fit the model before `draw\(\)`"):
        inference.draw(x=None if latents is None else np.zeros(4))


def test_the_observations_become_an_argument_and_each_fit_begins_anew(monkeypatch):
    refitting = Refitting(VariationalInference(PINNED))
    copy, seen = refitting.model, []

    def fit(self, x, y, verbose, **arguments):
        approximation = self.approximation
        seen.append((x, self.noise_seed, approximation.loc.numpy(), float(approximation.standardized), arguments))
        approximation.loc.assign([3.0])
        approximation.standardized.assign(1.0)

    monkeypatch.setattr(VariationalInference, "fit", fit)
    data = [{"y": np.full(4, value), "unused": 0} for value in (1.0, 2.0)]
    assert list(refitting.fits(data, [0, 1], epochs=7)) == [copy, copy]
    for seed, (x, noise_seed, loc, standardized, arguments) in enumerate(seen):
        np.testing.assert_array_equal(x["y"], np.full((1, 4), seed + 1.0))
        assert list(x) == ["y"]
        assert (noise_seed, loc, standardized, arguments) == (seed, [0.0], 0.0, {"epochs": 7})
    y, mu = np.array([0.5, 1.0, -2.0, 3.0], np.float32), np.array([0.0, 1.5], np.float32)
    found = copy._joint.target.log_densities({"mu": tf.constant(mu)}, {"y": tf.constant(y[np.newaxis])})
    np.testing.assert_allclose(found.log_prior, stats.norm.logpdf(mu, 0.0, 3.0), rtol=1e-5)
    assert found.log_likelihood.shape == (2, 1)
    expected = stats.norm.logpdf(y, mu[:, None], 2.0).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-5)
    # As the pinned model does, the copy starts from draws of the prior.
    assert copy._joint.target.starts(3, tf.constant([0, 0]))["mu"].shape == (3,)


@pytest.mark.slow
def test_each_fit_begins_anew_by_the_same_compiled_steps():
    model = VariationalInference(PINNED, posterior=posteriors.DiagonalNormal())
    refitting = Refitting(model)

    def fit(y, seed):
        (fitted,) = refitting.fits([{"y": np.full(4, y, np.float32)}], [seed], epochs=1)
        return fitted.draw(200, seed=0)

    first = fit(1.0, 3)
    steps = refitting.model.train_function
    assert fit(5.0, 4)["mu"].mean() == pytest.approx(20 / 4 * SD**2, abs=0.3)
    np.testing.assert_array_equal(fit(1.0, 3)["mu"], first["mu"])
    assert refitting.model.train_function is steps


def test_simulations_come_from_the_model_itself():
    x = np.linspace(-1.0, 1.0, 5).astype("float32")
    prior = tfd.JointDistributionNamed({"mu": tfd.Normal(0.0, 3.0)})

    def predictive(latents, x):
        return tfd.Normal(latents["mu"][:, None] * x, 0.5)

    def log_joint(latents, data):
        return prior.log_prob(latents), predictive(latents, data[0]).log_prob(data[1])

    inference = VariationalInference(log_joint, prior, predictive=predictive)
    with pytest.raises(ValueError, match=r"`simulate` must be given, .* Received: simulate=None"):
        calibration(inference)
    inference.__dict__["_data"] = x, np.zeros(5, np.float32)
    pairs = from_model(inference, 400, 0)
    mu = np.array([latents["mu"] for latents, _ in pairs])
    y = np.array([data[1] for _, data in pairs])
    assert all(data[0] is x for _, data in pairs)
    assert mu.std() == pytest.approx(3.0, rel=0.15)
    assert np.std(y - mu[:, None] * x) == pytest.approx(0.5, rel=0.1)
    inference.__dict__["_data"] = x, None
    np.testing.assert_array_equal(from_model(inference, 400, 0)[3][1], y[3])
    pairs = from_model(VariationalInference(PINNED), 400, 0)
    noise = [data["y"] - latents["mu"] for latents, data in pairs]
    assert np.std(noise) == pytest.approx(2.0, rel=0.1)


def test_ranks_of_amortised_inference_are_those_of_recovery():
    model = AmortizedInference(
        tfd.Normal([0.0, 0.0], 1.0), lambda theta, seed: theta, posterior=posteriors.DiagonalNormal()
    )
    model.check_data(model.simulate(4, seed=0))
    model.standardized.assign(1.0)
    found = calibration(model, num_datasets=30, num_draws=20)
    assert list(found.ranks) == ["theta[0]", "theta[1]"]
    assert found.pareto_k is None
    assert found.num_draws == 20
    with pytest.raises(ValueError, match="`simulate`, `corrected` and the arguments of `fit` must be left out"):
        calibration(model, epochs=3)


def test_data_sets_that_cannot_be_fitted_are_counted(monkeypatch):
    class Fitted:
        def draw(self, num_samples, seed):
            return Draws({"mu": np.arange(float(num_samples))}, np.zeros(num_samples))

    def fits(self, data, seeds):
        for each in data:
            yield ValueError("NaN. Received: NaN") if np.isnan(each["y"]).any() else Fitted()

    monkeypatch.setattr(Refitting, "fits", fits)
    missing = iter([0.0, np.nan, 0.0])
    simulate = lambda seed: ({"mu": 9.5}, {"y": np.full(4, next(missing))})  # noqa: E731
    with pytest.warns(UserWarning, match=r"1 of 3 data sets could not be fitted .* number 1: NaN. Received: NaN"):
        found = calibration(VariationalInference(PINNED), simulate, 3, 50)
    assert found.failures == {1: "NaN. Received: NaN"}
    np.testing.assert_array_equal(found.ranks["mu"], [10, 10])
    assert "1 failures" in repr(found)
    with pytest.raises(ValueError, match=r"could be fitted to no data set. Received, for the first: NaN"):
        calibration(VariationalInference(PINNED), lambda seed: ({"mu": 0.0}, {"y": np.full(4, np.nan)}), 2)


def test_fits_that_end_before_q_has_converged_are_counted(monkeypatch):
    class Fitted:
        def draw(self, num_samples, seed):
            return Draws({"mu": np.arange(float(num_samples))}, np.zeros(num_samples))

    def fits(self, data, seeds):
        for index in range(len(data)):
            if index == 1:
                Convergence().warn()
            yield Fitted()

    monkeypatch.setattr(Refitting, "fits", fits)
    simulate = lambda seed: ({"mu": 9.5}, {"y": np.zeros(4)})  # noqa: E731
    with pytest.warns(UserWarning, match=r"fits of 1 of 3 data sets ended before q had converged.* is number 1\."):
        found = calibration(VariationalInference(PINNED), simulate, 3, 50)
    assert found.unconverged == (1,)
    assert len(found.ranks["mu"]) == 3
    assert "1 not converged" in repr(found)


def test_corrected_ranks_are_weighted(monkeypatch):
    class Fitted:
        def draw(self, num_samples, seed):
            mu = np.linspace(-4.0, 4.0, num_samples)
            return Draws({"mu": mu}, stats.norm.logpdf(mu))

    monkeypatch.setattr(Refitting, "fits", lambda self, data, seeds: [Fitted() for _ in data])
    simulate = lambda seed: ({"mu": 1.0}, {"y": np.zeros(4)})  # noqa: E731
    inference = VariationalInference(PINNED)
    assert calibration(inference, simulate, 2).ranks["mu"][0] == 625
    corrected = calibration(inference, simulate, 2, corrected=True).ranks["mu"][0]
    assert corrected == pytest.approx(1000 * stats.norm.cdf(1.0), abs=5)


@pytest.mark.parametrize(
    ("model", "simulate", "message"),
    [
        (PINNED, lambda seed: 3, r"`simulate` must return the latent variables by name, .*Received: 3"),
        (PINNED, lambda seed: ({"nu": 0.0}, {"y": 0}), r"Received: latent variables of shapes {}"),
        (PINNED, lambda seed: ({"mu": np.zeros(2)}, {"y": 0}), r"shapes {'mu': \(\)}.*shapes {'mu': \(2,\)}"),
        (PINNED, lambda seed: ({"mu": 0.0}, np.zeros(4)), r"`simulate` must return the observations by name, y"),
        (PINNED, lambda seed: ({"mu": "a"}, {"y": 0}), r"must return finite numbers for the latent .*Received: mu="),
        (PINNED, lambda seed: ({"mu": np.nan}, {"y": 0}), r"must return finite numbers for the latent .*Received: mu="),
        (PINNED, 3, r"`simulate` must be a function of a seed. Received: 3"),
    ],
)
def test_errors(model, simulate, message):
    with pytest.raises(ValueError, match=message):
        calibration(VariationalInference(model), simulate, 3)


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match=r"`inference` must be a tfvae.VariationalInference or"):
        calibration(3)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("epochz", TypeError, r"`epochz` must be an argument of `fit`: .*Did you mean `epochs`\? Received: epochz"),
        ("y", ValueError, r"`x` and `y` must be left out.* Received: y"),
        ("sample_weight", ValueError, r"`sample_weight` must be None"),
    ],
)
def test_wrong_arguments_of_fit_are_refused_before_data_are_simulated(argument, error, message):
    with pytest.raises(error, match=message):
        calibration(VariationalInference(PINNED), lambda seed: pytest.fail("simulated"), 3, **{argument: 3})


# The tests of uniformity


@pytest.mark.parametrize(("size", "num_draws"), [(20, 99), (50, 200)])
def test_the_tests_have_their_size_and_the_band_its_probability(size, num_draws):
    generator = np.random.default_rng(0)
    samples = generator.integers(0, num_draws + 1, (200, size))
    p_values = np.array([p_value(sample, num_draws) for sample in samples])
    symmetry = np.array([symmetry_p_value((sample + 0.5) / (num_draws + 1)) for sample in samples[:100]])
    outside = [is_outside(bands(sample, num_draws)) for sample in samples]
    # Four standard errors of the share of 300, or of 100; ties make the tests a little conservative.
    for share in (np.mean(p_values <= 0.05), np.mean(outside)):
        assert share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)
    assert 0.35 < np.mean(p_values <= 0.5) < 0.62
    assert np.mean(symmetry <= 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)
    assert 0.3 < np.mean(symmetry <= 0.5) < 0.7


def is_outside(found):
    return np.any((found.difference < found.lower - 1e-9) | (found.difference > found.upper + 1e-9))


def ranks_of(shift, factor, size=150, num_draws=500):
    """Ranks where the posterior is N(m, 1), and the draws are of N(m + shift, factor)."""
    generator = np.random.default_rng(2)
    known = generator.normal(size=(size, 1))
    return np.sum(shift + factor * generator.normal(size=(size, num_draws)) < known, axis=1)


def test_a_bias_and_a_wrong_width_are_told_apart():
    found = Calibration(
        {
            "right": ranks_of(0.0, 1.0),
            "narrow": ranks_of(0.0, 0.6),
            "wide": ranks_of(0.0, 1.6),
            "low": ranks_of(-0.5, 1),
        },
        500,
    )
    table = found.summary()
    assert (table.loc[["narrow", "wide", "low"], "rank_p_value"] < 0.01).all()
    assert table.loc["low", "symmetry_p_value"] < 0.01
    assert (table.loc[["right", "narrow", "wide"], "symmetry_p_value"] > 0.05).all()
    assert table.loc["right", "rank_p_value"] > 0.05
    assert table.loc["narrow", "spread"] > 1.2
    assert table.loc["wide", "spread"] < 0.8
    assert table.loc["low", "bias"] > 0.1
    assert [is_outside(found.bands(name)) for name in ("right", "narrow", "wide", "low")] == [False, True, True, True]
    assert found.p_value < 0.01
    assert "p_value=0.00" in repr(found)


@pytest.mark.slow
def test_variational_inference_is_calibrated_and_a_mean_field_is_found_out():
    x = np.random.default_rng(0).normal(size=(30, 2)).astype("float32")
    x[:, 1] = x[:, 0] + 0.4 * x[:, 1]
    joint = tfd.JointDistributionNamed(
        {
            "beta": tfd.Sample(tfd.Normal(0.0, 2.0), 2),
            "y": lambda beta: tfd.Independent(tfd.Normal(tf.linalg.matvec(x, beta), 1.0), 1),
        }
    ).experimental_pin(y=np.zeros(30, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = calibration(VariationalInference(joint), num_datasets=30)
        wrong = calibration(VariationalInference(joint, posterior=posteriors.DiagonalNormal()), num_datasets=30)
    assert right.p_value > 0.05
    assert (right.pareto_k < 0.7).all()
    assert wrong.p_value < 0.01
    assert (wrong.summary()["spread"] > 1.3).all()
