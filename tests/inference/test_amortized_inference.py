"""Inference amortised over data sets: posteriors in closed form, constraints, sets, files, and what is refused."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import AmortizedInference, Latent, callbacks, elbo, evaluation, networks, objectives, posteriors
from tfvae.data import epochs

tfb, tfd = tfp.bijectors, tfp.distributions

# theta ~ N(0, 2^2 I), x ~ N(theta, 0.5^2 I), in two dimensions.
PRIOR = tfd.MultivariateNormalDiag(tf.zeros(2), 2.0 * tf.ones(2))
SHRINKAGE, EXACT_SD = 4.0 / 4.25, np.sqrt(1.0 / (0.25 + 4.0))


def add_noise(theta, seed):
    return theta + 0.5 * tf.random.stateless_normal(tf.shape(theta), seed)


def log_likelihood(theta, x):
    return tf.reduce_sum(tfd.Normal(theta, 0.5).log_prob(x), axis=-1)


def small(**kwargs):
    return posteriors.SplineFlow(num_couplings=2, bins=3, hidden=4, **kwargs)


def gaussian(**kwargs):
    return AmortizedInference(PRIOR, add_noise, **{"posterior": small(), "log_likelihood": log_likelihood, **kwargs})


GROUPS = tfd.JointDistributionNamed(
    {
        "rate": tfd.Gamma(2.0, 0.5),
        "effect": tfd.Sample(tfd.Normal(0.0, 1.0), 3),
        "y": lambda rate, effect: tfd.Sample(tfd.Normal(tf.reduce_sum(effect, -1) + rate, 1.0), 4),
    }
)


@pytest.fixture(scope="module")
def fitted():
    """The Gaussian model after two steps, which suffices for all that does not depend on the accuracy of q."""
    keras.utils.set_random_seed(0)
    model = gaussian(posterior=posteriors.DiagonalNormal())
    model.fit(epochs=1, steps_per_epoch=2, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def exact():
    """The Gaussian model with a normal q, whose weights are set to the posterior in closed form."""
    model = gaussian(posterior=posteriors.DiagonalNormal())
    model.check_data(model.simulate(4, seed=0))
    model.theta_loc.assign([1.0, -1.0])
    model.theta_scale.assign([3.0, 0.7])
    model.x_loc.assign([0.5, 0.2])
    model.x_scale.assign([2.0, 1.5])
    model.standardized.assign(1.0)
    # loc = (s x - theta_loc) / theta_scale, where x = x_loc + x_scale features
    scale = model.theta_scale.numpy()
    kernel = np.diag(SHRINKAGE * model.x_scale.numpy() / scale)
    bias = (SHRINKAGE * model.x_loc.numpy() - model.theta_loc.numpy()) / scale
    model.posterior.loc_head.set_weights([kernel, bias])
    raw = np.log(np.expm1(EXACT_SD / scale)) - np.log(np.expm1(1.0))
    model.posterior.scale_head.set_weights([np.zeros((2, 2)), raw])
    model.typical.set(model.simulate(3000, seed=1)["x"] / [2.0, 1.5] - np.array([0.5, 0.2]) / [2.0, 1.5])
    return model


# The density


def test_the_density_draws_and_weights_are_those_of_the_exact_posterior(exact):
    x, theta = np.array([1.0, -2.0]), np.random.default_rng(0).normal(size=(5, 2))
    expected = stats.norm(SHRINKAGE * x, EXACT_SD).logpdf(theta).sum(axis=1)
    np.testing.assert_allclose(exact.log_prob(theta, x), expected, rtol=1e-4)
    np.testing.assert_allclose(exact.log_prob({"theta": theta}, np.tile(x, (5, 1))), expected, rtol=1e-4)
    draws = exact.sample(x, 4000, seed=0)
    assert draws["theta"].shape == (4000, 2)
    np.testing.assert_allclose(draws["theta"].mean(axis=0), SHRINKAGE * x, atol=5 * EXACT_SD / np.sqrt(4000))
    np.testing.assert_allclose(draws["theta"].std(axis=0), EXACT_SD, rtol=0.06)
    # Each weight is p(x), up to rounding.
    evidence = stats.norm(0, np.sqrt(4.25)).logpdf(x).sum()
    np.testing.assert_allclose(draws.log_weights, evidence, atol=1e-4)
    assert draws.pareto_k == -np.inf
    np.testing.assert_allclose(exact.predict(x[None], verbose=0)["theta"], [SHRINKAGE * x], atol=0.15)


def test_the_metric_is_the_mean_log_density_in_the_units_of_theta(exact):
    exact.compile("adam")
    pairs = exact.simulate(200, seed=3)
    metrics = exact.evaluate(pairs, batch_size=64, verbose=0, return_dict=True)
    expected = exact.log_prob(pairs["theta"], pairs["x"]).mean()
    assert set(metrics) == {"loss", "log_posterior"}
    assert metrics["log_posterior"] == pytest.approx(expected, rel=1e-5)
    assert metrics["loss"] == pytest.approx(-expected, rel=1e-5)


@pytest.mark.slow
def test_the_density_of_constrained_variables_integrates_to_1():
    keras.utils.set_random_seed(0)
    model = AmortizedInference(tfd.Beta(2.0, 3.0), lambda theta, seed: theta[:, None] * 10.0, posterior=small())
    model.fit(epochs=1, steps_per_epoch=2, batch_size=64, verbose=0)
    theta = np.linspace(5e-4, 1 - 5e-4, 1000)
    assert np.exp(model.log_prob(theta, np.array([4.0]))).mean() == pytest.approx(1, abs=2e-3)
    assert model.log_prob([1.5, -0.1, 0.5], np.array([4.0])).tolist()[:2] == [-np.inf] * 2


def test_recovery_of_the_exact_posterior_finds_nothing_wrong_and_of_another_that_it_is(exact):
    found = evaluation.recovery(exact, 400, 99, seed=2)
    table = found.summary()
    assert list(table.index) == ["theta[0]", "theta[1]"]
    np.testing.assert_allclose(table["contraction"], 1 - EXACT_SD**2 / 4, atol=0.02)
    np.testing.assert_allclose(table["correlation"], np.sqrt(SHRINKAGE), atol=0.02)
    np.testing.assert_allclose(table["z_sd"], 1, atol=0.15)
    np.testing.assert_allclose(table["coverage_90"], 0.9, atol=0.06)
    assert (table["rank_p_value"] > 1e-3).all()
    assert {len(ranks) for ranks in found.ranks.values()} == {400}
    wrong = exact.simulate(400, seed=2)
    wrong["theta"] = wrong["theta"] + 0.3
    assert (evaluation.recovery(exact, num_draws=99, pairs=wrong).summary()["rank_p_value"] < 1e-6).all()


def test_unlike_data_cause_a_warning_and_one_in_a_thousand_others(exact):
    unlikeness = exact.unlikeness(exact.simulate(4000, seed=9)["x"])
    assert (unlikeness > 1).mean() < 0.006
    # What is far out is compressed, so that q is not exact there.
    with (
        pytest.warns(UserWarning, match=r"^`x` is unlike all data sets that were simulated \(1 of 2, the first at in"),
        pytest.warns(UserWarning, match=r"^q is far from the posterior of 1 of 2 data sets, the first at index 1"),
    ):
        exact.sample(np.array([[0.0, 0.0], [30.0, 30.0]]), 30, seed=0)


# Fit


@pytest.mark.slow
def test_fit_online_is_reproducible_and_standardises(fitted):
    keras.utils.set_random_seed(0)
    again = gaussian(posterior=posteriors.DiagonalNormal())
    again.fit(epochs=1, steps_per_epoch=2, batch_size=64, verbose=0)
    for one, other in zip(fitted.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted.theta_scale, [2, 2], rtol=0.1)
    np.testing.assert_allclose(fitted.x_scale, [np.sqrt(4.25)] * 2, rtol=0.1)
    assert int(fitted.optimizer.iterations) == 2


def test_simulated_batches_depend_on_the_seed_and_the_epoch_alone():
    def batches(initial_seed, seed, epoch):
        keras.utils.set_random_seed(initial_seed)
        model = gaussian(posterior=posteriors.DiagonalNormal())
        dataset = model._online(3, 2)
        # As a checkpoint does, which is loaded when the dataset is made already.
        model._progress.seed = seed
        epochs.set_epoch(epoch)
        try:
            return np.stack([batch["x"] for batch in dataset])
        finally:
            epochs.set_epoch(None)

    first = batches(0, 5, 1)
    assert first.shape == (2, 3, 2)
    np.testing.assert_array_equal(batches(1, 5, 1), first)
    assert not np.isclose(batches(0, 5, 2), first).any()
    assert not np.isclose(batches(0, 6, 1), first).any()
    assert not np.isclose(first[0], first[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4, 6])
def test_an_online_fit_that_is_killed_continues_exactly(steps, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == steps:
                raise KeyboardInterrupt

    def fit(seed, folder, *more):
        keras.utils.set_random_seed(seed)
        model = gaussian(posterior=posteriors.DiagonalNormal())
        saving = callbacks.Checkpoints(tmp_path / folder, save_freq=1)
        history = model.fit(epochs=3, steps_per_epoch=4, batch_size=16, verbose=0, callbacks=[saving, *more])
        return model, history

    expected, whole = fit(0, "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(0, "killed", Kill())
    # Another process has another seed, unless the user sets it.
    resumed, rest = fit(1, "killed")
    for one, other in zip(resumed.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(rest.history["loss"], whole.history["loss"][-len(rest.epoch) :])
    x = np.array([1.0, -2.0])
    np.testing.assert_array_equal(resumed.sample(x, 9, seed=0)["theta"], expected.sample(x, 9, seed=0)["theta"])


@pytest.mark.slow
def test_fit_takes_arrays_and_datasets_of_named_latent_variables():
    keras.utils.set_random_seed(0)
    model = AmortizedInference(GROUPS, "y", posterior=small())
    pairs = model.simulate(60, seed=0)
    assert {name: value.shape for name, value in pairs.items()} == {"rate": (60,), "effect": (60, 3), "y": (60, 4)}
    model.fit(pairs, epochs=1, batch_size=30, validation_split=0.2, verbose=0)
    with warnings.catch_warnings():
        # Of a q that is far from the posterior.
        warnings.simplefilter("ignore", UserWarning)
        draws = model.sample(pairs["y"][:2], 40, seed=0)
    assert [draw["effect"].shape for draw in draws] == [(40, 3)] * 2
    assert all((draw["rate"] > 0).all() and np.isfinite(draw.log_weights).all() for draw in draws)
    # The weights are those of the joint distribution.
    value = {name: values[0] for name, values in draws[0].items()}
    expected = GROUPS.log_prob({**value, "y": pairs["y"][0]})
    log_q = model.log_prob({name: values[:1] for name, values in draws[0].items()}, pairs["y"][0])
    np.testing.assert_allclose(draws[0].log_weights[0], expected - log_q[0], rtol=1e-3, atol=1e-3)
    model.fit(tf.data.Dataset.from_tensor_slices(pairs).batch(30), epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 4


@pytest.mark.slow
def test_a_fit_without_epochs_stops_by_held_out_pairs_and_keeps_the_learning_rate(monkeypatch):
    from tfvae.inference import amortized_inference

    monkeypatch.setattr(amortized_inference, "_MOST_EPOCHS", 2)
    model = gaussian()
    history = model.fit(model.simulate(40, seed=0), verbose=0)
    assert "val_log_posterior" in history.history
    assert len(history.epoch) == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


def test_kernels_are_drawn_to_0_in_training(exact):
    pairs = {name: tf.constant(value) for name, value in exact.simulate(3, seed=0).items()}
    exact.decay.assign(0.5)
    try:
        trained, evaluated = (
            exact.elbo_terms(pairs, elbo.Sampling(1, tf.constant([0, 0]), training=training))
            for training in (True, False)
        )
    finally:
        exact.decay.assign(0.0)
    kernels = [exact.posterior.loc_head.kernel, exact.posterior.scale_head.kernel]
    expected = -0.5 * 0.5 * sum(np.square(kernel).sum() for kernel in kernels)
    np.testing.assert_allclose(trained.auxiliary, np.full(3, expected), rtol=1e-5)
    assert evaluated.auxiliary == 0.0


@pytest.mark.slow
def test_a_model_without_prior_is_fitted_on_pairs_alone(fitted):
    # Less so the more pairs there are, and not at all online.
    assert float(fitted.decay) == 0.0
    model = AmortizedInference(latents={"rate": Latent((), tfb.Exp())}, posterior=posteriors.DiagonalNormal())
    generator = np.random.default_rng(0)
    pairs = {"rate": generator.gamma(2.0, size=50), "x": generator.normal(size=(50, 2))}
    model.fit(pairs, epochs=1, batch_size=50, verbose=0)
    assert float(model.decay) == pytest.approx(80.0 / 50)
    draws = model.sample(pairs["x"][0], 30, seed=0)
    assert (draws["rate"] > 0).all()
    assert np.isnan(draws.pareto_k)
    assert np.isnan(draws.summary()["pareto_k"]).all()
    with pytest.raises(ValueError, match=r"weights, because p\(data, z\) is not known: .*`log_weights`$"):
        _ = draws.elbo
    with pytest.raises(ValueError, match=r"must be given to AmortizedInference to simulate; .* no simulator$"):
        model.fit()


@pytest.mark.slow
def test_a_draw_at_the_edge_of_the_support_does_not_end_the_training():
    # Half of the draws of this prior are 0 in float32.
    model = AmortizedInference(tfd.Gamma(0.01, 1.0), lambda theta, seed: theta[:, None], posterior=small())
    history = model.fit(epochs=1, steps_per_epoch=1, batch_size=64, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_a_model_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"`custom_objects` must hold \['prior'\]"):
        keras.saving.load_model(tmp_path / "model.keras")
    own = {"prior": PRIOR, "log_likelihood": log_likelihood}
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=own)
    x = np.array([1.0, -2.0])
    expected, received = fitted.sample(x, 30, seed=0), again.sample(x, 30, seed=0)
    np.testing.assert_allclose(received["theta"], expected["theta"], rtol=1e-5)
    np.testing.assert_allclose(received.log_weights, expected.log_weights, rtol=1e-4)
    np.testing.assert_allclose(again.unlikeness(x), fitted.unlikeness(x), rtol=1e-5)


def test_the_repr_shows_what_matters_to_a_model_without_a_bound(exact):
    text = repr(exact)
    assert text.startswith("AmortizedInference(posterior=DiagonalNormal(latent_dim=2")
    assert "event_shape=(2,)" in text
    assert "objective" not in text


# Sets


@pytest.mark.parametrize("kind", [networks.set_encoder, networks.set_transformer])
def test_features_of_a_set_do_not_depend_on_its_order_but_on_its_size(kind):
    keras.utils.set_random_seed(0)
    for shape in ((), (3,)):
        encoder = kind(shape)
        x = np.random.default_rng(0).normal(size=(2, 7, *shape)).astype("float32")
        order = np.random.default_rng(1).permutation(7)
        np.testing.assert_allclose(encoder(x[:, order]), encoder(x), rtol=1e-5, atol=1e-6)
        assert encoder(x).shape == (2, 32)
        assert np.abs(encoder(np.concatenate([x, x], axis=1)) - encoder(x)).max() > 1e-3


def test_sets_of_numbers_are_standardised_as_one():
    keras.utils.set_random_seed(0)
    encoder = networks.set_encoder((), 6, item_hidden=(4,), hidden=(4,))
    model = AmortizedInference(PRIOR, lambda theta, seed: tf.tile(theta, [1, 3]), encoder, posteriors.DiagonalNormal())
    pairs = model.simulate(50, seed=0)
    model.check_data(pairs)
    model._standardize(pairs)
    assert float(model.x_loc) == pytest.approx(pairs["x"].mean(), rel=1e-4)
    theta = pairs["theta"][:1]
    np.testing.assert_allclose(
        model.log_prob(theta, pairs["x"][0, ::-1]), model.log_prob(theta, pairs["x"][0]), rtol=1e-5
    )


@pytest.mark.slow
def test_a_model_of_sets_takes_sets_of_any_size_and_order():
    keras.utils.set_random_seed(0)
    model = AmortizedInference(
        tfd.Normal(0.0, 1.0),
        lambda theta, seed: theta[:, None] + tf.random.stateless_normal([tf.shape(theta)[0], 5], seed),
        networks.set_encoder((), item_hidden=(4,), hidden=(4,)),
        small(),
    )
    model.fit(epochs=1, steps_per_epoch=1, batch_size=32, verbose=0)
    x = np.random.default_rng(0).normal(size=6)
    np.testing.assert_allclose(model.log_prob([0.3], x[::-1]), model.log_prob([0.3], x), rtol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": None}, r"^`prior` must be a distribution of the latent variables.*Received: prior=None$"),
        ({"prior": 3}, r"^`prior` must be a distribution of TFP\. Received: prior=3$"),
        ({"simulator": 3}, r"^`simulator` must be a function .*Received: simulator=3$"),
        ({"simulator": "y"}, r"^`simulator` must be a function, or the name .* a prior that is no joint distribution$"),
        ({"prior": GROUPS, "simulator": "z"}, r"Received: simulator='z' and variables \['effect', 'rate', 'y'\]$"),
        ({"encoder": 3}, r"^`encoder` must be a Keras model\. Received: 3$"),
        ({"posterior": posteriors.SylvesterFlow()}, r"^`posterior` must have a density .* at its own draws alone$"),
        ({"posterior": posteriors.PowerSpherical()}, r'^`posterior` must have the support "real"'),
        ({"posterior": posteriors.DiagonalNormal(3)}, r"^`posterior` must have latent_dim=2"),
        ({"objective": objectives.IWAE()}, r"^`objective` must be left out: .*Received: an objective$"),
        ({"prior": tfd.Poisson(3.0)}, r"^`model` must have continuous latent variables"),
        ({"log_likelihood": 3}, r"^`log_likelihood` must be a function\. Received: 3$"),
    ],
)
def test_wrong_parts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AmortizedInference(**{"prior": PRIOR, "simulator": add_noise, **arguments})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros((4, 3))}, r"^`theta` must have the shape \[N, 2\]"),
        ({"theta": np.full((4, 2), np.nan)}, r"^`theta` must be finite"),
        ({"x": np.zeros((4, 3))}, r"^`x` must have the shape \[N, 2\]\. Received: x of shape \[4, 3\]$"),
        ({"x": np.full((4, 2), np.inf)}, r"^`x` must be finite"),
        ({"x": np.zeros((5, 2))}, r"must have the same number of examples"),
    ],
)
def test_wrong_pairs_are_refused(fitted, change, message):
    pairs = {"theta": np.zeros((4, 2)), "x": np.zeros((4, 2)), **change}
    with pytest.raises(ValueError, match=message):
        fitted.fit(pairs, epochs=1)


def test_wrong_calls_are_refused(fitted):
    with pytest.raises(ValueError, match=r"^Fit the model before `sample\(\)`\. Received: a model that is not fitted$"):
        gaussian().sample(np.zeros(2))
    with pytest.raises(ValueError, match=r"^`x` must be None, a dictionary with the keys theta, x, .* ndarray$"):
        fitted.fit(np.zeros((4, 2)), epochs=1)
    with pytest.raises(TypeError, match=r"^`epochz` must be an argument of `fit`: .*Did you mean `epochs`"):
        fitted.fit(epochz=1)
    with pytest.raises(ValueError, match=r"^`callbacks` must not hold KLWarmUp"):
        fitted.fit(epochs=1, steps_per_epoch=1, callbacks=callbacks.KLWarmUp(1), verbose=0)
    with pytest.raises(ValueError, match=r"^`simulator` must give x \[B, \.\.\.\].* of shape \(3, 2\)$"):
        AmortizedInference(PRIOR, lambda theta, seed: tf.zeros([3, 2])).fit(epochs=1)
    with pytest.raises(ValueError, match=r"within the support of the prior\. Received: 1 rows outside of it"):
        AmortizedInference(tfd.Gamma(2.0, 1.0)).fit({"theta": np.array([1.0, -1.0]), "x": np.zeros((2, 1))})
