"""Priors that are fitted after the training: the gain, the model that has them, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers import texts
from tfvae import data, export, likelihoods, networks, objectives, posteriors, priors, samplers
from tfvae.elbo import Sampling
from tfvae.models import replacement

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(300, 4)).astype("float32")
X[:150] += 3
# Cheap arguments, which are enough for the gain of two clusters.
CHEAP = {
    "mixture": {"num_components": 3, "steps": 20},
    "flow": {"num_couplings": 2, "bins": 4, "hidden": 8, "steps": 200, "learning_rate": 0.02},
    "vae": {"hidden": 16, "steps": 600, "learning_rate": 0.01},
}


def spread(model):
    """Sets q(z|x) of a model so that the z of the data lie in two clusters, far from those of N(0, I)."""
    generator = np.random.default_rng(1)
    for _, posterior in model.inference_parts():
        kernel, bias = posterior.loc_head.get_weights()
        posterior.loc_head.set_weights([2 * generator.normal(size=kernel.shape), bias + 2])
        posterior.scale_head.set_weights([np.zeros_like(kernel), bias - 2])
    model.compile(keras.optimizers.Adam(0.01))
    return model


def vae_with(**arguments):
    encoder, decoder = networks.dense_encoder((4,), (8,)), networks.dense_decoder(2, (4,), (8,))
    return spread(tfvae.VAE(encoder, decoder, 2, **arguments))


def bound_of(vae):
    return np.mean(vae.elbo_terms(tf.constant(X), Sampling(20, tf.constant([1, 2]))).elbo)


def test_a_mixture_raises_the_bound_by_what_it_says_and_is_the_prior_of_all_methods(tmp_path):
    vae = vae_with()
    old = vae.prior
    vae.generate(2)
    before = bound_of(vae)
    # The same examples on both sides, so that only the noise of z differs.
    comparison = samplers.fit(vae, X, "mixture", validation_data=X, seed=1, **CHEAP["mixture"])
    after = bound_of(vae)
    assert comparison.is_used
    assert comparison.num_examples == 300
    assert comparison.gain > 10 * comparison.standard_error > 0
    assert comparison.before == pytest.approx(before, abs=0.5)
    assert comparison.after == pytest.approx(after, abs=0.5)
    assert comparison.after - comparison.before == pytest.approx(comparison.gain)
    assert 'The prior "mixture" raises the bound on log p(x), from -' in str(comparison)
    assert str(comparison).endswith("were held out: the model has the new prior")
    # The model is one with this prior in every way.
    prior = vae.prior
    assert isinstance(prior, priors.NormalMixture)
    own = {id(weight) for weight in vae.weights}
    assert {id(weight) for weight in prior.weights} <= own
    assert old not in vae.layers
    epsilon = GENERATOR.normal(size=(5, 2)).astype("float32")
    generated = vae.export_signatures()["generate"].of_model({"epsilon": epsilon})["mean"]
    np.testing.assert_allclose(generated, vae.decode(prior.sample_from(epsilon).numpy()))
    draws = prior.distribution().sample(4, seed=[3, 0]).numpy()
    np.testing.assert_allclose(vae.generate(4, seed=3), vae.decode(draws), rtol=1e-5)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.score(X)["kl"], vae.score(X)["kl"])


def test_a_prior_that_is_worse_is_not_used_unless_it_must_be():
    vae = vae_with()
    # q(z|x) = p(z) = N(0, I): no prior is better, and one of as many components as there are rows is far worse.
    for head in (vae.posterior.loc_head, vae.posterior.scale_head):
        head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    old = vae.prior
    arguments = {"num_components": 30, "steps": 1, "batch_size": 10, "held_out": 0.5}
    with pytest.warns(UserWarning, match=r'"mixture" lowers the bound.*keeps its prior; take more data.*always=True'):
        comparison = samplers.fit(vae, X[:60], "mixture", **arguments)
    assert comparison.gain < 0
    assert not comparison.is_used
    assert vae.prior is old
    assert comparison.num_examples == 30
    with pytest.warns(UserWarning, match=r'"mixture" lowers the bound.*the model has the new prior$'):
        assert samplers.fit(vae, X[:60], "mixture", always=True, **arguments).is_used
    assert isinstance(vae.prior, priors.NormalMixture)


def conditional(prior):
    return tfvae.ConditionalVAE(
        networks.dense_encoder((4,), (8,), condition_dim=3),
        networks.dense_decoder(2, (4,), (8,), condition_dim=3),
        *(2, 3),
        prior=prior,
    )


WEIGHTED = tf.data.Dataset.from_tensor_slices((X, X, np.ones(len(X)))).batch(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mixtures"}, '`kind` must be "mixture", "flow" or "vae"'),
        ({"held_out": 0.9}, "`held_out` must be above 0 and up to 0.5"),
        ({"held_out": 0}, "`held_out` must"),
        ({"steps": 0}, "`steps` must"),
        ({"batch_size": 0}, "`batch_size` must"),
        ({"learning_rate": -1}, "`learning_rate` must"),
        ({"always": "yes"}, "`always` must"),
        ({"x": X[:5]}, "`x` must hold at least 20 examples"),
        ({"x": X[:, :3]}, r"`x` must have the shape \[N, 4\]"),
        ({"validation_data": X[:, :3]}, r"`validation_data`: `x` must have the shape \[N, 4\]"),
        ({"num_components": 0}, "`num_components` must"),
        ({"num_components": 1000, "x": X[:20], "batch_size": 1}, "`num_components` must be at most the number of"),
        (
            {"components": 3},
            r'`components` must be an argument .* steps, .* "mixture".* num_components \(did',
        ),
        (
            {"kind": "flow", "num_components": 3},
            '`num_components` must be an argument of .* "flow"',
        ),
        (
            {"kind": "vae", "units": 3},
            "`units` must be an argument .* latent_dim, second_dim, hidden",
        ),
        ({"validation_data": X[:1]}, "`validation_data` must hold at least 2 examples"),
        ({"x": tf.data.Dataset.from_tensor_slices(X).batch(9).repeat()}, "`x` must be a dataset that ends"),
        (
            {"validation_data": tf.data.Dataset.from_tensor_slices(X).batch(9).repeat()},
            "`validation_data`: `x` must be a dataset that ends",
        ),
        ({"latent_dim": 3}, "`prior` must have the model's latent_dim"),
        ({"x": WEIGHTED}, "`x` must be a dataset without sample weights"),
        ({"validation_data": WEIGHTED}, "`validation_data`: `x` must be a dataset without sample weights"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_model_as_it_was(change, message):
    vae = vae_with()
    old = vae.prior
    with pytest.raises(ValueError, match=rf"^{message}.*Received: "):
        samplers.fit(**{"model": vae, "x": X, "kind": "mixture", **change})
    assert vae.prior is old


@pytest.mark.filterwarnings("ignore:The loss was nan")
def test_a_prior_whose_fit_diverges_is_not_used():
    vae = vae_with()
    old = vae.prior
    with pytest.raises(ValueError, match=r"^`learning_rate` must be lower: .*Received: learning_rate=1e\+30$"):
        samplers.fit(vae, X, "mixture", num_components=3, steps=20, learning_rate=1e30, always=True)
    assert vae.prior is old


class Demanding(keras.optimizers.SGD):
    """Its configuration does not have what its constructor needs."""

    def __init__(self, needed, **arguments):
        super().__init__(**arguments)
        self.needed = needed


class Unregistered(keras.optimizers.SGD):
    pass


def test_an_optimizer_that_cannot_be_made_again_is_refused_before_any_work():
    vae = vae_with()
    vae.compile(Demanding(1))
    old = vae.prior
    expected = r'^`model` cannot have the prior "mixture": `model` must be compiled with an optimizer .*Received: opti'
    with pytest.raises(ValueError, match=expected):
        samplers.fit(vae, "no data", "mixture")
    assert vae.prior is old
    vae.compile(Unregistered(0.01))
    replacement.replace_prior(vae, priors.Normal(2))
    assert type(vae.optimizer) is Unregistered


def test_an_objective_that_cannot_have_the_prior_is_refused_before_any_work():
    vae = vae_with(objective=objectives.FreeBits())
    expected = r'^`model` cannot have the prior "flow": `objective` must not need independent.*Received: objective=Free'
    with pytest.raises(ValueError, match=expected):
        samplers.fit(vae, "no data", "flow")


def test_a_gain_within_two_standard_errors_may_be_chance():
    of_gain = [str(samplers.Comparison("flow", True, gain, 0.1, None, None, 9)) for gain in (0.19, 0.21)]
    assert ["may be chance" in each for each in of_gain] == [True, False]


def test_models_without_such_a_prior_are_refused():
    class_of_each = r"^`model` must be a tfvae.VAE, .* or HierarchicalVAE, .*`fit_prior`.*Received: "
    with pytest.raises(ValueError, match=class_of_each):
        samplers.fit(tfvae.Density(priors.Normal(4)), X, "flow")
    new = tfvae.VAE(keras.Sequential([keras.layers.Dense(3)]), networks.dense_decoder(2, (4,)), 2)
    with pytest.raises(ValueError, match=r"^`model` must be trained before.*Received: a model not yet built$"):
        samplers.fit(new, X, "flow")
    with pytest.raises(ValueError, match=r"^`model` must have a prior that is the same for every condition"):
        samplers.fit(conditional(posteriors.DiagonalNormal()), {"x": X, "condition": X[:, :3]}, "flow")
    with pytest.raises(ValueError, match=r"^`kind` must be .* for a ConditionalVAE.*Received: kind=\"vae\"$"):
        samplers.fit(conditional(None), {"x": X, "condition": X[:, :3]}, "vae")
    sphere = tfvae.VAE(
        *(networks.dense_encoder((4,)), networks.dense_decoder(2, (4,)), 2),
        posterior=posteriors.PowerSpherical(),
        prior=priors.HypersphericalUniform(),
    )
    with pytest.raises(ValueError, match=r"^`model` must have a q\(z\|x\) of all real.*support is sphere$"):
        samplers.fit(sphere, X, "flow")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHEAP)
def test_every_kind_gains_is_saved_and_exported(kind, tmp_path):
    vae = vae_with()
    before = vae.evaluate(X, verbose=0, return_dict=True)["elbo"]
    vae.calibrate(X, threshold=1.0)
    comparison = samplers.fit(vae, X, kind, **CHEAP[kind])
    assert comparison.is_used
    assert vae.decision is None
    assert comparison.gain > 1
    assert vae.evaluate(X, verbose=0, return_dict=True)["elbo"] > before + 1
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.generate(5, seed=1), vae.generate(5, seed=1))
    np.testing.assert_array_equal(loaded.log_likelihood(X[:5], 20, seed=1), vae.log_likelihood(X[:5], 20, seed=1))
    # Each export compares itself with the model.
    export.tflite(loaded, tmp_path / "model.tflite", x=X)
    export.saved_model(loaded, tmp_path / "model", x=X)
    weights = vae.prior.get_weights()
    history = vae.fit(X, epochs=2, verbose=0).history
    assert all(np.any(new != old) for new, old in zip(vae.prior.get_weights(), weights, strict=True))
    assert history["elbo"][-1] > history["elbo"][0]


@pytest.mark.slow
def test_the_same_seed_finds_the_same_prior():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        vae = vae_with()
        samplers.fit(vae, X, "flow", seed=3, **CHEAP["flow"])
        weights.append(vae.prior.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def hierarchical(ladder):
    encoders = [networks.dense_encoder((4,), (8,)), networks.dense_encoder((8 if ladder else 3,), (8,))]
    decoders = [networks.dense_decoder(3, (4,), (8,)), networks.dense_encoder((2,), (8,))]
    return tfvae.HierarchicalVAE(encoders, decoders, (3, 2), ladder=ladder)


def of_table():
    import pandas

    frame = pandas.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 1, "high", "low")})
    return tfvae.VAE.of_table(data.Table.learn(frame), latent_dim=2, hidden=(8,)), frame


def of_series():
    steps = np.sin(np.arange(3000) / 5)[:, np.newaxis] + 0.1 * GENERATOR.normal(size=(3000, 1))
    windows = data.windows(steps, 8)
    vae = tfvae.VAE(
        *(networks.dense_encoder((8, 1), (8,)), networks.dense_decoder(2, (8, 1), (8,)), 2), series=windows.series
    )
    return vae, windows.train


OTHERS = {
    "conditional": lambda: (conditional(None), {"x": X, "condition": X[:, :3]}),
    "hierarchical": lambda: (hierarchical(False), X),
    "ladder": lambda: (hierarchical(True), X),
    "autoregressive": lambda: (
        tfvae.AutoregressiveVAE(texts.series_encoder(4), texts.series_decoder(4, 4), 2, length=3),
        np.stack([X, X[::-1], X - 1], axis=1),
    ),
    "table": of_table,
    "series": of_series,
    "dataset": lambda: (vae_with(), tf.data.Dataset.from_tensor_slices(X).batch(32)),
    "missing": lambda: (
        vae_with(likelihood=likelihoods.Missing(likelihoods.Normal())),
        np.where(GENERATOR.random(X.shape) < 0.2, np.float32("nan"), X),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_and_data(name, tmp_path):
    model, x = OTHERS[name]()
    model.compile(keras.optimizers.Adam(0.01))
    model.evaluate(x, verbose=0)
    spread(model)
    comparison = samplers.fit(model, x, "mixture", **CHEAP["mixture"])
    assert comparison.is_used
    assert comparison.gain > 5 * comparison.standard_error
    after = model.evaluate(x, verbose=0, return_dict=True)["elbo"]
    # The examples that were held out differ from the others by chance.
    assert after == pytest.approx(comparison.after, rel=0.3)
    generated = model.generate(x["condition"][:3], seed=1) if name == "conditional" else model.generate(3, seed=1)
    assert len(generated) == 3
    model.save(tmp_path / "model.keras")
    assert type(keras.models.load_model(tmp_path / "model.keras", safe_mode=True).prior) is priors.NormalMixture
