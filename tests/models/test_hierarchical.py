"""Two layers of latent variables: against linear models whose log p(x) is known; ladders, data and files."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats

from tfvae import HierarchicalVAE, export, networks
from tfvae.elbo import Sampling
from tfvae.likelihoods import Normal
from tfvae.objectives import ELBO, IWAE
from tfvae.posteriors import CouplingFlow, DiagonalNormal, FullCovarianceNormal, PowerSpherical, SylvesterFlow
from tfvae.priors import HypersphericalUniform, StandardNormal, VampPrior

tfd = tfp.distributions

D, DIMS, SCALE = 3, (2, 1), 0.5
# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)
SEED = tf.constant([3, 4])


def raw(scale):
    """The output of the scale head that stands for a scale."""
    return np.log(np.expm1(scale)) - SHIFT


def data(n=12):
    return np.random.default_rng(0).normal(size=(n, D)).astype("float32")


def build(ladder=False, hidden=(), dims=DIMS, **arguments):
    first_features = hidden[-1] if hidden else D
    below = [D, *([first_features] * (len(dims) - 1) if ladder else dims[:-1])]
    encoders = [networks.dense_encoder((size,), hidden) for size in below]
    decoders = [networks.dense_decoder(dims[0], (D,), hidden)]
    decoders += [networks.dense_encoder((size,), hidden) for size in dims[1:]]
    arguments.setdefault("likelihood", Normal(SCALE))
    return HierarchicalVAE(encoders, decoders, dims, ladder=ladder, **arguments)


class Exact:
    """The exact answers for z_2 ~ N(0, 1), z_1|z_2 ~ N(w2 z_2 + b2, s^2 I), x|z_1 ~ N(w1 z_1 + b1, SCALE^2 I)."""

    def __init__(self, s=0.7):
        generator = np.random.default_rng(1)
        self.w2, self.b2 = generator.normal(size=(1, 2)), generator.normal(size=2)
        self.w1, self.b1 = generator.normal(size=(2, D)), generator.normal(size=D)
        self.s = s
        self.covariance_1 = self.w2.T @ self.w2 + s**2 * np.eye(2)
        self.covariance = self.w1.T @ self.covariance_1 @ self.w1 + SCALE**2 * np.eye(D)

    def set_p(self, model):
        model.decoders[0].set_weights([self.w1, self.b1])
        model.conditionals[0].loc_head.set_weights([self.w2, self.b2])
        model.conditionals[0].scale_head.set_weights([np.zeros((1, 2)), np.full(2, raw(self.s))])
        return model

    def sample(self, n):
        generator = np.random.default_rng(2)
        z2 = generator.normal(size=(n, 1))
        z1 = z2 @ self.w2 + self.b2 + self.s * generator.normal(size=(n, 2))
        return (z1 @ self.w1 + self.b1 + SCALE * generator.normal(size=(n, D))).astype("float32")

    def log_prob(self, x):
        return stats.multivariate_normal(self.b2 @ self.w1 + self.b1, self.covariance).logpdf(np.float64(x))

    def bottom_up(self, **arguments):
        """A bottom-up model with the exact q(z_1|x) and q(z_2|z_1)."""
        arguments.setdefault("posteriors", [FullCovarianceNormal(), DiagonalNormal()])
        model = self.set_p(build(**arguments))
        covariance = np.linalg.inv(np.linalg.inv(self.covariance_1) + self.w1 @ self.w1.T / SCALE**2)
        kernel = self.w1.T @ covariance / SCALE**2
        offset = (np.linalg.solve(self.covariance_1, self.b2) - self.b1 @ self.w1.T / SCALE**2) @ covariance
        model.posteriors[0].loc_head.set_weights([kernel, offset])
        tril = np.linalg.cholesky(covariance)
        parameters = tril - np.diag(np.diag(tril)) + np.diag(raw(np.diag(tril)))
        packed = tfp.math.fill_triangular_inverse(parameters).numpy()
        model.posteriors[0].scale_tril_head.set_weights([np.zeros((D, 3)), packed])
        variance = 1 / (1 + (self.w2 @ self.w2.T).item() / self.s**2)
        kernel = self.w2.T * variance / self.s**2
        model.posteriors[1].loc_head.set_weights([kernel, -self.b2 @ kernel])
        model.posteriors[1].scale_head.set_weights([np.zeros((2, 1)), np.array([raw(np.sqrt(variance))])])
        return model


@pytest.mark.parametrize("num_samples", [1, 6])
def test_the_bound_is_exact_under_the_exact_posterior(num_samples):
    exact = Exact()
    model, x = exact.bottom_up(), data()
    terms = model.elbo_terms(tf.constant(x), Sampling(num_samples=num_samples, seed=SEED, analytic_kl=False))
    np.testing.assert_allclose(terms.log_weights, np.tile(exact.log_prob(x), [num_samples, 1]), rtol=1e-4)
    np.testing.assert_allclose(terms.elbo, exact.log_prob(x), rtol=1e-4)
    np.testing.assert_allclose(model.log_likelihood(x, num_samples), exact.log_prob(x), rtol=1e-4)
    assert terms.z is None


# By default, the weights of the exact posterior, above, are exactly p(x).
@pytest.mark.slow
@pytest.mark.parametrize("ladder", [False, True], ids=["bottom-up", "ladder"])
def test_the_bounds_grow_with_the_number_of_samples_and_stay_below_log_p(ladder):
    exact = Exact()
    model, x = exact.set_p(build(ladder)), exact.sample(200)
    for posterior in model.posteriors:
        posterior.loc_head.kernel.assign(0 * posterior.loc_head.kernel)
        posterior.scale_head.set_weights([0 * posterior.scale_head.kernel, raw(1.5) + 0 * posterior.scale_head.bias])
    log_p = exact.log_prob(x).mean()
    bounds = [model.log_likelihood(x, k, seed=0).mean() for k in (1, 5, 50, 5000)]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < log_p + 0.02
    assert bounds[0] < log_p - 0.5
    np.testing.assert_allclose(bounds[3], log_p, atol=0.1)
    terms = model.elbo_terms(tf.constant(x), Sampling(num_samples=1000, seed=SEED))
    expected = special.logsumexp(np.float64(terms.log_weights), axis=0) - np.log(1000)
    np.testing.assert_allclose(IWAE(1000)(terms), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("ladder", [False, True], ids=["bottom-up", "ladder"])
def test_the_kl_divergences_of_the_layers_have_their_closed_form_where_there_is_one(ladder):
    model, x = build(ladder, hidden=(5,)), tf.constant(data())
    many = 20000
    exact_kl = model.elbo_terms(x, Sampling(num_samples=many, seed=SEED))
    sampled = model.elbo_terms(x, Sampling(num_samples=many, seed=SEED, analytic_kl=False))
    np.testing.assert_allclose(exact_kl.kl, exact_kl.metrics["kl_1"] + exact_kl.metrics["kl_2"], rtol=1e-5)
    np.testing.assert_allclose(sampled.kl, np.mean(sampled.log_posterior - sampled.log_prior, axis=0), rtol=1e-4)
    error = np.std(sampled.log_posterior - sampled.log_prior, axis=0) / np.sqrt(many)
    for name in ("kl_1", "kl_2"):
        assert np.all(np.abs(exact_kl.metrics[name] - sampled.metrics[name]) < 5 * error + 1e-5), name
    if ladder:
        # The top layer is q(z_2|x), whose divergence from N(0, I) is computed in closed form, without noise.
        q = model.encode(x)
        kl = tfd.Normal(q["loc_2"], q["scale_2"]).kl_divergence(tfd.Normal(0.0, 1.0))
        np.testing.assert_allclose(exact_kl.metrics["kl_2"], np.sum(kl, axis=1), rtol=1e-3)


def test_a_ladder_multiplies_what_the_encoder_says_by_the_prior():
    model, x = build(True, hidden=(5,)), data()
    q = model.encode(x)
    features = model.encoders[0](x)
    said = model.posteriors[0](features)
    prior = model.conditionals[0](model.decoders[1](q["loc_2"]))
    # The mean and standard deviation of the normalised product of the two densities, on a grid.
    grid = np.linspace(-12, 12, 40001)[:, None, None]
    density = np.exp(
        stats.norm.logpdf(grid, said["loc"], said["scale"]) + stats.norm.logpdf(grid, prior["loc"], prior["scale"])
    )
    density /= density.sum(axis=0)
    mean = np.sum(density * grid, axis=0)
    np.testing.assert_allclose(q["loc_1"], mean, atol=1e-4)
    np.testing.assert_allclose(q["scale_1"], np.sqrt(np.sum(density * (grid - mean) ** 2, axis=0)), rtol=1e-4)
    # And the top layer reads the features that the second encoder computes from those of the first.
    np.testing.assert_allclose(q["loc_2"], model.posteriors[1](model.encoders[1](features))["loc"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ladder", [False, True], ids=["bottom-up", "ladder"])
# For some epochs, the upper layer carries almost no information.
@pytest.mark.filterwarnings("ignore:The posterior has collapsed:UserWarning")
def test_training_reaches_the_exact_log_prob_of_the_true_model(ladder):
    exact = Exact()
    x = exact.sample(1000)
    model = build(ladder, objective=IWAE(5))
    model.compile(keras.optimizers.Adam(0.02), steps_per_execution=10)
    history = model.fit(x, epochs=30, batch_size=100, verbose=0).history
    assert {"loss", "elbo", "reconstruction_log_likelihood", "kl", "kl_1", "kl_2"} == set(history)
    np.testing.assert_allclose(history["kl"][-1], history["kl_1"][-1] + history["kl_2"][-1], rtol=1e-4)
    # The maximum of log p(x) is slightly above that of the true model, and IWAE(5) slightly below the maximum.
    np.testing.assert_allclose(-history["loss"][-1], exact.log_prob(x).mean(), atol=0.1)
    # `generate` gives the means of p(x|z), whose covariance lacks the noise of the data.
    generated = model.generate(4000, seed=0)
    np.testing.assert_allclose(np.cov(generated.T), np.cov(x.T) - SCALE**2 * np.eye(D), atol=0.35)


@pytest.mark.parametrize("ladder", [False, True], ids=["bottom-up", "ladder"])
def test_beta_and_a_warm_up_weigh_all_layers(ladder):
    model, x = build(ladder, hidden=(4,)), tf.constant(data())
    terms = model.elbo_terms(x, Sampling(num_samples=3, seed=SEED))
    expected = np.mean(terms.reconstruction_log_likelihood, axis=0) - 4 * terms.kl
    np.testing.assert_allclose(ELBO(beta=4.0, num_samples=3)(terms), expected, rtol=1e-5)
    np.testing.assert_allclose(terms.tempered(0.5).kl, 0.5 * terms.kl, rtol=1e-6)


@pytest.mark.parametrize("ladder", [pytest.param(False, marks=pytest.mark.slow), True], ids=["bottom-up", "ladder"])
def test_methods_agree_with_each_other(ladder):
    model, x = build(ladder, hidden=(4,), dims=(3, 2, 2)), data(9)
    assert set(model.encode(x)) == {f"{name}_{number}" for name in ("loc", "scale") for number in (1, 2, 3)}
    assert [model.encode(x)[f"loc_{number}"].shape for number in (1, 2, 3)] == [(9, 3), (9, 2), (9, 2)]
    reconstruction = model.reconstruct(x)
    np.testing.assert_allclose(model.decode(model.encode(x)["loc_1"]), reconstruction, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(x, batch_size=4), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict(x, verbose=0), reconstruction, rtol=1e-5, atol=1e-6)
    z = np.random.default_rng(5).normal(size=(6, 2)).astype("float32")
    below = model.conditionals[1](model.decoders[2](z))["loc"]
    np.testing.assert_allclose(model.decode(z, layer=3), model.decode(below, layer=2), atol=1e-5)
    below = model.conditionals[0](model.decoders[1](below))["loc"]
    np.testing.assert_allclose(model.decode(z, layer=3), model.decode(below), atol=1e-5)
    np.testing.assert_array_equal(model.generate(5, seed=1), model.generate(5, seed=1))
    assert np.abs(model.generate(5, seed=1) - model.generate(5, seed=2)).max() > 1e-3


@pytest.mark.slow
def test_from_the_bottom_up_every_family_serves():
    model = build(
        posteriors=[CouplingFlow(num_couplings=2, hidden=4), FullCovarianceNormal()],
        conditionals=[FullCovarianceNormal()],
    )
    model.compile("adam")
    history = model.fit(data(), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_a_density_known_at_draws_alone_serves_q_and_not_p():
    model = build(posteriors=[SylvesterFlow(), DiagonalNormal()])
    model.compile("adam")
    assert np.isfinite(model.train_on_batch(data(), return_dict=True)["loss"])
    assert model.score(data())["elbo"].shape == (len(data()),)
    assert "loc_2" in model.encode(data())
    with pytest.raises(NotImplementedError, match=re.escape("`conditionals[0]` must have a log p(z)")):
        build(conditionals=[SylvesterFlow()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": (2,)}, "`latent_dims` must hold the dimensions of at least two layers"),
        (
            {"ladder": True, "posteriors": [FullCovarianceNormal(), DiagonalNormal()]},
            "`posteriors[0]` must be a Diagonal",
        ),
        ({"posteriors": [DiagonalNormal()]}, "`posteriors` must hold 2 parts, to match `latent_dims`"),
        ({"dims": (2, 2), "posteriors": [DiagonalNormal()] * 2}, "`posteriors` must hold one distinct part per layer"),
        ({"conditionals": [StandardNormal()]}, "`conditionals[0]` must be a Posterior"),
        ({"conditionals": [DiagonalNormal(7)]}, "`conditionals[0]` must have the model's latent_dim, 2"),
        ({"prior": DiagonalNormal()}, "`prior` must be a Prior"),
        ({"prior": VampPrior()}, "`prior` must not be built from q(z|x), which a HierarchicalVAE does not have as"),
        ({"objective": IWAE(3, doubly_reparameterized=True)}, "which a HierarchicalVAE does not have"),
        ({"ladder": 1}, "`ladder` must be True or False"),
        ({"prior": HypersphericalUniform()}, "`prior` must have the support of DiagonalNormal, real"),
        (
            {"posteriors": [PowerSpherical(), DiagonalNormal()]},
            "`conditionals[0]` must have the support of PowerSpherical, sphere",
        ),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**arguments)


def test_networks_that_do_not_fit_are_named():
    encoders = [networks.dense_encoder((D,)), networks.dense_encoder((2,))]
    decoders = [networks.dense_decoder(2, (D,)), networks.dense_encoder((1,))]
    with pytest.raises(ValueError, match=r"`decoders\[0\]` must give one tensor of shape \[None, 3\]"):
        HierarchicalVAE(encoders, [networks.dense_decoder(2, (4,)), decoders[1]], DIMS)
    with pytest.raises(ValueError, match=r"`decoders` must hold 2 parts, to match `latent_dims`"):
        HierarchicalVAE(encoders, decoders[:1], DIMS)
    with pytest.raises(ValueError, match=r"`encoders\[1\]` must be a Keras model"):
        HierarchicalVAE([encoders[0], 3], decoders, DIMS)


def test_what_is_no_z_of_a_layer_is_refused():
    model = build()
    for wrong in (0, 3, True, 1.5, 1.0):
        with pytest.raises(ValueError, match="`layer` must be from 1 to 2"):
            model.decode(np.ones((4, 2)), layer=wrong)
    with pytest.raises(ValueError, match=r"`z` must have the shape \[N, 1\]"):
        model.decode(np.ones((4, 2)), layer=2)
    with pytest.raises(ValueError, match="`x` must be finite"):
        model.encode(np.full((4, D), np.nan))


# Export


def disturbed(ladder):
    model = build(ladder, hidden=(5,), dims=(3, 2))
    generator = np.random.default_rng(2)
    model.set_weights([w + 0.2 * generator.standard_normal(w.shape).astype("float32") for w in model.get_weights()])
    return model


def expected_score(model, x, epsilon):
    """The terms at the draws for given noise, by NumPy and SciPy from the parameters of each layer."""
    noise = {1: epsilon[:, :3], 2: epsilon[:, 3:]}
    z, log_q, log_p = {}, {}, {}
    features = model.encoders[0](x)
    said = model.posteriors[0](features)
    if model.ladder:
        q2 = model.posteriors[1](model.encoders[1](features))
        z[2] = q2["loc"] + q2["scale"] * noise[2]
        p1 = model.conditionals[0](model.decoders[1](z[2]))
        precision = said["scale"] ** -2 + p1["scale"] ** -2
        loc = (said["loc"] * said["scale"] ** -2 + p1["loc"] * p1["scale"] ** -2) / precision
        q1 = {"loc": loc, "scale": precision**-0.5}
        z[1] = q1["loc"] + q1["scale"] * noise[1]
    else:
        q1 = said
        z[1] = q1["loc"] + q1["scale"] * noise[1]
        q2 = model.posteriors[1](model.encoders[1](z[1]))
        z[2] = q2["loc"] + q2["scale"] * noise[2]
        p1 = model.conditionals[0](model.decoders[1](z[2]))
    kl_2 = tfd.Normal(q2["loc"], q2["scale"]).kl_divergence(tfd.Normal(0.0, 1.0)).numpy().sum(axis=1)
    if model.ladder:
        p = tfd.Normal(p1["loc"], p1["scale"])
        kl_1 = tfd.Normal(q1["loc"], q1["scale"]).kl_divergence(p).numpy().sum(axis=1)
    else:
        log_q, log_p = (stats.norm.logpdf(z[1], p["loc"], p["scale"]).sum(axis=1) for p in (q1, p1))
        kl_1 = log_q - log_p
    log_likelihood = stats.norm.logpdf(x, model.decoders[0](z[1]), SCALE).sum(axis=1)
    return {"reconstruction_log_likelihood": log_likelihood, "kl": kl_1 + kl_2, "elbo": log_likelihood - kl_1 - kl_2}


# The default test of docs/models.md writes a ladder to a TFLite file.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ladder", "file_format"),
    [
        pytest.param(True, "tflite", marks=pytest.mark.slow),
        pytest.param(False, "saved_model", marks=pytest.mark.slow),
        (True, "saved_model"),
        pytest.param(False, "tflite", marks=pytest.mark.slow),
    ],
)
def test_an_export_has_the_layers_and_takes_the_noise_of_all(ladder, file_format, tmp_path):
    model, x = disturbed(ladder), data(7)
    exported = export.load(getattr(export, file_format)(model, tmp_path / "model.tflite"))
    assert exported.metadata["latent_dims"] == [3, 2]
    epsilon = np.random.default_rng(4).normal(size=(7, 5)).astype("float32")
    encoded = exported.encode(x)
    assert set(encoded) == {"loc_1", "scale_1", "loc_2", "scale_2"}
    for name, value in model.encode(x).items():
        np.testing.assert_allclose(encoded[name], value, atol=1e-5)
    np.testing.assert_allclose(exported.reconstruct(x), model.reconstruct(x), atol=1e-5)
    np.testing.assert_allclose(exported.decode(epsilon[:, :3]), model.decode(epsilon[:, :3]), atol=1e-5)
    p1 = model.conditionals[0](model.decoders[1](epsilon[:, 3:]))
    np.testing.assert_allclose(
        exported.generate(epsilon), model.decode(p1["loc"] + p1["scale"] * epsilon[:, :3]), atol=1e-5
    )
    expected = expected_score(model, x, epsilon)
    for score in (exported.score(x, epsilon), model.score(x, epsilon)):
        for name, value in expected.items():
            np.testing.assert_allclose(score[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
