"""Training that is killed with SIGKILL at random times and restarted until it completes."""

import itertools
import json
import random
import signal
import time

import numpy as np
import pytest

TRAINING = """
    import sys
    import keras, numpy as np, tfvae

    folder, kind = sys.argv[1:]
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "tanh"), keras.layers.Dropout(0.2)])
    vae = tfvae.VAE(encoder, tfvae.networks.dense_decoder(2, (4,), (16,)), 2)
    vae.compile(keras.optimizers.Adam(0.01))
    restoring = {
        "Checkpoints": lambda: tfvae.callbacks.Checkpoints(folder + "/state", save_freq=7),
        "BackupAndRestore": lambda: keras.callbacks.BackupAndRestore(folder + "/state", save_freq=7),
    }[kind]()
    callbacks = [tfvae.callbacks.KLWarmUp(200), restoring]
    vae.fit(x, batch_size=8, epochs=6, validation_data=x[:40], callbacks=callbacks, verbose=0)
    np.savez(folder + "/end.npz", *vae.get_weights())
"""


@pytest.fixture(scope="module")
def uncut(processes, tmp_path_factory):
    """The final weights of a training that was not killed, and how long it took."""
    folder = tmp_path_factory.mktemp("uncut")
    # The first process also waits for its parent to start, which is not part of how long a training takes.
    processes.run("")
    start = time.monotonic()
    processes.run(TRAINING, folder, "Checkpoints")
    seconds = time.monotonic() - start
    with np.load(folder / "end.npz") as end:
        return list(end.values()), seconds


def newest(folder):
    """The epoch and step of the newest checkpoint, from its name; empty if there is none."""
    return max((path.name[:16] for path in folder.glob("state/0*.weights.h5")), default="")


# The default tests resume two workers, in test_multi_worker.py, and try every possible moment of a kill, in
# cli/test_run_kills.py.
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 30])
@pytest.mark.parametrize("kind", ["Checkpoints", "BackupAndRestore"])
def test_a_training_that_is_killed_again_and_again_ends_the_same(kind, kills, processes, uncut, tmp_path):
    expected, seconds = uncut
    rng = random.Random(kills)
    killed, folders = 0, (tmp_path / str(number) for number in itertools.count())
    folder = next(folders)
    folder.mkdir()
    while killed < kills:
        before = newest(folder)
        process = processes.start(TRAINING, folder, kind)
        # Anywhere in the life of the process: building and restoring take more time than training.
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        code = process.wait()
        assert code in (0, -signal.SIGKILL), process.stderr[-2000:]
        if code == 0:
            # It completed before the kill: its weights are compared, and a new training starts.
            assert_same_end(folder, expected)
            folder = next(folders)
            folder.mkdir()
            continue
        killed += 1
        assert newest(folder) >= before, "a checkpoint was lost"
    if not (folder / "end.npz").exists():
        processes.run(TRAINING, folder, kind)
    assert_same_end(folder, expected)


def assert_same_end(folder, expected):
    with np.load(folder / "end.npz") as end:
        for value, other in zip(end.values(), expected, strict=True):
            np.testing.assert_array_equal(value, other)


WORKER = """
    import os, sys, time
    import tfvae

    folder = sys.argv[1]
    strategy = tfvae.strategy("multi_worker", timeout=90)
    import keras, numpy as np

    index, _ = tfvae.strategies.workers(strategy)
    x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
    with strategy.scope():
        keras.utils.set_random_seed(0)
        vae = tfvae.VAE(tfvae.networks.dense_encoder((4,), (8,)), tfvae.networks.dense_decoder(2, (4,), (8,)), 2)
        vae.compile(keras.optimizers.Adam(0.01))

    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if not os.path.exists(folder + "/fast"):
                time.sleep(0.1)

    checkpoints = tfvae.callbacks.Checkpoints(folder + "/state", save_freq=5)
    vae.fit(x, batch_size=8, epochs=2, callbacks=[checkpoints, Slow()], verbose=0)
    np.savez(folder + f"/end{index}.npz", *vae.get_weights())
    # An interpreter that ends in order takes two seconds to free all modules.
    os._exit(0)
"""


class Workers:
    """Two workers that are started again whenever they fail, as Kubernetes does; slow until a file makes them fast."""

    def __init__(self, processes, addresses, folder):
        self.processes, self.addresses, self.folder = processes, addresses, folder
        folder.mkdir()
        self.workers = [self.start(0), self.start(1)]
        self.failed = []

    def start(self, index):
        config = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(config)}
        return self.processes.start(WORKER, self.folder, environment=environment)

    def supervise(self):
        """Starts the workers that failed again, and returns whether both trained to the end."""
        for index, worker in enumerate(self.workers):
            if worker.poll():
                self.failed.append(worker)
                assert len(self.failed) < 20, worker.stderr[-3000:]
                self.workers[index] = self.start(index)
        return [worker.poll() for worker in self.workers] == [0, 0]

    def end(self):
        """Lets both train to the end, and returns the weights of each."""
        (self.folder / "fast").touch()
        wait_until(self.supervise, 180)
        return [list(np.load(self.folder / f"end{index}.npz").values()) for index in range(2)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.kill()
            worker.wait()


def wait_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uncut_workers(processes, free_addresses, tmp_path_factory):
    with Workers(processes, free_addresses(2), tmp_path_factory.mktemp("workers") / "uncut") as workers:
        first, second = workers.end()
    for value, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(value, other)
    return first


@pytest.mark.slow
@pytest.mark.parametrize("victims", [[1], [0, 1, 0, 1, 0]], ids=["one", "five"])
def test_a_worker_that_is_killed_and_started_again_does_not_change_the_end(
    victims, processes, uncut_workers, free_addresses, tmp_path
):
    rng = random.Random(0)
    folder = tmp_path / "workers"
    with Workers(processes, free_addresses(2), folder) as workers:
        for victim in victims:
            # The first checkpoint is of no step.
            before = newest(folder) or "000000-000000000"
            wait_until(lambda before=before: workers.supervise() or newest(folder) > before)
            time.sleep(rng.uniform(0, 1))
            assert not (folder / "end0.npz").exists(), "too fast to be killed"
            failures, survivor = len(workers.failed), workers.workers[1 - victim]
            workers.workers[victim].kill()
            # The other one fails as well, and soon.
            wait_until(lambda survivor=survivor: workers.supervise() or survivor.poll(), 30)
            assert len(workers.failed) >= failures + 1
            assert newest(folder) >= before, "a checkpoint was lost"
        for weights in workers.end():
            for value, expected in zip(weights, uncut_workers, strict=True):
                np.testing.assert_array_equal(value, expected)
