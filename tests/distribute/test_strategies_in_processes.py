"""Strategies in fresh processes: on a CPU that is split, and in workers that start late, or never."""

import json

import pytest


def test_a_cpu_is_split_before_tensorflow_is_used(run_python):
    printed = run_python("""
        import json, keras, tensorflow as tf, tfvae

        keras.utils.set_random_seed(0)
        report = {"auto": tfvae.strategy(devices=3).num_replicas_in_sync}
        strategy = tfvae.strategy("mirrored", devices=2)
        with strategy.scope():
            v = tf.Variable(2.0)
        report["sum"] = strategy.reduce("SUM", strategy.run(tf.function(lambda: v + 1.0)), axis=None).numpy().item()
        for devices in (3, None, 1):
            report[str(devices)] = list(tfvae.strategy("mirrored", devices=devices).extended.worker_devices)
        try:
            tfvae.strategy("mirrored", devices=4)
        except ValueError as error:
            report["error"] = str(error)
        report["default"] = tfvae.strategy() is tf.distribute.get_strategy()
        print(json.dumps(report))
    """)
    report = json.loads(printed.splitlines()[-1])
    assert report.pop("error").endswith("is made. Received: devices=4, with 3 made already")
    three = [f"/job:localhost/replica:0/task:0/device:CPU:{index}" for index in range(3)]
    assert report == {"auto": 3, "sum": 6.0, "3": three, "None": three, "1": three[:1], "default": True}


@pytest.mark.slow
def test_a_chief_and_a_worker_start_at_different_times(run_workers):
    printed = run_workers(
        """
        import json, os, time
        config = json.loads(os.environ["TF_CONFIG"])
        index = config["task"]["index"]
        chief, worker = config["cluster"]["worker"]
        # The process 0 is the worker here, and the process 1, which is late, is the chief.
        config["cluster"] = {"worker": [chief], "chief": [worker]}
        config["task"] = {"type": ("worker", "chief")[index], "index": "0"}
        os.environ["TF_CONFIG"] = json.dumps(config)
        import keras, tensorflow as tf, tfvae
        from tfvae import strategies

        keras.utils.set_random_seed(0)
        tf.config.threading.set_inter_op_parallelism_threads(3)
        time.sleep(index / 2)
        strategy = tfvae.strategy(timeout=30)
        report = {"outside": strategies.workers(), "of": strategies.workers(strategy)}
        with strategy.scope():
            report["inside"] = strategies.workers()
            v = tf.Variable(1.0 + report["inside"][0])
        # The first value of a variable is that of the chief.
        total = strategy.reduce("SUM", strategy.run(tf.function(lambda: v * 10.0 ** report["of"][0])), axis=None)
        report["sum"] = total.numpy().item()
        del os.environ["TF_CONFIG"]
        report["later"] = strategies.workers(strategy)
        report["threads"] = tf.config.threading.get_inter_op_parallelism_threads()
        report["chief"] = strategy.extended.should_checkpoint
        print(json.dumps(report))
        """,
        2,
    )
    worker, chief = (json.loads(text.splitlines()[-1]) for text in printed)
    for report, index in ((chief, 0), (worker, 1)):
        here = [index, 2]
        expected = {"outside": [0, 1], "of": here, "inside": here, "later": here, "sum": 11.0, "threads": 3}
        assert report == {**expected, "chief": index == 0}


@pytest.mark.slow
@pytest.mark.parametrize("absent", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_worker_that_never_starts_is_named_in_all(run_workers, absent):
    printed = run_workers(
        """
        import json, os, sys
        config = json.loads(os.environ["TF_CONFIG"])
        if config["task"]["index"] == int(sys.argv[1]):
            sys.exit()
        import tfvae

        try:
            # Within it, the others must have started: by forks they do.
            tfvae.strategy("multi_worker", timeout=2)
        except TimeoutError as error:
            print(json.dumps([str(error), config["cluster"]["worker"]]), flush=True)
        os._exit(0)
        """,
        3,
        absent,
    )
    assert printed.pop(absent) == ""
    expected = "All workers of `TF_CONFIG` must start within 2 seconds. Received: no answer from "
    for message, addresses in map(json.loads, printed):
        assert message == expected + addresses[absent]


@pytest.mark.slow
def test_a_port_that_another_process_holds_is_named(run_workers):
    printed = run_workers(
        """
        import json, os, socket
        config = json.loads(os.environ["TF_CONFIG"])
        index = config["task"]["index"]
        if index == 0:
            os._exit(0)
        host, port = config["cluster"]["worker"][index].split(":")
        import tfvae

        with socket.create_server((host, int(port))):
            try:
                tfvae.strategy("multi_worker", timeout=5)
            except ValueError as error:
                print(error, flush=True)
        os._exit(0)
        """,
        2,
    )
    assert printed[1].startswith("`TF_CONFIG` must give this worker a port of this machine that is free. Received: ")
