"""Normal posteriors with correlations: densities against SciPy, and the KL divergence in closed form."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import posteriors, priors
from tfvae.distributions.correlated_normal import LowRankRoot, TriangularRoot

tfd = tfp.distributions

# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)

# Parameters for 2 examples, and the distribution that they must stand for.
LATENT = 3


def full_covariance():
    """A FullCovarianceNormal, its parameters for 2 examples, and the means and covariances that they stand for."""
    generator = np.random.default_rng(1)
    loc = generator.normal(size=(2, LATENT)).astype("float32")
    tril = np.tril(generator.normal(size=(2, LATENT, LATENT))).astype("float32")
    diagonal = np.arange(LATENT)
    tril[:, diagonal, diagonal] = generator.uniform(0.3, 2.0, size=(2, LATENT))
    parameters = {"loc": tf.constant(loc), "scale_tril": tf.constant(tril)}
    double = np.float64(tril)
    return posteriors.FullCovarianceNormal(LATENT), parameters, loc, double @ double.transpose(0, 2, 1)


def low_rank(latent_dim=LATENT, rank=2, size=1.0):
    """Like `full_covariance` for a LowRankNormal, with factors of the given size and scales from 0.3 to 2."""
    generator = np.random.default_rng(1)
    loc = generator.normal(size=(2, latent_dim)).astype("float32")
    scale = generator.uniform(0.3, 2.0, size=(2, latent_dim)).astype("float32")
    factor = size * generator.normal(size=(2, latent_dim, rank)).astype("float32")
    parameters = {"loc": tf.constant(loc), "scale": tf.constant(scale), "factor": tf.constant(factor, tf.float32)}
    double = np.float64(factor)
    covariance = double @ double.transpose(0, 2, 1) + [np.diag(np.float64(row) ** 2) for row in scale]
    return posteriors.LowRankNormal(latent_dim, rank), parameters, loc, covariance


GAUSSIANS = {
    "full": full_covariance,
    "low rank": low_rank,
    "as many columns as rows": lambda: low_rank(3, 3),
    "more columns than rows": lambda: low_rank(2, 5),
    "large factors": lambda: low_rank(4, 2, size=30.0),
    "one dimension": lambda: low_rank(1, 1),
}


@pytest.fixture(params=GAUSSIANS)
def gaussian(request):
    return GAUSSIANS[request.param]()


def test_log_prob_of_correlated_normals_against_scipy(gaussian):
    posterior, parameters, loc, covariance = gaussian
    distribution = posterior.distribution(parameters)
    assert distribution.batch_shape == (2,)
    assert distribution.event_shape == loc.shape[1:]
    z = (loc + np.random.default_rng(3).normal(size=(5, *loc.shape))).astype("float32")
    log_prob = distribution.log_prob(z)
    assert log_prob.shape == (5, 2)
    expected = [stats.multivariate_normal(loc[i], covariance[i]).logpdf(z[:, i]) for i in range(2)]
    np.testing.assert_allclose(log_prob, np.transpose(np.reshape(expected, [2, 5])), rtol=2e-4, atol=2e-4)


def test_mean_and_covariance_of_correlated_normals(gaussian):
    posterior, parameters, loc, covariance = gaussian
    distribution = posterior.distribution(parameters)
    np.testing.assert_allclose(distribution.mean(), loc, rtol=1e-6)
    np.testing.assert_allclose(posterior.center(parameters), loc, rtol=1e-6)
    np.testing.assert_allclose(distribution.covariance(), covariance, rtol=1e-4, atol=1e-5 * covariance.max())


def test_draws_of_correlated_normals_follow_them(gaussian):
    posterior, parameters, loc, covariance = gaussian
    z, log_prob = posterior.distribution(parameters).experimental_sample_and_log_prob(20000, seed=[1, 2])
    for i in range(2):
        white = np.linalg.solve(np.linalg.cholesky(covariance[i]), (z[:, i] - loc[i]).numpy().T)
        for row in white:
            assert stats.kstest(row, "norm").pvalue > 1e-4
        correlations = np.atleast_2d(np.corrcoef(white)) - np.eye(len(white))
        assert np.abs(correlations).max() < 5 / np.sqrt(20000)
        expected = stats.multivariate_normal(loc[i], covariance[i]).logpdf(z[:, i])
        np.testing.assert_allclose(log_prob[:, i], expected, rtol=1e-3, atol=1e-3)


def test_sample_from_has_exactly_the_mean_and_covariance(gaussian):
    posterior, parameters, loc, covariance = gaussian
    np.testing.assert_array_equal(posterior.sample_from(parameters, tf.zeros_like(loc)), loc)
    # z = loc + T noise: unit vectors as noise give the columns of T, and T T^T is the covariance.
    basis = tf.eye(loc.shape[1])
    columns = [posterior.sample_from(parameters, tf.stack([row, row])) - loc for row in basis]
    root = np.stack(columns, axis=-1).astype("float64")
    np.testing.assert_allclose(root @ root.transpose(0, 2, 1), covariance, rtol=1e-5, atol=1e-5 * covariance.max())
    noise = np.random.default_rng(4).normal(size=loc.shape).astype("float32")
    expected = loc + np.einsum("bij,bj->bi", root, noise)
    np.testing.assert_allclose(
        posterior.sample_from(parameters, noise), expected, rtol=1e-4, atol=1e-4 * np.abs(root).max()
    )


def test_sample_from_takes_columns_that_depend_on_each_other():
    column = np.random.default_rng(1).normal(size=(1, 6, 1)).astype("float32")
    factor = np.concatenate([column, 2 * column, 0 * column], axis=-1)
    parameters = {"loc": tf.zeros([1, 6]), "scale": tf.fill([1, 6], 0.1), "factor": tf.constant(factor)}
    posterior = posteriors.LowRankNormal(6, 3)
    root = np.stack([posterior.sample_from(parameters, row[None])[0] for row in tf.eye(6)], axis=-1)
    expected = 0.01 * np.eye(6) + 5 * column[0] @ column[0].T
    np.testing.assert_allclose(root @ root.T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("adjoint_arg", [False, True])
def test_the_root_of_a_low_rank_covariance_multiplies_and_solves_as_its_matrix_does(adjoint, adjoint_arg):
    _, parameters, _, covariance = low_rank(4, 2)
    root = LowRankRoot(parameters["scale"], parameters["factor"])
    assert root.shape == (2, 4, 4)
    dense = root.to_dense().numpy().astype("float64")
    np.testing.assert_allclose(dense @ dense.transpose(0, 2, 1), covariance, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(root.log_abs_determinant(), 0.5 * np.linalg.slogdet(covariance)[1], rtol=1e-5)
    x = np.random.default_rng(5).normal(size=(2, 3, 4) if adjoint_arg else (2, 4, 3)).astype("float32")
    matrix = dense.transpose(0, 2, 1) if adjoint else dense
    right = x.transpose(0, 2, 1) if adjoint_arg else x
    flags = {"adjoint": adjoint, "adjoint_arg": adjoint_arg}
    np.testing.assert_allclose(root.matmul(x, **flags), matrix @ right, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(root.solve(x, **flags), np.linalg.solve(matrix, right), rtol=1e-4, atol=1e-4)


def test_the_matrix_of_the_full_covariance_is_triangular_with_a_positive_diagonal():
    posterior = posteriors.FullCovarianceNormal(3)
    posterior.build((None, 2))
    posterior.set_weights([np.random.default_rng(0).normal(size=w.shape) for w in posterior.get_weights()])
    features = np.random.default_rng(1).normal(scale=3, size=(50, 2)).astype("float32")
    tril = posterior(features)["scale_tril"].numpy()
    raw = posterior.scale_tril_head(features).numpy()
    # Each output of the head is used once: unchanged below the diagonal, or as a scale on it.
    diagonal = tril[:, range(3), range(3)]
    assert np.all(diagonal > 0)
    np.testing.assert_array_equal(tril, np.tril(tril))
    inverse = diagonal + np.log(-np.expm1(-np.float64(diagonal))) - SHIFT
    found = np.sort(np.concatenate([tril[:, [1, 2, 2], [0, 0, 1]], inverse], axis=1), axis=1)
    # The head's output cannot be recovered accurately from a small scale.
    clear = diagonal.min(axis=1) > 0.01
    assert clear.sum() > 10
    np.testing.assert_allclose(found[clear], np.sort(raw, axis=1)[clear], rtol=1e-3, atol=1e-3)


def test_noise_gives_a_draw_and_its_density_without_a_solve(gaussian):
    posterior, parameters, loc, covariance = gaussian
    noise = np.random.default_rng(4).normal(size=loc.shape).astype("float32")
    z, log_prob = posterior.sample_and_log_prob_from(parameters, noise)
    np.testing.assert_array_equal(z, posterior.sample_from(parameters, noise))
    log_det = np.linalg.slogdet(covariance)[1]
    expected = stats.norm.logpdf(noise).sum(-1) - log_det / 2
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    z, log_prob = posterior.sample_and_log_prob_from(parameters)
    np.testing.assert_array_equal(z, loc)
    expected = [stats.multivariate_normal(loc[i], covariance[i]).logpdf(loc[i]) for i in range(2)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_learned", [False, True])
def test_kl_from_independent_normals_is_that_of_two_normals(gaussian, is_learned):
    posterior, parameters, loc, covariance = gaussian
    dim = loc.shape[1]
    generator = np.random.default_rng(5)
    m, s = generator.normal(size=dim), generator.uniform(0.5, 2.0, size=dim)
    prior = priors.StandardNormal(dim).distribution()
    if is_learned:
        prior = tfd.Independent(tfd.Normal(np.float32(m), np.float32(s)), 1)
    else:
        m, s = np.zeros(dim), np.ones(dim)
    # KL(N(a, A) || N(m, S)) = (tr S^-1 A + (a - m)^T S^-1 (a - m) - L + log det S / det A) / 2, in float64.
    expected = [
        (np.trace(covariance[i] / s[:, None] ** 2) + ((loc[i] - m) ** 2 / s**2).sum() - dim) / 2
        + np.log(s).sum()
        - np.linalg.slogdet(covariance[i])[1] / 2
        for i in range(2)
    ]
    distribution = posterior.distribution(parameters)
    np.testing.assert_allclose(distribution.kl_divergence(prior), expected, rtol=1e-5)
    z, log_posterior = distribution.experimental_sample_and_log_prob(20_000, seed=[1, 2])
    ratio = (log_posterior - prior.log_prob(z)).numpy()
    assert np.all(np.abs(ratio.mean(0) - expected) < 5 * ratio.std(0) / np.sqrt(len(ratio)))


def test_kl_from_other_distributions_has_no_closed_form():
    posterior, parameters, _, _ = full_covariance()
    laplace = tfd.Independent(tfd.Laplace(tf.zeros(LATENT), 1.0), 1)
    matrix = tfd.Independent(tfd.Normal(tf.zeros([2, LATENT]), 1.0), 2)
    for prior in (laplace, matrix):
        with pytest.raises(NotImplementedError):
            posterior.distribution(parameters).kl_divergence(prior)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("adjoint_arg", [False, True])
def test_a_triangular_root_multiplies_and_solves_as_tensorflows_does(adjoint, adjoint_arg):
    _, parameters, _, _ = full_covariance()
    root, expected = (
        kind(parameters["scale_tril"]) for kind in (TriangularRoot, tf.linalg.LinearOperatorLowerTriangular)
    )
    x = np.random.default_rng(5).normal(size=(2, 5, LATENT) if adjoint_arg else (2, LATENT, 5)).astype("float32")
    flags = {"adjoint": adjoint, "adjoint_arg": adjoint_arg}
    for method in ("matmul", "solve"):
        values = [getattr(operator, method)(x, **flags) for operator in (root, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(root.log_abs_determinant(), expected.log_abs_determinant(), rtol=1e-5)


def test_the_gradient_of_a_low_rank_density_is_that_of_its_dense_covariance():
    posterior, parameters, loc, _ = low_rank(4, 2)
    z = tf.constant(loc + np.random.default_rng(6).normal(size=loc.shape), tf.float32)

    def dense(parameters):
        scale, factor = parameters["scale"], parameters["factor"]
        covariance = tf.linalg.diag(scale**2) + tf.matmul(factor, factor, transpose_b=True)
        return tfd.MultivariateNormalTriL(parameters["loc"], tf.linalg.cholesky(covariance))

    gradients = []
    for distribution in (posterior.distribution, dense):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            log_prob = distribution(parameters).log_prob(z)
        gradients.append(tape.gradient(log_prob, parameters))
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4, err_msg=name)
