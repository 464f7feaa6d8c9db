"""Ready-made encoders and decoders: functions that return a functional `keras.Model`; and a layer for missing values.

They are plain Keras layers, so a `.keras` file loads in safe mode and TFLite converts them to built-in ops. Any Keras
model with the same shapes can take their place.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfvae import checks

# A multiple of the stride: every pixel made by a transposed convolution then sums equally many taps, which keeps the
# checkerboard out of the pictures (Odena et al., 2016, "Deconvolution and Checkerboard Artifacts").
_KERNEL_SIZE = 4


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
        is_observed = _is_number(x)
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
        is_observed = _is_number(x)
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


def row_encoder(
    num_classes: Sequence[int],
    log_moments: Sequence[Sequence[float] | None] | None = None,
    hidden: Sequence[int] = (256, 128),
    activation: str | Callable = "silu",
    name: str = "encoder",
) -> keras.Model:
    """A multilayer perceptron from rows of numbers and codes, perhaps missing, to the features the posterior reads.

    Args:
        num_classes: see `RowFeatures`.
        log_moments: see `RowFeatures`.
        hidden: the width of each dense layer.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.

    Returns:
        A model from x `[B, D]`, with NaN for missing values, to features `[B, hidden[-1]]`.

    Raises:
        ValueError: `num_classes` is empty, or `hidden` is not a tuple of positive integers.
    """
    hidden = _sizes("hidden", hidden)
    if not num_classes:
        raise ValueError(f"`num_classes` must have an entry for each column of x. Received: num_classes={num_classes}")
    x = keras.Input((len(num_classes),), name="x")
    features = RowFeatures(num_classes, log_moments)(x)
    return keras.Model(x, _dense(features, hidden, activation), name=name)


def set_encoder(
    item_shape: Sequence[int],
    num_items: int | None = None,
    item_hidden: Sequence[int] = (64, 64),
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
) -> keras.Model:
    """A network of sets, whose features do not depend on the order of the elements: DeepSets.

    features = hidden layers of (mean over the elements of item layers(element), log n)

    Args:
        item_shape: the shape of one element: () for a number, (D,) for a vector.
        num_items: n, the number of elements; None leaves it open, for sets of different sizes. Exports need it.
        item_hidden: the width of each dense layer that reads one element.
        hidden: the width of each dense layer that reads the set.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.

    Returns:
        A model from x `[B, n, *item_shape]` to features `[B, hidden[-1]]`.

    Raises:
        ValueError: `item_shape` has more than one entry, or a size is not a positive integer.

    Reference: Zaheer et al. 2017, Deep Sets, equation 4.
    """
    item_shape = _sizes("item_shape", item_shape)
    if len(item_shape) > 1:
        raise ValueError(
            f"`item_shape` must be () for numbers or (D,) for vectors. Received: item_shape={checks.shown(item_shape)}"
        )
    num_items = None if num_items is None else checks.positive_integer("num_items", num_items)
    item_hidden, hidden = _sizes("item_hidden", item_hidden, min_length=1), _sizes("hidden", hidden, min_length=1)
    x = keras.Input((num_items, *item_shape), name="x")
    items = x if item_shape else keras.layers.Reshape((-1 if num_items is None else num_items, 1))(x)
    pooled = SetMean()(_dense(items, item_hidden, activation))
    return keras.Model(x, _dense(pooled, hidden, activation), name=name)


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


def dense_encoder(
    event_shape: Sequence[int],
    hidden: Sequence[int] = (256, 128),
    activation: str | Callable = "silu",
    name: str = "encoder",
    missing_mask: bool = False,
    condition_dim: int | None = None,
) -> keras.Model:
    """A multilayer perceptron from x to the features the posterior reads.

    Args:
        event_shape: the shape of one example, as in `(30,)` or `(28, 28, 1)`; it is flattened first.
        hidden: the width of each dense layer. `()` makes the features x itself, flattened: a linear model.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.
        missing_mask: begin with a `MissingMask`, for x with NaN for missing elements.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.

    Returns:
        A model from x `[B, ...event_shape]`, or from x and the condition `[B, C]`, to features `[B, hidden[-1]]`.

    Raises:
        ValueError: `event_shape` or `hidden` is not a tuple of positive integers, or `condition_dim` not a positive
            integer.
    """
    event_shape = _sizes("event_shape", event_shape, min_length=1)
    hidden = _sizes("hidden", hidden)
    x = keras.Input(event_shape, name="x")
    features = keras.layers.Flatten()(MissingMask()(x) if missing_mask else x)
    inputs, features = _conditioned(x, features, condition_dim)
    return keras.Model(inputs, _dense(features, hidden, activation), name=name)


def dense_decoder(
    latent_dim: int,
    output_shape: Sequence[int],
    hidden: Sequence[int] = (128, 256),
    activation: str | Callable = "silu",
    name: str = "decoder",
    condition_dim: int | None = None,
) -> keras.Model:
    """A multilayer perceptron from z to the parameters of the likelihood.

    Args:
        latent_dim: the number of latent dimensions L.
        output_shape: the shape of one output, as in `(30,)` or `(28, 28, 1)`.
        hidden: the width of each dense layer before the last. `()` makes the decoder linear.
        activation: the activation of every layer but the last, which is linear, by Keras name or as a function.
        name: the name of the model.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.

    Returns:
        A model from z `[B, L]`, or from z and the condition `[B, C]`, to `[B, ...output_shape]`: unbounded values, read
        by the likelihood as logits, logarithms of means or locations.

    Raises:
        ValueError: `latent_dim` or `condition_dim` is not a positive integer, or `output_shape` or `hidden` not a tuple
            of them.
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    output_shape = _sizes("output_shape", output_shape, min_length=1)
    hidden = _sizes("hidden", hidden)
    z = keras.Input((latent_dim,), name="z")
    inputs, features = _conditioned(z, z, condition_dim)
    outputs = keras.layers.Dense(math.prod(output_shape))(_dense(features, hidden, activation))
    return keras.Model(inputs, keras.layers.Reshape(output_shape)(outputs), name=name)


def convolutional_encoder(
    event_shape: Sequence[int],
    filters: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    activation: str | Callable = "silu",
    name: str = "encoder",
    missing_mask: bool = False,
    condition_dim: int | None = None,
) -> keras.Model:
    """Strided convolutions, then dense layers, from an image to the features the posterior reads.

    Args:
        event_shape: the shape of one image, `(height, width, channels)`.
        filters: the number of filters of each convolution. Each halves height and width, rounded up, so never below 1.
        hidden: the width of each dense layer after them. `()` makes the features the last convolution, flattened.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.
        missing_mask: begin with a `MissingMask`, for x with NaN for missing elements.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.

    Returns:
        A model from x `[B, height, width, channels]`, or from x and the condition `[B, C]`, to features
        `[B, hidden[-1]]`.

    Raises:
        ValueError: `event_shape` is not that of an image, `filters` or `hidden` not a tuple of positive integers, or
            `condition_dim` not a positive integer.
    """
    event_shape = _image_shape("event_shape", event_shape, "dense_encoder")
    filters = _sizes("filters", filters, min_length=1)
    hidden = _sizes("hidden", hidden)
    x = keras.Input(event_shape, name="x")
    features = MissingMask()(x) if missing_mask else x
    for channels in filters:
        convolution = keras.layers.Conv2D(channels, _KERNEL_SIZE, strides=2, padding="same", activation=activation)
        features = convolution(features)
    inputs, features = _conditioned(x, keras.layers.Flatten()(features), condition_dim)
    return keras.Model(inputs, _dense(features, hidden, activation), name=name)


def convolutional_decoder(
    latent_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int] = (64, 32),
    hidden: Sequence[int] = (128,),
    activation: str | Callable = "silu",
    name: str = "decoder",
    condition_dim: int | None = None,
) -> keras.Model:
    """The mirror of `convolutional_encoder`: dense layers, then transposed convolutions, from z to an image.

    The dense layers make a small image of `filters[0]` channels. Each transposed convolution doubles its height and
    width; the channels become `filters[1]`, `filters[2]`, ... and at last those of the output. An image grown larger
    than the output is cropped to it.

    Args:
        latent_dim: the number of latent dimensions L.
        output_shape: the shape of one image, `(height, width, channels)`.
        filters: the channels that enter each transposed convolution: those of the encoder, reversed.
        hidden: the width of each dense layer before them.
        activation: the activation of every layer but the last, which is linear, by Keras name or as a function.
        name: the name of the model.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.

    Returns:
        A model from z `[B, L]`, or from z and the condition `[B, C]`, to `[B, height, width, channels]`: unbounded
        values, read by the likelihood as logits, logarithms of means or locations.

    Raises:
        ValueError: `latent_dim` or `condition_dim` is not a positive integer, `output_shape` not that of an image, or
            `filters` or `hidden` not a tuple of positive integers.
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    height, width, channels = _image_shape("output_shape", output_shape, "dense_decoder")
    filters = _sizes("filters", filters, min_length=1)
    hidden = _sizes("hidden", hidden)
    growth = 2 ** len(filters)
    first_shape = (math.ceil(height / growth), math.ceil(width / growth), filters[0])
    z = keras.Input((latent_dim,), name="z")
    inputs, features = _conditioned(z, z, condition_dim)
    outputs = _dense(features, (*hidden, math.prod(first_shape)), activation)
    outputs = keras.layers.Reshape(first_shape)(outputs)
    activations = [activation] * (len(filters) - 1) + ["linear"]
    for out_channels, out_activation in zip((*filters[1:], channels), activations, strict=True):
        outputs = keras.layers.Conv2DTranspose(
            out_channels, _KERNEL_SIZE, strides=2, padding="same", activation=out_activation
        )(outputs)
    extra_rows = first_shape[0] * growth - height
    extra_columns = first_shape[1] * growth - width
    if extra_rows or extra_columns:
        cropping = [(extra // 2, extra - extra // 2) for extra in (extra_rows, extra_columns)]
        outputs = keras.layers.Cropping2D(cropping)(outputs)
    return keras.Model(inputs, outputs, name=name)


def _conditioned(
    inputs: keras.KerasTensor, features: keras.KerasTensor, condition_dim: int | None
) -> tuple[keras.KerasTensor | list[keras.KerasTensor], keras.KerasTensor]:
    """The inputs of a model and the features of its first dense layer, with the condition [B, C] where there is one."""
    if condition_dim is None:
        return inputs, features
    condition = keras.Input((checks.positive_integer("condition_dim", condition_dim),), name="condition")
    return [inputs, condition], keras.layers.Concatenate()([features, condition])


def _is_number(x: Any) -> Any:
    """Which elements are not NaN: see `tfvae.numerics.is_number`."""
    return keras.ops.absolute(x) > -1


def _dense(inputs: keras.KerasTensor, widths: tuple[int, ...], activation: str | Callable) -> keras.KerasTensor:
    outputs = inputs
    for width in widths:
        outputs = keras.layers.Dense(width, activation=activation)(outputs)
    return outputs


def _sizes(argument: str, values: Sequence[int], min_length: int = 0) -> tuple[int, ...]:
    valid = (
        isinstance(values, tuple | list)
        and len(values) >= min_length
        and all(
            isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1 for value in values
        )
    )
    if not valid:
        at_least = f" with at least {min_length} entry" if min_length else ""
        raise ValueError(
            f"`{argument}` must be a tuple of positive integers{at_least}. Received: {argument}={checks.shown(values)}"
        )
    return tuple(int(value) for value in values)


def _image_shape(argument: str, shape: Sequence[int], dense_network: str) -> tuple[int, int, int]:
    sizes = _sizes(argument, shape, min_length=1)
    if len(sizes) != 3:
        raise ValueError(
            f"`{argument}` must be (height, width, channels): add a channels axis to an image without one, "
            f"and use `{dense_network}` for vectors. Received: {argument}={checks.shown(shape)}"
        )
    return sizes
