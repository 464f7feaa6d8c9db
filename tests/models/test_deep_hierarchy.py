"""The deep hierarchy of latent pictures: its bound against quadrature, its divergences, and its parts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tfvae import networks
from tfvae.elbo import Sampling
from tfvae.likelihoods import Bernoulli, DiscretizedLogisticMixture, Normal
from tfvae.objectives import FreeBits

tfd = tfp.distributions

SHAPE = (2, 2, 1)
X = (np.random.default_rng(0).uniform(size=(8, *SHAPE)) < 0.5).astype("float32")


def moved(model, seed=0):
    """The model with weights far from where they start, so that p, q and the decoders depend on what they are given.

    Those of q are moved less, so that it stays a proposal from which log p(x) can be estimated.
    """
    rng = np.random.default_rng(seed)
    of_q = {id(variable) for variable in model.posterior_variables}
    for variable in model.trainable_variables:
        scale = 0.1 if id(variable) in of_q else 0.5
        variable.assign_add(scale * rng.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    """Two groups of one latent variable each."""
    keras.utils.set_random_seed(0)
    return moved(tfvae.DeepHierarchicalVAE(*networks.ladder(SHAPE, None, (4,), (2,), 1), likelihood=Bernoulli()))


@pytest.fixture(scope="module")
def log_p(model):
    """The exact log p(x): log p(x|z) by the networks, integrated over both standardised variables by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
    log_weights = np.log(np.outer(weights, weights).ravel() / (2 * np.pi))
    p = np.clip(model.decode(z).reshape(len(z), -1), 1e-7, 1 - 1e-7).astype(float)
    x = X.reshape(len(X), -1)
    log_joint = x @ np.log(p).T + (1 - x) @ np.log(1 - p).T + log_weights
    return np.logaddexp.reduce(log_joint, axis=1)


def test_the_importance_sampled_log_p_is_that_of_quadrature(model, log_p):
    # Batches of draws give the Monte Carlo error.
    estimates = np.stack([model.log_likelihood(X, 2000, seed=seed) for seed in range(8)])
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    np.testing.assert_array_less(np.abs(estimates.mean(axis=0) - log_p), 5 * error + 1e-4)


@pytest.mark.slow
def test_the_bound_is_below_log_p_and_its_two_forms_agree(model, log_p):
    def elbo(analytic_kl):
        sampling = Sampling(20_000, tf.constant([1, 2]), analytic_kl=analytic_kl)
        terms = model.elbo_terms(tf.constant(X), sampling)
        return terms.elbo.numpy(), terms.log_weights.numpy()

    (closed, log_weights), (sampled, _) = elbo(True), elbo(False)
    error = log_weights.std(axis=0) / np.sqrt(len(log_weights))
    assert (closed < log_p + 5 * error).all()
    np.testing.assert_array_less(np.abs(closed - sampled), 5 * error)


def test_the_divergence_of_each_group_is_that_of_z_in_its_own_units(model):
    x = tf.constant(X)
    terms = model.elbo_terms(x, Sampling(1, tf.constant([3, 4]), training=True))
    noise = tf.random.stateless_normal([8, 2], [3, 4])
    features, h = model.encoder(x), tf.tile(model.start[tf.newaxis], [8, 1, 1, 1])
    for index, (p, q) in enumerate(zip(model.prior_networks, model.posterior_networks, strict=True)):
        (loc, raw), (a, log_b) = tf.split(p(h), 2, axis=-1), tf.split(q([h, features[index]]), 2, axis=-1)
        scale, b = (tf.exp(5 * tf.tanh(each / 5)) for each in (raw, log_b))
        prior, posterior = tfd.Normal(loc, scale), tfd.Normal(loc + scale * a, scale * b)
        kl = tf.reduce_sum(tfd.kl_divergence(posterior, prior), axis=[1, 2, 3])
        np.testing.assert_allclose(terms.metrics[f"kl_{2 - index}"], kl, rtol=1e-4, atol=1e-5)
        of_group = tf.reshape(noise[:, index], [8, 1, 1, 1])
        h = model.decoders[index]([h, loc + scale * (a + b * of_group)])
    expected = -tf.nn.sigmoid_cross_entropy_with_logits(x, h)
    np.testing.assert_allclose(
        terms.reconstruction_log_likelihood[0], tf.reduce_sum(expected, axis=[1, 2, 3]), rtol=1e-5
    )


def test_a_new_model_has_a_posterior_close_to_its_prior():
    made = networks.ladder((8, 8, 1), None, (4, 8), (2, 1), 2)
    model = tfvae.DeepHierarchicalVAE(*made, likelihood=Bernoulli())
    assert model.latent_shapes == [(2, 2, 2), (4, 4, 2), (4, 4, 2)]
    kl = model.score(np.ones((3, 8, 8, 1), "float32"))["kl"]
    assert (kl >= 0).all()
    assert (kl < 1).all()


@pytest.mark.slow
def test_recomputed_cells_give_the_same_bound_and_the_same_step():
    weights, bounds = [], []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        made = networks.ladder(SHAPE, None, (2,), (2,), 1, recompute=recompute)
        new = tfvae.DeepHierarchicalVAE(*made, likelihood=Bernoulli())
        new.compile(keras.optimizers.SGD(0.1))
        bounds.append(new.train_on_batch(X, return_dict=True)["elbo"])
        weights.append([weight.numpy() for weight in new.trainable_weights])
    np.testing.assert_allclose(*bounds, rtol=1e-5)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_temperature_scales_the_noise(model):
    np.testing.assert_allclose(model.generate(3, temperature=0.0), model.decode(np.zeros((3, 2))), rtol=1e-5)
    hot, cold = (model.generate(400, seed=1, temperature=temperature).std(axis=0).mean() for temperature in (1.0, 0.5))
    assert cold < hot


def test_odd_pictures_of_colour_by_a_mixture_of_logistics():
    likelihood = DiscretizedLogisticMixture(2)
    shape = (7, 6, 3)
    made = networks.ladder(shape, likelihood.parameter_shape(shape), (4, 4), (1, 1), 1)
    model = tfvae.DeepHierarchicalVAE(*made, likelihood=likelihood)
    assert model.latent_shapes == [(2, 2, 1), (4, 3, 1)]
    x = np.random.default_rng(0).integers(0, 256, (2, *shape)) / 255
    assert np.isfinite(model.score(x)["elbo"]).all()
    assert model.generate(2).shape == (2, *shape)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_whose_gradient_is_too_long_changes_nothing(jit_compile):
    keras.utils.set_random_seed(0)
    made = networks.ladder(SHAPE, None, (2,), (2,), 1)
    model = tfvae.DeepHierarchicalVAE(*made, likelihood=Normal(100.0), max_gradient_norm=1.0)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
    before = [weight.numpy() for weight in model.trainable_weights]
    x = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype("float32")
    x[:4] *= 100.0
    x[4:] *= 0.0
    first = model.train_on_batch(x[:4], return_dict=True)
    assert first["skipped"] == 1
    for weight, old in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert model.train_on_batch(x[4:], return_dict=True)["skipped"] == 0
    after = [weight.numpy() for weight in model.trainable_weights]
    assert any((weight != old).any() for weight, old in zip(after, before, strict=True))
    assert type(model).from_config(model.get_config()).max_gradient_norm == 1.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"filters": (4, 4)}, "`groups` must have one number for each of the 2 entries"),
        ({"groups": (1,)}, "`groups` must have .* two groups in all"),
        ({"filters": (4, 4, 4, 4), "groups": (1, 1, 1, 1)}, "`filters` must have so few entries"),
        ({"parameter_shape": (4, 4, 2)}, "`parameter_shape` must begin with the height and width"),
        ({"latent_channels": 0}, "`latent_channels` must"),
        ({"input_shape": (8, 8)}, r"`input_shape` must be \(height, width, channels\)"),
    ],
)
def test_a_ladder_that_cannot_be_made_is_refused(arguments, expected):
    with pytest.raises(ValueError, match=f"{expected}.*Received: "):
        networks.ladder(**{"input_shape": (8, 8, 1), "filters": (4,), "groups": (2,), **arguments})


def test_states_and_latent_variables_may_be_vectors():
    h, z, x = (keras.Input((size,), name=name) for size, name in ((5, "h"), (2, "z"), (4, "x")))
    features = keras.Input((3,), name="features")

    def network(inputs, size):
        joined = keras.layers.Concatenate()(inputs) if isinstance(inputs, list) else inputs
        return keras.Model(inputs, keras.layers.Dense(size)(joined))

    encoder = keras.Model(x, [keras.layers.Dense(3)(x) for _ in range(2)])
    model = tfvae.DeepHierarchicalVAE(
        encoder,
        [network(h, 4) for _ in range(2)],
        [network([h, features], 4) for _ in range(2)],
        [network([h, z], size) for size in (5, 4)],
    )
    # Independent draws of q: the importance weighted bound rises with their number.
    data = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    assert model.latent_shapes == [(2,), (2,)]
    assert model.log_likelihood(data, 1, seed=0).mean() < model.log_likelihood(data, 50, seed=0).mean()


def test_networks_that_do_not_fit_are_refused_by_name():
    one, other = networks.ladder((8, 8, 1), None, (4,), (2,), 1), networks.ladder((8, 8, 1), None, (4,), (2,), 2)
    for wrong, expected in (
        (one._replace(decoders=[]), "`decoders` must be a list"),
        (one._replace(prior_networks=one.prior_networks[:1]), "`prior_networks` must be a list of 2 Keras models"),
        (one._replace(posterior_networks=other.posterior_networks), r"`posterior_networks\[0\]` must give"),
        (one._replace(encoder=networks.dense_encoder((8, 8, 1))), "`encoder` must give a list of 2"),
    ):
        with pytest.raises(ValueError, match=f"{expected}.*Received: "):
            tfvae.DeepHierarchicalVAE(*wrong, likelihood=Bernoulli())
    two = networks.ladder((8, 8, 1), None, (4, 6), (1, 1), 1)
    for wrong, expected in (
        (two._replace(prior_networks=one.posterior_networks), r"`prior_networks\[0\]` must take h"),
        (two._replace(posterior_networks=two.prior_networks), r"`posterior_networks\[0\]` must take h .* and features"),
        (two._replace(prior_networks=two.prior_networks[::-1]), r"`prior_networks\[0\]` must take h \[None, 2, 2, 6\]"),
        (two._replace(posterior_networks=two.posterior_networks[::-1]), r"`posterior_networks\[0\]` must take"),
        (two._replace(decoders=two.decoders[::-1]), r"`prior_networks\[0\]` must take h \[None, 4, 4, 4\]"),
        (two._replace(decoders=[two.decoders[0], one.prior_networks[1]]), r"`decoders\[1\]` must take h .* and z"),
    ):
        with pytest.raises(ValueError, match=f"^{expected}.*Received: a network whose inputs"):
            tfvae.DeepHierarchicalVAE(*wrong, likelihood=Bernoulli())
    with pytest.raises(ValueError, match=r"^`objective` must be one .*for a Deep.*Received: objective=FreeBits\("):
        tfvae.DeepHierarchicalVAE(*one, objective=FreeBits(0.5))
    with pytest.raises(ValueError, match=r"`decoders\[1\]` must give .*Received: "):
        tfvae.DeepHierarchicalVAE(*one, likelihood=DiscretizedLogisticMixture(2))
    with pytest.raises(ValueError, match=r"`max_gradient_norm` must .*Received: "):
        tfvae.DeepHierarchicalVAE(*one, likelihood=Bernoulli(), max_gradient_norm=0)
