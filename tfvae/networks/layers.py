"""The layers of the ready-made networks, for missing values, rows, pictures and sets."""

from collections.abc import Callable, Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable("tfvae.networks")
class MissingMask(keras.layers.Layer):
    """Shows an encoder which elements are missing: turns x [B, ..., C], with NaN for those, into [B, ..., 2 C].

    The first C channels are x with 0 for missing elements; the others are 1 for observed elements and 0 for missing
    ones. The encoder must be given NaN: `likelihoods.Missing(..., fill=False)`.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def call(self, x: Any) -> Any:
        """Returns the filled x and the mask, side by side [B, ..., 2 C]."""
        is_observed = is_number(x)
        filled = keras.ops.where(is_observed, x, keras.ops.zeros_like(x))
        return keras.ops.concatenate([filled, keras.ops.cast(is_observed, x.dtype)], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [B, ..., 2 C]."""
        return (*input_shape[:-1], 2 * input_shape[-1])


@keras.saving.register_keras_serializable("tfvae.networks")
class RowFeatures(keras.layers.Layer):
    """Turns rows of numbers and codes, with NaN for what is missing, into features [B, F] for a network.

    A number becomes itself, with 0 for a missing one, and a count log(1 + x), standardised. A code becomes as many
    numbers as there are codes, 1 for its own and 0 for the others, all 0 if it is missing. Further numbers, one for
    each column that is not of codes, are 1 for observed values and 0 for missing ones.

    Args:
        num_classes: for each column of x, the number of its codes; 0 for numbers and counts.
        log_moments: for each column of x that holds counts, the mean and the standard deviation of log(1 + x); None for
            the other columns.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        num_classes: Sequence[int],
        log_moments: Sequence[Sequence[float] | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = tuple(int(number) for number in num_classes)
        self.log_moments = tuple(log_moments or [None] * len(self.num_classes))

    def call(self, x: Any) -> Any:
        """Returns the features [B, F]."""
        ops = keras.ops
        is_observed = is_number(x)
        zeros = ops.zeros_like(x)
        # Sums with matrices of 0 and 1 in the place of slices, which GPUs of devices do not take.
        values = ops.where(is_observed, x, zeros)
        features = []
        for columns, function in self._numeric:
            if columns:
                features.append(function(self._taken(values, columns)))
        numeric = [column for column, number in enumerate(self.num_classes) if not number]
        if numeric:
            features.append(self._taken(ops.cast(is_observed, x.dtype), numeric))
        if len(numeric) < len(self.num_classes):
            codes = ops.where(is_observed, x, zeros - 2.0)
            owners = [column for column, number in enumerate(self.num_classes) for _ in range(number)]
            code = [code for number in self.num_classes for code in range(number)]
            distance = ops.absolute(self._taken(codes, owners) - ops.cast(ops.array(code), x.dtype))
            features.append(ops.relu(1.0 - distance))
        return ops.concatenate(features, axis=-1)

    @property
    def _numeric(self) -> list[tuple[list[int], Callable[[Any], Any]]]:
        numbers = [
            column for column, number in enumerate(self.num_classes) if not number and self.log_moments[column] is None
        ]
        counts = [column for column, moments in enumerate(self.log_moments) if moments is not None]

        def standardised(x: Any) -> Any:
            mean, scale = zip(*(self.log_moments[column] for column in counts), strict=True)
            log = keras.ops.log(1.0 + keras.ops.relu(x))
            return (log - keras.ops.cast(mean, x.dtype)) / keras.ops.cast(scale, x.dtype)

        return [(numbers, lambda x: x), (counts, standardised)]

    def _taken(self, x: Any, columns: Sequence[int]) -> Any:
        """The given columns of x, some perhaps several times."""
        if list(columns) == list(range(len(self.num_classes))):
            return x
        picked = [[float(column == own) for own in columns] for column in range(len(self.num_classes))]
        return keras.ops.matmul(x, keras.ops.cast(keras.ops.array(picked), x.dtype))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [B, F]."""
        return (*input_shape[:-1], sum(number or 2 for number in self.num_classes))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes, "log_moments": self.log_moments}


@keras.saving.register_keras_serializable("tfvae.networks")
class LearnedMap(keras.layers.Layer):
    """Adds a learned picture to each picture [B, H, W, C], which tells a convolution where in the picture it is.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the picture, which starts at 0."""
        self.picture = self.add_weight(name="picture", shape=input_shape[1:], initializer="zeros")

    def call(self, pictures: Any) -> Any:
        """Returns the sum [B, H, W, C]."""
        return pictures + self.picture


@keras.saving.register_keras_serializable("tfvae.networks")
class SetMean(keras.layers.Layer):
    """The mean over the elements of a set and, beside it, the logarithm of their number: [B, n, F] to [B, F + 1].

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def call(self, items: Any) -> Any:
        """Returns the mean and log n, side by side [B, F + 1]."""
        mean = keras.ops.mean(items, axis=1)
        number = keras.ops.cast(keras.ops.shape(items)[1], mean.dtype)
        return keras.ops.concatenate([mean, keras.ops.log(number) + 0.0 * mean[:, :1]], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [B, F + 1]."""
        return (input_shape[0], input_shape[-1] + 1)


@keras.saving.register_keras_serializable("tfvae.networks")
class SetAttention(keras.layers.Layer):
    """A block in which each element of a set attends to all of them: [B, n, F] to [B, n, F].

    y = x + attention(normalised x);  y + dense(normalised y)

    With `is_pooling` a trainable query attends to the elements in their place: [B, n, F] to [B, F].

    Args:
        num_heads: the number of heads, a divisor of F.
        activation: the activation of the dense layer, by Keras name or as a function.
        is_pooling: whether the result is one vector for the whole set.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Lee et al. 2019, Set Transformer, equations 6, 7, 8 and 11.
    """

    def __init__(
        self, num_heads: int, activation: str | Callable = "silu", is_pooling: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.is_pooling = num_heads, is_pooling
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: tuple[int | None, int | None, int]) -> None:
        """Creates the layers for elements [B, n, F]."""
        width, policy = input_shape[-1], self.dtype_policy
        self.before = keras.layers.LayerNormalization(dtype=policy)
        self.after = keras.layers.LayerNormalization(dtype=policy)
        self.attention = keras.layers.MultiHeadAttention(self.num_heads, width // self.num_heads, dtype=policy)
        self.dense = keras.layers.Dense(width, activation=self.activation, dtype=policy)
        queries = (input_shape[0], 1, width) if self.is_pooling else input_shape
        if self.is_pooling:
            self.query = self.add_weight(name="query", shape=(1, 1, width), initializer="glorot_uniform")
        self.before.build(input_shape)
        self.attention.build(queries, input_shape)
        self.after.build(queries)
        self.dense.build(queries)
        self.built = True

    def call(self, items: Any) -> Any:
        """Returns the elements [B, n, F] after the block, or the vector [B, F]."""
        normalised = self.before(items)
        queries, start = normalised, items
        if self.is_pooling:
            # Broadcast by a sum: TFLite's other ways take a shape that is computed.
            queries = start = self.query + 0.0 * items[:, :1]
        result = start + self.attention(queries, normalised)
        result = result + self.dense(self.after(result))
        return result[:, 0] if self.is_pooling else result

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape [B, n, F], or [B, F]."""
        return (input_shape[0], input_shape[-1]) if self.is_pooling else tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        activation = keras.activations.serialize(self.activation)
        own = {"num_heads": self.num_heads, "activation": activation, "is_pooling": self.is_pooling}
        return {**super().get_config(), **own}


def is_number(x: Any) -> Any:
    """Which elements are not NaN: see `tfvae.numerics.is_number`."""
    return keras.ops.absolute(x) > -1
