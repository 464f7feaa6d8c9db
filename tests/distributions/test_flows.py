"""Flows: densities against Jacobians and integrals, autoregressive flows and their inverse, and flows without one."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import VAE, VariationalInference, elbo, posteriors, priors
from tfvae.distributions import flows
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import ELBO, IWAE

tfd = tfp.distributions

FLOWS = {
    "CouplingFlow": lambda dim: posteriors.CouplingFlow(dim, num_couplings=3, hidden=4),
    "InverseAutoregressiveFlow": lambda dim: posteriors.InverseAutoregressiveFlow(dim, num_flows=3, hidden=5),
    "SplineFlow": lambda dim: posteriors.SplineFlow(dim, num_couplings=3, bins=4, hidden=4),
    "SylvesterFlow": lambda dim: posteriors.SylvesterFlow(dim, num_flows=3),
}
INVERTIBLE = ["CouplingFlow", "InverseAutoregressiveFlow", "SplineFlow"]


def disturbed(part, num_features):
    """Builds the part and gives it random weights in place of the initial ones."""
    part.build((None, num_features))
    generator = np.random.default_rng(2)
    # Large weights make splines and couplings so steep that the grids and the determinants of the tests cannot follow.
    scale = 0.3 if isinstance(part, posteriors.CouplingFlow | posteriors.SplineFlow) else 0.7
    part.set_weights([generator.normal(scale=scale, size=weight.shape) for weight in part.get_weights()])
    return part


def flow(name, latent_dim=2):
    """A flow, features of 2 examples, and its parameters for them."""
    posterior = disturbed(FLOWS[name](latent_dim), 3)
    features = tf.constant(np.random.default_rng(3).normal(size=(2, 3)), tf.float32)
    return posterior, features, posterior(features)


def noise(*shape):
    return tf.constant(np.random.default_rng(4).normal(size=shape), tf.float32)


def assert_integrates_to_1(log_prob, image):
    """Sums a density over a grid that covers `image`, the image of noise within 6 standard deviations."""
    axes = [np.linspace(low, high, 500) for low, high in zip(image.min(0), image.max(0), strict=True)]
    z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(log_prob(z), dtype=np.float64).sum() * cell == pytest.approx(1, abs=2e-3)


WIDE = np.stack(np.meshgrid(*2 * [np.linspace(-6, 6, 81)]), axis=-1).reshape(-1, 2).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_density_integrates_to_1(name):
    posterior, _, parameters = flow(name)
    distribution = posterior.distribution(parameters)
    image = distribution.bijector.forward(np.stack([WIDE, WIDE], axis=1)).numpy()
    for i in range(2):
        assert_integrates_to_1(
            lambda z, i=i: distribution.log_prob(np.stack([z, z], axis=1)).numpy()[:, i], image[:, i]
        )


@pytest.mark.parametrize("name", FLOWS)
def test_the_mean_of_1_over_the_density_of_draws_in_a_box_is_its_area(name):
    posterior, _, parameters = flow(name)
    z, log_prob = posterior.distribution(parameters).experimental_sample_and_log_prob(40_000, seed=[1, 2])
    for i in range(2):
        low, high = np.quantile(z[:, i], [0.3, 0.7], axis=0)
        inside = np.all((z[:, i] > low) & (z[:, i] < high), axis=-1)
        assert inside.sum() > 1000
        inverse = np.where(inside, np.exp(-log_prob[:, i].numpy()), 0) / np.prod(high - low)
        assert abs(inverse.mean() - 1) < 5 * inverse.std() / np.sqrt(len(inverse))


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [3, *(pytest.param(dim, marks=pytest.mark.slow) for dim in (2, 5))])
@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_a_draw_is_that_by_the_jacobian_of_sample_from(name, latent_dim):
    posterior, _, parameters = flow(name, latent_dim)
    epsilon = noise(2, latent_dim)
    with tf.GradientTape() as tape:
        tape.watch(epsilon)
        z = posterior.sample_from(parameters, epsilon)
    jacobian = tape.batch_jacobian(z, epsilon).numpy().astype("float64")
    assert np.all(np.abs(jacobian - np.eye(latent_dim)).max(axis=(1, 2)) > 0.1)
    expected = stats.norm.logpdf(epsilon).sum(-1) - np.linalg.slogdet(jacobian)[1]
    again, log_prob = posterior.sample_and_log_prob_from(parameters, epsilon)
    np.testing.assert_array_equal(again, z)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    center, log_prob_of_center = posterior.sample_and_log_prob_from(parameters)
    np.testing.assert_array_equal(center, posterior.center(parameters))
    np.testing.assert_array_equal(center, posterior.sample_from(parameters, tf.zeros([2, latent_dim])))
    draws, log_prob_of_draws = posterior.distribution(parameters).experimental_sample_and_log_prob(50, seed=[1, 2])
    if posterior.has_log_prob:
        # New tensors, because TFP caches what it computed for the old ones.
        distribution = posterior.distribution(parameters)
        for points, values in ((z, expected), (center, log_prob_of_center), (draws, log_prob_of_draws)):
            np.testing.assert_allclose(distribution.log_prob(tf.constant(points.numpy())), values, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_draws_are_sample_from_of_noise_by_a_test_of_two_samples(name):
    posterior, _, parameters = flow(name)
    draws = posterior.distribution(parameters).sample(5000, seed=[1, 2]).numpy()
    epsilon = noise(2, 5000, 2).numpy()
    repeated = {key: np.repeat(value, 5000, axis=0) for key, value in parameters.items()}
    others = posterior.sample_from(repeated, epsilon.reshape(-1, 2)).numpy().reshape(2, 5000, 2)
    for i in range(2):
        one = {key: value[i : i + 1] for key, value in parameters.items()}
        np.testing.assert_allclose(posterior.sample_from(one, epsilon[i, :1])[0], others[i, 0], rtol=1e-4, atol=1e-5)
        for column in range(2):
            assert stats.ks_2samp(draws[:, i, column], others[i, :, column]).pvalue > 1e-4


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_depends_on_the_features_and_changes_every_coordinate(name):
    posterior, _, parameters = flow(name, 3)
    epsilon = tf.constant([[0.3, -0.5, 0.9]] * 2)
    z = posterior.sample_from({**parameters, "loc": tf.zeros([2, 3]), "scale": tf.ones([2, 3])}, epsilon).numpy()
    assert np.all(np.abs(z - epsilon) > 1e-3)
    assert np.all(np.abs(z[0] - z[1]) > 1e-3)


# Inverse autoregressive flows


@pytest.mark.parametrize("hidden", [1, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4)), 16])
@pytest.mark.parametrize("index", [0, 1])
def test_an_autoregressive_flow_is_triangular_in_its_order(hidden, index):
    dim = 4
    network = flows.autoregressive_networks(dim, 2, hidden, num_features=2)[index]
    generator = np.random.default_rng(0)
    network.set_weights([generator.normal(size=weight.shape) for weight in network.get_weights()])
    features, u = noise(5, 2), noise(5, dim) + 1
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([features, u])
        z = flows.InverseAutoregressive(network, features).forward(u)
    jacobian = tape.batch_jacobian(z, u).numpy()[:, :: -1 if index else 1, :: -1 if index else 1]
    np.testing.assert_array_equal(jacobian, np.tril(jacobian))
    if hidden >= dim:
        # No connection is missing: every dimension depends on all before it, and on the features.
        assert np.all(np.abs(jacobian[:, *np.tril_indices(dim)]) > 0)
        assert np.all(np.abs(tape.batch_jacobian(z, features)) > 0)


def test_a_draw_takes_no_loop_and_the_density_of_another_z_does():
    posterior, features, _ = flow("InverseAutoregressiveFlow", 3)

    def operations(function):
        return {node.type for node in tf.function(function).get_concrete_function().graph.get_operations()}

    def draw():
        return posterior.distribution(posterior(features)).experimental_sample_and_log_prob(2, seed=[1, 2])

    def evaluate():
        return posterior.distribution(posterior(features)).log_prob(tf.ones([2, 3]))

    assert not [name for name in operations(draw) if "While" in name]
    assert [name for name in operations(evaluate) if "While" in name]


@pytest.mark.slow
def test_the_gradient_of_the_density_of_another_z_is_that_of_the_implicit_function():
    posterior, features, _ = flow("InverseAutoregressiveFlow", 3)
    weights, epsilon = posterior.trainable_variables, noise(2, 3)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(epsilon)
        drawn, log_prob = posterior.sample_and_log_prob_from(posterior(features), epsilon)
    # Along z = g(epsilon; weights), d log q / d epsilon = J^T d log q / dz.
    jacobian = tape.batch_jacobian(drawn, epsilon).numpy()
    of_z = np.linalg.solve(jacobian.transpose(0, 2, 1), tape.gradient(log_prob, epsilon).numpy()[..., None])[..., 0]
    z = tf.constant(drawn.numpy())
    with tf.GradientTape(persistent=True) as other:
        other.watch(z)
        log_prob_of_z = posterior.distribution(posterior(features)).log_prob(z)
    np.testing.assert_allclose(other.gradient(log_prob_of_z, z), of_z, rtol=1e-3, atol=1e-4)
    whole = tape.gradient(log_prob, weights)
    through_z = tape.gradient(drawn, weights, output_gradients=tf.constant(of_z, tf.float32))
    for direct, total, path in zip(other.gradient(log_prob_of_z, weights), whole, through_z, strict=True):
        # The density at the draw does not depend on loc, so the total gradient is None.
        np.testing.assert_allclose(direct, (0 if total is None else total) - path, rtol=1e-3, atol=1e-4)


def test_new_weights_change_the_density_of_the_same_z_with_the_same_features():
    posterior, features, _ = flow("InverseAutoregressiveFlow")
    z = tf.ones([2, 2])
    before = posterior.distribution(posterior(features)).log_prob(z).numpy()
    network = posterior.networks[0]
    network.set_weights([weight + 0.3 for weight in network.get_weights()])
    assert np.all(np.abs(posterior.distribution(posterior(features)).log_prob(z) - before) > 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", INVERTIBLE)
def test_path_gradients_under_xla_are_those_without_for_any_batch(name):
    posterior, features, _ = flow(name)

    def gradients(features, jit_compile):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])], jit_compile=jit_compile)
        def compute(features):
            with tf.GradientTape() as tape:
                distribution = posterior.distribution(posterior(features))
                # Fixed noise of ones, because XLA draws different numbers from the same seed.
                path = elbo.Path()
                z = path.follow(distribution.bijector.forward(tf.ones_like(features[:, :2])))
                fixed = tf.stop_gradient(z)
                with tf.GradientTape() as inner:
                    inner.watch(fixed)
                    log_prob = distribution.log_prob(fixed)
                score = tf.stop_gradient(inner.gradient(log_prob, fixed))
                total = tf.reduce_sum(score * z)
            return tape.gradient(total, posterior.trainable_variables)

        return compute(features)

    for one, other in zip(gradients(features, True), gradients(features, False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


# Sylvester flows


def test_a_sylvester_flow_refuses_the_density_of_another_z():
    posterior, _, parameters = flow("SylvesterFlow")
    with pytest.raises(NotImplementedError, match=r"path\s+gradients \(sticking_the_landing, doubly_reparam"):
        posterior.distribution(parameters).log_prob(tf.ones([2, 2]))


@pytest.mark.parametrize("objective", [ELBO(sticking_the_landing=True), IWAE(2, doubly_reparameterized=True)])
def test_a_sylvester_flow_refuses_objectives_with_path_gradients_when_the_model_is_made(objective, tiny_vae):
    with pytest.raises(NotImplementedError, match=r"^`objective` must .*path gradients.*SylvesterFlow.*Received: obj"):
        tiny_vae(posterior=posteriors.SylvesterFlow(), objective=objective)


def test_variational_inference_refuses_a_sylvester_flow():
    model = tfd.JointDistributionNamed({"z": tfd.Normal(0.0, 1.0), "y": lambda z: tfd.Normal(z, 1.0)})
    with pytest.raises(
        NotImplementedError, match=r"^`posterior` must give log q\(z\) at any z.*Received: SylvesterFlow"
    ):
        VariationalInference(model.experimental_pin(y=1.0), posterior=posteriors.SylvesterFlow())


def test_a_sylvester_flow_stays_invertible_at_extreme_features():
    posterior, _, _ = flow("SylvesterFlow")
    for size in (-1e4, 1e4):
        _, log_prob = posterior.sample_and_log_prob_from(posterior(tf.fill([2, 3], size)), noise(2, 2))
        assert np.all(np.isfinite(log_prob))


def test_a_sylvester_flow_of_one_dimension_is_no_longer_normal():
    posterior, _, parameters = flow("SylvesterFlow", 1)
    epsilon = tf.reshape(tf.linspace(-3.0, 3.0, 101), [-1, 1])
    one = {name: tf.repeat(value[:1], 101, axis=0) for name, value in parameters.items()}
    z = posterior.sample_from(one, epsilon).numpy()[:, 0]
    slopes = np.diff(z)
    assert np.all(slopes > 0)
    assert slopes.max() > 1.2 * slopes.min()


# Where flows are used


def test_the_flow_prior_starts_as_the_standard_normal_and_integrates_to_1_when_it_is_not():
    prior = priors.Flow(2, num_couplings=3, hidden=4)
    prior.build((None, 2))
    z = noise(50, 2).numpy()
    np.testing.assert_allclose(prior.distribution().log_prob(z), stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(prior.sample_from(z), z, rtol=1e-6)
    prior = disturbed(priors.Flow(2, num_couplings=3, hidden=4), 2)
    assert_integrates_to_1(lambda z: prior.distribution().log_prob(z), prior.sample_from(WIDE).numpy())


def test_the_flow_prior_is_sample_from_of_noise():
    prior = disturbed(priors.Flow(3, num_couplings=3, hidden=4), 3)
    assert prior.distribution().batch_shape == ()
    assert prior.distribution().event_shape == (3,)
    epsilon = noise(5000, 3)
    with tf.GradientTape() as tape:
        tape.watch(epsilon)
        z = prior.sample_from(epsilon)
    jacobian = tape.batch_jacobian(z, epsilon).numpy().astype("float64")
    expected = stats.norm.logpdf(epsilon).sum(-1) - np.linalg.slogdet(jacobian)[1]
    log_prob = prior.distribution().log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=1e-3)
    draws = prior.distribution().sample(5000, seed=[1, 2]).numpy()
    for one, other in zip(draws.T, z.numpy().T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4


@pytest.mark.parametrize(
    "parts",
    [
        {"posterior": posteriors.CouplingFlow()},
        {"posterior": posteriors.InverseAutoregressiveFlow()},
        {"prior": priors.Flow()},
    ],
    ids=lambda parts: type(next(iter(parts.values()))).__name__,
)
def test_flows_of_one_dimension_are_refused_where_there_is_nothing_to_depend_on(parts):
    with pytest.raises(ValueError, match=r"^`latent_dim` must be at least 2 .*Received: latent_dim=1$"):
        VAE(dense_encoder((4,), hidden=()), dense_decoder(1, (4,), hidden=()), 1, **parts)


@pytest.mark.parametrize(("num_couplings", "latent_dim"), [(1, 3), (4, 5)])
def test_mixed_couplings_start_as_the_identity(num_couplings, latent_dim):
    posterior = posteriors.CouplingFlow(latent_dim, num_couplings=num_couplings, hidden=4)
    posterior.build((None, 0))
    epsilon = noise(6, latent_dim)
    parameters = posterior(tf.zeros([6, 0]))
    np.testing.assert_allclose(posterior.sample_from(parameters, epsilon), epsilon, rtol=1e-5, atol=1e-5)


def test_a_scale_of_mixed_couplings_may_be_exp_3():
    for mixed, bound in ((True, 3.0), (False, 1.0)):
        posterior = posteriors.CouplingFlow(2, num_couplings=1, hidden=4, mixed=mixed)
        posterior.build((None, 0))
        # The bias of the last layer: a shift of 0 and the largest log scale.
        posterior.networks[0].layers[-1].bias.assign([0.0, 100.0])
        z = posterior.sample_from(posterior(tf.zeros([1, 0])), tf.ones([1, 2]))
        assert np.max(z) == pytest.approx(np.exp(bound), rel=1e-5)


def test_a_flow_that_was_saved_before_its_couplings_were_mixed_is_not_mixed():
    config = posteriors.CouplingFlow(2).get_config()
    assert config.pop("mixed")
    assert not posteriors.CouplingFlow.from_config(config).mixed
    assert posteriors.CouplingFlow.from_config({**config, "mixed": True}).mixed
