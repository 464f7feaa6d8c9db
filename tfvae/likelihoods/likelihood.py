"""The base class of all likelihoods, and helpers for likelihoods that wrap others."""

import abc
import math
from typing import Any, Literal, NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks

tfd = tfp.distributions

PACKAGE = "tfvae.likelihoods"
# The least noise: half of the least positive number that 24 random bits give.
_LEAST_NOISE = 2.0**-25


class Group(NamedTuple):
    """A likelihood that reads the decoder's outputs itself, with the elements of x that it is of.

    Attributes:
        name: which of several groups it is, to begin a message with; empty for a likelihood of all of x.
        likelihood: the likelihood.
        x: its elements of the data [N, ...].
        outputs: its outputs of the decoder [M, ...], in rows of their own.
    """

    name: str
    likelihood: "Likelihood"
    x: np.ndarray
    outputs: np.ndarray


class Likelihood(keras.layers.Layer, abc.ABC):
    """The distribution p(x|z) of an example x, whose elements are independent of each other given z.

    `build` takes the shape of the decoder's output. If each element of x has P parameters, the last axis of the output
    is P times as long as that of x: [B, ..., C * P] for x [B, ..., C], with the parameters of one element next to each
    other. So for images with one channel, the output has one channel for each parameter.

    A subclass needs only `element_distribution`; `Bernoulli` in `bernoulli.py` is a short example. One that overrides
    `log_prob`, and still is a product over elements, says so by `factorises = True`.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        num_parameters: P, the number of parameters of one element of x.
        outputs: what the decoder's outputs are, in words.
        outputs_range: where they have to be able to lie: "real" for all real numbers, of either sign, as for logits;
            "relative" for real numbers of which only the differences count, as for the logits of classes; "data" for
            where x lies, as for a location; None if nothing is known, so that no decoder is refused.
        takes_temperature: whether all of its parameters are logits, which a temperature divides to make draws closer to
            the best guess (below 1) or more diverse (above 1).
        samples_from_noise: whether `sample_from` is defined, by ops that are built into TFLite.
        allows_missing: whether x may hold NaN, which marks a missing element.
        factorises: whether log p(x|z) is the sum of `element_log_prob`; False for a subclass that overrides `log_prob`,
            unless it says otherwise.
        is_of_x: whether it is a density, or a probability, of x itself. If it is of something computed from x, as
            `Perceptual` is, nothing bounds log p(x).
        has_moving_statistics: whether training sets some of its weights from the data, not by the gradient.
        placeholder: a valid value for an element of x, put in the place of missing elements.
        column_names: the names of the columns of x, on its last axis; None if they have none.
    """

    num_parameters = 1
    outputs = "parameters"
    outputs_range: Literal["real", "relative", "data"] | None = None
    takes_temperature = False
    samples_from_noise = False
    allows_missing = False
    factorises = True
    is_of_x = True
    has_moving_statistics = False
    placeholder: float | np.ndarray = 0.0
    column_names: tuple[str, ...] | None = None
    _event_rank: int
    _event_shape: tuple[int, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "log_prob" in vars(cls) and "factorises" not in vars(cls):
            cls.factorises = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Until Keras builds it.
        self._event_rank = self._event_shape = None  # type: ignore[assignment]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of x, (None, *event_shape), for `keras.Model.summary`."""
        return (None, *self._event_shape)

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example.

        Args:
            event_shape: the shape of x for each example.
        """
        return (*event_shape[:-1], event_shape[-1] * self.num_parameters)

    def mean_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `mean` returns for each example: that of x, unless a subclass overrides it.

        Args:
            event_shape: the shape of x for each example.
        """
        return event_shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Derives the event shape from the shape of the decoder's output, [B, ...]."""
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
        """The log-density of each element in a training step; overridden by likelihoods that adapt to the batch.

        Args:
            x: the data [B, ...], with the placeholder in the place of missing elements.
            parameters: the decoder's output [S, B, ...].
            is_observed: which elements of x are observed, bool [B, ...]; None if all are.
        """
        del is_observed
        return self.element_log_prob(x, parameters)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when x cannot come from this distribution.

        Args:
            x: the data as the user gave them [N, ...], already known to be finite and of the right shape.
        """

    def check_training(self, x: np.ndarray) -> str | None:
        """Looks for data that can come from this distribution, but are hardly what it is meant for.

        Args:
            x: data of a training [N, ...], which `check` has passed; NaN marks missing elements.

        Returns:
            What to warn the user of, or None.

        Raises:
            ValueError: the data are surely not what it is meant for.
        """
        return None

    def groups(self, x: np.ndarray, outputs: np.ndarray) -> list[Group]:
        """The likelihoods that read the decoder's outputs: this one, unless it wraps others.

        Args:
            x: data [N, ...].
            outputs: outputs of the decoder [M, ...].
        """
        return [Group("", self, x, outputs)]

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """The encoder's input for the data x [B, ...]: x itself, unless a subclass overrides it."""
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
            training: whether this is a training step, in which a likelihood may adapt to the batch.

        Returns:
            log p(x|z) [S, B], in nats per example.
        """
        self._check_built()
        function = self.element_log_prob_in_training if training else self.element_log_prob
        elements = function(tf.cast(x, tf.float32), tf.cast(parameters, tf.float32))
        return tf.reduce_sum(elements, axis=list(range(-self._event_rank, 0)))

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z) [..., *mean_shape].

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.distribution(parameters).mean()

    def best_guess(self, parameters: tf.Tensor) -> tf.Tensor:
        """The value of x that is the best guess [..., *event_shape]: `to_data` of the mean, as a tensor.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        return self.mean(parameters)

    def noise_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the noise of `sample_from` for each example: two numbers for each element of x, side by side.

        Args:
            event_shape: the shape of x for each example.
        """
        return (*event_shape[:-1], 2 * event_shape[-1])

    def sample_from(self, parameters: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Computes a draw of p(x|z) [B, ...] from noise, for exports, which take noise as an input.

        Args:
            parameters: the decoder's output [B, *parameter_shape].
            noise: numbers drawn uniformly from [0, 1) [B, *noise_shape].
        """
        self._check_built()
        # Some transformations are infinite at 0 and 1. Nothing lies between 1 and the greatest float32 below it.
        noise = tf.clip_by_value(noise, _LEAST_NOISE, 1 - 2 * _LEAST_NOISE)
        shape = [-1, *self._event_shape]
        pairs = tf.reshape(noise, [-1, math.prod(self._event_shape), 2])
        first, second = (tf.reshape(each, shape) for each in tf.unstack(pairs, axis=-1))
        return self.element_sample_from(tf.cast(parameters, tf.float32), first, second)

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element of x, from float32 parameters.

        Args:
            parameters: the decoder's output [B, *parameter_shape].
            first: noise [B, ...], between 0 and 1 for each element of x.
            second: as `first`, for distributions that need two numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} has no draws from noise")

    def to_data(self, mean: np.ndarray) -> np.ndarray:
        """Turns a mean of p(x|z), or an average of such means over z, into a value of x [..., *event_shape].

        Args:
            mean: what `mean` returns [..., *mean_shape].
        """
        return mean

    def units_of_mean(
        self, offset: np.ndarray, scale: np.ndarray, event_shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The units of what `mean` returns, where those of x are x = (raw - offset) / scale.

        They are those of x, unless a subclass overrides this, as one does whose mean is made of probabilities.

        Args:
            offset: broadcasts to the event shape.
            scale: as `offset`.
            event_shape: the shape of x for each example.

        Returns:
            offset and scale with which the mean in raw units is mean * scale + offset; they broadcast to
            `mean_shape(event_shape)`.
        """
        del event_shape
        return offset, scale

    def by_element(self, parameters: tf.Tensor) -> tf.Tensor:
        """Reshapes the decoder's output [..., *parameter_shape] to [..., E, P]: P parameters for each of E elements."""
        leading = tf.shape(parameters)[: -self._event_rank]
        shape = [math.prod(self._event_shape), self.num_parameters]
        return tf.reshape(parameters, tf.concat([leading, shape], axis=0))

    def to_event(self, elements: tf.Tensor, trailing: tuple[int, ...] = ()) -> tf.Tensor:
        """Reshapes values [..., E, *trailing], one for each element of x, to [..., *event_shape, *trailing]."""
        leading = tf.shape(elements)[: -1 - len(trailing)]
        return tf.reshape(elements, tf.concat([leading, [*self._event_shape, *trailing]], axis=0))

    def split(self, parameters: tf.Tensor) -> list[tf.Tensor]:
        """Splits the decoder's output [..., *parameter_shape] into its P parameters, each [..., *event_shape]."""
        if self.num_parameters == 1:
            return [parameters]
        return [self.to_event(part) for part in tf.unstack(self.by_element(parameters), axis=-1)]

    def _check_built(self) -> None:
        if self._event_rank is None:
            raise ValueError("A likelihood must be built before it is used, with the shape of the decoder's output")


def likelihood_of(value: Any, argument: str, by_element: bool = True) -> Likelihood:
    """Returns the likelihood that a wrapper was given, as an object or as a configuration.

    Args:
        value: a likelihood, or its configuration as `configuration_of` returns it.
        argument: the name of the wrapper's argument, for the error message.
        by_element: whether the wrapper takes it element by element, so that it must be a product over elements.

    Raises:
        ValueError: `value` is neither, or the wrapper cannot take it.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if not isinstance(value, Likelihood):
        raise ValueError(f"`{argument}` must be a Likelihood. Received: {argument}={checks.shown(value)}")
    if not value.is_of_x:
        raise ValueError(f"`{argument}` must be a likelihood of x. Received: {argument}={checks.shown(value)}")
    if by_element and not value.factorises:
        raise ValueError(
            f"`{argument}` must be a product over the elements of x, and a subclass that is one and has a `log_prob` "
            f"of its own says so by `factorises = True`. Received: {argument}={checks.shown(value)}"
        )
    return value


def configuration_of(likelihood: Likelihood) -> dict[str, Any]:
    """The configuration, ready for JSON, from which `likelihood_of` makes the same likelihood, not yet built."""
    configuration = keras.saving.serialize_keras_object(likelihood)
    configuration.pop("build_config", None)
    return configuration
