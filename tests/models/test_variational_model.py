"""Training and evaluation: the ways to compile, metrics, weights, callbacks and noise."""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvae.elbo import Sampling
from tfvae.objectives import ELBO

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "3 steps at once": {"steps_per_execution": 3},
}
METRICS = ["loss", "elbo", "reconstruction_log_likelihood", "kl"]


def compiled(model, optimizer=None, **mode):
    model.compile(optimizer or keras.optimizers.SGD(0.1), **mode)
    return model


def assert_same_weights(model, other, **tolerance):
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, **tolerance)


# Ways to compile


def results(vae, x, mode):
    """The results of one epoch of training, and of all methods after it."""
    compiled(vae, keras.optimizers.SGD(0.05, momentum=0.9), **mode)
    history = vae.fit(x, batch_size=3, shuffle=False, verbose=0).history
    return {
        "history": np.array([history[name][0] for name in METRICS]),
        "evaluate": np.array(vae.evaluate(x, batch_size=3, verbose=0)),
        "predict": vae.predict(x, batch_size=3, verbose=0),
        **vae.encode(x),
        "decode": vae.decode(x[:, :2]),
        "reconstruct": vae.reconstruct(x),
        "generate": vae.generate(5, seed=1),
        "log_likelihood": vae.log_likelihood(x, num_samples=20_000, seed=1),
    }


@pytest.fixture(scope="module")
def graph_results():
    """For a builder: the initial weights, x, the results in graph mode, and the trained model."""

    def run(build):
        keras.utils.set_random_seed(1)
        vae = build()
        start = vae.get_weights()
        # Whole batches, because XLA compiles a program for each shape; the tests of the metrics have a smaller one.
        x = np.random.default_rng(0).normal(size=(18, 4)).astype("float32")
        return start, x, results(vae, x, {}), vae

    return functools.cache(run)


# The slow modes are also covered by the default tests of metrics, below, and of the loop and of replicas by XLA.
@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["eager", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("xla", "3 steps at once"))]
)
def test_every_way_to_compile_agrees_with_the_graph(mode, graph_results, tiny_vae, quiet_vae):
    # XLA has its own random numbers, so its results are compared for a model on which they have no effect.
    build = quiet_vae if mode == "xla" else tiny_vae
    start, x, expected, expected_vae = graph_results(build)
    vae = build()
    vae.set_weights(start)
    found = results(vae, x, MODES[mode])
    assert not np.allclose(vae.get_weights()[1], start[1])
    assert_same_weights(vae, expected_vae, rtol=1e-4, atol=1e-6)
    for name, value in expected.items():
        atol = 0.1 if (mode, name) == ("xla", "log_likelihood") else 1e-5
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=atol, err_msg=name)


# By default, tests/test_parts.py compares the terms of a part of each kind.
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_agrees_with_float32(policy, graph_results, quiet_vae, dtype_policy):
    start, x, expected, _ = graph_results(quiet_vae)
    dtype_policy(policy)
    vae = quiet_vae()
    vae.set_weights(start)
    found = results(vae, x, {})
    assert isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    assert vae.encoder.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    assert all(weight.dtype == "float32" for weight in vae.trainable_weights)
    assert not np.allclose(vae.get_weights()[1], start[1])
    for name, value in expected.items():
        assert found[name].dtype in (np.float32, np.float64)
        np.testing.assert_allclose(found[name], value, rtol=0.03, atol=0.1, err_msg=name)


def test_predict_is_reconstruct_when_only_the_model_has_a_mixed_policy(x, tiny_vae):
    vae = tiny_vae(dtype="mixed_bfloat16")
    np.testing.assert_allclose(vae.predict(x, verbose=0), vae.reconstruct(x), rtol=1e-5, atol=1e-6)


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "Adam with clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}


# One that accumulates gradients; most other tests train with plain ones, and those of the fused Adam clip.
SOME = ["accumulation"]


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_every_optimizer_follows_the_gradient_of_the_mean_bound(name, x, quiet_vae):
    vae, by_hand = quiet_vae(), quiet_vae()
    start = vae.get_weights()
    by_hand.set_weights(start)
    compiled(vae, OPTIMIZERS[name]()).fit(x, batch_size=10, epochs=2, shuffle=False, verbose=0)

    optimizer = OPTIMIZERS[name]()
    for batch in (x[:10], x[10:]) * 2:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(by_hand.elbo_terms(batch, Sampling(num_samples=1, seed=by_hand.next_seed())).elbo)
        optimizer.apply(tape.gradient(loss, by_hand.trainable_variables), by_hand.trainable_variables)

    assert not np.allclose(vae.get_weights()[1], start[1], atol=1e-3)
    assert_same_weights(vae, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("named", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_a_loss_or_metrics_in_compile_are_refused(named, tiny_vae):
    vae = tiny_vae()
    with pytest.raises(ValueError, match=rf"`compile\({named}=...\)` has no meaning here.*Received: {named}="):
        vae.compile("adam", **{named: ["mse"]})
    with pytest.raises(ValueError, match=r"`compile\(loss=...\)` has no meaning here"):
        vae.compile("adam", "mse")
    assert not vae.compiled


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": None},
        {"optimizer": "adan"},
        {"loss": "mse"},
        {"steps_per_execution": 0},
        {"steps_per_execution": 2.5},
        {"run_eagerly": "no"},
        {"jit_compile": "always"},
    ],
    ids=lambda wrong: f"{wrong}",
)
def test_a_compile_that_is_refused_leaves_the_model_as_it_was(wrong, tiny_vae):
    vae = compiled(tiny_vae(), steps_per_execution=3)
    optimizer, configuration = vae.optimizer, vae.get_compile_config()
    with pytest.raises(ValueError, match=r"Received: |Could not interpret optimizer"):
        vae.compile(**wrong)
    assert vae.optimizer is optimizer
    assert vae.get_compile_config() == configuration


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [
        ([*np.ones(19), np.nan], r"`sample_weight` must be finite.*NaN.*index \[19\]"),
        ([*np.ones(19), np.inf], r"`sample_weight` must be finite"),
        (np.ones((20, 4)), r"`sample_weight` must be one number for each example.*\(N,\)\. Received: .*\(20, 4\)"),
        (np.array(["1"] * 20), "`sample_weight` must be one number for each example.*dtype (<U1|object)"),
    ],
)
def test_sample_weights_that_are_wrong_are_named_before_training(sample_weight, message, x, tiny_vae):
    vae, weights = compiled(tiny_vae()), np.asarray(sample_weight)
    dataset = tf.data.Dataset.from_tensor_slices((x, x, weights)).batch(20)
    for method, arguments in [
        (vae.fit, {"x": x, "sample_weight": weights}),
        (vae.fit, {"x": dataset}),
        (vae.fit, {"x": x, "validation_data": (x, x, weights)}),
        (vae.evaluate, {"x": x, "sample_weight": weights}),
        (vae.train_on_batch, {"x": x, "y": x, "sample_weight": weights}),
    ]:
        with pytest.raises(ValueError, match=message):
            method(**arguments)
    assert vae.optimizer.iterations == 0


@pytest.mark.slow
def test_what_is_frozen_after_a_fit_stays_as_it_is(x, tiny_vae):
    vae = compiled(tiny_vae(), keras.optimizers.Adam(0.1))
    vae.fit(x, verbose=0)
    vae.encoder.trainable = False
    before, decoder = vae.encode(x)["loc"], vae.decoder.get_weights()
    with pytest.warns(UserWarning, match="The encoder .* is frozen, but q.* To freeze q"):
        vae.fit(x, verbose=0)
    assert np.abs(vae.encode(x)["loc"] - before).max() > 1e-3
    vae.posterior.trainable = False
    before = vae.encode(x)["loc"]
    vae.fit(x, verbose=0)
    np.testing.assert_array_equal(vae.encode(x)["loc"], before)
    assert np.abs(vae.decoder.get_weights()[0] - decoder[0]).max() > 1e-3
    vae.trainable = False
    with pytest.warns(UserWarning, match="no trainable weights"):
        vae.fit(x, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_fit_and_evaluate_ask_for_compile(method, x, tiny_vae):
    with pytest.raises(ValueError, match=rf"Call `compile\(\)` before `{method}\(\)`.*Received: a model that is not"):
        getattr(tiny_vae(), method)(x)


# Metrics


# That XLA computes the same metrics is tested with the ways to compile, and most other tests have the graph.
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.slow] * (mode in ("graph", "xla"))) for mode in MODES]
)
def test_metrics_are_means_over_examples_with_an_uneven_last_batch(mode, x, known_model):
    model = known_model(objective=ELBO(beta=3.0, num_samples=5), **MODES[mode])
    log_likelihood, kl = x[:, 0].mean(), x[:, 1].mean()
    expected = {
        "loss": 3 * kl - log_likelihood,
        "elbo": log_likelihood - kl,
        "reconstruction_log_likelihood": log_likelihood,
        "kl": kl,
    }
    history = model.fit(x, batch_size=3, verbose=0).history
    assert {name: values[0] for name, values in history.items()} == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(x, batch_size=3, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(x, batch_size=3, verbose=0) == pytest.approx(list(expected.values()), rel=1e-5)


def test_the_loss_of_each_batch_is_its_mean_bound(x, known_model):
    model = known_model(keras.optimizers.SGD(0.1))
    model.fit(x, batch_size=3, verbose=0)
    # d loss / d w is -1 in each of the 7 steps, including the smaller last one.
    assert float(model.w) == pytest.approx(0.7)


def test_the_loss_is_the_negative_bound_and_the_bound_does_not_depend_on_beta(x, tiny_vae):
    vae = compiled(tiny_vae())
    history = vae.fit(x, validation_data=x, batch_size=3, epochs=2, verbose=0).history
    assert set(history) == {*METRICS, *(f"val_{name}" for name in METRICS)}
    for prefix in ("", "val_"):
        loss, elbo, log_likelihood, kl = (np.array(history[prefix + name]) for name in METRICS)
        np.testing.assert_allclose(loss, kl - log_likelihood, rtol=1e-5)
        np.testing.assert_allclose(elbo, log_likelihood - kl, rtol=1e-5)

    heavy = compiled(tiny_vae(objective=ELBO(beta=4.0)))
    heavy.set_weights(vae.get_weights())
    values, heavy_values = (model.evaluate(x, verbose=0, return_dict=True) for model in (vae, heavy))
    assert heavy_values["loss"] == pytest.approx(4 * values["kl"] - values["reconstruction_log_likelihood"], rel=1e-5)
    assert [heavy_values[name] for name in METRICS[1:]] == pytest.approx([values[name] for name in METRICS[1:]])


class AddsLoss(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(0.25 * keras.ops.sum(inputs))
        return inputs


@pytest.mark.parametrize("mode", ["graph", pytest.param("eager", marks=pytest.mark.slow)])
def test_losses_of_the_layers_are_in_the_loss_and_not_in_the_bound(mode, x, tiny_vae):
    l2 = keras.regularizers.L2
    dense = keras.layers.Dense(
        3, kernel_initializer="ones", kernel_regularizer=l2(0.1), activity_regularizer=l2(0.2), use_bias=False
    )
    vae = tiny_vae(encoder=keras.Sequential([keras.Input((4,)), dense, AddsLoss()]))
    values = compiled(vae, **MODES[mode]).evaluate(x, batch_size=3, verbose=0, return_dict=True)
    features = [part @ np.ones((4, 3)) for part in np.split(x, range(3, 20, 3))]
    # Keras divides the value of an activity regulariser by the batch size.
    activity = sum(len(part) * (0.2 * (part**2).sum() / len(part) + 0.25 * part.sum()) for part in features) / len(x)
    assert values["loss"] + values["elbo"] == pytest.approx(0.1 * 12 + activity, rel=1e-4)
    assert values["elbo"] == pytest.approx(values["reconstruction_log_likelihood"] - values["kl"], rel=1e-5)


def test_a_kernel_regularizer_is_in_the_gradient(x, quiet_vae, tiny_vae):
    vae = tiny_vae(encoder=keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer="l2")]))
    vae.posterior.set_weights([np.zeros_like(weight) for weight in vae.posterior.get_weights()])
    kernel = vae.encoder.get_weights()[0]
    compiled(vae, keras.optimizers.SGD(0.5)).fit(x, batch_size=20, verbose=0)
    # The heads are zero, so the regulariser is the encoder's only gradient: d (0.01 k^2) / dk = 0.02 k.
    np.testing.assert_allclose(vae.encoder.get_weights()[0], kernel * (1 - 0.5 * 0.02), rtol=1e-5)


class Watched(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.mean = keras.metrics.Mean(name="activation")

    def call(self, inputs):
        self.mean.update_state(inputs)
        return inputs


def test_a_metric_of_the_users_layer_is_reported(x, tiny_vae):
    vae = compiled(tiny_vae(encoder=keras.Sequential([keras.Input((4,)), Watched()])))
    values = vae.evaluate(x, batch_size=3, verbose=0, return_dict=True)
    assert values["activation"] == pytest.approx(np.mean([p.mean() for p in np.split(x, range(3, 20, 3))]), abs=0.1)
    assert set(METRICS) < set(values)


@pytest.mark.parametrize("verbose", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_progress_bar_shows_the_loss(verbose, x, known_model, capsys):
    known_model().fit(x, batch_size=20, verbose=verbose)
    shown = [float(value) for value in re.findall(r" loss: ([-+.e\d]+)", capsys.readouterr().out)]
    assert shown
    assert shown == pytest.approx([(x[:, 1] - x[:, 0]).mean()] * len(shown), rel=1e-3)
