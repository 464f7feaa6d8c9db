"""Shared fixtures: tiny data, tiny models, a dtype policy that is restored, and fresh Python processes."""

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The test processes share the cores; with more threads each they would wait for one another.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import tfvae
from tests.helpers.processes import Processes

# Keras and TensorFlow are imported where they are used, because the process that distributes the tests needs neither.
# Imports, and tracing in TensorFlow, make many small objects that stay alive: to search them for garbage as often as
# Python does by default takes a third of the time of the imports.
gc.set_threshold(100_000, 20, 20)


# The files that take longest start first, so that the processes finish at about the same time.
LONGEST = (
    "distribute/test_multi_worker.py",
    "distribute/test_replicas.py",
    "docs/test_readme.py",
    "cli/test_commands.py",
    "data/test_shards.py",
    "training/test_batch.py",
    "test_sequence_networks.py",
    "models/test_conditional.py",
    "docs/test_docs.py",
)


def pytest_collection_modifyitems(items):
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish():
    """Leaves what is imported out of all later collections of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_run():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def x():
    """20 examples of 4 numbers: 7 batches of 3, the last of them smaller."""
    return np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


@pytest.fixture(scope="session")
def tiny_vae():
    """Builds a dense VAE of x [B, 4] with two latent dimensions."""

    def build(**arguments):
        arguments.setdefault("encoder", tfvae.networks.dense_encoder((4,), hidden=(8,)))
        arguments.setdefault("decoder", tfvae.networks.dense_decoder(2, (4,), hidden=(8,)))
        return tfvae.VAE(latent_dim=2, **arguments)

    return build


@pytest.fixture(scope="session")
def quiet_vae(tiny_vae):
    """Builds a VAE whose terms do not depend on the noise, so that losses and steps can be compared exactly.

    The decoder multiplies z by zero: log p(x|z) trains its bias, and the closed form of the KL trains the encoder.
    """

    import keras

    def build(**arguments):
        deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)
        return tiny_vae(decoder=keras.Sequential([keras.Input((2,)), deaf, keras.layers.Dense(4)]), **arguments)

    return build


@pytest.fixture(scope="session")
def lazy_vae(tiny_vae):
    """Builds a VAE whose encoder has no input shape until it first sees data."""

    import keras

    def build(**arguments):
        return tiny_vae(encoder=keras.Sequential([keras.layers.Dense(8, activation="relu")]), **arguments)

    return build


@pytest.fixture(scope="session")
def known_model():
    """Builds and compiles a `Known`."""

    import keras

    from tests.helpers.known import Known

    def build(optimizer=None, objective=None, **mode):
        model = Known(objective=objective)
        model.compile(optimizer or keras.optimizers.SGD(0.0), **mode)
        return model

    return build


@pytest.fixture
def dtype_policy():
    """Sets the dtype policy, and restores it after the test."""
    import keras

    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """Starts, in a tenth of a second, processes that have already imported the package."""
    with Processes(tmp_path_factory.mktemp("processes")) as processes:
        yield processes


@pytest.fixture(scope="session")
def run_python(processes, tmp_path_factory):
    """Runs a script in its own process, which has already imported the package, and returns what it printed."""

    def run(script, *arguments):
        return processes.run(script, *arguments, folder=tmp_path_factory.mktemp("run"))

    return run


@pytest.fixture(scope="session")
def run_new_python(tmp_path_factory):
    """Runs a script in a new interpreter, where nothing is imported yet, and returns what it printed."""

    def run(script, *arguments):
        # An interpreter that ends in order takes two seconds to free TensorFlow's modules.
        end = "\nimport os, sys\nsys.stdout.flush()\nsys.stderr.flush()\nos._exit(0)\n"
        # And one that looks for garbage among what it imports takes half a second more.
        code = "import gc\ngc.disable()\n" + textwrap.dedent(script) + end
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path_factory.mktemp("run"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def free_addresses():
    """Finds local addresses with free ports."""

    def find(count):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            return [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]

    return find


@pytest.fixture(scope="session")
def run_workers(processes, tmp_path_factory, free_addresses):
    """Runs a script in several processes at once, as the workers of one TF_CONFIG, and returns what each printed."""

    def run(script, count, *arguments, timeout=60):
        folder = tmp_path_factory.mktemp("workers")
        cluster = {"worker": free_addresses(count)}
        workers = []
        try:
            for index in range(count):
                task = {"type": "worker", "index": index}
                environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task}), "TF_CPP_MIN_LOG_LEVEL": "3"}
                workers.append(processes.start(script, *arguments, folder=folder, environment=environment))
            deadline = time.monotonic() + timeout
            while None in (codes := [worker.poll() for worker in workers]) or any(codes):
                # Checked while the others still run: they would wait for the one that failed.
                for index, code in enumerate(codes):
                    assert not code, f"worker {index} ended with {code}:\n{workers[index].stderr[-4000:]}"
                assert time.monotonic() < deadline, f"not done after {timeout} seconds:\n" + "\n".join(
                    f"worker {index}:\n{worker.stderr[-2000:]}" for index, worker in enumerate(workers)
                )
                time.sleep(0.02)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return [worker.stdout for worker in workers]

    return run
