"""Encoders of sets, whose elements have no order, and of series, whose elements have one."""

from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import SeriesSummary, SetAttention, SetMean


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
    item_hidden = building.sizes("item_hidden", item_hidden, min_length=1)
    hidden = building.sizes("hidden", hidden, min_length=1)
    x, items = _inputs("item_shape", item_shape, "num_items", num_items)
    pooled = SetMean()(building.dense(items, item_hidden, activation))
    return keras.Model(x, building.dense(pooled, hidden, activation), name=name)


def set_transformer(
    item_shape: Sequence[int],
    num_items: int | None = None,
    width: int = 32,
    num_heads: int = 4,
    num_blocks: int = 2,
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
) -> keras.Model:
    """A network of sets, in which the elements attend to each other, and whose features do not depend on their order.

    It sees what `set_encoder`, in which each element is read alone, can hardly see: how elements are like others, as in
    clusters, repetitions and pairs. The cost grows with the square of the number of elements.

    Args:
        item_shape: the shape of one element: () for a number, (D,) for a vector.
        num_items: n, the number of elements; None leaves it open, for sets of different sizes. Exports need it.
        width: F, the number of features of each element, a multiple of `num_heads`.
        num_heads: the number of heads of each attention.
        num_blocks: the number of blocks in which each element attends to all elements.
        hidden: the width of each dense layer that reads the set.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.

    Returns:
        A model from x `[B, n, *item_shape]` to features `[B, hidden[-1]]`.

    Raises:
        ValueError: `item_shape` has more than one entry, a size is not a positive integer, or `num_heads` does not
            divide `width`.

    Reference: Lee et al. 2019, Set Transformer, equations 6 to 8 and 11, normalised before each attention.
    """
    width = checks.positive_integer("width", width)
    num_heads = checks.positive_integer("num_heads", num_heads)
    if width % num_heads:
        raise ValueError(f"`width` must be a multiple of `num_heads`. Received: width={width}, num_heads={num_heads}")
    hidden = building.sizes("hidden", hidden, min_length=1)
    x, items = _inputs("item_shape", item_shape, "num_items", num_items)
    items = keras.layers.Dense(width)(items)
    for _ in range(checks.positive_integer("num_blocks", num_blocks)):
        items = SetAttention(num_heads, activation)(items)
    summary = SetAttention(num_heads, activation, is_pooling=True)(items)
    # Attention is an average, which does not tell how many elements there are.
    features = keras.layers.Concatenate()([summary, SetMean()(items)])
    return keras.Model(x, building.dense(features, hidden, activation), name=name)


def series_encoder(
    step_shape: Sequence[int],
    num_steps: int | None = None,
    filters: int = 32,
    dilations: Sequence[int] = (1, 2, 4, 8),
    kernel_size: int = 3,
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
) -> keras.Model:
    """A network of time series: dilated causal convolutions, each of which is added to what it reads.

    features = hidden layers of (the last step, mean over all steps, log T)

    Each step sees (kernel_size - 1) * sum(dilations) steps before it: 30 by default.

    Args:
        step_shape: the shape of x at one time: () for a number, (C,) for C channels.
        num_steps: T, the number of steps; None leaves it open, for series of different lengths, where all of one batch
            have the same. Exports need it.
        filters: the number of features of each step.
        dilations: the distance between the steps that a convolution reads, one convolution for each entry.
        kernel_size: the number of steps that a convolution reads.
        hidden: the width of each dense layer that reads the whole series.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.

    Returns:
        A model from x `[B, T, *step_shape]` to features `[B, hidden[-1]]`.

    Raises:
        ValueError: `step_shape` has more than one entry, or a size is not a positive integer.

    Reference: van den Oord et al. 2016, WaveNet, section 2.1; Bai et al. 2018, An Empirical Evaluation of Generic
    Convolutional and Recurrent Networks for Sequence Modeling, section 3.
    """
    filters = checks.positive_integer("filters", filters)
    kernel_size = checks.positive_integer("kernel_size", kernel_size)
    dilations = building.sizes("dilations", dilations, min_length=1)
    hidden = building.sizes("hidden", hidden, min_length=1)
    x, steps = _inputs("step_shape", step_shape, "num_steps", num_steps)
    steps = keras.layers.Dense(filters)(steps)
    for dilation in dilations:
        read = keras.layers.Conv1D(
            filters, kernel_size, padding="causal", dilation_rate=dilation, activation=activation
        )(steps)
        steps = keras.layers.Add()([steps, read])
    return keras.Model(x, building.dense(SeriesSummary()(steps), hidden, activation), name=name)


def _inputs(
    shape_argument: str, shape: Sequence[int], number_argument: str, number: int | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input [B, n, *shape] of a network of n elements, and the elements [B, n, D] that it holds."""
    shape = building.sizes(shape_argument, shape)
    if len(shape) > 1:
        raise ValueError(
            f"`{shape_argument}` must be () for numbers or (D,) for vectors. Received: "
            f"{shape_argument}={checks.shown(shape)}"
        )
    number = None if number is None else checks.positive_integer(number_argument, number)
    x = keras.Input((number, *shape), name="x")
    return x, x if shape else keras.layers.Reshape((-1 if number is None else number, 1))(x)
