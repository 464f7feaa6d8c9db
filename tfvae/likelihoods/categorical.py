"""The likelihood of categories, coded as whole numbers."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods.likelihood import PACKAGE, Likelihood
from tfvae.numerics import log_softmax

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Categorical(Likelihood):
    """The likelihood of codes x in {0, ..., C - 1}: x = c with probability softmax(f(z))_c, where f is the decoder.

    The decoder's C outputs for each element of x are the logits of its classes, any real numbers, so it must not end in
    a softmax. `mean` gives the probabilities of the classes, and `to_data` the most probable code.

    Args:
        num_classes: C, at least 2.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `num_classes` is not an integer of at least 2.
    """

    outputs = "logits"
    outputs_range = "relative"
    takes_temperature = True
    samples_from_noise = True

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = checks.positive_integer("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: num_classes={checks.shown(num_classes)}")

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one element of x."""
        return self.num_classes

    def mean_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the probabilities for each example, [*event_shape, C]."""
        return (*event_shape, self.num_classes)

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """Categorical for each element."""
        logits = self.to_event(self.by_element(parameters), (self.num_classes,))
        return tfd.Categorical(logits, dtype=tf.float32)

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-probability of each element: see `Likelihood`."""
        codes = tf.reshape(x, [-1, math.prod(self._event_shape), 1])
        is_class = tf.cast(codes == tf.range(self.num_classes, dtype=tf.float32), tf.float32)
        log_probs = log_softmax(self.by_element(parameters))
        # A value that is not a code has probability 0; the sum below, of no terms, would give it 1.
        is_code = tf.math.log(tf.reduce_sum(is_class, axis=-1))
        return self.to_event(tf.reduce_sum(is_class * log_probs, axis=-1) + is_code)

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element, the number of classes whose cumulative probabilities are passed: see `Likelihood`."""
        elements = math.prod(self._event_shape)
        logits = tf.reshape(parameters, [-1, elements, self.num_classes])
        cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)[..., :-1]
        passed = tf.cast(tf.reshape(first, [-1, elements, 1]) >= cumulative, tf.float32)
        return tf.reshape(tf.reduce_sum(passed, axis=-1), [-1, *self._event_shape])

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The probabilities of the classes [..., *event_shape, C], which are the mean of x in one-hot form.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        # The event is flattened to one axis, because the softmax of TFLite does not take tensors of six dimensions.
        probabilities = tf.nn.softmax(self.by_element(tf.cast(parameters, tf.float32)))
        return self.to_event(probabilities, (self.num_classes,))

    def best_guess(self, parameters: tf.Tensor) -> tf.Tensor:
        """The most probable code: see `Likelihood`.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        return self.to_event(tf.cast(tf.argmax(self.by_element(parameters), axis=-1), tf.float32))

    def to_data(self, mean: np.ndarray) -> np.ndarray:
        """The most probable code [..., *event_shape].

        Args:
            mean: probabilities [..., *event_shape, C].
        """
        return np.argmax(mean, axis=-1).astype(np.float32)

    def units_of_mean(
        self, offset: np.ndarray, scale: np.ndarray, event_shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """No units, as probabilities have none, by an offset of 0 and a scale of 1: see `Likelihood`."""
        return np.zeros((), np.float32), np.ones((), np.float32)

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError when a value is no code."""
        expected = (
            f"hold the codes 0 to {self.num_classes - 1} under the Categorical likelihood with "
            f"num_classes={self.num_classes}"
        )
        checks.check_elements(x, lambda part: ~np.isin(part, np.arange(self.num_classes)), expected)

    def check_training(self, x: np.ndarray) -> str | None:
        """Raises ValueError when x holds one-hot vectors, not codes, or warns if there are two classes alone."""
        classes = self.num_classes
        rows = x.reshape(-1, x.shape[-1])
        is_one_hot = x.shape[-1] == classes and bool(
            ((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all()
        )
        # A few rows of codes can look like this by chance.
        if not is_one_hot or len(rows) < 2 * classes or not rows.any(axis=0).all():
            return None
        message = (
            "`x` must hold codes under the Categorical likelihood, not one-hot vectors: take x.argmax(axis=-1), and "
            f"for a single column x.argmax(axis=-1)[:, None]. Received: x of shape {list(x.shape)}, of which each row "
            f"has a single 1 on the last axis, with num_classes={classes}"
        )
        if classes > 2:
            raise ValueError(message)
        return message

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes}
