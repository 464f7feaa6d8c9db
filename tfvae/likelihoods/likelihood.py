"""What every likelihood is."""

import abc
import math
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

PACKAGE = "tfvae.likelihoods"


class Likelihood(keras.layers.Layer, abc.ABC):
    """A distribution over the event x, independent over its elements given z.

    Built with the shape of the decoder's output. Where an element of x has several parameters, the last axis of that is
    longer by as much: for x [B, ..., C] and P parameters it is [B, ..., C * P], and those of one element are
    neighbours. A picture with one channel so has one channel for each parameter.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        num_parameters: P, the number of parameters of one element of x.
        allows_missing: whether NaN may mark an element of x that is missing.
        has_moving_statistics: whether it has weights that follow the data in training, and not the gradient.
        placeholder: a value that x may have, which takes the place of what is missing.
    """

    num_parameters = 1
    allows_missing = False
    has_moving_statistics = False
    placeholder: float | np.ndarray = 0.0
    _event_rank: int
    _event_shape: tuple[int, ...]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Until Keras builds it.
        self._event_rank = self._event_shape = None  # type: ignore[assignment]

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example.

        Args:
            event_shape: the shape of x for each example.
        """
        return (*event_shape[:-1], event_shape[-1] * self.num_parameters)

    def mean_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `mean` gives for each example: that of x, unless a likelihood says otherwise.

        Args:
            event_shape: the shape of x for each example.
        """
        return event_shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Takes the shape of the event from that of the decoder's output, [B, ...]."""
        shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        self._event_rank = len(shape)
        self._event_shape = (*shape[:-1], shape[-1] // self.num_parameters)

    @abc.abstractmethod
    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element of x, from float32 parameters."""

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element of x [B, ...] under float32 parameters [S, B, ...], in nats."""
        return self.element_distribution(parameters).log_prob(x)

    def element_log_prob_in_training(
        self, x: tf.Tensor, parameters: tf.Tensor, is_observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The log-density of each element in a step of training, for a likelihood that learns from the batch itself.

        Args:
            x: the data [B, ...], with the placeholder for what is missing.
            parameters: the decoder's output [S, B, ...].
            is_observed: which elements of x are there, bool [B, ...]; None for all.
        """
        del is_observed
        return self.element_log_prob(x, parameters)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when x cannot come from this distribution.

        Args:
            x: data as it was given [N, ...], finite and of the right shape.
        """

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """What the encoder is given for x [B, ...]."""
        return x

    def distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """p(x|z), with the event shape of x.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        parameters = tf.cast(parameters, tf.float32)
        return tfd.Independent(self.element_distribution(parameters), self._event_rank)

    def log_prob(self, x: tf.Tensor, parameters: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Evaluates log p(x|z).

        Args:
            x: the data [B, ...].
            parameters: the decoder's output [S, B, ...].
            training: whether this is a step of training, from whose batch a likelihood may learn.

        Returns:
            log p(x|z) [S, B], in nats per example.
        """
        self._check_built()
        function = self.element_log_prob_in_training if training else self.element_log_prob
        elements = function(tf.cast(x, tf.float32), tf.cast(parameters, tf.float32))
        return tf.reduce_sum(elements, axis=list(range(-self._event_rank, 0)))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z), with the shape of the parameters' leading dimensions and the event.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.distribution(parameters).mean()

    def to_data(self, mean: np.ndarray) -> np.ndarray:
        """The x [..., *event_shape] that a mean, or an average of means over z, stands for.

        Args:
            mean: what `mean` gives [..., *mean_shape].
        """
        return mean

    def by_element(self, parameters: tf.Tensor) -> tf.Tensor:
        """The parameters [..., E, P] of the E elements of x, of the decoder's output [..., *parameter_shape]."""
        leading = tf.shape(parameters)[: -self._event_rank]
        shape = [math.prod(self._event_shape), self.num_parameters]
        return tf.reshape(parameters, tf.concat([leading, shape], axis=0))

    def to_event(self, elements: tf.Tensor, trailing: tuple[int, ...] = ()) -> tf.Tensor:
        """Values [..., E, *trailing] of the elements of x in the shape of the event, [..., *event_shape, *trailing]."""
        leading = tf.shape(elements)[: -1 - len(trailing)]
        return tf.reshape(elements, tf.concat([leading, [*self._event_shape, *trailing]], axis=0))

    def split(self, parameters: tf.Tensor) -> list[tf.Tensor]:
        """The P parameters, each [..., *event_shape], of the decoder's output [..., *parameter_shape]."""
        if self.num_parameters == 1:
            return [parameters]
        return [self.to_event(part) for part in tf.unstack(self.by_element(parameters), axis=-1)]

    def _check_built(self) -> None:
        if self._event_rank is None:
            raise ValueError("A likelihood must be built before it is used, with the shape of the decoder's output")


def likelihood_of(value: Any, argument: str) -> Likelihood:
    """The likelihood that a wrapper was given.

    Args:
        value: a likelihood, or the configuration of one as `configuration_of` gives it.
        argument: the name under which it was given.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if not isinstance(value, Likelihood):
        raise ValueError(f"`{argument}` must be a Likelihood. Received: {argument}={value!r}")
    return value


def configuration_of(likelihood: Likelihood) -> dict[str, Any]:
    """What makes a likelihood anew, not built, ready for JSON."""
    configuration = keras.saving.serialize_keras_object(likelihood)
    configuration.pop("build_config", None)
    return configuration
