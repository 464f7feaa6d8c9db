"""The peer that the others are compared with: tfvae as a user would write it, with all defaults."""

import keras
import numpy as np
import tensorflow as tf

import tfvae
from peers.architectures import Architecture, Weights
from peers.keras_fit import Epochs
from peers.peer import LEARNING_RATE, Peer
from tfvae import elbo

LIKELIHOODS = {"bernoulli": tfvae.likelihoods.Bernoulli, "normal": tfvae.likelihoods.Normal}


def build(architecture: Architecture, k: int) -> tfvae.VAE:
    """Makes the model, not yet compiled.

    Args:
        architecture: the architecture.
        k: the number of draws of z for each example.
    """
    shape, latent_dim = architecture.event_shape, architecture.latent_dim
    widths = {"hidden": architecture.hidden, "activation": architecture.activation}
    mirrored = {**widths, "hidden": architecture.hidden[::-1]}
    if architecture.filters:
        encoder = tfvae.networks.convolutional_encoder(shape, architecture.filters, **widths)
        decoder = tfvae.networks.convolutional_decoder(latent_dim, shape, architecture.filters[::-1], **mirrored)
    else:
        encoder = tfvae.networks.dense_encoder(shape, **widths)
        decoder = tfvae.networks.dense_decoder(latent_dim, shape, **mirrored)
    return tfvae.VAE(
        encoder,
        decoder,
        latent_dim,
        likelihood=LIKELIHOODS[architecture.likelihood](),
        objective=tfvae.objectives.ELBO() if k == 1 else tfvae.objectives.IWAE(k),
    )


def load(model: tfvae.VAE, weights: Weights) -> None:
    """Sets the weights of a model."""
    model.encoder.set_weights([array for pair in weights.encoder for array in pair])
    model.decoder.set_weights([array for pair in weights.decoder for array in pair])
    model.posterior.loc_head.set_weights(weights.loc)
    model.posterior.scale_head.set_weights(weights.scale)


def loss(model: tfvae.VAE, x: np.ndarray, epsilon: np.ndarray) -> float:
    """The loss of examples [B, ...] at given noise [k, B, L]."""
    x = tf.constant(x)
    parameters = model.posterior(model.encoder(x))
    posterior = model.posterior.distribution(parameters)
    z = model.posterior.sample_from(parameters, tf.constant(epsilon))
    terms = elbo.terms_at(
        z,
        posterior.log_prob(z),
        posterior,
        model.prior.distribution(),
        lambda z: model.likelihood.log_prob(x, model.likelihood_parameters(z)),
        analytic_kl=model.objective.analytic_kl,
    )
    return -float(tf.reduce_mean(model.objective(terms)))


class TfvaePeer(Peer):
    """`tfvae.VAE`, compiled with an optimizer and nothing else."""

    def __init__(self, architecture: Architecture, batch_size: int, k: int) -> None:
        super().__init__(architecture, batch_size, k)
        self._model = build(architecture, k)
        self._epochs = None

    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""
        load(self._model, weights)
        self._model.compile(keras.optimizers.Adam(LEARNING_RATE))

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""
        return loss(self._model, x, epsilon)

    def _take(self, x: np.ndarray) -> None:
        if self._epochs is not None:
            self._epochs.stop()
        self._epochs = Epochs(self._model, x, self.batch_size)

    def _epoch(self) -> float:
        return self._epochs.run()
