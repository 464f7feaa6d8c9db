"""What is handed over to ArviZ: every group against its definition, and leaving one out against its closed form."""

import arviz_stats
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tests.inference.test_targets import MODELS as TARGETS
from tests.inference.test_variational_inference import JOINTS, LOG_EVIDENCE, MEAN, NAMED, SD, Y, log_joint
from tfvae import Latent, LocalLatents, VariationalInference
from tfvae.inference.newton import Gaussian
from tfvae.inference.pointwise import log_prob_of_each, of_pins

tfb = tfp.bijectors
tfd = tfp.distributions

PRIOR = tfd.JointDistributionNamed({"mu": NAMED["mu"]})


def with_q(model, shift=0.0, factor=1.0, **arguments):
    """A model whose q is the posterior of the conjugate model, but for a shift and a factor of its scale."""
    inference = VariationalInference(model, **arguments)
    gaussian = Gaussian(np.array([MEAN + shift * SD]), np.array([[factor * SD]]), np.nan)
    inference.approximation.set_coordinates(gaussian)
    return inference


@pytest.fixture(scope="module")
def pinned():
    return with_q(JOINTS["named"].experimental_pin(y=Y), shift=0.3, factor=1.2)


def predictive(latents, x):
    return tfd.Normal(tf.repeat(latents["mu"][:, tf.newaxis], len(x), axis=1), 2.0)


def regression(latents, data):
    x, y = data
    return tfd.Normal(0.0, 3.0).log_prob(latents["mu"]), tfd.Normal(latents["mu"][:, None] + 0.0 * x, 2.0).log_prob(y)


def test_the_groups_of_a_pinned_joint_distribution(pinned):
    tree = pinned.to_arviz(1000, seed=1)
    assert set(tree.groups) == {
        "/",
        *("/" + name for name in ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")),
        *("/" + name for name in ("prior", "prior_predictive", "observed_data")),
    }
    mu = tree.posterior["mu"].values
    assert mu.shape == (1, 1000)
    assert mu.mean() == pytest.approx(MEAN, abs=5 * SD / np.sqrt(500))
    np.testing.assert_allclose(tree.log_likelihood["y"], stats.norm.logpdf(Y, mu[..., None], 2.0), rtol=1e-4)
    # Each weight is that of its draw.
    log_p = stats.norm.logpdf(mu, MEAN, SD) + LOG_EVIDENCE
    log_q = stats.norm.logpdf(mu, MEAN + 0.3 * SD, 1.2 * SD)
    np.testing.assert_allclose(tree.sample_stats["log_weights"], log_p - log_q, atol=1e-3)
    replicated = tree.posterior_predictive["y"].values
    assert replicated.shape == (1, 1000, 12)
    # Each replication is of its draw.
    assert np.std(replicated - mu[..., None]) == pytest.approx(2.0, rel=0.03)
    assert tree.prior["mu"].std() == pytest.approx(3.0, rel=0.1)
    assert np.std(tree.prior_predictive["y"] - tree.prior["mu"]) == pytest.approx(2.0, rel=0.03)
    np.testing.assert_array_equal(tree.observed_data["y"], Y)


def test_the_draws_of_q_keep_their_weights_for_functions_that_take_them(pinned):
    tree = pinned.to_arviz(500, corrected=False)
    assert tree.posterior["mu"].std() == pytest.approx(1.2 * SD, rel=0.1)
    log_weights = tree.sample_stats["log_weights"].values.ravel()
    found = arviz_stats.loo_approximate_posterior(tree, log_weights, np.zeros(500), pointwise=True)
    np.testing.assert_allclose(found.elpd_i, pinned.loo(500).elpd_i, rtol=1e-4)


def test_leaving_one_out_is_exact_although_q_is_not(pinned):
    precision = 1 / 9 + 11 / 4
    exact = stats.norm((Y.astype(float).sum() - Y) / 4 / precision, np.sqrt(4 + 1 / precision)).logpdf(Y)
    found = pinned.loo(4000)
    np.testing.assert_allclose(found.elpd_i, exact, atol=0.02)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.05)
    # Without the weights of q it would be off.
    without = arviz_stats.loo(pinned.to_arviz(4000, corrected=False), pointwise=True)
    assert abs(without.elpd_i - exact).max() > 0.04


@pytest.mark.parametrize("kind", [kind for kind, (model, _) in TARGETS.items() if hasattr(model, "pins")])
def test_the_log_likelihoods_of_observations_add_up_to_that_of_the_model(kind):
    model, latents = TARGETS[kind]
    values = {"mu": tf.constant([0.5, -1.0, 2.0]), "sigma": tf.constant([0.7, 1.0, 2.5])}
    found = of_pins(model)(values)["y"]
    assert found.shape == [3, 6]
    whole = VariationalInference(model, latents)._joint.target.log_densities(values, None).log_likelihood
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), whole, rtol=1e-5)


LOC, SCALE = np.array([[0.0], [1.0]], np.float32), np.array([0.5, 1.0, 2.0], np.float32)
VALUE = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        (tfd.Independent(tfd.Normal(LOC, SCALE), 2), VALUE, stats.norm.logpdf(VALUE, LOC, SCALE)),
        (tfd.Independent(tfd.Normal(LOC, SCALE), 1), VALUE, stats.norm.logpdf(VALUE, LOC, SCALE)),
        (tfd.Sample(tfd.Normal(LOC[:, 0], 2.0), 3), VALUE, stats.norm.logpdf(VALUE, LOC, 2.0)),
        (tfd.Independent(tfd.Sample(tfd.Normal(LOC[:, 0], 2.0), 3), 1), VALUE, stats.norm.logpdf(VALUE, LOC, 2.0)),
        (tfd.Sample(tfd.Independent(tfd.Normal(0.0, SCALE), 1), 2), VALUE, stats.norm.logpdf(VALUE, 0.0, SCALE)),
        (tfd.Sample(tfd.MultivariateNormalDiag(SCALE, SCALE), 2), VALUE, stats.norm.logpdf(VALUE, SCALE, SCALE)),
        (
            tfd.Sample(tfd.MultivariateNormalTriL(SCALE, tf.linalg.diag(SCALE)), 2),
            VALUE,
            stats.norm.logpdf(VALUE, SCALE, SCALE).sum(axis=1),
        ),
        (tfd.Normal(0.0, 2.0), np.float32(1.0), stats.norm.logpdf(1.0, 0.0, 2.0)),
    ],
)
def test_the_independent_parts_of_a_distribution(distribution, value, expected):
    found = log_prob_of_each(distribution, tf.constant(value))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        np.sum(found), tf.reduce_sum(distribution.log_prob(value)), rtol=1e-5, err_msg=str(distribution)
    )


@pytest.mark.parametrize("batch_size", [None, 5])
def test_the_groups_of_a_function(batch_size):
    x = np.arange(12, dtype="float32")
    inference = with_q(regression, latents=PRIOR, predictive=predictive)
    tree = inference.to_arviz(400, x, Y, batch_size=batch_size)
    mu = tree.posterior["mu"].values
    order = np.argsort(tree.constant_data["x"].values)
    np.testing.assert_array_equal(tree.constant_data["x"][order], x)
    np.testing.assert_array_equal(tree.observed_data["y"][order], Y)
    expected = stats.norm.logpdf(tree.observed_data["y"].values, mu[..., None], 2.0)
    np.testing.assert_allclose(tree.log_likelihood["y"], expected, rtol=1e-4)
    assert np.std(tree.posterior_predictive["y"] - tree.posterior["mu"]) == pytest.approx(2.0, rel=0.05)
    assert tree.prior_predictive["y"].shape == (1, 400, 12)
    assert tree.prior_predictive["y"].std() == pytest.approx(np.sqrt(13.0), rel=0.1)
    # Batches do not share noise.
    assert abs(np.corrcoef(tree.posterior_predictive["y"].values[0].T - mu[0]) - np.eye(12)).max() < 0.3
    assert inference.loo(400, x, Y, batch_size=batch_size).n_data_points == 12


def in_one_piece(latents, y):
    log_prior, log_likelihood = log_joint(latents, y)
    return log_prior + tf.reduce_sum(log_likelihood, axis=1)


def test_groups_of_which_a_model_says_nothing_are_left_out():
    inference = with_q(in_one_piece, latents={"mu": ()})
    assert set(inference.to_arviz(100, Y).groups) == {"/", "/posterior", "/sample_stats", "/observed_data"}
    with pytest.raises(ValueError, match=r"must give the log-likelihood of each .*Received: a function of the log"):
        inference.loo(100, Y)
    assert "/log_likelihood" in with_q(log_joint, latents={"mu": ()}).to_arviz(100, Y).groups


def test_local_latent_variables_have_no_log_likelihood_of_each_observation():
    import keras

    encoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    local = LocalLatents({"z": ()}, encoder)

    def model(latents, x):
        noise = tfd.Normal(latents["z"], 1.0).log_prob(x[:, 0]) + tfd.Normal(0.0, 1.0).log_prob(latents["z"])
        return tfd.Normal(0.0, 1.0).log_prob(latents["mu"]), noise

    inference = with_q(model, latents={"mu": ()}, local=local)
    x = np.ones((3, 1), np.float32)
    assert set(inference.to_arviz(50, x).groups) == {"/", "/posterior", "/sample_stats", "/observed_data"}
    with pytest.raises(ValueError, match="Received: a model with `local`"):
        inference.loo(50, x)


@pytest.mark.slow
def test_one_of_several_observed_variables_is_named():
    joint = tfd.JointDistributionNamed({**NAMED, "w": lambda mu: tfd.Normal(mu, 1.0)})
    inference = with_q(joint.experimental_pin(y=Y, w=0.5))
    assert set(inference.to_arviz(100).log_likelihood.data_vars) == {"w", "y"}
    with pytest.raises(ValueError, match=r"`var_name` must be one of y, w. Received: var_name=None"):
        inference.loo(100)
    assert inference.loo(100, var_name="y").n_data_points == 12


def test_too_many_numbers_are_refused_before_they_are_computed(pinned):
    with pytest.raises(ValueError, match=r"`num_samples` times .* Received: 30000000 draws and 12 observations"):
        pinned._groups_of_data({"posterior": {"mu": range(30_000_000)}}, None, None)


def test_draws_of_the_prior_predictive_distribution(pinned):
    drawn = pinned.prior_predictive(num_samples=2000, seed=0)
    assert drawn["y"].shape == (2000, 12)
    # Draws of one mu are alike.
    assert np.corrcoef(drawn["y"][:, 0], drawn["y"][:, 1])[0, 1] == pytest.approx(9 / 13, abs=0.05)
    np.testing.assert_array_equal(pinned.prior_predictive(num_samples=2000, seed=0)["y"], drawn["y"])
    of_function = VariationalInference(log_joint, PRIOR, predictive=predictive).prior_predictive(np.ones(3), 2000)
    assert of_function.shape == (2000, 3)
    assert of_function.std() == pytest.approx(np.sqrt(13.0), rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latents": {"mu": Latent((), tfb.Identity())}}, r"`latents` must be a joint distribution, the prior"),
        ({"latents": PRIOR}, r"`predictive` must be given"),
    ],
)
def test_what_a_prior_predictive_distribution_needs(arguments, message):
    with pytest.raises(ValueError, match=message):
        VariationalInference(log_joint, **arguments).prior_predictive(np.ones(3), 10)


def test_each_replication_of_an_automatically_batched_joint_distribution_has_noise_of_its_own():
    joint = tfd.JointDistributionNamedAutoBatched(
        {"m": tfd.Normal(0.0, 10.0), "y": lambda m: tfd.Sample(tfd.Normal(m, 2.0), 20)}
    )
    model = VariationalInference(joint.experimental_pin(y=np.zeros(20, "float32")))
    model.approximation.set_coordinates(Gaussian(np.zeros(1), 1e-3 * np.eye(1), np.nan))
    drawn = model.posterior_predictive(num_samples=300, seed=0)["y"]
    # Of 300 independent draws, the error of the standard deviation is 4%, and that of a correlation 0.06.
    np.testing.assert_allclose(drawn.std(axis=0), 2.0, rtol=0.2)
    assert np.abs(np.corrcoef(drawn[::2].ravel(), drawn[1::2].ravel())[0, 1]) < 5 / np.sqrt(150 * 20)


def test_data_without_x_are_refused(pinned):
    model = VariationalInference(log_joint, {"mu": ()}, predictive=predictive)
    model.approximation.set_coordinates(Gaussian(np.zeros(1), np.eye(1), np.nan))
    with pytest.raises(ValueError, match=r"^`x` must be the data that `predictive` takes, .*\. Received: x=None$"):
        model.posterior_predictive()
    model.__dict__["_data"] = Y, None
    assert model.posterior_predictive(num_samples=5).shape == (5, len(Y))
    with pytest.raises(ValueError, match=r"^`x` must be given where `y` is\. Received: x=None, and y$"):
        model.draw(10, y=Y)


@pytest.mark.parametrize("method", ["loo", "to_arviz", "refine", "draw"])
def test_the_error_of_a_model_that_is_not_fitted_names_the_method(method):
    with pytest.raises(ValueError, match=rf"^Fit the model before `{method}\(\)`\."):
        getattr(VariationalInference(log_joint, {"mu": ()}), method)()
