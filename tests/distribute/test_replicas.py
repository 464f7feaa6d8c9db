"""Replicas on the devices of one machine: the same steps as one device, each with its own noise, and errors."""

import functools
import itertools
import json
import pathlib
import re
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers.known import Known
from tests.helpers.players import played, players
from tests.helpers.replicated import (
    BATCHES,
    MODES,
    OPTIMIZERS,
    WEIGHT,
    X,
    assert_close,
    build,
    copies,
    fit,
    known,
    networks,
    scope,
    strategy,
)
from tfvae.elbo import ElboTerms, Sampling

# The number of replicas, the optimizer and the mode; the slow cases complete the list of each.
CASES = [(2, "averaged", "4 steps at once")]
SLOW_CASES = [
    (2, "momentum", "4 steps at once"),
    (2, "momentum", "4 steps at once by xla"),
    (2, "Adam", "4 steps at once by xla"),
    (4, "averaged", "4 steps at once by xla"),
    (1, "momentum", "graph"),
    (2, "clipnorm", "eager"),
    (2, "global_clipnorm", "graph"),
    (2, "clipvalue", "graph"),
    (4, "momentum", "graph"),
    (4, "loss scale", "graph"),
]

# The checks run in a separate process, because TensorFlow can split the CPU only before it is used.
CHILD = """
    import faulthandler, json, sys
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    sys.path.insert(0, sys.argv[1])
    from tests.distribute import test_replicas
    print(json.dumps(test_replicas.run_checks(*sys.argv[3:])))
"""
CHECKS = {"default": {}, "slow": {}}


def in_child(*cases, slow=()):
    """Turns a check into tests of its outcomes in a child process: one for the default cases, one for the slow ones.

    A check that has only slow cases is given none of the default ones.
    """

    def decorate(check):
        parameters = []
        for kind, marks, chosen in (("default", (), cases or ([] if slow else [()])), ("slow", pytest.mark.slow, slow)):
            for case in chosen:
                name = " ".join([check.__name__, *map(str, case)])
                CHECKS[kind][name] = functools.partial(check, *case)
                parameters.append(pytest.param(kind, name, marks=marks, id=name))

        @pytest.mark.parametrize(("kind", "name"), parameters)
        def test(kind, name, outcomes_of):
            outcome = outcomes_of(900, kind)[name]
            assert outcome is None, outcome

        return test

    return decorate


def run_checks(kind):
    """Runs the checks of a kind, or all optimizers and modes for a number of replicas; gives the failure of each."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    checks = CHECKS.get(kind)
    if checks is None:
        cases = itertools.product([int(kind)], OPTIMIZERS, MODES)
        checks = {" ".join(map(str, case)): functools.partial(check_same_as_one_device, *case) for case in cases}
    outcomes = {}
    for name, check in checks.items():
        try:
            outcomes[name] = check()
        except (Exception, pytest.fail.Exception):
            outcomes[name] = traceback.format_exc()
    return outcomes


@pytest.fixture(scope="session")
def outcomes_of(run_python):
    """Runs checks in a child process with a time limit, once for each kind."""
    folder = pathlib.Path(__file__).parents[2]
    return functools.cache(lambda *arguments: json.loads(run_python(CHILD, folder, *arguments).splitlines()[-1]))


# One device


@functools.cache
def trained(replicas, optimizer="momentum", mode="graph"):
    vae = build(replicas, optimizer, **MODES[mode])
    results = {"history": fit(vae, sample_weight=WEIGHT, epochs=2), "weights": vae.get_weights()}
    for weight in vae.weights if replicas else []:
        for copy in copies(weight, replicas):
            np.testing.assert_array_equal(copy, weight.numpy())
    if optimizer == "averaged":
        vae.use_averages(False)
        results["weights without averaging"] = vae.get_weights()
        assert any(np.abs(a - b).max() > 0.05 for a, b in zip(*list(results.values())[1:], strict=True))
    if optimizer in ("averaged", "momentum"):
        # Other optimizers would give the same here. `predict` needs a model that is not quiet, because a quiet one
        # predicts the same for all examples.
        results["evaluate"] = vae.evaluate(X, sample_weight=WEIGHT, **BATCHES)
        vae = build(replicas, quiet=False, **MODES[mode])
        results |= {"predict": vae.predict(X, **BATCHES), "reconstruct": vae.reconstruct(X)}
    return results


def check_same_as_one_device(replicas, optimizer, mode):
    # float32 rounds a weight near 1 to 6e-8. A sum over replicas is rounded differently from a sum over the batch, in
    # each of the ten steps, and momentum carries the difference on: 4e-7 was observed.
    found, expected = trained(replicas, optimizer, mode), trained(0, optimizer)
    assert_close(found, expected)
    if "clip" in optimizer:
        unclipped = trained(0, "SGD")["weights"]
        assert any(np.abs(a - b).max() > 0.05 for a, b in zip(found["weights"], unclipped, strict=True))


test_replicas_do_what_one_device_does = in_child(*CASES, slow=SLOW_CASES)(check_same_as_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_do_what_one_device_does_with_every_optimizer_in_every_mode(replicas, outcomes_of):
    outcomes = outcomes_of(1200, replicas)
    assert list(outcomes.values()) == [None] * len(OPTIMIZERS) * len(MODES), outcomes


@in_child()
def test_several_losses_and_optimizers_do_what_one_device_does():
    with scope(2):
        model = players()
    model.fit(X[:20, :2], batch_size=20, epochs=3, verbose=0)
    assert_close([model.a.numpy(), model.b.numpy()], played(X[:20, :2]), tolerance=1e-5)


@in_child(("clipnorm",), slow=[(None,), ("clipvalue",)])
def test_a_loss_scale_overflow_on_one_replica_skips_the_step_on_all(clip):
    model = known(2)
    with scope(2):
        optimizer = keras.optimizers.SGD(1.0, **({clip: 0.5} if clip else {}))
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**127))
    # The scaled gradient of each example is its weight times 2**125: infinite in the second replica.
    fit(model, X[:4], sample_weight=np.array([1.0, 1.0, 8.0, 8.0]))
    assert copies(model.optimizer.dynamic_scale) == [2.0**126] * 2
    assert copies(model.w) == [0.0] * 2
    assert model.optimizer.iterations.numpy() == 0
    fit(model, X[:4], sample_weight=np.ones(4))
    assert copies(model.w) == [0.5 if clip else 1.0] * 2


@in_child(slow=[("SGD",), ("clipnorm",), ("loss scale",)])
def test_a_gradient_that_is_too_long_on_one_replica_skips_the_step_on_all(optimizer):
    # The gradient of each example is its weight, so that only the sum over the replicas passes the limit.
    for limit, is_taken in ((3.75, False), (5.0, True)):
        model = known(2)
        model.max_gradient_norm = limit
        with scope(2):
            model.compile(OPTIMIZERS[optimizer]())
        before = copies(model.w)
        fit(model, X[:4], sample_weight=np.array([1.0, 1.0, 8.0, 6.0]))
        moved = np.not_equal(copies(model.w), before)
        assert moved.tolist() == [is_taken] * 2


# test_multi_worker.py has a default test of this with workers.
@in_child(slow=[()])
def test_a_nan_on_one_replica_is_in_the_logs_and_stops_training():
    x = np.array(X)
    x[9] = np.nan
    losses = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    data = tf.data.Dataset.from_tensor_slices(x).batch(5)
    with pytest.warns(UserWarning, match="The loss was nan in epoch 1"):
        known(2, 0.1).fit(data, epochs=2, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN(), log])
    np.testing.assert_array_equal(np.isnan(losses), [False, True])


# Noise, metrics and layers


class Noisy(Known):
    """A model with log p(x|z) = w times noise: each step of SGD adds to w the mean of the noise that is drawn."""

    def elbo_terms(self, x, sampling):
        log_likelihood = self.w * tf.random.stateless_normal([sampling.num_samples, tf.shape(x)[0]], sampling.seed)
        return ElboTerms(log_likelihood, *[tf.zeros_like(log_likelihood)] * 2, tf.zeros_like(x[:, 0]))


@in_child()
def test_the_noise_differs_between_replicas_and_steps_and_follows_from_the_seed():
    model = known(2, 1.0, Noisy, steps_per_execution=2)
    fold_in = tf.random.experimental.stateless_fold_in
    seeds = [fold_in([model.noise_seed, i], replica) for i, replica in itertools.product(range(3), range(2))]
    means = [tf.reduce_mean(tf.random.stateless_normal([1, 2], seed)).numpy() for seed in seeds]
    assert len(np.unique(np.round(means, 4))) == 6
    model.fit(X[:12], batch_size=4, verbose=0)
    assert_close(model.w.numpy(), np.sum(means) / 2)


# The test above has by default that the noise differs.
@in_child(slow=[()])
def test_replicas_draw_different_z_for_the_same_x():
    vae = build(2, quiet=False)
    draw = tf.function(lambda: vae.elbo_terms(X[:3], Sampling(num_samples=1, seed=vae.next_seed())).log_prior)
    drawn = [part.numpy() for _ in range(2) for part in strategy(2).experimental_local_results(strategy(2).run(draw))]
    assert len(np.unique(np.round(drawn, 4))) == 12


# By default, the metrics are compared with those of one device, above.
@in_child(slow=[(2, "weighted"), (4, "plain")])
def test_metrics_are_means_over_examples(replicas, kind):
    weight = None if kind == "plain" else WEIGHT
    log_likelihood, kl = (np.average(X[:, column], weights=weight) for column in range(2))
    loss = np.mean((X[:, 1] - X[:, 0]) * (1.0 if weight is None else weight))
    expected = {"elbo": log_likelihood - kl, "kl": kl, "reconstruction_log_likelihood": log_likelihood, "loss": loss}
    model = known(replicas)
    assert_close({name: values[0] for name, values in fit(model, sample_weight=weight).items()}, expected)
    assert_close(model.evaluate(X, sample_weight=weight, **BATCHES, return_dict=True), expected)


# By default, the loss scale that mixed_float16 adds is tested above.
@in_child(slow=[("mixed_float16",), ("mixed_bfloat16",)])
def test_mixed_precision(policy):
    results = []
    for replicas in (0, 2):
        keras.config.set_dtype_policy(policy)
        vae = build(replicas, steps_per_execution=max(replicas, 1))
        keras.config.set_dtype_policy("float32")
        assert isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
        assert vae.encoder.layers[0].compute_dtype == policy.removeprefix("mixed_")
        terms = vae.elbo_terms(X, Sampling(num_samples=1, seed=tf.constant([0, 0])))
        assert {term.dtype for term in terms[:4]} == {tf.float32}
        results.append((fit(vae, sample_weight=WEIGHT, epochs=2), vae.get_weights()))
    # Half precision has 8 or 11 bits.
    assert_close(results[1], results[0], 0.01)


@in_child((21, 20), slow=[(8, 5)])
def test_batch_statistics_are_those_of_all_examples_on_all_replicas(size, last):
    # With a momentum of 0 the moving statistics are those of the last step.
    vae = build(2, layers=lambda: [keras.layers.BatchNormalization(momentum=0.0), keras.layers.Dropout(0.5)])
    vae.optimizer.learning_rate = 0.0
    features = vae.encoder.layers[0](X).numpy()
    # The replicas have 2 and 1 examples of the last batch, or 1 and none.
    assert np.isfinite(fit(vae, X[:size])["loss"]).all()
    mean, variance = (copies(weight) for weight in vae.encoder.layers[1].non_trainable_weights)
    assert_close(mean, [features[last:size].mean(axis=0)] * 2)
    np.testing.assert_array_equal(*variance)
    assert np.isfinite(vae.evaluate(X[:size], **BATCHES)).all()


@in_child(slow=[()])
def test_synchronized_batch_statistics_are_those_of_one_device():
    vaes = [build(n, layers=lambda: [keras.layers.BatchNormalization(synchronized=True)]) for n in (0, 2)]
    # One step only: the variance is a difference of two means, whose error grows with the steps.
    assert_close(*[(fit(vae, X[:5]), vae.get_weights()) for vae in vaes], 2e-5)


# Data and files


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return (X[5 * index : 5 * index + 5],)


SOURCES = {
    "arrays": lambda: X,
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(5),
    "generator": lambda: ((X[start : start + 5],) for start in range(0, 21, 5)),
    "PyDataset": Batches,
}


# Arrays are the source of most other tests, and Keras makes a dataset of a generator.
@in_child(("dataset",), slow=[("arrays",), ("generator",), ("PyDataset",)])
def test_every_source_is_read_once(kind):
    model, loss, seen = known(2), X[:, 1] - X[:, 0], []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    batches = BATCHES if kind == "arrays" else {"verbose": 0}
    history = model.fit(SOURCES[kind](), callbacks=[log], **batches).history
    assert_close(history["loss"], [loss.mean()])
    assert_close(model.evaluate(SOURCES[kind](), **batches)[0], loss.mean())
    assert seen == [0, 1, 2, 3, 4]


@in_child()
def test_class_weights_and_validation_data_are_those_of_one_device():
    model, loss = known(2), X[:, 1] - X[:, 0]
    y = np.arange(21) % 2
    history = model.fit(X, y, class_weight={0: 1.0, 1: 3.0}, validation_data=(X[:7],), **BATCHES).history
    assert_close([history["loss"], history["val_loss"]], [[np.mean(loss * (1 + 2 * y))], [loss[:7].mean()]])


@in_child(("fit",), slow=[("on batch",)])
def test_a_model_that_data_build_does_what_it_does_on_one_device(method):
    results = []
    for replicas in (0, 2):
        vae = build(replicas, lazy=True)
        if method == "fit":
            results.append([fit(vae), vae.get_weights()])
        else:
            results.append([vae.train_on_batch(X[:5], sample_weight=WEIGHT[:5]), vae.test_on_batch(X[:3])])
            results[-1] += [vae.get_weights(), build(replicas, quiet=False).predict_on_batch(X[:3])]
    assert_close(results[1], results[0])


@in_child((2,), slow=[(0,)])
def test_a_saved_model_trains_on_outside_and_inside_the_scope(replicas):
    vae = build(2)
    fit(vae)
    vae.save("vae.keras")
    fit(vae)
    with scope(replicas):
        loaded = keras.models.load_model("vae.keras")
    fit(loaded)
    assert_close(loaded.get_weights(), vae.get_weights(), 0.0 if replicas else 2e-6)


# Errors


def assert_refused(vae, message):
    for method in (vae.fit, vae.evaluate, vae.train_on_batch, vae.test_on_batch):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            method(X)
        assert int(keras.ops.convert_to_numpy(vae.optimizer.iterations)) == 0


@in_child(
    ("gradient_accumulation_steps", ""),
    ("ema_overwrite_frequency", "scaled"),
    slow=[("gradient_accumulation_steps", "scaled"), ("ema_overwrite_frequency", "")],
)
def test_optimizers_that_fail_with_replicas(option, scaled):
    with scope(2):
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, **{option: 2})
        vae = tfvae.VAE(*networks(), 2)
        vae.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    assert_refused(vae, f"The optimizer's `{option}` must be None with several replicas")


@in_child(("model",), ("networks",), ("optimizer",))
def test_what_was_made_outside_the_scope(what):
    made = {}
    makers = {"networks": networks, "optimizer": OPTIMIZERS["SGD"], "model": lambda: tfvae.VAE(*made["networks"], 2)}
    for name, make in makers.items():
        with scope(0 if name == what else 2):
            made[name] = make()
    made["model"].compile(made["optimizer"])
    with scope(2):
        assert_refused(made["model"], "A model, its networks and its optimizer must be made in the scope of the")


@in_child()
def test_a_strategy_whose_replicas_share_the_variables():
    with tf.distribute.experimental.CentralStorageStrategy(["/cpu:0", "/cpu:1"], "/cpu:0").scope():
        vae = build(0)
    assert_refused(vae, "A strategy must be one that `tfvae.strategy` makes")
