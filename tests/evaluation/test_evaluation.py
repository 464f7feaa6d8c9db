"""log p(x) by two kinds of importance sampling, and the gaps of the bound, against closed forms and quadrature."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

import tfvae
from tests.helpers.linear_gaussian import (
    Oracle,
    correlated_vae,
    draws_of,
    linear_vae,
    set_optimum,
    set_posterior,
    small_data,
)
from tests.models import test_conditional, test_every_model
from tfvae.elbo import Sampling
from tfvae.evaluation import (
    active_units,
    amortization_gap,
    annealed_importance_sampling,
    importance_sampling,
    kl_per_dimension,
    mutual_information,
    rate_distortion,
)
from tfvae.networks import dense_decoder, dense_encoder

tfd = tfp.distributions


def assert_errors_are_as_predicted(estimate, exact):
    """Checks the standardised errors; they are independent, so their mean and mean square should be near 0 and 1."""
    scores = (estimate.log_likelihood - exact) / estimate.standard_error
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) < 5 / np.sqrt(len(scores))
    assert abs(np.mean(scores**2) - 1) < 5 * np.sqrt(2 / len(scores))


# Importance sampling


def test_importance_sampling_gives_what_log_likelihood_gives(monkeypatch):
    monkeypatch.setattr(tfvae.models.log_weights, "_CHUNK_ELEMENTS", 5 * 4 * 7)
    vae = correlated_vae()
    x = draws_of(vae, 10)
    expected = vae.log_likelihood(x, 100, batch_size=4, seed=3)
    result = importance_sampling(vae, x, 100, batch_size=4, seed=3)
    np.testing.assert_allclose(result.log_likelihood, expected, rtol=1e-12)
    of_dataset = importance_sampling(vae, tf.data.Dataset.from_tensor_slices(x).batch(4), 100, seed=3)
    for values, others in zip(result, of_dataset, strict=True):
        assert values.shape == (10,)
        np.testing.assert_array_equal(values, others)


def test_the_standard_error_is_that_of_the_error():
    vae = correlated_vae()
    set_posterior(vae, Oracle.of(vae), np.array([0.5, 0.5]), loc_shift=0.1)
    x = draws_of(vae, 200)
    result = importance_sampling(vae, x, 2000, seed=1)
    assert result.standard_error.min() > 0.003
    assert result.standard_error.max() < 0.1
    assert_errors_are_as_predicted(result, Oracle.of(vae).log_prob(x))


def test_k_hat_is_the_shape_of_the_tail_of_the_weights():
    # With both scales s times the exact ones, w is exp((1 - s^2) |eps|^2 / 2) up to a constant, and |eps|^2 / 2 has an
    # exponential distribution, so w has a Pareto distribution of shape 1 - s^2.
    x = small_data()
    vae = linear_vae(5, 2)
    set_optimum(vae, x, scale_factor=0.5)
    with pytest.warns(UserWarning, match=r"^k-hat is above 0.7 for \d+% of the examples.*annealed"):
        result = importance_sampling(vae, x, 5000, seed=1)
    # The tail has 212 draws, which give a standard deviation of 0.12 for each of the 40 examples; the estimate of k-hat
    # has a prior worth 10 draws at 0.5.
    assert result.pareto_k.mean() == pytest.approx((212 * 0.75 + 10 * 0.5) / 222, abs=4 * 0.12 / np.sqrt(40))
    set_optimum(vae, x, scale_factor=1.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert importance_sampling(vae, x, 5000, seed=1).pareto_k.max() < 0.5


def test_of_the_exact_posterior_every_weight_is_log_p_of_x():
    x = small_data()
    vae = linear_vae(5, 2)
    set_optimum(vae, x)
    result = importance_sampling(vae, x, 30, seed=1)
    np.testing.assert_allclose(result.log_likelihood, Oracle.of(vae).log_prob(x), atol=2e-3)
    assert result.standard_error.max() < 1e-3
    assert not np.any(result.pareto_k > 0.5)


def test_what_is_no_vae_and_what_gives_no_error_are_refused(known_model):
    kinds = "a tfvae.VAE or a tfvae.HierarchicalVAE or a tfvae.DeepHierarchicalVAE"
    with pytest.raises(ValueError, match=rf"^`model` must be {kinds}\. Received: Known\("):
        importance_sampling(known_model(), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"^`num_samples` must be at least 2.*Received: num_samples=1$"):
        importance_sampling(correlated_vae(), np.zeros((2, 5)), 1)


# Annealed importance sampling


# By default, the test of a conditional model below starts from both.
@pytest.mark.slow
@pytest.mark.parametrize(("start", "num_steps"), [("prior", 100), ("posterior", 10)])
def test_annealing_agrees_with_the_exact_value_within_its_error(start, num_steps):
    vae = correlated_vae()
    # Far from the exact posterior, so that annealing has something to do.
    set_posterior(vae, Oracle.of(vae), np.array([0.6, 0.6]), loc_shift=np.array([0.5, -0.4]))
    x = draws_of(vae, 100)
    result = annealed_importance_sampling(
        vae, x, 50, num_steps, start=start, num_leapfrog_steps=4, batch_size=60, seed=1
    )
    assert result.standard_error.mean() < 0.15
    assert_errors_are_as_predicted(result, Oracle.of(vae).log_prob(x))


@pytest.mark.slow
def test_more_steps_give_less_error():
    vae = correlated_vae()
    x = draws_of(vae, 20)
    few, many = (
        annealed_importance_sampling(vae, x, 20, steps, num_leapfrog_steps=2, seed=1).standard_error.mean()
        for steps in (20, 200)
    )
    # The variance of log w falls with the number of steps, so the error falls by a factor of sqrt(10).
    assert many < few / 2


class OwnPrior(tfvae.priors.Prior):
    """A prior with any distribution."""

    def __init__(self, make, **kwargs):
        super().__init__(**kwargs)
        self.make = make

    def distribution(self):
        return self.make()


def vae_with_prior(make, num_columns, latent_dim):
    vae = tfvae.VAE(
        dense_encoder((num_columns,), hidden=()),
        dense_decoder(latent_dim, (num_columns,), hidden=()),
        latent_dim,
        prior=OwnPrior(make),
        likelihood=tfvae.likelihoods.Normal(0.5),
    )
    kernel = np.random.default_rng(1).normal(size=(latent_dim, num_columns)).astype("float32")
    vae.decoder.set_weights([kernel, np.zeros(num_columns)])
    return vae, np.float64(kernel)


@pytest.mark.slow
def test_annealing_starts_from_a_mixture():
    locs, weights = np.array([[-1.0, 0.5], [1.5, 1.0]]), np.array([0.3, 0.7])
    vae, kernel = vae_with_prior(
        lambda: tfd.MixtureSameFamily(
            tfd.Categorical(probs=weights.astype("float32")),
            tfd.Independent(tfd.Normal(locs.astype("float32"), 1.0), 1),
        ),
        3,
        2,
    )
    x = np.random.default_rng(2).normal(size=(40, 3)).astype("float32")
    covariance = kernel.T @ kernel + 0.25 * np.eye(3)
    parts = [stats.multivariate_normal(loc @ kernel, covariance).logpdf(x) for loc in locs]
    result = annealed_importance_sampling(vae, x, 50, 100, num_leapfrog_steps=4, seed=1)
    assert result.standard_error.mean() < 0.3
    assert_errors_are_as_predicted(result, special.logsumexp(parts, axis=0, b=weights[:, None]))


@pytest.mark.slow
def test_annealing_moves_in_unconstrained_coordinates():
    vae, kernel = vae_with_prior(lambda: tfd.Independent(tfd.LogNormal([0.0], [0.5]), 1), 2, 1)
    x = np.random.default_rng(2).normal(size=(30, 2)).astype("float32")

    z = np.linspace(0, 15, 15001)[1:]
    joint = stats.norm(z[:, None, None] * kernel[0], 0.5).pdf(x).prod(axis=-1) * stats.lognorm(0.5).pdf(z)[:, None]
    exact = np.log(integrate.trapezoid(joint, z, axis=0))
    result = annealed_importance_sampling(vae, x, 50, 60, num_leapfrog_steps=4, seed=1)
    assert result.standard_error.mean() < 0.3
    assert_errors_are_as_predicted(result, exact)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:k-hat is above 0.7")
def test_annealing_moves_under_a_mixture_of_flows(tiny_vae, x):
    vae = tiny_vae(posterior=tfvae.posteriors.CouplingFlow(), prior=tfvae.priors.VampPrior(num_components=3))
    # So few chains that there is no k-hat and no warning about it.
    annealed = annealed_importance_sampling(vae, x[:6], 20, 40, num_leapfrog_steps=2, seed=1)
    expected = importance_sampling(vae, x[:6], 20000, seed=1)
    difference = annealed.log_likelihood - expected.log_likelihood
    assert np.all(np.abs(difference) < 5 * np.hypot(annealed.standard_error, expected.standard_error))


def test_a_prior_on_a_sphere_is_refused():
    vae, _ = vae_with_prior(lambda: tfd.PowerSpherical([1.0, 0.0], 3.0), 3, 2)
    with pytest.raises(ValueError, match=r"^`model` must have a prior over real numbers.*Received: tfp.distrib"):
        annealed_importance_sampling(vae, np.zeros((2, 3)), 2, 2)


@pytest.mark.parametrize(
    "arguments",
    [{"num_chains": 1}, {"num_steps": 0}, {"start": "mean"}, {"num_leapfrog_steps": 0}, {"step_size": 0.0}],
)
def test_bad_arguments_of_annealing_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: {name}="):
        annealed_importance_sampling(correlated_vae(), np.zeros((2, 5)), **arguments)


# The gaps


def test_the_exact_posterior_leaves_no_gap():
    x = small_data(10)
    vae = linear_vae(5, 2)
    set_optimum(vae, x)
    gap = amortization_gap(vae, x, 20, log_likelihood=Oracle.of(vae).log_prob(x), batch_size=6, seed=1)
    np.testing.assert_allclose(gap.amortization_gap, 0, atol=2e-3)
    np.testing.assert_allclose(gap.approximation_gap, 0, atol=2e-3)


@pytest.mark.slow
def test_the_gaps_are_divergences_from_the_exact_posterior(monkeypatch):
    # In chunks of 50 draws, which must not share their noise.
    monkeypatch.setattr(tfvae.evaluation.amortization, "_CHUNK_ELEMENTS", 50 * 6 * 5)
    vae = correlated_vae()
    oracle = Oracle.of(vae)
    x = draws_of(vae, 10)
    shift, scale = np.array([0.6, -0.3]), np.array([0.2, 0.5])
    set_posterior(vae, oracle, scale, loc_shift=shift)
    # In batches of 6 and 4; the second must not start from the state of the first.
    gap = amortization_gap(vae, x, 300, log_likelihood=oracle.log_prob(x), batch_size=6, seed=1)
    _, covariance = oracle.posterior(x)
    precision = np.linalg.inv(covariance)
    # Among diagonal q, the one nearest in KL(q || p) has the mean of p and the diagonal of its precision.
    approximation = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    inference = 0.5 * (
        (np.diag(precision) * scale**2).sum()
        + shift @ precision @ shift
        - 2
        - 2 * np.log(scale).sum()
        - np.linalg.slogdet(precision)[1]
    )
    assert approximation > 0.03
    assert inference - approximation > 0.3
    # The tolerance is noise, of 256 draws of a log weight that has the standard deviation of a quadratic form,
    # sqrt(2 * approximation), plus the accuracy of the optimum, 5e-3.
    noise = 4 * np.sqrt(2 * approximation / 256)
    np.testing.assert_allclose(gap.approximation_gap, approximation, atol=noise + 5e-3)
    differences = gap.amortization_gap - (inference - approximation)
    assert np.all(np.abs(differences) < 4 * gap.standard_error + 5e-3)
    np.testing.assert_allclose(gap.elbo + gap.amortization_gap + gap.approximation_gap, oracle.log_prob(x), rtol=1e-6)


def test_without_log_p_of_x_there_is_no_approximation_gap():
    vae = correlated_vae()
    assert amortization_gap(vae, draws_of(vae, 2), 1, seed=1).approximation_gap is None


def test_bad_arguments_of_the_gap_are_named(tiny_vae, x):
    full = tiny_vae(posterior=tfvae.posteriors.FullCovarianceNormal())
    with pytest.raises(ValueError, match=r"^`model` must have a posterior whose parameters are loc and scale.*FullCov"):
        amortization_gap(full, x, 1)
    with pytest.raises(ValueError, match=r"^`learning_rate` must be .*Received: learning_rate=0"):
        amortization_gap(tiny_vae(), x, learning_rate=0)
    with pytest.raises(ValueError, match=r"^`x` and `log_likelihood` must have the same number of examples"):
        amortization_gap(tiny_vae(), x, 1, log_likelihood=np.zeros(3))


# Other models


# By default, tests/models/test_conditional.py gives the condition to every method of the model.
@pytest.mark.slow
@pytest.mark.parametrize("depends", [False, True], ids=["p(z)", "p(z|c)"])
def test_of_a_conditional_model_all_is_given_the_condition(depends):
    given = test_conditional.data(20)
    vae, log_prob = test_conditional.linear(depends)
    # One standard deviation away from the exact posterior, which is a gap of 1 / 2.
    scale = vae.encode(given)["scale"][0, 0]
    vae.posterior.loc_head.bias.assign_add([scale])
    expected = log_prob(given["x"], given["condition"])
    sampled = importance_sampling(vae, given, 4000, batch_size=8, seed=1)
    assert np.all(np.abs(sampled.log_likelihood - expected) < 5 * sampled.standard_error)
    for start in ("prior", "posterior"):
        annealed = annealed_importance_sampling(vae, given, 30, 30, start=start, batch_size=10, seed=1)
        assert np.all(np.abs(annealed.log_likelihood - expected) < 6 * annealed.standard_error + 1e-3)
    gap = amortization_gap(vae, given, 300, log_likelihood=expected, batch_size=8, seed=1)
    np.testing.assert_allclose(gap.amortization_gap, 0.5, atol=0.3)
    assert gap.amortization_gap.mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(gap.approximation_gap, 0, atol=5e-3)
    alone = amortization_gap(vae, {name: value[:1] for name, value in given.items()}, 300, seed=1)
    np.testing.assert_allclose(alone.optimal_elbo, expected[:1], atol=5e-3)
    rate, distortion = rate_distortion(vae, given, num_samples=500, seed=1)
    np.testing.assert_allclose(kl_per_dimension(vae, given).sum(), rate, rtol=1e-5)
    assert rate + distortion == pytest.approx(0.5 - expected.mean(), abs=0.1)
    assert active_units(vae, given).count == 1
    with pytest.raises(
        ValueError, match=r"must be a tfvae.VAE, but not a tfvae.ConditionalVAE\. Received: ConditionalVAE\("
    ):
        mutual_information(vae, given)


def test_of_the_other_models_what_has_a_meaning_is_computed_and_the_rest_refused():
    build, given = test_every_model.MODELS["semi-supervised"]
    model = build()
    result = importance_sampling(model, given, 20, seed=1).log_likelihood
    np.testing.assert_allclose(result, model.log_likelihood(given, 20, seed=1), rtol=1e-12)
    rate, distortion = rate_distortion(model, given, num_samples=100, seed=1)
    model.compile()
    assert rate + distortion == pytest.approx(-model.evaluate(given, verbose=0, return_dict=True)["elbo"], abs=1.0)
    for function in (annealed_importance_sampling, amortization_gap, kl_per_dimension):
        with pytest.raises(ValueError, match=r"but not a tfvae.SemiSupervisedVAE\. Received: SemiSupervisedVAE\("):
            function(model, given)
    build, x = test_every_model.MODELS["hierarchical"]
    model = build()
    result = importance_sampling(model, x, 20, seed=1).log_likelihood
    np.testing.assert_allclose(result, model.log_likelihood(x, 20, seed=1), rtol=1e-12)
    rate, distortion = rate_distortion(model, x, num_samples=400, seed=1)
    seed = tf.random.experimental.stateless_fold_in(tf.constant([1, 0]), 0)
    terms = model.elbo_terms(tf.constant(x), Sampling(num_samples=400, seed=seed))
    assert rate + distortion == pytest.approx(-np.mean(terms.elbo), rel=1e-5)
    for function in (annealed_importance_sampling, amortization_gap, kl_per_dimension, active_units):
        with pytest.raises(ValueError, match=r"^`model` must be a tfvae.VAE[^H]*Received: HierarchicalVAE\("):
            function(model, x)
