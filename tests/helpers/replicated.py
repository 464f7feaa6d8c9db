"""Models under strategies with any number of replicas, and shared data and comparisons."""

import contextlib
import functools
import os

import keras
import numpy as np
import tensorflow as tf

import tfvae
from tests.helpers.known import Known

X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")
WEIGHT = np.linspace(0.0, 2.0, 21)
# Two replicas split a batch of 5 into 3 + 2, four into 2 + 2 + 1 + 0; the last batch has one example.
BATCHES = {"batch_size": 5, "verbose": 0}

OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "averaged": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.7),
    "Adam": lambda: keras.optimizers.Adam(0.02),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.3),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.5),
    "clipvalue": lambda: keras.optimizers.SGD(0.1, clipvalue=0.1),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, clipnorm=0.3)),
}
MODES = {
    "graph": {},
    "4 steps at once": {"steps_per_execution": 4},
    "xla": {"jit_compile": True},
    "4 steps at once by xla": {"steps_per_execution": 4, "jit_compile": True},
    "eager": {"run_eagerly": True},
}


def strategy(replicas):
    """A strategy with this many replicas; in a worker, the strategy of all workers, which can be made only once."""
    return of_workers() if "TF_CONFIG" in os.environ else of_devices(replicas)


@functools.cache
def of_workers():
    return tfvae.strategy("multi_worker", timeout=60)


@functools.cache
def of_devices(replicas):
    if replicas == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    # TensorFlow's collective operations would mistake the devices of a second strategy for those of the first.
    reduction = None if replicas == 2 else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(replicas)], cross_device_ops=reduction)


def scope(replicas):
    return strategy(replicas).scope() if replicas else contextlib.nullcontext()


def networks(*layers, lazy=False, quiet=True):
    """An encoder and a decoder; a quiet one multiplies z by 0, so that the noise has no effect."""
    # Keras mixes up the regularization losses of replicas when a later layer synchronizes them.
    regularized = {} if layers else {"kernel_regularizer": "l2", "activity_regularizer": "l2"}
    start = [] if lazy else [keras.Input((4,))]
    encoder = keras.Sequential([*start, keras.layers.Dense(8, "tanh", **regularized), *layers])
    deaf = [keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)] if quiet else []
    return encoder, keras.Sequential([keras.Input((2,)), *deaf, keras.layers.Dense(4)])


def build(replicas, optimizer="momentum", *, layers=tuple, lazy=False, quiet=True, **mode):
    keras.utils.set_random_seed(0)
    with scope(replicas):
        vae = tfvae.VAE(*networks(*layers(), lazy=lazy, quiet=quiet), 2)
        vae.compile(OPTIMIZERS[optimizer](), **mode)
    return vae


def known(replicas, learning_rate=0.0, model=Known, **mode):
    keras.utils.set_random_seed(0)
    with scope(replicas):
        model = model()
        model.compile(keras.optimizers.SGD(learning_rate), **mode)
    return model


def fit(vae, x=X, **arguments):
    return vae.fit(x, shuffle=False, **BATCHES, **arguments).history


def copies(variable, replicas=2):
    """The replicas' copies of a variable."""
    return [copy.numpy() for copy in strategy(replicas).experimental_local_results(variable.value)]


def assert_close(found, expected, tolerance=2e-6):
    """Compares dictionaries and lists of arrays; see `check_same_as_one_device` for the tolerance."""
    found, expected = (tf.nest.map_structure(lambda x: np.asarray(x).tolist(), values) for values in (found, expected))
    tf.nest.assert_same_structure(found, expected, check_types=False)
    np.testing.assert_allclose(tf.nest.flatten(found), tf.nest.flatten(expected), rtol=tolerance, atol=tolerance)
