"""Many threads that share an export: every answer is right, and memory does not grow."""

import concurrent.futures
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter

from tests.helpers.exports import EVENT_SHAPE, LATENT_DIM
from tfvae import export
from tfvae.export.formats import tflite

THREADS = 8
RNG = np.random.default_rng(0)
INPUTS = {
    "x": RNG.integers(0, 2, (128, *EVENT_SHAPE)).astype(np.float32),
    "epsilon": RNG.standard_normal((128, LATENT_DIM), np.float32),
}
ARGUMENTS = {"encode": ["x"], "score": ["x", "epsilon"], "serving_default": ["x"], "generate": ["epsilon"]}


def plain_tensorflow(exported):
    """Calls a SavedModel as any program does that has TensorFlow alone."""
    signatures = exported.loaded.signatures

    def call(name, **arrays):
        outputs = signatures[name](**{key: tf.constant(array) for key, array in arrays.items()})
        return {key: output.numpy() for key, output in outputs.items()}

    return call


CALLS = {"SavedModel": plain_tensorflow, ".tflite": lambda exported: export.load(exported.tflite).run}


def resident():
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wrong_answers(call, expected, seed, requests):
    """Makes requests of 1 to 64 rows, and counts the answers that are not the expected ones."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(requests):
        name, start, rows = rng.choice(list(ARGUMENTS)), rng.integers(64), rng.integers(1, 65)
        part = slice(start, start + rows)
        received = call(name, **{argument: INPUTS[argument][part] for argument in ARGUMENTS[name]})
        wrong += not all(
            received[key].shape == value[part].shape and np.allclose(received[key], value[part], rtol=1e-5, atol=1e-5)
            for key, value in expected[name].items()
        )
    return wrong


@pytest.mark.parametrize("file_format", CALLS)
@pytest.mark.parametrize("requests", [160, pytest.param(10_000, marks=pytest.mark.slow)])
def test_threads_get_right_answers_and_memory_does_not_grow(exported, file_format, requests):
    shared = exported("convolutional-Bernoulli")
    names = {"serving_default": shared.model.score(INPUTS["x"]) | {"mean": shared.model.reconstruct(INPUTS["x"])}}
    names |= {"encode": shared.model.encode(INPUTS["x"]), "score": shared.model.score(**INPUTS)}
    expected = names | {"generate": {"mean": shared.model.decode(INPUTS["epsilon"])}}
    call = CALLS[file_format](shared)
    rounds, sizes = 10, []
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        for each in range(rounds):
            share = -(-requests // (rounds * THREADS))
            counts = [
                threads.submit(wrong_answers, call, expected, THREADS * each + thread, share)
                for thread in range(THREADS)
            ]
            # An error in a thread is raised here.
            assert [count.result() for count in counts] == [0] * THREADS
            sizes.append(resident())
    if requests == 10_000:
        # If their answers leaked, 4 kB each, 5,000 requests would add 20 MB; the first hundreds make buffers that stay.
        assert np.median(sizes[-3:]) - np.median(sizes[2:5]) < 8e6


def test_interpreters_share_the_bytes_of_the_file_and_are_made_when_needed(exported, monkeypatch):
    given, original = [], interpreter.Interpreter

    def record(model_content, num_threads):
        given.append(model_content)
        return original(model_content=model_content, num_threads=num_threads)

    monkeypatch.setattr(interpreter, "Interpreter", record)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    client = export.load(exported("convolutional-Bernoulli").tflite)
    for _ in range(3):
        client.encode(INPUTS["x"])
    assert len(given) == 1
    barrier = threading.Barrier(3)

    def encode():
        barrier.wait()
        for _ in range(100):
            client.encode(INPUTS["x"])

    started = [threading.Thread(target=encode) for _ in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(given) <= 3
    assert all(content is given[0] for content in given)


def test_threads_take_turns_and_an_error_gives_the_turn_back():
    made, inside, most = [], [], []

    def make():
        made.append(None)

        def function(fails):
            inside.append(None)
            most.append(len(inside))
            try:
                if fails:
                    raise RuntimeError("fails")
                pause.wait(0.005)
            finally:
                inside.pop()
            return {}

        return {"name": function}

    pause = threading.Event()
    call = tflite._taking_turns(make(), make, 2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, "name", {"fails": each % 4 == 0}) for each in range(20)]
    assert [isinstance(each.exception(), RuntimeError) for each in calls] == [each % 4 == 0 for each in range(20)]
    assert max(most) == len(made) == 2
