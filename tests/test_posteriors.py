"""Posteriors: densities against SciPy, the heads, and what happens at extreme features."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import VAE, posteriors
from tfvae.distributions.correlated_normal import LowRankRoot
from tfvae.networks import dense_decoder, dense_encoder

# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"])
def policy(request, dtype_policy):
    dtype_policy(request.param)
    return request.param


def diagonal_normal(latent_dim, num_features):
    posterior = posteriors.DiagonalNormal(latent_dim)
    posterior.build((None, num_features))
    return posterior


def identity_heads(latent_dim):
    """A posterior whose heads both give the features themselves."""
    posterior = diagonal_normal(latent_dim, latent_dim)
    for head in (posterior.loc_head, posterior.scale_head):
        head.set_weights([np.eye(latent_dim), np.zeros(latent_dim)])
    return posterior


def column(values):
    return tf.constant(np.reshape(values, [-1, 1]), tf.float32)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_log_prob_against_scipy(latent_dim):
    generator = np.random.default_rng(0)
    loc = generator.normal(size=(5, latent_dim)).astype("float32")
    scale = generator.uniform(0.1, 3.0, size=(5, latent_dim)).astype("float32")
    z = generator.normal(size=(4, 5, latent_dim)).astype("float32")
    distribution = posteriors.DiagonalNormal(latent_dim).distribution({"loc": loc, "scale": scale})
    assert distribution.batch_shape == (5,)
    assert distribution.event_shape == (latent_dim,)
    log_prob = distribution.log_prob(z)
    assert log_prob.shape == (4, 5)
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(z, loc, scale).sum(-1), rtol=1e-5, atol=1e-5)


def test_the_mean_is_loc():
    loc = np.float32([[1.0, -2.0]])
    distribution = posteriors.DiagonalNormal(2).distribution({"loc": loc, "scale": np.float32([[0.5, 3.0]])})
    np.testing.assert_array_equal(distribution.mean(), loc)


def test_parameters_are_float32_by_name_under_every_policy(policy):
    posterior = diagonal_normal(3, 4)
    features = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    parameters = posterior(features)
    assert posterior.compute_dtype == policy.removeprefix("mixed_")
    assert set(parameters) == {"loc", "scale"}
    for parameter in parameters.values():
        assert parameter.dtype == tf.float32
        assert parameter.shape == (5, 3)
    assert posterior.distribution(parameters).log_prob(np.zeros((2, 5, 3), np.float32)).dtype == tf.float32


def test_both_heads_are_linear_in_the_features():
    posterior = diagonal_normal(3, 4)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(5, 4)).astype("float32")
    weights = [generator.normal(size=size) for size in [(4, 3), 3, (4, 3), 3]]
    posterior.loc_head.set_weights(weights[:2])
    posterior.scale_head.set_weights(weights[2:])
    parameters = posterior(features)
    np.testing.assert_allclose(parameters["loc"], features @ weights[0] + weights[1], rtol=1e-5, atol=1e-5)
    raw = features @ weights[2] + weights[3]
    np.testing.assert_allclose(parameters["scale"], np.logaddexp(0, raw + SHIFT), rtol=1e-5, atol=2e-6)


def test_scale_is_softplus_of_the_shifted_head():
    raw = np.concatenate([np.linspace(-30, 30, 200), [-100, -88, 88, 89, 90, 100, 1000]])
    scale = identity_heads(1)(column(raw))["scale"]
    # The absolute tolerance covers the floor of 1e-6, which keeps the scale above 0.
    np.testing.assert_allclose(scale[:, 0], np.logaddexp(0, raw + SHIFT), rtol=2e-6, atol=1.1e-6)


def test_scale_is_1_where_the_head_gives_0():
    assert float(identity_heads(1)(column([0.0]))["scale"][0, 0]) == pytest.approx(1, abs=2e-6)


def test_gradient_of_the_scale_is_the_sigmoid_of_the_shifted_head():
    raw = column([*np.linspace(-20, 20, 100), -1e4, 1e4])
    posterior = identity_heads(1)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        scale = posterior(raw)["scale"]
    np.testing.assert_allclose(tape.gradient(scale, raw), special.expit(raw + SHIFT), rtol=1e-5, atol=1e-9)


def test_gradient_of_the_scale_is_one_half_where_the_softplus_has_its_kink():
    # relu(x) + log1p(exp(-|x|)) is smooth, but each of its halves is not at x = 0.
    raw = column([-np.float32(SHIFT)])
    posterior = identity_heads(1)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        scale = posterior(raw)["scale"]
    np.testing.assert_allclose(tape.gradient(scale, raw), [[0.5]], rtol=1e-5)


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_extreme_features_keep_scale_density_and_gradient_finite(raw):
    posterior = identity_heads(2)
    features = tf.fill([3, 2], tf.constant(raw, tf.float32))
    with tf.GradientTape() as tape:
        parameters = posterior(features)
        distribution = posterior.distribution(parameters)
        z, log_prob = distribution.experimental_sample_and_log_prob(5, seed=[1, 2])
        total = tf.reduce_sum(log_prob)
    scale = parameters["scale"].numpy()
    assert np.all(np.isfinite(scale))
    assert np.all(scale > 0)
    for tensor in (z, log_prob, *tape.gradient(total, posterior.trainable_variables)):
        assert np.all(np.isfinite(tensor))


def test_at_features_of_zeros_every_gradient_is_finite_and_that_of_the_scale_bias_is_right():
    posterior = identity_heads(2)
    with tf.GradientTape() as tape:
        distribution = posterior.distribution(posterior(tf.zeros([4, 2])))
        total = tf.reduce_sum(distribution.entropy()) + tf.reduce_sum(distribution.mean())
    biases = [posterior.loc_head.bias, posterior.scale_head.bias]
    kernels = [posterior.loc_head.kernel, posterior.scale_head.kernel]
    gradients = tape.gradient(total, [*biases, *kernels])
    # d entropy / d raw = d log(scale) / d raw = sigmoid(raw + shift) / scale, over 4 examples.
    np.testing.assert_allclose(gradients[0], [4, 4])
    np.testing.assert_allclose(gradients[1], np.full(2, 4 * special.expit(SHIFT)), rtol=1e-5)
    for kernel_gradient in gradients[2:]:
        np.testing.assert_array_equal(kernel_gradient, np.zeros((2, 2)))


def test_draws_are_reparameterised():
    parameters = {"loc": tf.constant([[0.5, -1.0]]), "scale": tf.constant([[2.0, 0.3]])}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parameters)
        z = posteriors.DiagonalNormal(2).distribution(parameters).sample(seed=[1, 2])
    noise = (z - parameters["loc"]) / parameters["scale"]
    np.testing.assert_array_equal(tape.gradient(z, parameters["loc"]), [[1, 1]])
    np.testing.assert_allclose(tape.gradient(z, parameters["scale"]), noise, rtol=1e-5)


def test_the_latent_dim_is_taken_from_the_model():
    vae = VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2)
    assert vae.posterior.latent_dim == 2
    assert {name: value.shape for name, value in vae.encode(np.zeros((5, 4))).items()} == {
        "loc": (5, 2),
        "scale": (5, 2),
    }


def test_another_latent_dim_than_the_models_is_refused():
    with pytest.raises(
        ValueError, match=r"`posterior` must have the model's latent_dim, 2, or None and .* Received: .*=3$"
    ):
        VAE(
            dense_encoder((4,), hidden=()),
            dense_decoder(2, (4,), hidden=()),
            2,
            posterior=posteriors.DiagonalNormal(3),
        )


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        posteriors.Posterior(2)


# Families beyond the mean field: parameters for 2 examples, with what their distribution must be.
LATENT = 3


def full_covariance():
    """A FullCovarianceNormal, its parameters of 2 examples, and the means and covariances that these stand for."""
    generator = np.random.default_rng(1)
    loc = generator.normal(size=(2, LATENT)).astype("float32")
    tril = np.tril(generator.normal(size=(2, LATENT, LATENT))).astype("float32")
    diagonal = np.arange(LATENT)
    tril[:, diagonal, diagonal] = generator.uniform(0.3, 2.0, size=(2, LATENT))
    parameters = {"loc": tf.constant(loc), "scale_tril": tf.constant(tril)}
    double = np.float64(tril)
    return posteriors.FullCovarianceNormal(LATENT), parameters, loc, double @ double.transpose(0, 2, 1)


def low_rank(latent_dim=LATENT, rank=2, size=1.0):
    """As `full_covariance`, for a LowRankNormal, with factors of the given size beside scales of 0.3 to 2."""
    generator = np.random.default_rng(1)
    loc = generator.normal(size=(2, latent_dim)).astype("float32")
    scale = generator.uniform(0.3, 2.0, size=(2, latent_dim)).astype("float32")
    factor = size * generator.normal(size=(2, latent_dim, rank)).astype("float32")
    parameters = {"loc": tf.constant(loc), "scale": tf.constant(scale), "factor": tf.constant(factor, tf.float32)}
    double = np.float64(factor)
    covariance = double @ double.transpose(0, 2, 1) + [np.diag(np.float64(row) ** 2) for row in scale]
    return posteriors.LowRankNormal(latent_dim, rank), parameters, loc, covariance


def coupling_flow(latent_dim=2, num_features=3):
    """A CouplingFlow whose weights are random, not those of the start, and its parameters of 2 examples."""
    posterior = posteriors.CouplingFlow(latent_dim, num_couplings=3, hidden=4)
    posterior.build((None, num_features))
    generator = np.random.default_rng(2)
    posterior.set_weights([generator.normal(scale=0.7, size=weight.shape) for weight in posterior.get_weights()])
    return posterior, posterior(generator.normal(size=(2, num_features)).astype("float32"))


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
    # z is affine in the noise: its columns are those of T, and T T^T the covariance.
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
    # Each number of the head has one place: below the diagonal as it is, on it as a scale.
    diagonal = tril[:, range(3), range(3)]
    assert np.all(diagonal > 0)
    np.testing.assert_array_equal(tril, np.tril(tril))
    inverse = diagonal + np.log(-np.expm1(-np.float64(diagonal))) - SHIFT
    found = np.sort(np.concatenate([tril[:, [1, 2, 2], [0, 0, 1]], inverse], axis=1), axis=1)
    # The inverse of a small scale has few digits.
    clear = diagonal.min(axis=1) > 0.01
    assert clear.sum() > 10
    np.testing.assert_allclose(found[clear], np.sort(raw, axis=1)[clear], rtol=1e-3, atol=1e-3)


def test_the_density_of_the_flow_integrates_to_1():
    posterior, parameters = coupling_flow()
    distribution = posterior.distribution(parameters)
    # Noise within 6 standard deviations lies inside what a fine grid of the noise maps to.
    noise = np.stack(np.meshgrid(*2 * [np.linspace(-6, 6, 81)]), axis=-1).reshape(-1, 1, 2).astype("float32")
    image = distribution.bijector.forward(np.broadcast_to(noise, (len(noise), 2, 2))).numpy()
    for i in range(2):
        axes = [np.linspace(low, high, 500) for low, high in zip(image[:, i].min(0), image[:, i].max(0), strict=True)]
        z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
        density = np.exp(distribution.log_prob(np.stack([z, z], axis=1)).numpy()[:, i], dtype=np.float64)
        cell = np.prod([axis[1] - axis[0] for axis in axes])
        assert density.sum() * cell == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_log_prob_of_the_flow_is_that_by_the_jacobian_of_sample_from(latent_dim):
    posterior, parameters = coupling_flow(latent_dim)
    noise = tf.constant(np.random.default_rng(3).normal(size=(2, latent_dim)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = posterior.sample_from(parameters, noise)
    jacobian = tape.batch_jacobian(z, noise).numpy().astype("float64")
    assert np.all(np.abs(jacobian - np.eye(latent_dim)).max(axis=(1, 2)) > 0.1)
    expected = stats.norm.logpdf(noise).sum(-1) - np.linalg.slogdet(jacobian)[1]
    # A new tensor: TFP remembers what it computed of the old one.
    log_prob = posterior.distribution(parameters).log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_draws_of_the_flow_are_sample_from_of_noise_by_a_test_of_two_samples():
    posterior, parameters = coupling_flow()
    draws = posterior.distribution(parameters).sample(5000, seed=[1, 2]).numpy()
    noise = np.random.default_rng(0).normal(size=(5000, 2, 2)).astype("float32")
    others = np.stack([posterior.sample_from(parameters, row) for row in noise[:5]])
    assert others.shape == (5, 2, 2)
    # All of the noise at once, one row of features for each: the same function.
    repeated = {name: np.repeat(value, 5000, axis=0) for name, value in parameters.items()}
    all_at_once = posterior.sample_from(repeated, noise.transpose(1, 0, 2).reshape(-1, 2)).numpy()
    all_at_once = all_at_once.reshape(2, 5000, 2).transpose(1, 0, 2)
    np.testing.assert_allclose(all_at_once[:5], others, rtol=1e-4, atol=1e-5)
    for one, other in zip(draws.reshape(5000, 4).T, all_at_once.reshape(5000, 4).T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4


def test_the_flow_depends_on_the_features_and_changes_every_coordinate():
    posterior, parameters = coupling_flow(3)
    noise = tf.constant([[0.3, -0.5, 0.9]] * 2)
    plain = {**parameters, "loc": tf.zeros([2, 3]), "scale": tf.ones([2, 3])}
    z = posterior.sample_from(plain, noise).numpy()
    assert np.all(np.abs(z - noise) > 1e-3)
    assert np.all(np.abs(z[0] - z[1]) > 1e-3)
    center = posterior.center(parameters)
    np.testing.assert_array_equal(center, posterior.sample_from(parameters, tf.zeros([2, 3])))


FAMILIES = {
    "DiagonalNormal": posteriors.DiagonalNormal,
    "FullCovarianceNormal": posteriors.FullCovarianceNormal,
    "LowRankNormal": functools.partial(posteriors.LowRankNormal, rank=2),
    "CouplingFlow": functools.partial(posteriors.CouplingFlow, num_couplings=2, hidden=4),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("num_features", [0, 4])
def test_every_family_starts_as_the_standard_normal_of_loc_0(family, num_features):
    posterior = family(3)
    posterior.build((None, num_features))
    # Features of 0 leave the biases alone.
    parameters = posterior(tf.zeros([2, num_features]))
    np.testing.assert_array_equal(parameters["loc"], np.zeros((2, 3)))
    if "scale" in parameters:
        np.testing.assert_allclose(parameters["scale"], np.ones((2, 3)), rtol=3e-6)
    covariance = np.stack([np.eye(3)] * 2)
    if "factor" in parameters:
        factor = parameters["factor"].numpy()
        assert 0.02 < np.abs(factor).max() < 0.5
        covariance = covariance + factor @ factor.transpose(0, 2, 1)
    z = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    expected = [stats.multivariate_normal(np.zeros(3), covariance[i]).logpdf(z[:, i]) for i in range(2)]
    log_prob = posterior.distribution(parameters).log_prob(z)
    np.testing.assert_allclose(log_prob, np.transpose(expected), rtol=1e-4, atol=1e-5)
    if "factor" not in parameters:
        np.testing.assert_allclose(posterior.sample_from(parameters, z[0]), z[0], rtol=1e-5)


def test_every_family_works_without_features(family):
    posterior = family(3)
    posterior.build((None, 0))
    generator = np.random.default_rng(0)
    posterior.set_weights([generator.normal(scale=0.5, size=weight.shape) for weight in posterior.get_weights()])
    noise = tf.constant(generator.normal(size=(5, 3)), tf.float32)
    point = tf.constant(generator.normal(size=(4, 5, 3)), tf.float32)

    # XLA draws other numbers from the same seed: the noise is given.
    def evaluate(features):
        with tf.GradientTape() as tape:
            parameters = posterior(features)
            z = posterior.sample_from(parameters, noise)
            log_prob = posterior.distribution(parameters).log_prob(point)
            total = tf.reduce_sum(log_prob) + tf.reduce_sum(z**2)
        return parameters["loc"], z, log_prob, tape.gradient(total, posterior.trainable_variables)

    features = tf.zeros([5, 0])
    eager = evaluate(features)
    assert [tensor.shape for tensor in eager[:3]] == [(5, 3), (5, 3), (4, 5)]
    # The same distribution for each row.
    np.testing.assert_array_equal(eager[0], np.broadcast_to(eager[0][:1], (5, 3)))
    assert all(np.any(gradient != 0) for gradient in eager[3])
    specification = [tf.TensorSpec([None, 0], tf.float32)]
    for compiled in (False, True):
        graph = tf.function(evaluate, input_signature=specification, jit_compile=compiled)(features)
        for tensor, expected in zip(tf.nest.flatten(graph), tf.nest.flatten(eager), strict=True):
            np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("policy")
def test_a_head_without_features_is_its_bias():
    posterior = posteriors.DiagonalNormal(2)
    posterior.build((None, 0))
    posterior.loc_head.set_weights([np.float32([1.0, -2.0])])
    parameters = posterior(tf.zeros([3, 0]))
    np.testing.assert_array_equal(parameters["loc"], [[1, -2]] * 3)
    assert parameters["loc"].dtype == parameters["scale"].dtype == tf.float32
    assert posterior(tf.zeros([0, 0]))["loc"].shape == (0, 2)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "x", None])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        (posteriors.LowRankNormal, "rank"),
        (posteriors.CouplingFlow, "num_couplings"),
        (posteriors.CouplingFlow, "hidden"),
    ],
)
def test_counts_must_be_positive_integers(family, name, value):
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: {name}={value!r}$"):
        family(2, **{name: value})


def test_a_coupling_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"^`latent_dim` must be at least 2 .*Received: latent_dim=1$"):
        posteriors.CouplingFlow(1).build((None, 3))
