"""Shared by the tests: tiny data, tiny models, the dtype policy put back, and a fresh Python process."""

import os
import subprocess
import sys
import textwrap

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae.elbo import ElboTerms


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_run():
    keras.utils.set_random_seed(0)


@pytest.fixture
def x():
    """20 examples of 4 numbers: with batches of 3, 7 of them, the last uneven."""
    return np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


@pytest.fixture(scope="session")
def tiny_vae():
    """A builder of a dense VAE of x [B, 4] with two latent dimensions."""

    def build(**arguments):
        arguments.setdefault("encoder", tfvae.networks.dense_encoder((4,), hidden=(8,)))
        arguments.setdefault("decoder", tfvae.networks.dense_decoder(2, (4,), hidden=(8,)))
        return tfvae.VAE(latent_dim=2, **arguments)

    return build


@pytest.fixture(scope="session")
def quiet_vae(tiny_vae):
    """A builder of a VAE whose terms do not depend on the noise, so that losses and steps can be compared exactly.

    The decoder multiplies z by zero: log p(x|z) trains its bias, and the closed form of the KL trains the encoder.
    """

    def build(**arguments):
        deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)
        return tiny_vae(decoder=keras.Sequential([keras.Input((2,)), deaf, keras.layers.Dense(4)]), **arguments)

    return build


@pytest.fixture(scope="session")
def lazy_vae(tiny_vae):
    """A builder of a VAE that only the first data builds."""

    def build(**arguments):
        return tiny_vae(encoder=keras.Sequential([keras.layers.Dense(8, activation="relu")]), **arguments)

    return build


class Known(tfvae.VariationalModel):
    """A model whose terms are columns of x: log p(x|z) = x[0] + w and KL = x[1]."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.w = self.add_weight(name="w", shape=(), initializer="zeros")
        self.built = True

    def check_data(self, x):
        pass

    def elbo_terms(self, x, *, num_samples, seed, analytic_kl=True, training=False):
        log_likelihood = tf.tile(x[None, :, 0] + self.w, [num_samples, 1])
        return ElboTerms(log_likelihood, tf.zeros_like(log_likelihood), tf.zeros_like(log_likelihood), x[:, 1])


@pytest.fixture(scope="session")
def known_model():
    """A builder of a compiled `Known`."""

    def build(optimizer=None, objective=None, **mode):
        model = Known(objective=objective)
        model.compile(optimizer or keras.optimizers.SGD(0.0), **mode)
        return model

    return build


@pytest.fixture
def dtype_policy():
    """Sets the dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Runs a script in a fresh process, and returns what it printed."""

    def run(script, *arguments):
        command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path_factory.mktemp("run"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
