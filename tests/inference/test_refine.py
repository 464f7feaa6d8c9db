"""Chains that start at draws of q: against exact moments, within the Monte Carlo errors that they state themselves."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from arviz_stats.base import array_stats

from tests.inference.test_variational_inference import MEAN, SD, Y, build, log_joint
from tfvae import Chains, LocalLatents, VariationalInference, networks, posteriors
from tfvae.inference.newton import Gaussian
from tfvae.inference.refine import _coordinates, _start

tfb = tfp.bijectors
tfd = tfp.distributions


def placed(model, loc, scale):
    """A model whose q is N(loc, scale^2), as if it had been fitted."""
    model.approximation.set_coordinates(Gaussian(np.asarray(loc, float), np.diag(np.asarray(scale, float)), 0.0))
    return model


def assert_exact(chains, name, mean, sd):
    """Checks a mean and a standard deviation within five Monte Carlo errors, from the effective sample size."""
    values, ess = chains[name].astype(float), np.minimum(chains.ess[name], chains.ess[name].size * 4000.0)
    np.testing.assert_array_less(abs(values.mean(axis=0) - mean), 5 * sd / np.sqrt(ess))
    # Of a normal variable whose squares are as correlated as it is itself.
    np.testing.assert_array_less(abs(values.std(axis=0) / sd - 1.0), 5 / np.sqrt(2 * ess))


# What comes out


@pytest.fixture
def chains():
    """Three chains of 200 independent draws each of two latent variables; one chain of `v[1]` is elsewhere."""
    numbers = np.random.default_rng(0)
    m, v = numbers.normal(2.0, 3.0, (3, 200)), numbers.normal(size=(3, 200, 2))
    v[0, :, 1] += 10.0
    return Chains({"m": m, "v": v})


def test_chains_are_a_mapping_with_the_chains_one_after_the_other(chains):
    assert list(chains) == ["m", "v"]
    assert len(chains) == 2
    assert chains["v"].shape == (600, 2)
    np.testing.assert_array_equal(chains["m"][200:400], chains.by_chain["m"][1])
    assert repr(chains).startswith("Chains(m: [3, 200], v: [3, 200, 2]; r_hat=")
    np.testing.assert_allclose(chains.expectation(lambda draws: draws["v"] ** 2), (chains["v"] ** 2).mean(axis=0))


def test_diagnostics_are_those_of_arviz(chains):
    assert chains.r_hat["m"] == array_stats.rhat(chains.by_chain["m"], chain_axis=0, draw_axis=1)
    assert chains.r_hat["v"][0] < 1.05 < chains.r_hat["v"][1]
    assert chains.ess["v"][1] < 10 < 300 < chains.ess["v"][0]


def test_the_summary_has_a_row_for_each_element(chains):
    table = chains.summary()
    assert list(table.index) == ["m", "v[0]", "v[1]"]
    row = table.loc["v[0]"]
    assert row["mean"] == pytest.approx(chains["v"][:, 0].mean())
    assert row["50%"] == pytest.approx(np.median(chains["v"][:, 0]))
    assert row["mcse_mean"] == pytest.approx(row["sd"] / np.sqrt(row["ess"]))
    assert row["r_hat"] == chains.r_hat["v"][0]


def test_arviz_gets_an_axis_of_chains(chains):
    posterior = chains.to_arviz()["posterior"]
    assert dict(posterior.sizes)["chain"] == 3
    np.testing.assert_array_equal(posterior["v"].values, chains.by_chain["v"])


@pytest.mark.parametrize(
    ("latents", "divergences", "message"),
    [
        ({"a": np.arange(4.0)[:, None] * np.ones(100)}, 0, "^The chains do not agree on a: R-hat is up to "),
        ({"a": np.ones((4, 100))}, 0, "^The chains do not agree on a: R-hat is up to nan"),
        ({"a": np.random.default_rng(0).normal(size=(4, 90))}, 0, r"^The draws of a are worth only 3\d\d independent"),
        ({"a": np.random.default_rng(0).normal(size=(4, 1000))}, 30, "^30 of 4000 steps diverged"),
    ],
)
def test_what_is_wrong_with_chains_is_warned_of(latents, divergences, message):
    with pytest.warns(UserWarning, match=message):
        Chains(latents, divergences).warn_where_apart()


def test_good_chains_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Chains({"a": np.random.default_rng(0).normal(size=(4, 1000))}).warn_where_apart()


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 3}, "`num_samples` must be an integer"),
        ({"num_chains": 1}, "`num_chains` must be an integer"),
        ({"num_warm_up": 0}, "`num_warm_up` must be an integer"),
        ({}, r"^Fit the model before `refine\(\)`"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        build().refine(**arguments)


def test_local_latent_variables_are_refused():
    local = LocalLatents({"b": ()}, networks.dense_encoder((1,), hidden=(2,)))
    with pytest.raises(NotImplementedError, match="local latent variables cannot be refined"):
        build(local=local).refine()


def test_chains_do_not_start_where_the_density_is_0():
    log_density = lambda epsilon: tf.where(epsilon[:, 0] > 1.0, 0.0, -np.inf)  # noqa: E731
    start, height = _start(log_density, 2, 3, tf.constant([0, 0]))
    assert start.shape == (2, 3)
    assert np.all(start[:, 0] > 1.0)
    assert height == 0.0
    with pytest.raises(ValueError, match=r"(?s)^q must have draws.*Received: 0 of 32 draws for 2 chains"):
        _start(lambda epsilon: tf.fill([len(epsilon)], -np.inf), 2, 3, tf.constant([0, 0]))


# The coordinates


class Own(posteriors.DiagonalNormal):
    """A family whose draws are not known as functions of noise."""

    sample_from = posteriors.Posterior.sample_from


@pytest.mark.parametrize("family", [posteriors.FullCovarianceNormal, posteriors.DiagonalNormal, Own])
def test_coordinates_of_a_normal_q_have_its_moments(family):
    model = placed(build(latents={"mu": (2,)}, posterior=family()), [3.0, -1.0], [0.5, 2.0])
    noise = np.random.default_rng(0).normal(size=(4000, 2)).astype("float32")
    z, log_jacobian = _coordinates(model.approximation, tf.constant([0, 0]))(tf.constant(noise))
    # Own is known by 4000 draws alone.
    np.testing.assert_allclose(np.mean(z, axis=0), [3.0, -1.0], atol=0.2)
    np.testing.assert_allclose(np.std(z, axis=0), [0.5, 2.0], rtol=0.06)
    np.testing.assert_allclose(log_jacobian - tf.reduce_mean(log_jacobian), 0.0, atol=1e-4)


def test_coordinates_of_a_flow_have_its_jacobian():
    flow = posteriors.CouplingFlow(num_couplings=2, hidden=4)
    model = placed(build(latents={"mu": (2,)}, posterior=flow), [1.0, 2.0], [1.0, 2.0])
    for variable in model.posterior.trainable_variables:
        variable.assign(0.5 * np.random.default_rng(0).normal(size=variable.shape))
    to_z, noise = _coordinates(model.approximation, tf.constant([0, 0])), tf.constant([[0.3, -0.4], [1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z, log_jacobian = to_z(noise)
    determinants = np.linalg.slogdet(tape.batch_jacobian(z, noise))[1]
    np.testing.assert_allclose(np.diff(log_jacobian), np.diff(determinants), atol=1e-5)


# The chains


def test_chains_move_in_the_noise_of_q_with_all_rows(monkeypatch):
    seen = []

    def sample_chain(num_results, current_state, kernel, **_):
        # Where q is the posterior, the density of the noise is that of N(0, I).
        log_density = kernel.inner_kernel.target_log_prob_fn(current_state)
        seen.append(np.ptp(log_density + 0.5 * tf.reduce_sum(current_state**2, axis=-1)))
        return tf.stack([current_state] * num_results), tf.ones([num_results, *current_state.shape[:1]], tf.bool)

    monkeypatch.setattr(tfp.mcmc, "sample_chain", sample_chain)
    # The data in batches were made before: TensorFlow warns that datasets are not run eagerly.
    warnings.filterwarnings("ignore", message="Even though the `tf.config")
    tf.config.run_functions_eagerly(True)
    try:
        model = placed(build(num_data=12), [MEAN], [SD])
        with pytest.warns(UserWarning, match="12 of 12 steps diverged|R-hat is up to inf"):
            chains = model.refine(4, 3, x=tf.data.Dataset.from_tensor_slices(Y).batch(5), seed=0)
    finally:
        tf.config.run_functions_eagerly(False)
    assert seen[0] < 1e-4
    assert chains.num_divergences == 12
    draws = chains.by_chain["mu"]
    assert draws.shape == (3, 4)
    np.testing.assert_array_equal(np.ptp(draws, axis=1), 0.0)
    assert len(np.unique(draws)) == 3


@pytest.mark.slow
def test_chains_from_a_q_that_is_wrong_give_the_posterior():
    model = placed(build(), [MEAN + SD], [0.6 * SD])
    chains = model.refine(1000, 4, 100, Y, seed=0)
    assert chains.by_chain["mu"].shape == (4, 1000)
    assert_exact(chains, "mu", MEAN, SD)


# The chains are short.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The (chains|draws)")
def test_a_model_that_xla_cannot_compile_runs_without_it():
    def unknown(latents, y):
        # XLA has no strings, whatever comes of them.
        none = tf.cast(tf.strings.length(tf.as_string(latents["mu"])), tf.float32) * 0.0
        log_prior, log_likelihood = log_joint(latents, y)
        return log_prior + tf.stop_gradient(none), log_likelihood

    model = placed(build(unknown), [MEAN], [SD])
    with pytest.warns(UserWarning, match="^XLA cannot compile the chains"):
        chains = model.refine(200, 4, 50, Y, seed=0)
    assert_exact(chains, "mu", MEAN, SD)


# k-hat is near 0.7.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:q is far from the posterior")
def test_a_flow_and_its_chains_fit_a_funnel():
    def funnel(latents, _):
        v, x = latents["v"], latents["x"]
        return tfd.Normal(0.0, 3.0).log_prob(v) + tf.reduce_sum(
            tfd.Normal(0.0, tf.exp(v / 2.0)[:, None]).log_prob(x), axis=1
        )

    model = VariationalInference(funnel, {"v": (), "x": (9,)}, posterior=posteriors.CouplingFlow())
    model.fit(verbose=0)
    v = model.draw(4000, seed=0)["v"].astype(float)
    assert abs(v.mean()) < 0.1 * 3.0
    assert v.std() == pytest.approx(3.0, rel=0.1)
    assert_exact(model.refine(seed=0), "v", 0.0, 3.0)


@pytest.mark.slow
def test_modes_between_which_chains_do_not_move_are_told():
    def modes(latents, _):
        x = latents["x"][:, None]
        return tf.reduce_logsumexp(tfd.Normal([-8.0, 8.0], 1.0).log_prob(x), axis=1)

    model = placed(VariationalInference(modes, {"x": ()}), [0.0], [8.0])
    with pytest.warns(UserWarning, match="^The chains do not agree on x"):
        model.refine(300, 8, 100, seed=0)
