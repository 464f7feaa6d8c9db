"""The estimator of the bound: shapes, densities, the KL divergence, a linear-Gaussian model and its gradients."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

from tfvae import elbo
from tfvae.objectives import ELBO, IWAE

tfd = tfp.distributions

SEED = tf.constant([1, 2], tf.int32)
LOC = np.array([[0.0, 1.5], [-2.0, 0.3], [0.1, 0.0]], np.float32)
SCALE = np.array([[1.0, 0.5], [0.2, 2.0], [1.3, 0.7]], np.float32)


def normal(loc, scale):
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def standard_normal(latent_dim):
    return normal(tf.zeros(latent_dim), tf.ones(latent_dim))


def minus_squares(z):
    return -tf.reduce_sum(z**2, axis=-1)


def standard_error(values):
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("analytic_kl", [True, False])
@pytest.mark.parametrize(("num_samples", "batch", "latent_dim"), [(1, 1, 1), (1, 4, 2), (5, 1, 3), (5, 4, 2)])
def test_shapes_and_dtype_of_every_term(num_samples, batch, latent_dim, analytic_kl):
    posterior = normal(tf.zeros([batch, latent_dim]), tf.ones([batch, latent_dim]))
    sampling = elbo.Sampling(num_samples, SEED, analytic_kl)
    terms = elbo.estimate(posterior, standard_normal(latent_dim), minus_squares, sampling)
    for per_draw in (terms.reconstruction_log_likelihood, terms.log_prior, terms.log_posterior, terms.log_weights):
        assert per_draw.shape == (num_samples, batch)
        assert per_draw.dtype == tf.float32
    for per_example in (terms.kl, terms.elbo):
        assert per_example.shape == (batch,)
        assert per_example.dtype == tf.float32


def test_the_densities_are_those_of_the_drawn_z():
    seen = []
    prior_loc, prior_scale = np.float32([0.5, -1.0]), np.float32([2.0, 0.8])
    terms = elbo.estimate(
        normal(LOC, SCALE),
        normal(prior_loc, prior_scale),
        lambda z: seen.append(z) or minus_squares(z),
        elbo.Sampling(num_samples=7, seed=SEED),
    )
    (z,) = [z.numpy() for z in seen]
    assert z.shape == (7, *LOC.shape)
    np.testing.assert_allclose(terms.log_posterior, stats.norm.logpdf(z, LOC, SCALE).sum(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        terms.log_prior, stats.norm.logpdf(z, prior_loc, prior_scale).sum(-1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(terms.reconstruction_log_likelihood, -(z**2).sum(-1), rtol=1e-5)


def test_draws_follow_the_posterior():
    z = []
    sampling = elbo.Sampling(20000, SEED)
    elbo.estimate(normal(LOC, SCALE), standard_normal(2), lambda x: z.append(x) or minus_squares(x), sampling)
    noise = (z[0].numpy() - LOC) / SCALE
    for column in noise.reshape(20000, -1).T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    correlations = np.corrcoef(noise.reshape(20000, -1), rowvar=False) - np.eye(LOC.size)
    assert np.abs(correlations).max() < 5 / np.sqrt(20000)


@pytest.mark.parametrize("prior_batch", [(), (1,), (3,)])
def test_closed_form_kl_is_the_textbook_formula_and_tfps(prior_batch):
    prior_loc = np.broadcast_to(np.float32([0.5, -1.0]), (*prior_batch, 2))
    prior_scale = np.broadcast_to(np.float32([2.0, 0.8]), (*prior_batch, 2))
    posterior, prior = normal(LOC, SCALE), normal(prior_loc, prior_scale)
    terms = elbo.estimate(posterior, prior, minus_squares, elbo.Sampling(num_samples=1, seed=SEED))
    ratio = np.float64(SCALE) / prior_scale
    expected = 0.5 * (ratio**2 + ((LOC - prior_loc) / prior_scale) ** 2 - 1) - np.log(ratio)
    assert terms.kl.shape == (3,)
    np.testing.assert_allclose(terms.kl, expected.sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(terms.kl, posterior.kl_divergence(prior))


def test_monte_carlo_kl_is_the_mean_log_ratio_and_near_the_closed_form():
    posterior, prior = normal(LOC, SCALE), standard_normal(2)
    terms = elbo.estimate(
        posterior, prior, minus_squares, elbo.Sampling(num_samples=20000, seed=SEED, analytic_kl=False)
    )
    log_ratio = terms.log_posterior.numpy() - terms.log_prior.numpy()
    np.testing.assert_allclose(terms.kl, log_ratio.mean(0, dtype=np.float64), rtol=1e-4)
    assert np.all(np.abs(terms.kl - posterior.kl_divergence(prior)) < 4 * standard_error(log_ratio))


def test_a_pair_without_closed_form_falls_back_to_monte_carlo():
    posterior = tfd.Independent(tfd.Laplace(LOC, SCALE), 1)
    prior = standard_normal(2)
    with pytest.raises(NotImplementedError):
        posterior.kl_divergence(prior)
    terms = elbo.estimate(posterior, prior, minus_squares, elbo.Sampling(num_samples=50000, seed=SEED))
    expected = -1 - np.log(2 * SCALE) + 0.5 * np.log(2 * np.pi) + 0.5 * (LOC**2 + 2 * SCALE**2)
    log_ratio = terms.log_posterior.numpy() - terms.log_prior.numpy()
    assert np.all(np.abs(terms.kl - expected.sum(-1)) < 4 * standard_error(log_ratio))


def test_kl_to_a_mixture_prior_agrees_with_quadrature():
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.3, 0.7]), normal(np.float32([[-1.0], [2.0]]), np.float32([[0.5], [1.0]]))
    )
    terms = elbo.estimate(
        normal(np.float32([[0.4]]), np.float32([[0.8]])),
        mixture,
        minus_squares,
        elbo.Sampling(num_samples=50000, seed=SEED),
    )

    def integrand(z):
        log_q = stats.norm.logpdf(z, 0.4, 0.8)
        p = 0.3 * stats.norm.pdf(z, -1.0, 0.5) + 0.7 * stats.norm.pdf(z, 2.0, 1.0)
        return np.exp(log_q) * (log_q - np.log(p))

    expected, _ = integrate.quad(integrand, -8, 8, limit=200)
    log_ratio = terms.log_posterior.numpy() - terms.log_prior.numpy()
    assert abs(terms.kl[0] - expected) < 4 * standard_error(log_ratio)[0]


def test_errors_other_than_a_missing_closed_form_are_not_hidden():
    with pytest.raises(ValueError, match=r"(?i)event shapes do not match"):
        elbo.estimate(normal(LOC, SCALE), standard_normal(1), minus_squares, elbo.Sampling(num_samples=1, seed=SEED))


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    def log_posterior(seed):
        arguments = {"num_samples": 4, "seed": tf.constant(seed, tf.int32)}
        return elbo.estimate(
            normal(LOC, SCALE), standard_normal(2), minus_squares, elbo.Sampling(**arguments)
        ).log_posterior.numpy()

    first = log_posterior([1, 2])
    np.testing.assert_array_equal(first, log_posterior([1, 2]))
    assert not np.any(first == log_posterior([1, 3]))
    assert len(np.unique(first)) == first.size


def test_log_weights_and_elbo_by_hand():
    terms = elbo.ElboTerms(
        reconstruction_log_likelihood=tf.constant([[-1.0, -2.0], [-3.0, -6.0]]),
        log_prior=tf.constant([[-0.5, -1.0], [-0.25, -2.0]]),
        log_posterior=tf.constant([[-2.0, -0.5], [-1.0, -4.0]]),
        kl=tf.constant([0.5, 3.0]),
    )
    np.testing.assert_array_equal(terms.log_weights, [[0.5, -2.5], [-2.25, -4.0]])
    np.testing.assert_array_equal(terms.elbo, [-2.5, -7.0])


def test_without_closed_form_the_elbo_is_the_mean_log_weight():
    terms = elbo.estimate(
        normal(LOC, SCALE),
        standard_normal(2),
        minus_squares,
        elbo.Sampling(num_samples=9, seed=SEED, analytic_kl=False),
    )
    np.testing.assert_allclose(terms.elbo, np.mean(terms.log_weights, axis=0), rtol=1e-5, atol=1e-5)


# p(z) = N(0, 1), p(x|z) = N(w z + b, s^2), q(z|x) = N(m, v^2), at one x: everything has a closed form.
X = 1.7
POINT = {"m": 0.4, "v": 0.6, "w": 1.3, "b": -0.2, "s": 0.9}


def linear_gaussian_terms(point, copies, analytic_kl, num_samples=1, path=None):
    """The terms for `copies` equal examples, each with its own draws; `point` holds tensors [copies]."""
    posterior = normal(point["m"][:, None], point["v"][:, None])

    def log_likelihood(z):
        return tfd.Normal(point["w"] * z[..., 0] + point["b"], point["s"]).log_prob(tf.fill([copies], X))

    return elbo.estimate(
        posterior,
        standard_normal(1),
        log_likelihood,
        elbo.Sampling(num_samples, SEED, analytic_kl, path),
    )


def expected_elbo(m, v, w, b, s):
    fit = -0.5 * np.log(2 * np.pi * s**2) - ((X - w * m - b) ** 2 + (w * v) ** 2) / (2 * s**2)
    return fit - (0.5 * (m**2 + v**2 - 1) - np.log(v))


def expected_gradient(m, v, w, b, s):
    residual = X - w * m - b
    return {
        "m": w * residual / s**2 - m,
        "v": -(w**2) * v / s**2 - v + 1 / v,
        "w": (residual * m - w * v**2) / s**2,
        "b": residual / s**2,
        "s": -1 / s + (residual**2 + (w * v) ** 2) / s**3,
    }


def tile(point, copies):
    return {name: tf.fill([copies], tf.constant(value, tf.float32)) for name, value in point.items()}


@pytest.mark.parametrize("num_samples", [1, 8])
@pytest.mark.parametrize("analytic_kl", [True, False])
def test_the_elbo_is_unbiased_on_a_linear_gaussian_model(analytic_kl, num_samples):
    copies = 10000
    values = linear_gaussian_terms(tile(POINT, copies), copies, analytic_kl, num_samples).elbo.numpy()
    assert abs(values.mean(dtype=np.float64) - expected_elbo(**POINT)) < 4 * standard_error(values)


def exact_point():
    """The point at which q(z|x) is p(z|x)."""
    variance = 1 / (1 + (POINT["w"] / POINT["s"]) ** 2)
    return {**POINT, "m": variance * POINT["w"] * (X - POINT["b"]) / POINT["s"] ** 2, "v": np.sqrt(variance)}


LOG_P = stats.norm.logpdf(X, POINT["b"], np.hypot(POINT["w"], POINT["s"]))


def test_at_the_exact_posterior_every_log_weight_is_log_p_of_x():
    exact = exact_point()
    terms = linear_gaussian_terms(tile(exact, 100), 100, analytic_kl=True, num_samples=100)
    np.testing.assert_allclose(terms.log_weights, np.full((100, 100), LOG_P), atol=1e-5)
    assert expected_elbo(**exact) == pytest.approx(LOG_P, abs=1e-12)


def gradients(objective, point=POINT, copies=20000, kl_weight=1.0):
    """Estimates [copies] of the gradient of an objective, by the name of the parameter.

    Each copy has its own parameters, so that the gradient of the sum holds one estimate for each copy.
    """
    point = tile(point, copies)
    with tf.GradientTape() as tape:
        tape.watch(point)
        path = elbo.Path() if objective.path_gradient else None
        terms = linear_gaussian_terms(point, copies, objective.analytic_kl, objective.num_samples, path)
        terms = terms.tempered(tf.constant(kl_weight))
        if path is not None:
            path.weights = objective.path_weights(terms)
        total = tf.reduce_sum(objective(terms))
    return {name: gradient.numpy().astype("float64") for name, gradient in tape.gradient(total, point).items()}


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("arguments", [{}, {"analytic_kl": False}, {"sticking_the_landing": True}])
def test_the_gradient_is_unbiased_on_a_linear_gaussian_model(arguments, num_samples):
    estimates = gradients(ELBO(num_samples=num_samples, **arguments))
    for name, expected in expected_gradient(**POINT).items():
        assert abs(estimates[name].mean() - expected) < 4 * standard_error(estimates[name]), name


def test_the_expected_gradient_of_this_file_is_that_of_its_expected_elbo():
    for name, expected in expected_gradient(**POINT).items():
        above = expected_elbo(**{**POINT, name: POINT[name] + 1e-5})
        below = expected_elbo(**{**POINT, name: POINT[name] - 1e-5})
        assert (above - below) / 2e-5 == pytest.approx(expected, abs=1e-8)


def test_sticking_the_landing_has_no_noise_at_the_exact_posterior():
    quiet = gradients(ELBO(sticking_the_landing=True), exact_point(), copies=1000)
    loud = gradients(ELBO(analytic_kl=False), exact_point(), copies=1000)
    for name in ("m", "v"):
        assert np.abs(quiet[name]).max() < 2e-5
        assert loud[name].std() > 0.5


def test_sticking_the_landing_leaves_the_gradient_of_the_decoder_as_it_is():
    quiet, loud = (gradients(ELBO(analytic_kl=False, sticking_the_landing=path), copies=100) for path in (True, False))
    for name in ("w", "b", "s"):
        np.testing.assert_array_equal(quiet[name], loud[name])


def iwae_by_quadrature(m, v, w, b, s, kl_weight=1.0):
    """The importance-weighted bound of two draws, E log((w_1 + w_2) / 2)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    z = m + v * nodes
    log_q = stats.norm.logpdf(z, m, v)
    log_weights = stats.norm.logpdf(X, w * z + b, s) + kl_weight * (stats.norm.logpdf(z) - log_q)
    return weights @ (np.logaddexp.outer(log_weights, log_weights) - np.log(2)) @ weights


def test_iwae_rises_from_the_elbo_to_log_p_of_x():
    copies = 5000
    values = {}
    for num_samples in (1, 2, 8, 64):
        terms = linear_gaussian_terms(tile(POINT, copies), copies, False, num_samples)
        values[num_samples] = IWAE(num_samples)(terms).numpy().astype("float64")
    means = {num_samples: value.mean() for num_samples, value in values.items()}
    errors = {num_samples: 4 * standard_error(value) for num_samples, value in values.items()}
    assert abs(means[1] - expected_elbo(**POINT)) < errors[1]
    assert abs(means[2] - iwae_by_quadrature(**POINT)) < errors[2]
    for fewer, more in ((1, 2), (2, 8), (8, 64)):
        assert means[fewer] + errors[fewer] < means[more] - errors[more]
    assert means[64] < LOG_P
    # The mean weight is an unbiased estimate of p(x).
    ratios = np.exp(values[64] - LOG_P)
    assert abs(ratios.mean() - 1) < 4 * standard_error(ratios)


def test_iwae_of_one_draw_is_the_elbo():
    terms = linear_gaussian_terms(tile(POINT, 100), 100, False)
    np.testing.assert_allclose(IWAE(1)(terms), ELBO(analytic_kl=False)(terms), rtol=1e-6)


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("doubly_reparameterized", [False, True])
def test_the_gradient_of_iwae_is_unbiased_against_quadrature(doubly_reparameterized, kl_weight):
    estimates = gradients(IWAE(2, doubly_reparameterized=doubly_reparameterized), kl_weight=kl_weight)
    for name, gradient in estimates.items():
        above, below = (
            iwae_by_quadrature(**{**POINT, name: POINT[name] + step}, kl_weight=kl_weight) for step in (1e-5, -1e-5)
        )
        assert abs(gradient.mean() - (above - below) / 2e-5) < 4 * standard_error(gradient), name


@pytest.mark.parametrize("num_samples", [8, 64])
def test_doubly_reparameterized_gradients_have_the_mean_of_the_plain_and_less_noise(num_samples):
    plain = gradients(IWAE(num_samples), copies=5000)
    double = gradients(IWAE(num_samples, doubly_reparameterized=True), copies=5000)
    for name in ("m", "v"):
        difference = double[name] - plain[name]
        assert abs(difference.mean()) < 4 * standard_error(difference), name
        assert double[name].var() < 0.1 * plain[name].var(), name
    # For the decoder's parameters the two estimates are equal, draw by draw.
    for name in ("w", "b", "s"):
        np.testing.assert_array_equal(double[name], plain[name])


def test_at_the_exact_posterior_the_doubly_reparameterized_gradient_has_no_noise():
    double = gradients(IWAE(8, doubly_reparameterized=True), exact_point(), copies=1000)
    plain = gradients(IWAE(8), exact_point(), copies=1000)
    for name in ("m", "v"):
        assert np.abs(double[name]).max() < 2e-5
        assert plain[name].std() > 0.1


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 3)])
def test_a_path_draws_the_same_and_leaves_out_the_gradient_at_a_fixed_z(shape):
    posteriors = {
        2: lambda scale: normal(LOC[:, [0, 1, 0]], scale),
        3: lambda scale: tfd.MultivariateNormalTriL(LOC[:, [0, 1, 0]], tf.linalg.diag(scale)),
    }
    scale = tf.constant(SCALE[:, [0, 1, 1]])
    outcomes = []
    for path in (None, elbo.Path()):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(scale)
            posterior = posteriors[len(shape)](scale)
            draws = elbo.draw(posterior, shape[0], seed=SEED, path=path)
            z = draws.z
            fixed = posterior.log_prob(tf.stop_gradient(z))
        outcomes.append((draws, tape.gradient(draws.log_posterior, scale), tape.gradient(fixed, scale)))
    (plain, whole, _), (followed, through_z, at_fixed_z) = outcomes
    np.testing.assert_array_equal(plain.z, followed.z)
    np.testing.assert_array_equal(plain.log_posterior, followed.log_posterior)
    assert np.abs(at_fixed_z).min() > 1e-3
    np.testing.assert_allclose(through_z + at_fixed_z, whole, rtol=1e-4, atol=1e-4)
    # By hand: d log q / dz = -epsilon / scale and dz / d scale = epsilon.
    noise = (plain.z - LOC[:, [0, 1, 0]]) / scale
    np.testing.assert_allclose(through_z, -tf.reduce_sum(noise**2, axis=0) / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_a_path_multiplies_the_gradient_by_its_weights(shared):
    generator = np.random.default_rng(0)
    z = tf.constant(generator.normal(size=(4, 1 if shared else 3, 2)), tf.float32)
    weights = generator.uniform(size=(4, 3)).astype("float32")
    if shared:
        weights[:] = weights[:, :1]
    path = elbo.Path()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        followed = path.follow(z)
        total = tf.reduce_sum(followed**2)
    np.testing.assert_array_equal(followed, z)
    np.testing.assert_array_equal(tape.gradient(total, z), 2 * z)
    path.weights = tf.constant(weights)
    # Where all rows share z, the weight is the same for every row.
    np.testing.assert_allclose(
        tape.gradient(total, z), 2 * z * (weights[:, :1] if shared else weights)[..., None], rtol=1e-6
    )


def test_tempered_terms_remember_their_weight():
    terms = elbo.ElboTerms(*[tf.ones([2, 3])] * 3, tf.ones(3)).tempered(tf.constant(0.5))
    assert float(terms.weight) == 0.5
    assert float(terms.tempered(tf.constant(0.5)).weight) == 0.25
