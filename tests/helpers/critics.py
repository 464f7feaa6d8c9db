"""How models with a critic, and an optimizer of its own, are trained in two ways that must agree."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.replicated import strategy
from tfvae.callbacks import Checkpoints


class Cut(keras.callbacks.Callback):
    """Interrupts the training in its second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def states(model):
    """All variables of the model and of both optimizers."""
    return [np.asarray(v) for part in (model, model.optimizer, model.critic_optimizer) for v in part.variables]


def assert_resumes_exactly(make, x, folder):
    """Compares a training with one that was cut and resumed, and with one that goes on from a file."""
    arguments = {"x": x, "batch_size": 6, "epochs": 4, "verbose": 0}
    whole, cut, resumed = (make() for _ in range(3))
    for model in (cut, resumed):
        model.set_weights(whole.get_weights())
    with pytest.raises(KeyboardInterrupt):
        cut.fit(callbacks=[Checkpoints(folder), Cut()], **arguments)
    cut.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    for model in (whole, resumed, loaded):
        start = {"initial_epoch": 2} if model is loaded else {}
        model.fit(callbacks=[Checkpoints(folder)] if model is resumed else [], **arguments, **start)
    for model in (resumed, loaded):
        for one, other in zip(states(whole), states(model), strict=True):
            np.testing.assert_array_equal(one, other)


def compare_replicas(make, x):
    """Trains on two replicas and on one device, and prints what differs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    results = []
    for count in (2, 1):
        keras.utils.set_random_seed(0)
        with strategy(count).scope():
            model = make()
        # Batches of 5 are split into 3 + 2, and the last one into 1 + 0.
        history = model.fit(x, batch_size=5, shuffle=False, epochs=2, verbose=0).history
        metrics = model.evaluate(x, batch_size=5, verbose=0, return_dict=True)
        momenta = [np.asarray(v) for v in model.critic_optimizer.variables[2:]]
        results.append((history, metrics, [*model.get_weights()[:-1], *momenta]))
    (history, metrics, weights), (history_of_one, metrics_of_one, weights_of_one) = results
    differences = {
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(weights, weights_of_one, strict=True)),
        **{name: history[name][-1] - history_of_one[name][-1] for name in history},
        **{f"val_{name}": float(metrics[name] - metrics_of_one[name]) for name in metrics},
    }
    print(json.dumps(differences))
