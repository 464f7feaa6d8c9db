"""Latent variables of which each row of the data has its own, with a posterior that a network computes from the row."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.inference.latents import Latent, check_family, space
from tfvae.models import parts
from tfvae.posteriors import DiagonalNormal, Posterior

tfd = tfp.distributions


class LocalLatents(keras.layers.Layer):
    """The latent variables of each row, q(z_n | x_n) = posterior(encoder(x_n)) in the unconstrained space.

    Args:
        latents: for each name a `tfvae.Latent`, or a shape if there is no constraint.
        encoder: a Keras model from the data of B rows, in the form given to `fit`, to features [B, F].
        posterior: the family of q; None means `DiagonalNormal()`.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument has the wrong type, or `posterior` does not fit `latents`.

    Reference: Kingma & Welling 2013, Auto-Encoding Variational Bayes, appendix F: global and local latent variables.
    """

    def __init__(
        self,
        latents: Mapping[str, Latent | Sequence[int]],
        encoder: keras.Model,
        posterior: Posterior | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.space = space(latents)
        self.encoder = parts.checked_network("encoder", encoder)
        self.posterior = parts.checked_part("posterior", posterior, Posterior, default=DiagonalNormal)
        check_family(self.posterior, self.space.dim)
        self.posterior.latent_dim = self.space.dim
        # Built at once if the encoder's output shape is known: weights can be loaded only into layers that are built.
        features = getattr(encoder, "output_shape", None)
        if features is not None:
            self._build_posterior(features)
            self.built = True

    def build(self, input_shape: Any) -> None:
        """Builds the posterior for the features that the encoder gives for data of this shape.

        Args:
            input_shape: the shape of each tensor of the data, [B, ...], in the structure of the data.
        """
        specs = tf.nest.map_structure(lambda shape: keras.KerasTensor((None, *shape[1:])), input_shape)
        self._build_posterior(self.encoder(specs).shape)

    def _build_posterior(self, features: Any) -> None:
        if not isinstance(features, tuple) or len(features) != 2:
            raise ValueError(f"`encoder` must give features [B, F]. Received: features of shape {features}")
        self.posterior.build(features)

    def distribution(self, x: Any, training: bool = False) -> tfd.Distribution:
        """q(z | x) in the unconstrained space, with batch shape [B].

        Args:
            x: the data of the rows, each tensor [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        return self.posterior.distribution(self.posterior(self.encoder(x, training=training)))
