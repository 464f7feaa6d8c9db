"""Posteriors: densities against SciPy, the heads, and extreme features."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import VAE, posteriors
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
    """A posterior whose two heads return the features unchanged."""
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
    # relu(x) + log1p(exp(-|x|)) is smooth, but neither of its terms is smooth at x = 0.
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
    # d entropy / d raw = d log(scale) / d raw = sigmoid(raw + shift) / scale, summed over 4 examples.
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
        ValueError, match=r"`posterior` must have the model's latent_dim, 2, or None, and .* Received: .*=3$"
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
        (posteriors.InverseAutoregressiveFlow, "num_flows"),
        (posteriors.InverseAutoregressiveFlow, "hidden"),
        (posteriors.SylvesterFlow, "num_flows"),
        (posteriors.RelaxedOneHotCategorical, "num_categories"),
    ],
)
def test_counts_must_be_positive_integers(family, name, value):
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: {name}={value!r}$"):
        family(2, **{name: value})
