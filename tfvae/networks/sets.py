"""Encoders of sets, whose elements have no order."""

from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import SetAttention, SetMean


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
    x, items = _inputs(item_shape, num_items)
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
    x, items = _inputs(item_shape, num_items)
    items = keras.layers.Dense(width)(items)
    for _ in range(checks.positive_integer("num_blocks", num_blocks)):
        items = SetAttention(num_heads, activation)(items)
    summary = SetAttention(num_heads, activation, is_pooling=True)(items)
    # Attention is an average, which does not tell how many elements there are.
    features = keras.layers.Concatenate()([summary, SetMean()(items)])
    return keras.Model(x, building.dense(features, hidden, activation), name=name)


def _inputs(item_shape: Sequence[int], num_items: int | None) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input [B, n, *shape] of a network of n elements, and the elements [B, n, D] that it holds."""
    shape = building.item_shape("item_shape", item_shape)
    number = None if num_items is None else checks.positive_integer("num_items", num_items)
    x = keras.Input((number, *shape), name="x")
    return x, x if shape else keras.layers.Reshape((-1 if number is None else number, 1))(x)
