"""A peer in plain Keras, written like the VAE example of its documentation: a model with a custom `train_step`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from peers.architectures import LOG_2_PI, MIN_SCALE, RAW_SHIFT, Architecture, Layer, Weights
from peers.keras_fit import Epochs
from peers.peer import LEARNING_RATE, Peer

# The steps per execution of the tuned peer.
_STEPS_PER_EXECUTION = 50


class VAE(keras.Model):
    """A variational autoencoder.

    Args:
        architecture: the architecture.
        k: the number of draws of z for each example.
    """

    def __init__(self, architecture: Architecture, k: int) -> None:
        super().__init__()
        self.architecture, self.k = architecture, k
        x = keras.Input(architecture.event_shape)
        features = keras.layers.Flatten()(x) if not architecture.filters else x
        features = _network(architecture, architecture.encoder, features)
        loc = keras.layers.Dense(architecture.latent_dim)(features)
        raw_scale = keras.layers.Dense(architecture.latent_dim)(features)
        self.encoder = keras.Model(x, [loc, raw_scale])
        z = keras.Input((architecture.latent_dim,))
        outputs = keras.layers.Reshape(architecture.event_shape)(_network(architecture, architecture.decoder, z))
        self.decoder = keras.Model(z, outputs)
        self.seed_generator = keras.random.SeedGenerator(0)
        names = ("loss", "reconstruction_loss", "kl_loss")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics, which Keras resets at the start of each epoch."""
        return list(self.trackers.values())

    def losses_at(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """The loss and its two parts, means over the examples x [B, ...], at given noise [k, B, L] or at new noise."""
        loc, raw_scale = self.encoder(x)
        scale = keras.ops.softplus(raw_scale + RAW_SHIFT) + MIN_SCALE
        if epsilon is None:
            shape = (self.k, *keras.ops.shape(loc))
            epsilon = keras.random.normal(shape, seed=self.seed_generator)
        z = loc + scale * epsilon
        rows = keras.ops.reshape(z, (-1, self.architecture.latent_dim))
        outputs = keras.ops.reshape(self.decoder(rows), (self.k, *keras.ops.shape(x)))
        log_likelihood = keras.ops.sum(self._log_likelihood(x, outputs), axis=tuple(range(2, len(outputs.shape))))
        if self.k == 1:
            kl = keras.ops.sum((loc**2 + scale**2 - 1) / 2 - keras.ops.log(scale), axis=-1)
            bound = log_likelihood[0] - kl
        else:
            log_ratio = keras.ops.sum((z**2 - epsilon**2) / 2 - keras.ops.log(scale), axis=-1)
            bound = keras.ops.logsumexp(log_likelihood - log_ratio, axis=0) - keras.ops.log(float(self.k))
            kl = keras.ops.mean(log_ratio, axis=0)
        means = (-keras.ops.mean(bound), -keras.ops.mean(log_likelihood), keras.ops.mean(kl))
        return dict(zip(self.trackers, means, strict=True))

    def _log_likelihood(self, x: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        if self.architecture.likelihood == "normal":
            return -((x - outputs) ** 2 + LOG_2_PI) / 2
        x = keras.ops.broadcast_to(x, keras.ops.shape(outputs))
        return -keras.ops.binary_crossentropy(x, outputs, from_logits=True)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer, on one batch."""
        with tf.GradientTape() as tape:
            losses = self.losses_at(data)
        self.optimizer.apply(tape.gradient(losses["loss"], self.trainable_variables), self.trainable_variables)
        for name, tracker in self.trackers.items():
            tracker.update_state(losses[name])
        return {name: tracker.result() for name, tracker in self.trackers.items()}


class KerasPeer(Peer):
    """The peer in plain Keras.

    Args:
        architecture: the architecture.
        batch_size: B, the number of examples in a step.
        k: the number of draws of z for each example.
        tuned: whether to compile as an expert in Keras would: with several steps per execution, and with XLA unless
            there are convolutions, which XLA slows down on CPUs.
    """

    def __init__(self, architecture: Architecture, batch_size: int, k: int, tuned: bool = False) -> None:
        super().__init__(architecture, batch_size, k)
        self._model = VAE(architecture, k)
        self._tuned = tuned
        self._epochs = None

    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""
        pairs = [*weights.encoder, weights.loc, weights.scale]
        self._model.encoder.set_weights([array for pair in pairs for array in pair])
        self._model.decoder.set_weights([array for pair in weights.decoder for array in pair])
        tuned = {"jit_compile": not self.architecture.filters, "steps_per_execution": _STEPS_PER_EXECUTION}
        self._model.compile(keras.optimizers.Adam(LEARNING_RATE), **(tuned if self._tuned else {}))

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""
        return float(self._model.losses_at(tf.constant(x), tf.constant(epsilon))["loss"])

    def _take(self, x: np.ndarray) -> None:
        if self._epochs is not None:
            self._epochs.stop()
        self._epochs = Epochs(self._model, x, self.batch_size)

    def _epoch(self) -> float:
        return self._epochs.run()


def _network(architecture: Architecture, layers: list[Layer], outputs: keras.KerasTensor) -> keras.KerasTensor:
    """Applies the layers to a symbolic input."""
    for layer in layers:
        activation = architecture.activation if layer.is_activated else None
        if layer.kind == "dense":
            if len(outputs.shape) > 2:
                outputs = keras.layers.Flatten()(outputs)
            outputs = keras.layers.Dense(layer.outputs, activation=activation)(outputs)
            continue
        if len(outputs.shape) == 2:
            outputs = keras.layers.Reshape(architecture.small_image)(outputs)
        kind = keras.layers.Conv2D if layer.kind == "convolution" else keras.layers.Conv2DTranspose
        arguments = {"strides": 2, "padding": "same", "activation": activation}
        outputs = kind(layer.outputs, layer.kernel[0], **arguments)(outputs)
    return outputs
