"""How near amortised inference comes to posteriors in closed form, after a training of the default length."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tests.inference.test_amortized_inference import EXACT_SD, SHRINKAGE, gaussian
from tfvae import AmortizedInference, evaluation, networks

tfd = tfp.distributions


@pytest.mark.slow
def test_the_posterior_of_a_linear_gaussian_model_is_found():
    keras.utils.set_random_seed(0)
    model = gaussian(posterior=None)
    model.fit(epochs=None, verbose=0)
    for x in model.simulate(5, seed=7)["x"]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Of weights that hardly vary k-hat tells nothing.
            warnings.filterwarnings("ignore", message="k-hat is .* but the importance weights hardly vary")
            draws = model.sample(x, 10_000, seed=0)
        np.testing.assert_allclose(draws["theta"].mean(axis=0), SHRINKAGE * x, atol=0.1 * EXACT_SD)
        np.testing.assert_allclose(draws["theta"].std(axis=0), EXACT_SD, rtol=0.08)
        assert draws.pareto_k < 0.7 or np.std(10_000 * draws.weights) < 0.1
    table = evaluation.recovery(model, 500, seed=3).summary()
    np.testing.assert_allclose(table["contraction"], 1 - EXACT_SD**2 / 4, atol=0.02)
    assert (table["rank_p_value"] > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "distribution", "x", "exact"),
    [
        (
            tfd.Gamma(2.0, 0.5),
            lambda theta: tfd.Poisson(theta),
            [[0.0], [3.0], [9.0]],
            lambda x: stats.gamma(2 + x, scale=1 / 1.5),
        ),
        (
            tfd.Beta(2.0, 2.0),
            lambda theta: tfd.Binomial(10, probs=theta),
            [[1.0], [5.0], [9.0]],
            lambda x: stats.beta(2 + x, 12 - x),
        ),
    ],
    ids=["Gamma-Poisson", "Beta-Binomial"],
)
def test_quantiles_of_a_constrained_latent_variable_are_exact(prior, distribution, x, exact):
    keras.utils.set_random_seed(0)
    model = AmortizedInference(prior, lambda theta, seed: distribution(theta).sample(seed=seed)[:, None])
    model.fit(verbose=0)
    for count, draws in zip(x, model.sample(np.array(x), 20_000, seed=0), strict=True):
        posterior = exact(count[0])
        # Probabilities of the intervals between exact quantiles, which hold a tenth each.
        inside = np.histogram(posterior.cdf(draws["theta"]), np.linspace(0, 1, 11))[0] / 20_000
        np.testing.assert_allclose(inside, 0.1, atol=0.02)


@pytest.mark.slow
def test_a_set_of_any_size_gives_the_posterior_of_its_mean():
    """theta ~ N(0, 1), x_i ~ N(theta, 1), i = 1, ..., n: N(n mean / (n + 1), 1 / (n + 1))."""
    keras.utils.set_random_seed(0)
    model = AmortizedInference(
        tfd.Normal(0.0, 1.0),
        lambda theta, seed: theta[:, None] + tf.random.stateless_normal([tf.shape(theta)[0], 10], seed),
        networks.set_encoder(()),
    )
    model.fit(verbose=0)
    x = model.simulate(5, seed=7)["x"]
    for row, draws in zip(x, model.sample(x, 10_000, seed=0), strict=True):
        np.testing.assert_allclose(draws["theta"].mean(), row.sum() / 11, atol=0.1 / np.sqrt(11))
        np.testing.assert_allclose(draws["theta"].std(), 1 / np.sqrt(11), rtol=0.08)


@pytest.mark.slow
def test_data_sets_far_out_do_not_spoil_the_training():
    """One x in a thousand is 7 or more standard deviations from the mean, where scales that are 0 cost 1e8 nats."""
    keras.utils.set_random_seed(0)
    prior = tfd.JointDistributionNamed({"p": tfd.Dirichlet([1.5, 1.0, 0.7]), "s": tfd.LogNormal(0.0, 0.5)})
    model = AmortizedInference(
        prior,
        lambda theta, seed: (
            tf.math.log(50.0 * theta["p"] + 1.0) * theta["s"][:, None]
            + 0.1 * tf.random.stateless_normal([tf.shape(theta["s"])[0], 3], seed)
        ),
    )
    history = model.fit(epochs=8, steps_per_epoch=50, verbose=0).history["loss"]
    assert max(history[1:]) < 0.0
    assert history[-1] < -6.0
    pairs = model.simulate(4000, seed=5)
    log_q = model.log_prob(pairs, pairs["x"])
    assert log_q.min() > -100.0
    assert np.median(log_q) > 6.0
