"""What every likelihood is."""

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

PACKAGE = "tfvae.likelihoods"


class Likelihood(keras.layers.Layer, abc.ABC):
    """A distribution over the event x, independent over its elements given z.

    Built with the shape of the decoder's output.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._event_rank = None

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example. Here one parameter for each element of x."""
        return event_shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Takes the rank of the event from the shape of the decoder's output, [B, ...]."""
        self._event_rank = len(input_shape) - 1

    @abc.abstractmethod
    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element of x, from float32 parameters."""

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element of x [B, ...] under float32 parameters [S, B, ...], in nats."""
        return self.element_distribution(parameters).log_prob(x)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when x cannot come from this distribution.

        Args:
            x: data as it was given [N, ...], finite and of the right shape.
        """

    def distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """p(x|z), with the event shape of x.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        parameters = tf.cast(parameters, tf.float32)
        return tfd.Independent(self.element_distribution(parameters), self._event_rank)

    def log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Evaluates log p(x|z).

        Args:
            x: the data [B, ...].
            parameters: the decoder's output [S, B, ...].

        Returns:
            log p(x|z) [S, B], in nats per example.
        """
        self._check_built()
        elements = self.element_log_prob(tf.cast(x, tf.float32), tf.cast(parameters, tf.float32))
        return tf.reduce_sum(elements, axis=list(range(-self._event_rank, 0)))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z), with the shape of the parameters' leading dimensions and the event.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.distribution(parameters).mean()

    def _check_built(self) -> None:
        if self._event_rank is None:
            raise ValueError("A likelihood must be built before it is used, with the shape of the decoder's output")
