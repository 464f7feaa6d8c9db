"""Objectives that relax, fix or shape the divergence from the prior: by hand, closed forms and quadrature."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import VAE, callbacks, elbo, objectives, posteriors, priors
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import DIPVAE, ELBO, MMD, RAE, BetaTCVAE, Capacity, FreeBits
from tfvae.training.batch import Batch

tfd = tfp.distributions

RNG = np.random.default_rng(0)
LOC = RNG.normal(size=(6, 2)).astype("float32")
SCALE = RNG.uniform(0.3, 1.2, size=(6, 2)).astype("float32")
PRIOR = tfd.Independent(tfd.Normal(tf.zeros(2), tf.ones(2)), 1)


def terms_of(loc=LOC, scale=SCALE, num_samples=4, prior=PRIOR, seed=(3, 4)):
    return elbo.estimate(
        tfd.Independent(tfd.Normal(loc, scale), 1),
        prior,
        lambda z: -tf.reduce_sum(z**2, axis=-1),
        elbo.Sampling(num_samples=num_samples, seed=tf.convert_to_tensor(seed)),
    )


TERMS = terms_of()
LOG_LIKELIHOOD = np.mean(TERMS.reconstruction_log_likelihood, axis=0)
KL = 0.5 * (np.float64(LOC) ** 2 + np.float64(SCALE) ** 2 - 1) - np.log(np.float64(SCALE))


def test_the_divergence_of_each_dimension():
    np.testing.assert_allclose(TERMS.kl_by_dimension(), KL, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(TERMS.tempered(tf.constant(0.25)).kl_by_dimension(), 0.25 * KL, rtol=1e-4, atol=1e-6)


def test_the_divergence_of_each_dimension_without_a_closed_form():
    prior = tfd.Independent(tfd.Laplace(tf.zeros(2), tf.ones(2)), 1)
    kl = terms_of(num_samples=20000, prior=prior).kl_by_dimension()
    z = np.linspace(-12, 12, 8001)
    for row in range(6):
        for column in range(2):
            log_q = stats.norm.logpdf(z, LOC[row, column], SCALE[row, column])
            expected = np.trapezoid(np.exp(log_q) * (log_q - stats.laplace.logpdf(z)), z)
            # The standard deviation of the log ratio is below 1.2 for these q.
            assert abs(kl[row, column] - expected) < 4 * 1.2 / np.sqrt(20000)


def test_free_bits_by_hand():
    nats = np.sort(KL.mean(axis=0)).mean()
    paid = np.where(KL.mean(axis=0) < nats, nats, KL).sum(axis=1)
    np.testing.assert_allclose(FreeBits(nats)(TERMS), LOG_LIKELIHOOD - paid, rtol=1e-5)
    mean = np.mean(FreeBits(nats)(TERMS))
    assert mean == pytest.approx(np.mean(LOG_LIKELIHOOD) - np.maximum(KL.mean(axis=0), nats).sum(), rel=1e-5)


def test_without_free_nats_it_is_the_elbo():
    for per_dimension in (True, False):
        np.testing.assert_allclose(FreeBits(0.0, per_dimension=per_dimension)(TERMS), ELBO()(TERMS), rtol=1e-5)


@pytest.mark.parametrize("per_dimension", [True, False])
def test_below_the_free_nats_the_divergence_has_no_gradient(per_dimension):
    loc = tf.constant(LOC)
    with tf.GradientTape() as tape:
        tape.watch(loc)
        terms = terms_of(loc)._replace(reconstruction_log_likelihood=tf.zeros([4, 6]))
        value = tf.reduce_sum(FreeBits(100.0, per_dimension=per_dimension)(terms))
    assert float(value) == -6 * 100.0 * (2 if per_dimension else 1)
    np.testing.assert_array_equal(tape.gradient(value, loc, unconnected_gradients="zero"), np.zeros((6, 2)))


def test_a_posterior_that_is_not_independent_has_free_nats_as_a_whole_alone():
    expected = r"^`objective` must not need independent dimensions of z with the {}.*Received: objective=FreeBits"
    with pytest.raises(ValueError, match=expected.format("posterior FullCovarianceNormal")):
        small_vae(FreeBits(), posterior=posteriors.FullCovarianceNormal())
    with pytest.raises(ValueError, match=expected.format("prior NormalMixture")):
        small_vae(FreeBits(), prior=priors.NormalMixture(num_components=2))
    whole = small_vae(FreeBits(per_dimension=False), posterior=posteriors.FullCovarianceNormal())
    assert np.isfinite(whole.train_on_batch(DATA, return_dict=True)["loss"])


def test_capacity_by_hand():
    expected = LOG_LIKELIHOOD - 3 * np.abs(KL.sum(axis=1) - 0.5)
    np.testing.assert_allclose(Capacity(0.5, gamma=3.0)(TERMS), expected, rtol=1e-5)


def test_a_warm_up_raises_the_capacity_and_leaves_the_divergence():
    objective = Capacity(0.5, gamma=3.0)
    tempered = objective.tempered(TERMS, tf.constant(0.2))
    expected = LOG_LIKELIHOOD - 3 * np.abs(KL.sum(axis=1) - 0.1)
    np.testing.assert_allclose(objective(tempered), expected, rtol=1e-5)
    vae = small_vae(objective)
    vae.fit(DATA, epochs=2, verbose=0, callbacks=[callbacks.KLWarmUp(steps=2)])
    assert float(vae.kl_weight) == 1.0


@pytest.mark.slow
def test_a_strong_weight_holds_the_divergence_at_the_capacity():
    vae = small_vae(Capacity(1.5, gamma=100.0))
    vae.fit(DATA, epochs=60, verbose=0)
    assert vae.evaluate(DATA, verbose=0, return_dict=True)["kl"] == pytest.approx(1.5, abs=0.3)


def test_total_correlation_of_all_of_the_data_against_quadrature():
    points = np.linspace(-7, 7, 701)
    density = stats.norm.pdf(points[:, None, None], LOC, SCALE)  # [points, B, L]
    joint = np.einsum("ib,jb->ij", density[..., 0], density[..., 1]) / 6
    product = np.outer(density[..., 0].mean(axis=1), density[..., 1].mean(axis=1))
    ratio = np.where(joint > 0, np.log(np.where(joint > 0, joint, 1) / np.where(joint > 0, product, 1)), 0)
    expected = np.trapezoid(np.trapezoid(joint * ratio, points), points)
    terms = terms_of(num_samples=20000)
    estimate = np.mean(terms.elbo - BetaTCVAE(6, beta=2.0)(terms))
    # The standard deviation of the log ratio is below 1.
    assert abs(estimate - expected) < 4 / np.sqrt(6 * 20000)
    np.testing.assert_allclose(BetaTCVAE(6, beta=1.0)(terms), terms.elbo, rtol=1e-6)


def test_total_correlation_of_a_batch_by_hand():
    z = np.float64(TERMS.z)
    log_prob = stats.norm.logpdf(z[:, :, None], LOC, SCALE)  # [S, B, B', L]
    share = np.where(np.eye(6, dtype=bool), 1 / 50, 49 / 50 / 5)
    log_q = np.log((share * np.exp(log_prob.sum(-1))).sum(-1))
    log_product = np.log((share[..., None] * np.exp(log_prob)).sum(-2)).sum(-1)
    expected = np.float64(TERMS.elbo) - 3 * (log_q - log_product).mean(axis=0)
    np.testing.assert_allclose(BetaTCVAE(50, beta=4.0)(TERMS), expected, rtol=1e-4)


def test_covariances_by_hand():
    means = np.cov(LOC, rowvar=False, ddof=0)
    draws = np.mean([np.cov(z, rowvar=False, ddof=0) for z in np.float64(TERMS.z)], axis=0)
    for covariance, kind in ((means, "means"), (draws, "draws")):
        penalty = 2 * 2 * covariance[0, 1] ** 2 + 3 * ((np.diag(covariance) - 1) ** 2).sum()
        value = DIPVAE(2.0, 3.0, kind)(TERMS)
        np.testing.assert_allclose(value, TERMS.elbo - penalty, rtol=1e-4)


@pytest.mark.slow
def test_a_posterior_without_a_mean_has_the_covariance_of_its_draws_alone():
    vae = small_vae(DIPVAE(covariance="means"), posterior=posteriors.CouplingFlow(hidden=4))
    with pytest.raises(ValueError, match=r"`covariance` must be \"draws\" for .*Received: covariance='means'"):
        vae.train_on_batch(DATA)


@pytest.mark.slow
def test_the_discrepancy_is_unbiased_for_that_of_two_normal_distributions():
    loc, scale = np.array([0.5, -0.3]), np.array([0.4, 1.5])

    def mean_kernel(shift, variance):
        """E k(z, y) where z - y ~ N(shift, variance), in 2 dimensions, for which the width of k is 2."""
        return np.prod(np.sqrt(2 / (2 + variance)) * np.exp(-(shift**2) / (2 * (2 + variance))))

    expected = mean_kernel(0, 2 * scale**2) + mean_kernel(0, 2.0 * np.ones(2)) - 2 * mean_kernel(loc, scale**2 + 1)
    locs, scales = (np.tile(array, (20, 1)).astype("float32") for array in (loc, scale))

    @tf.function
    def discrepancy(seed):
        terms = terms_of(locs, scales, 1, seed=seed)
        return tf.reduce_mean(tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0) - MMD(1.0)(terms))

    values = [discrepancy(tf.constant([seed, 1])).numpy() for seed in range(200)]
    assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / np.sqrt(200)
    assert expected > 8 * np.std(values, ddof=1) / np.sqrt(200)


@pytest.mark.parametrize(
    ("kernel", "function"),
    [
        ("gaussian", lambda square: np.exp(-square / (2 * 2))),
        ("inverse_multiquadratic", lambda square: 2 * 2 / (2 * 2 + square)),
    ],
)
def test_the_discrepancy_of_each_kernel_by_hand(kernel, function):
    y = np.float64(PRIOR.sample([6], seed=TERMS.seed))

    def k(a, b):
        return function(np.sum((a - b) ** 2))

    discrepancies = []
    for z in np.float64(TERMS.z):
        of_z, of_y = (np.mean([k(e[i], e[j]) for i in range(6) for j in range(6) if i != j]) for e in (z, y))
        discrepancies.append(of_z + of_y - 2 * np.mean([k(a, b) for a in z for b in y]))
    value = MMD(10.0, kernel=kernel)(TERMS)
    np.testing.assert_allclose(value, LOG_LIKELIHOOD - 10 * np.mean(discrepancies), rtol=1e-4, atol=1e-5)


def test_the_kernel_is_one_of_two():
    with pytest.raises(ValueError, match=r"^`kernel` must be \"gaussian\" or .*Received: kernel='linear'$"):
        MMD(kernel="linear")


def test_the_regularised_autoencoder_by_hand():
    length = np.mean(np.sum(np.float64(TERMS.z) ** 2, axis=-1), axis=0)
    np.testing.assert_allclose(RAE(0.3)(TERMS), LOG_LIKELIHOOD - 0.15 * length, rtol=1e-5)
    # With a weight of 1 it is the log-density of N(0, I), up to a constant.
    log_prior = np.mean(TERMS.log_prior, axis=0) + np.log(2 * np.pi)
    np.testing.assert_allclose(RAE()(TERMS), LOG_LIKELIHOOD + log_prior, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", [MMD(), MMD(kernel="inverse_multiquadratic"), RAE()])
def test_what_needs_no_density_takes_a_point_and_is_warmed_up(objective):
    point = tfd.VectorDeterministic(tf.constant(LOC))
    sampling = elbo.Sampling(num_samples=1, seed=tf.constant([1, 2]))
    terms = elbo.estimate(point, PRIOR, lambda z: -tf.reduce_sum(z**2, axis=-1), sampling)
    np.testing.assert_array_equal(terms.z, LOC[np.newaxis])
    assert terms.kl is None
    assert terms.log_posterior is None
    for number in ("elbo", "log_weights"):
        with pytest.raises(ValueError, match=r"`posterior` must have a density for the .*Received: "):
            getattr(terms, number)
    log_likelihood = -np.sum(LOC**2, axis=1)
    whole, half = (objective(objective.tempered(terms, tf.constant(weight))) for weight in (1.0, 0.5))
    np.testing.assert_allclose(half - log_likelihood, (whole - log_likelihood) / 2, rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(whole - log_likelihood) > 1e-3)


def test_the_terms_of_the_infovae_add_up():
    plain, weighted = (np.float64(MMD(7.0, kl_weight)(TERMS)) for kl_weight in (0.0, 0.5))
    np.testing.assert_allclose(plain - weighted, 0.5 * np.float64(TERMS.kl), rtol=1e-4)
    none = MMD(0.0, 1.0)(TERMS)
    np.testing.assert_allclose(none, ELBO()(TERMS), rtol=1e-6)


@pytest.mark.parametrize("objective", [BetaTCVAE(10), DIPVAE(), DIPVAE(covariance="means"), MMD(), RAE(), FreeBits()])
def test_a_batch_of_one_example_is_finite(objective):
    loc, scale = tf.constant(LOC[:1]), tf.constant(SCALE[:1])
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        value = objective(terms_of(loc, scale, objective.num_samples))
    assert np.all(np.isfinite(value))
    for gradient in tape.gradient(value, [loc, scale]):
        assert np.all(np.isfinite(gradient))


DATA = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def small_vae(objective, **parts):
    keras.utils.set_random_seed(0)
    vae = VAE(dense_encoder((4,), hidden=(8,)), dense_decoder(2, (4,), hidden=(8,)), 2, objective=objective, **parts)
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return vae


@pytest.mark.parametrize("objective", [BetaTCVAE(64), DIPVAE(), MMD(), RAE()])
def test_a_model_without_draws_for_each_example_refuses(objective):
    with pytest.raises(ValueError, match=r"`objective` must be one that does not need the draws of z.*Received: "):
        objective(TERMS._replace(z=None))


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("FreeBits", "nats"),
        ("Capacity", "capacity"),
        ("Capacity", "gamma"),
        ("BetaTCVAE", "beta"),
        ("DIPVAE", "off_diagonal"),
        ("DIPVAE", "diagonal"),
        ("MMD", "mmd_weight"),
        ("MMD", "kl_weight"),
        ("RAE", "beta"),
    ],
)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "x", None, True])
def test_weights_are_finite_and_not_negative(objective, name, value):
    arguments = {"num_examples": 10} if objective == "BetaTCVAE" else {}
    with pytest.raises(ValueError, match=rf"`{name}` must be a finite number of at least 0\. Received: {name}="):
        getattr(objectives, objective)(**arguments, **{name: value})


def test_the_number_of_examples_and_the_covariance_are_checked():
    with pytest.raises(ValueError, match=r"`num_examples` must be an integer .*Received: num_examples=0$"):
        BetaTCVAE(0)
    with pytest.raises(ValueError, match=r"`covariance` must be .*Received: covariance='both'$"):
        DIPVAE(covariance="both")


WEIGHTS = np.array([1, 0.2, 0.7, 0, 2, 3])
OF_BATCH = {
    "BetaTCVAE": BetaTCVAE(6, beta=4.0),
    "DIPVAE of draws": DIPVAE(2.0, 3.0),
    "DIPVAE of means": DIPVAE(2.0, 3.0, "means"),
    "MMD": MMD(10.0),
    # Between the mean with the weights below and without, so that they decide whether a dimension is free.
    "FreeBits": FreeBits((KL[:, 0].mean() + WEIGHTS @ KL[:, 0] / WEIGHTS.sum()) / 2),
}


def taken(rows):
    """The terms of some of the examples, with the draws of each."""
    of_rows = {name: tf.gather(getattr(TERMS, name), rows, axis=1) for name in ("z", "reconstruction_log_likelihood")}
    posterior = tfd.Independent(tfd.Normal(LOC[rows], SCALE[rows]), 1)
    return TERMS._replace(**of_rows, kl=tf.gather(TERMS.kl, rows), posterior=posterior)


@pytest.mark.parametrize("name", OF_BATCH)
def test_weights_that_are_equal_change_nothing(name):
    plain = OF_BATCH[name](TERMS)
    for weight in (1.0, 3.0):
        np.testing.assert_array_equal(OF_BATCH[name](TERMS.weighted(tf.fill([6], weight))), plain)
    np.testing.assert_array_equal(OF_BATCH[name](TERMS.weighted(tf.zeros([6]))), plain)


@pytest.mark.parametrize("name", OF_BATCH)
def test_an_example_of_weight_0_has_no_influence_and_no_scale_of_weights_has(name):
    objective, weights = OF_BATCH[name], tf.constant(WEIGHTS, tf.float32)
    value = objective(TERMS.weighted(weights)).numpy()
    np.testing.assert_allclose(objective(TERMS.weighted(0.3 * weights)), value, rtol=1e-5)
    assert np.abs(value - objective(TERMS)).max() > 0.01
    far = TERMS.z + 50 * tf.one_hot([3], 6, axis=1)[..., tf.newaxis]
    posterior = tfd.Independent(tfd.Normal(LOC + 50 * np.eye(6, dtype="float32")[3, :, None], SCALE), 1)
    changed = objective(TERMS._replace(z=far, posterior=posterior).weighted(weights)).numpy()
    assert np.all(np.isfinite(changed))
    np.testing.assert_array_equal(np.delete(changed, 3), np.delete(value, 3))


@pytest.mark.parametrize("name", [name for name in OF_BATCH if name != "MMD"])
def test_an_example_of_weight_2_is_as_if_it_were_there_twice(name):
    rows, weights = [0, 1, 1, 2, 4, 5, 5], tf.constant([1.0, 2.0, 1.0, 0.0, 1.0, 2.0])
    weighted = repeated = OF_BATCH[name]
    if name == "BetaTCVAE":
        # Only of all data: of a part of them, the other of the two would stand for others.
        weighted, repeated = BetaTCVAE(5, beta=4.0), BetaTCVAE(7, beta=4.0)
    value = weighted(TERMS.weighted(weights))
    np.testing.assert_allclose(tf.gather(value, rows), repeated(taken(rows)), rtol=1e-4)


def test_the_total_correlation_of_weighted_examples_by_hand():
    z, own = np.float64(TERMS.z), WEIGHTS / (WEIGHTS.sum() / 5) / 50
    of_others = WEIGHTS * (1 - np.eye(6))
    share = np.where(np.eye(6), own, (1 - own)[:, None] * of_others / of_others.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(share.sum(axis=1), 1)
    density = np.exp(stats.norm.logpdf(z[:, :, None], LOC, SCALE))  # [S, B, B', L]
    log_q = np.log((share * density.prod(-1)).sum(-1))
    log_product = np.log((share[..., None] * density).sum(-2)).sum(-1)
    expected = np.float64(TERMS.elbo) - 3 * (log_q - log_product).mean(axis=0)
    value = BetaTCVAE(50, beta=4.0)(TERMS.weighted(tf.constant(WEIGHTS, tf.float32)))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("is_conditional", [False, True])
def test_the_discrepancy_of_weighted_examples_by_hand(is_conditional):
    loc = LOC[::-1].copy()
    prior = tfd.Independent(tfd.Normal(loc, tf.ones([6, 2])), 1) if is_conditional else PRIOR
    y = np.float64(prior.sample([] if is_conditional else [6], seed=TERMS.seed))
    of_prior = WEIGHTS if is_conditional else np.ones(6)

    def mean(a, b, pairs):
        kernel = np.exp(-np.sum((a[:, None] - b) ** 2, axis=-1) / 4)
        return np.sum(pairs * kernel) / np.sum(pairs)

    different = 1 - np.eye(6)
    discrepancies = [
        mean(z, z, np.outer(WEIGHTS, WEIGHTS) * different)
        + mean(y, y, np.outer(of_prior, of_prior) * different)
        - 2 * mean(z, y, np.outer(WEIGHTS, of_prior))
        for z in np.float64(TERMS.z)
    ]
    value = MMD(10.0)(TERMS._replace(prior=prior).weighted(tf.constant(WEIGHTS, tf.float32)))
    np.testing.assert_allclose(value, LOG_LIKELIHOOD - 10 * np.mean(discrepancies), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_BATCH)
def test_one_example_of_all_the_weight_is_finite(name):
    for least in (0.0, 1e-8):
        with tf.GradientTape() as tape:
            loc = tf.constant(LOC)
            tape.watch(loc)
            value = OF_BATCH[name](terms_of(loc).weighted(tf.constant([1.0] + 5 * [least])))
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(tape.gradient(value, loc)))


def test_a_model_gives_its_objective_the_weights_of_the_examples():
    vae = small_vae(MMD(1000.0))
    weights = np.repeat([1.0, 0.0], 32).astype("float32")

    def loss(x, weights):
        batch = Batch(tf.constant(x), weights, 64.0, 64.0, tf.constant([1, 2]), None)
        return float(vae.batch_losses(batch, training=False)[0][0])

    shifted = DATA + 5 * (1 - weights[:, np.newaxis])
    assert loss(shifted, weights) == loss(DATA, weights)
    assert loss(shifted, None) != pytest.approx(loss(DATA, None), rel=0.1)
