"""What is exported: VAEs that several files of tests share, and a small model of the public contract of exports."""

import contextlib
import fcntl
import functools

import keras
import numpy as np
import tensorflow as tf

import tfvae
from tfvae import export, likelihoods, networks

EVENT_SHAPE = (8, 8, 1)
LATENT_DIM = 3
NETWORKS = {
    "dense": lambda: (
        networks.dense_encoder(EVENT_SHAPE, hidden=(16,)),
        networks.dense_decoder(LATENT_DIM, EVENT_SHAPE, hidden=(16,)),
    ),
    "convolutional": lambda: (
        networks.convolutional_encoder(EVENT_SHAPE, filters=(4,), hidden=(16,)),
        networks.convolutional_decoder(LATENT_DIM, EVENT_SHAPE, filters=(4,), hidden=(16,)),
    ),
}
LIKELIHOODS = {
    "Normal": lambda: likelihoods.Normal(scale="learned"),
    "Bernoulli": likelihoods.Bernoulli,
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
}
# The case whose model is calibrated, so that its exports have `detect`.
CALIBRATED = "dense-Normal"
IMAGES = [f"{network}-{likelihood}" for network in NETWORKS for likelihood in LIKELIHOODS]


def linear_vae():
    """A VAE of 4 numbers with two latent dimensions, a linear decoder and Normal with scale 1."""
    keras.utils.set_random_seed(0)
    return tfvae.VAE(networks.dense_encoder((4,), hidden=(8,)), networks.dense_decoder(2, (4,), hidden=()), 2)


def image_vae(case):
    network, likelihood = case.split("-")
    keras.utils.set_random_seed(IMAGES.index(case))
    return tfvae.VAE(*NETWORKS[network](), LATENT_DIM, likelihood=LIKELIHOODS[likelihood]())


class Exported:
    """A VAE, and what is exported of it, which is written when it is first needed by any process of the tests.

    Tests must not change any of it.
    """

    def __init__(self, case, folder):
        self.case, self.folder = case, folder
        self.model = linear_vae() if case == "linear" else image_vae(case)
        if case == CALIBRATED:
            self.model.calibrate(self.model.export_data(None), false_alarm_rate=0.1)

    @contextlib.contextmanager
    def _alone(self):
        """Keeps other processes, which have a model with the same weights, from writing its exports meanwhile."""
        with open(self.folder / f"{self.case}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @functools.cached_property
    def version(self):
        version = self.folder / self.case / "1"
        with self._alone():
            return version if version.is_dir() else export.saved_model(self.model, self.folder / self.case)

    @functools.cached_property
    def tflite(self):
        file = self.folder / f"{self.case}.tflite"
        with self._alone():
            return file if file.is_file() else export.tflite(self.model, file)

    @functools.cached_property
    def loaded(self):
        return tf.saved_model.load(str(self.version))

    @functools.cached_property
    def clients(self):
        return {name: export.load(getattr(self, name)) for name in ("version", "tflite")}


class Weight:
    """A weight as Keras has them, with its tensor in `value`."""

    def __init__(self, value):
        self.value = tf.Variable(value)


class Scaled(export.Exportable):
    """y = weight * x [B, 2]; its score is the sum of y. Without data, an export is compared on ones."""

    built = True

    def __init__(self, weight=(2.0, 3.0)):
        self.weight = Weight(np.array(weight, np.float32))

    def predict(self, x, verbose=0):
        return np.asarray(x) * self.weight.value.numpy()

    def export_signatures(self, x=None):
        def serving_default(x):
            return {"y": self.weight.value * x}

        def score(x, epsilon):
            return {"elbo": tf.reduce_sum(self.weight.value * x + epsilon, axis=1)}

        of_x, of_epsilon = (tf.TensorSpec([None, 2], tf.float32, name) for name in ("x", "epsilon"))
        return {
            "serving_default": export.Signature(serving_default, (of_x,), request=[0.0, 0.0]),
            "score": export.Signature(score, (of_x, of_epsilon), terms={"elbo": 2}),
        }

    def export_weights(self):
        return [self.weight]

    def export_data(self, x, rows=None):
        return super().export_data(np.ones([1, 2], np.float32) if x is None else x, rows)

    def export_examples(self, x, calibrating=False):
        return {"serving_default": {"x": x}, "score": {"x": x, "epsilon": np.ones_like(x)}}

    def export_description(self):
        return {"scaled": 2}


class WithOp(Scaled):
    """A model with one signature, y = function(x) [B, 2]."""

    def __init__(self, function):
        super().__init__((1.0, 1.0))
        self.function = function

    def export_signatures(self, x=None):
        of_x = tf.TensorSpec([None, 2], tf.float32, "x")
        return {"serving_default": export.Signature(lambda x: {"y": self.function(self.weight.value * x)}, (of_x,))}

    def export_examples(self, x, calibrating=False):
        return {"serving_default": {"x": x}}
