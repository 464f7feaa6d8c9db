"""The noise of training: fixed by the random seed and the state of the model, and different at every step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae.elbo import ElboTerms

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "3 steps at once": {"steps_per_execution": 3},
}


def compiled(model, optimizer, **mode):
    model.compile(optimizer, **mode)
    return model


class SeedEcho(tfvae.VariationalModel):
    """A model whose log p(x|z) is a function of the seed."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(name="w", shape=(), initializer="zeros")
        self.built = True

    def check_data(self, x):
        pass

    def elbo_terms(self, x, sampling):
        value = tf.cast(sampling.seed[0] % 1009, tf.float32) + tf.zeros_like(x[None, :, 0]) + self.w
        return ElboTerms(value, tf.zeros_like(value), tf.zeros_like(value), tf.zeros_like(x[:, 0]))


def test_the_same_random_seed_gives_bit_equal_training(x, tiny_vae):
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        vae = compiled(tiny_vae(), keras.optimizers.Adam(0.01))
        losses = vae.fit(x, batch_size=3, epochs=2, verbose=0).history["loss"]
        runs.append([*vae.get_weights(), losses])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("mode", MODES)
def test_noise_differs_at_every_step_and_follows_from_the_state(mode, x):
    model = compiled(SeedEcho(), keras.optimizers.SGD(0.0), **MODES[mode])
    start = model.get_weights()
    elbo = model.fit(x, batch_size=4, epochs=2, verbose=0).history["elbo"]
    model.set_weights(start)
    seeds = [tuple(model.next_seed().numpy()) for _ in range(10)]
    assert len(set(seeds)) == 10
    values = [first % 1009 for first, _ in seeds]
    np.testing.assert_allclose(elbo, [np.mean(values[:5]), np.mean(values[5:])], rtol=1e-5)


def test_a_step_of_length_zero_gives_another_loss_each_time(x, tiny_vae):
    vae = compiled(tiny_vae(), keras.optimizers.SGD(0.0))
    assert len(set(vae.fit(x, batch_size=20, epochs=5, verbose=0).history["loss"])) == 5


def test_two_models_of_one_run_draw_different_noise(tiny_vae):
    seeds = [tuple(vae.next_seed().numpy()) for vae in (tiny_vae(), tiny_vae()) for _ in range(5)]
    assert len(set(seeds)) == 10
