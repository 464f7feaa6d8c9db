"""A model of two losses, each with its own variables and optimizer, and the result by Keras's optimizers alone."""

import keras
import numpy as np
import tensorflow as tf

import tfvae
from tfvae.elbo import ElboTerms
from tfvae.training.step import Minimizer


class Players(tfvae.VariationalModel):
    """Two variables, a and b, each with its own quadratic loss, which depends on the other variable."""

    def __init__(self, rates=(0.1, 0.2), clipnorm=None, **kwargs):
        super().__init__(**kwargs)
        frozen = {"shape": (2,), "dtype": "float32", "autocast": False}
        self.a = self.add_weight(name="a", initializer="ones", **frozen)
        self.b = self.add_weight(name="b", initializer="zeros", **frozen)
        self.rates = rates
        # As an attribute, it is saved with the model by Keras.
        self.second_optimizer = keras.optimizers.Adam(rates[1], clipnorm=clipnorm)
        self.built = True

    def minimizers(self):
        return [Minimizer([self.a], self.optimizer), Minimizer([self.b], self.second_optimizer)]

    def check_data(self, x):
        pass

    def elbo_terms(self, x, sampling):
        zeros = tf.zeros_like(x[tf.newaxis, :, 0])
        return ElboTerms(zeros, zeros, zeros, zeros[0])

    def batch_losses(self, batch, training):
        losses, values = super().batch_losses(batch, training)
        if not training:
            return losses, values
        players = (
            tf.reduce_sum((batch.x - self.a + tf.stop_gradient(self.b)) ** 2),
            tf.reduce_sum((batch.x * self.b - tf.stop_gradient(self.a)) ** 2),
        )
        return [player / batch.global_size for player in players], values

    def get_config(self):
        return {"rates": self.rates}


def played(x, epochs=3):
    """The variables after epochs of one batch each, updated by Keras's optimizers one after the other."""
    a, b = keras.Variable(np.ones(2, "float32")), keras.Variable(np.zeros(2, "float32"))
    first, second = keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.2)
    first.build([a])
    second.build([b])
    for _ in range(epochs):
        values = a.numpy(), b.numpy()
        gradients = 2 * np.mean(values[0] - values[1] - x, axis=0), 2 * np.mean(x * (x * values[1] - values[0]), axis=0)
        first.apply([tf.constant(gradients[0], tf.float32)], [a])
        second.apply([tf.constant(gradients[1], tf.float32)], [b])
    return a.numpy(), b.numpy()


def players(**compiled):
    model = Players()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **compiled)
    return model
