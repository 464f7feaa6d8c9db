"""The family for groups and series, against normal distributions, quadrature and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import linalg, stats

from tfvae import StructuredNormal, VariationalInference, elbo
from tfvae.distributions import conditional_chain
from tfvae.inference.structure import Block, Pattern

tfd = tfp.distributions

# The local variables, the distance of neighbours, and L.
PATTERNS = {
    "groups": ([Block(2, (5,), 0)], 0, 7),
    "series": ([Block(2, (6,), 0)], 2, 8),
    "slopes": ([Block(1, (4, 2), 0)], 0, 10),
    "two series": ([Block(0, (5,), 0), Block(6, (4,), 0)], 1, 10),
    "without local variables": ([], 0, 3),
    "without global variables": ([Block(0, (5,), 0)], 1, 5),
}


def family(name, *, zero=(), scale=0.4):
    """A family with random variables."""
    posterior, generator = StructuredNormal(), np.random.default_rng(0)
    posterior.start_at(Pattern(*PATTERNS[name]), {})
    for weight in posterior.weights:
        if weight.name == "root":
            weight.assign(np.tril(generator.normal(size=weight.shape)) + 3.0 * np.eye(weight.shape[0]))
        elif weight.name not in zero:
            weight.assign(generator.normal(scale=scale, size=weight.shape))
    return posterior


def distribution(posterior):
    return posterior.distribution(posterior(tf.zeros([1, 0])))


SLOW = ("slopes", "two series")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PATTERNS])
def test_the_density_is_that_of_the_noise_over_the_jacobian(name):
    posterior = family(name)
    dim = posterior.pattern.dim
    noise = tf.constant(np.random.default_rng(1).normal(size=[1, dim]), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(noise)
        z = distribution(posterior).bijector.forward(noise)
    jacobian = tape.jacobian(z, noise, experimental_use_pfor=False)[0, :, 0].numpy()
    expected = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(jacobian.astype(float))[1]
    # Of a tensor that the bijector has not seen, so that it must invert itself.
    received = distribution(posterior).log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(received, [expected], atol=1e-4)
    np.testing.assert_allclose(distribution(posterior).bijector.inverse(tf.constant(z.numpy())), noise, atol=1e-4)
    draw = elbo.draw(distribution(posterior), 3, seed=tf.constant([0, 1]), path=elbo.Path())
    np.testing.assert_allclose(draw.log_posterior[:, 0], distribution(posterior).log_prob(draw.z)[:, 0], atol=1e-3)
    parameters = posterior(tf.zeros([1, 0]))
    np.testing.assert_allclose(posterior.sample_from(parameters, noise), z, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["series", *(pytest.param(each, marks=pytest.mark.slow) for each in ("groups", "slopes"))]
)
def test_where_scales_do_not_depend_on_global_variables_it_is_normal(name):
    bends = ("skewness", "log_tailweight", "log_precision_slope", "band_slope")
    posterior = family(name, zero=bends)
    size = posterior.pattern.num_globals
    # The mean is linear in the global variables without the second half of their functions.
    slope = posterior._slope.numpy()
    slope[:, size:] = 0.0
    posterior._slope.assign(slope)
    bijector = distribution(posterior).bijector
    dim = posterior.pattern.dim
    loc = bijector.forward(tf.zeros([1, dim]))[0].numpy().astype(float)
    root = np.stack([bijector.forward(tf.constant(row[None]))[0].numpy() - loc for row in np.eye(dim, dtype="f")], 1)
    normal = stats.multivariate_normal(loc, root @ root.T)
    z = normal.rvs(20, random_state=0)
    received = distribution(posterior).log_prob(tf.constant(z[:, None], tf.float32))[:, 0]
    np.testing.assert_allclose(received, normal.logpdf(z), atol=2e-3)
    precision = np.linalg.inv(root @ root.T)[np.ix_(*[posterior.pattern.order[size:]] * 2)]
    outside = ~np.eye(dim - size, dtype=bool)
    for k, near in enumerate(posterior.pattern.mask, 1):
        outside &= ~(np.diag(near[k:], k) | np.diag(near[k:], -k))
    assert abs(precision[outside]).max() < 1e-3 * abs(precision).max()


def test_the_density_integrates_to_one_and_so_does_that_of_the_global_variables():
    posterior = StructuredNormal()
    posterior.start_at(Pattern([Block(1, (1,), 0)], 0, 2), {})
    generator = np.random.default_rng(3)
    for weight in posterior.trainable_weights:
        weight.assign(generator.normal(scale=0.2, size=weight.shape))
    axes = np.linspace(-10.0, 10.0, 301), np.linspace(-30.0, 30.0, 1201)
    z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    area = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    density = np.exp(distribution(posterior).log_prob(tf.constant(z[:, None], tf.float32)).numpy().astype(float))
    np.testing.assert_allclose(density.sum() * area, 1.0, atol=2e-3)
    marginal = density.reshape(301, 1201).sum(axis=1) * (axes[1][1] - axes[1][0])
    points = tf.constant(np.stack([axes[0], 0.0 * axes[0]], axis=1), tf.float32)
    received = np.exp(posterior.log_prob_of_globals(posterior(tf.zeros([1, 0])), points))
    np.testing.assert_allclose(received, marginal, atol=2e-3 * marginal.max())


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_gradient_of_a_banded_solve_is_right(is_shared):
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=[2, 5]))
    band = [tf.constant(generator.normal(size=[5] if is_shared else [2, 5])) for _ in range(2)]
    theoretical, numerical = tf.test.compute_gradient(lambda x, *band: conditional_chain._solve(band, x), [x, *band])
    for each, expected in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(each, expected, atol=1e-8)
    first = [row.numpy() if is_shared else row.numpy()[0] for row in band]
    matrix = np.eye(5) + sum(np.diag(row[k:], -k) for k, row in enumerate(first, 1))
    expected = linalg.solve_triangular(matrix, x[0], lower=True, trans="T")
    np.testing.assert_allclose(conditional_chain._solve(band, x)[0], expected, atol=1e-10)


def test_it_needs_no_features():
    for posterior in (StructuredNormal(3), family("groups")):
        posterior.built = False
        with pytest.raises(
            ValueError, match=r"^`posterior` must not be a StructuredNormal except.*Received: 4 features"
        ):
            posterior.build((None, 4))


def normals(latents, _):
    return tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(latents["x"]), axis=1)


def test_a_saved_family_knows_its_structure(tmp_path):
    model = VariationalInference(normals, {"x": (30,)})
    assert isinstance(model.posterior, StructuredNormal)
    pattern = Pattern([Block(0, (30,), 0)], 1, 30)
    model.posterior.start_at(pattern, {})
    for weight in model.posterior.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(scale=0.3, size=weight.shape))
    model.approximation.standardized.assign(1.0)
    model.save(tmp_path / "model.keras")
    custom = {"model": normals, "latents": {"x": (30,)}}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects=custom)
    seed = tf.constant([0, 0])
    np.testing.assert_array_equal(loaded.approximation.sample(5, seed)[0], model.approximation.sample(5, seed)[0])
    model.save_weights(tmp_path / "model.weights.h5")
    other = VariationalInference(normals, {"x": (30,)})
    with pytest.raises(ValueError, match="could not be loaded"):
        other.load_weights(tmp_path / "model.weights.h5")
