"""Workers in real processes together compute what one device computes, and all of them end with the same model."""

import json
import pathlib
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.distribute import test_replicas
from tests.helpers import replicated
from tests.helpers.known import Known
from tests.helpers.replicated import BATCHES, MODES, WEIGHT, X, assert_close
from tfvae.elbo import ElboTerms

FOLDER = pathlib.Path(__file__).parents[2]
CASES = {
    "plain": ("momentum", "graph"),
    "clip": ("clipnorm", "4 steps at once"),
    "xla": ("Adam", "4 steps at once by xla"),
}


def cases(workers):
    """The cases for a number of workers: for two none, because test_replicas.py has all for two."""
    return CASES if workers > 2 else {}


# What the processes run; each ends itself after a time limit.

PROCESS = """
    import faulthandler, json, sys
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    from tests.distribute import test_multi_worker
    report = getattr(test_multi_worker, sys.argv[3])(*sys.argv[4:])
    print(json.dumps(report, default=lambda value: np.asarray(value).tolist()))
"""


def one_machine(count):
    """What one device computes, and, for the model with noise, as many devices as there are workers."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(count))
    found = {name: test_replicas.trained(0, CASES[name][0]) for name in cases(int(count))}
    precision = {"mixed_bfloat16": mixed(0)} if int(count) > 2 else {}
    return {**found, **precision, "noisy": noisy(int(count))}


def worker(folder):
    """What one of the workers computes."""
    count = replicated.strategy(2).num_replicas_in_sync
    number = random.random()
    return {
        # First, because the others set the global seeds.
        "shuffled": shuffled(count),
        "own": {"number": number, "noise": first_seed(count)},
        **{name: test_replicas.trained(count, *CASES[name]) for name in cases(count)},
        **({"mixed_bfloat16": mixed(count)} if count > 2 else {}),
        "noisy": noisy(count, pathlib.Path(folder) / "checkpoints"),
        "stopped": stopped(count),
        "saved": saved(count, pathlib.Path(folder)),
    }


def mixed(replicas):
    keras.config.set_dtype_policy("mixed_bfloat16")
    vae = replicated.build(replicas, **MODES["4 steps at once"] if replicas else {})
    keras.config.set_dtype_policy("float32")
    return {"history": replicated.fit(vae, sample_weight=WEIGHT, epochs=2), "weights": vae.get_weights()}


def noisy(replicas, folder=None):
    """The end of two epochs; with a folder, those of a training that stops after one and is resumed as a new model."""
    for epochs in (1, 2) if folder else (2,):
        vae = replicated.build(replicas, quiet=False, steps_per_execution=2)
        callbacks = [tfvae.callbacks.Checkpoints(folder)] if folder else []
        history = replicated.fit(vae, epochs=epochs, callbacks=callbacks)
    return {"history": {name: values[-1:] for name, values in history.items()}, "weights": vae.get_weights()}


def first_seed(replicas):
    """The seed of the first noise that this worker draws."""
    model = replicated.known(replicas)
    return replicated.strategy(2).run(tf.function(lambda: model.next_seed()))


class Squares(Known):
    """A model with log p(x|z) = -(x[0] - w)^2, so that w depends on the order of the examples, and KL = x[1]."""

    def elbo_terms(self, x, sampling):
        log_likelihood = -tf.square(x[None, :, 0] - self.w)
        return ElboTerms(log_likelihood, *[tf.zeros_like(log_likelihood)] * 2, x[:, 1])


def shuffled(replicas):
    with replicated.scope(replicas):
        model = Squares()
        model.compile(keras.optimizers.SGD(0.1))
    # The powers of 2 sum to 2^21 - 1 only if each of the 21 examples is used exactly once.
    x = np.stack([np.arange(21.0), 2.0 ** np.arange(21)], axis=1)
    history = model.fit(x, epochs=2, validation_data=(x[:7], None, WEIGHT[:7]), **BATCHES).history
    return {"w": model.w.numpy(), "kl": history["kl"], "val_kl": history["val_kl"]}


def stopped(replicas):
    x = np.array(X)
    x[9] = np.nan
    losses = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    data = tf.data.Dataset.from_tensor_slices(x).batch(5)
    model = replicated.known(replicas, 0.1)
    model.fit(data, epochs=2, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN(), log])
    return losses


def saved(replicas, folder):
    """Files that the first worker saves while the others continue with the next step."""
    layers = [keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.5)]
    vae = replicated.build(replicas, quiet=False, layers=lambda: [make() for make in layers])
    replicated.fit(vae)
    found = {"weights": vae.get_weights(), "reconstruct": vae.reconstruct(X)}
    if tfvae.strategies.is_chief():
        vae.save(folder / "vae.keras")
        vae.save_weights(folder / "vae.weights.h5")
        tfvae.export.saved_model(vae, folder / "exported")
    found |= {"predict_on_batch": vae.predict_on_batch(X), "later": replicated.fit(vae)}
    return found | {"train_on_batch": vae.train_on_batch(X), "test_on_batch": vae.test_on_batch(X)}


# The tests


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids="{} workers".format)
def runs(request, run_python, run_workers, tmp_path_factory):
    """What one machine and the workers report, and the folder of the files that the first worker saves."""
    folder = tmp_path_factory.mktemp("saved")
    reports = run_workers(PROCESS, request.param, FOLDER, 200, "worker", folder, timeout=210)
    expected = run_python(PROCESS, FOLDER, 100, "one_machine", request.param)
    return json.loads(expected.splitlines()[-1]), [json.loads(text.splitlines()[-1]) for text in reports], folder


# Two workers do what two devices of one machine do, by the test of the noise, below, and these what one does, by
# test_replicas.py.
@pytest.mark.parametrize("runs", [pytest.param(3, marks=pytest.mark.slow)], indirect=True, ids="{} workers".format)
def test_workers_do_what_one_device_does(runs):
    expected, reports, _ = runs
    for name in cases(len(reports)):
        assert_close(reports[0][name], expected[name])


@pytest.mark.parametrize("runs", [pytest.param(3, marks=pytest.mark.slow)], indirect=True, ids="{} workers".format)
def test_mixed_precision(runs):
    expected, reports, _ = runs
    # bfloat16 has 8 bits.
    assert_close(reports[0]["mixed_bfloat16"], expected["mixed_bfloat16"], 0.01)


@pytest.mark.slow
def test_workers_that_resume_draw_the_noise_of_as_many_devices_of_one_machine(runs):
    expected, reports, folder = runs
    assert {path.name[:6] for path in folder.glob("checkpoints/*.weights.h5")} == {"000001", "000002"}
    assert_close(reports[0]["noisy"], expected["noisy"])


def test_all_workers_report_the_same_but_for_their_noise(runs):
    _, reports, _ = runs
    own = [report.pop("own") for report in reports]
    for name in ("number", "noise"):
        assert len({str(values[name]) for values in own}) == len(reports)
    for report in reports[1:]:
        assert_close(report, reports[0], 0.0)


def test_each_example_is_seen_once_in_an_epoch_without_a_seed(runs):
    _, reports, _ = runs
    assert [round(21 * kl) for kl in reports[0]["shuffled"]["kl"]] == [2**21 - 1] * 2
    expected = np.average(2.0 ** np.arange(7), weights=WEIGHT[:7])
    assert_close(reports[0]["shuffled"]["val_kl"], [expected] * 2)


def test_a_nan_of_one_worker_stops_all(runs):
    _, reports, _ = runs
    for report in reports:
        np.testing.assert_array_equal(np.isnan(report["stopped"]), [False, True])


def test_the_first_worker_saves_alone(runs):
    _, reports, folder = runs
    report = reports[0]["saved"]
    vae = keras.saving.load_model(folder / "vae.keras")
    assert_close(vae.get_weights(), report["weights"], 0.0)
    assert_close(vae.predict(X, verbose=0), report["reconstruct"])
    assert_close(report["predict_on_batch"], report["reconstruct"])
    for weight in vae.weights:
        weight.assign(keras.ops.zeros_like(weight))
    vae.load_weights(folder / "vae.weights.h5")
    assert_close(vae.get_weights(), report["weights"], 0.0)
    exported = tfvae.export.load(folder / "exported")
    assert_close(exported.reconstruct(X), report["reconstruct"])


@pytest.mark.slow
def test_a_parameter_server_is_refused(run_python, free_addresses):
    worker, server = free_addresses(2)
    printed = run_python(
        """
        import os, sys
        import keras, numpy as np, tensorflow as tf, tfvae

        cluster = tf.train.ClusterSpec({"worker": [sys.argv[1]], "ps": [sys.argv[2]]})
        servers = [tf.distribute.Server(cluster, job_name=job, task_index=0) for job in cluster.jobs]
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
        networks = tfvae.networks
        with tf.distribute.ParameterServerStrategy(resolver).scope():
            vae = tfvae.VAE(networks.dense_encoder((4,)), networks.dense_decoder(2, (4,)), 2)
            vae.compile("sgd")
        for method in (vae.fit, vae.evaluate, vae.train_on_batch):
            try:
                method(np.zeros((8, 4), "float32"))
            except ValueError as error:
                print(error)
        print(vae.optimizer.iterations.numpy(), flush=True)
        # Its servers do not end.
        os._exit(0)
        """,
        worker,
        server,
    )
    *messages, iterations = printed.splitlines()
    assert len(messages) == 3
    assert all(message.startswith("A strategy must be one that `tfvae.strategy` makes") for message in messages)
    assert iterations == "0"
