"""Convolutional residual encoders and decoders of images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import MissingMask
from tfvae.networks.recomputed import Recomputed


def residual_encoder(
    event_shape: Sequence[int],
    filters: Sequence[int] = (16, 32, 64),
    hidden: Sequence[int] = (128,),
    activation: str | Callable = "silu",
    name: str = "encoder",
    missing_mask: bool = False,
    condition_dim: int | None = None,
    num_blocks: int | Sequence[int] = 2,
    recompute: bool = False,
) -> keras.Model:
    """Residual blocks at falling resolutions, then dense layers, from an image to the features the posterior reads.

        block(h) = h + conv(activation(conv(activation(h))))

    There is no batch normalisation: with it, the bound of an example would depend on the other examples of its batch,
    and would be another one in evaluation. What it is used for, that deep networks train, comes from small initial
    weights of the last convolution of each block: at the start a block hardly changes h.

    Args:
        event_shape: the shape of one image, `(height, width, channels)`.
        filters: the channels at each resolution, from that of the image on. Between two resolutions a strided
            convolution halves height and width, rounded up, so never below 1.
        hidden: the width of each dense layer after them. `()` makes the features the last resolution, flattened.
        activation: the activation, by Keras name or as a function.
        name: the name of the model.
        missing_mask: begin with a `MissingMask`, for x with NaN for missing elements.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.
        num_blocks: how many residual blocks each resolution has: one number for all, or one for each.
        recompute: whether each block is `Recomputed`, which saves memory in training and makes it slower.

    Returns:
        A model from x `[B, height, width, channels]`, or from x and the condition `[B, C]`, to features
        `[B, hidden[-1]]`.

    Raises:
        ValueError: `event_shape` is not that of an image, `filters`, `hidden` or `num_blocks` not positive integers,
            `num_blocks` not as many as `filters`, `condition_dim` not a positive integer, or `recompute` not a bool.

    Reference: He et al. 2016, Identity Mappings in Deep Residual Networks, figure 1b; Child 2021, Very Deep VAEs,
    section 4, for the initial weights, of variance 1 / (number of blocks).
    """
    event_shape = building.image_shape("event_shape", event_shape, "dense_encoder")
    filters = building.sizes("filters", filters, min_length=1)
    hidden = building.sizes("hidden", hidden)
    counts = _counts(num_blocks, filters)
    recompute = checks.boolean("recompute", recompute)
    x = keras.Input(event_shape, name="x")
    features = MissingMask()(x) if missing_mask else x
    for index, (channels, count) in enumerate(zip(filters, counts, strict=True)):
        features = _convolution(channels, strides=2 if index else 1)(features)
        features = _blocks(features, count, activation, sum(counts), recompute)
    features = keras.layers.Flatten()(keras.layers.Activation(activation)(features))
    inputs, features = building.conditioned(x, features, condition_dim)
    return keras.Model(inputs, building.dense(features, hidden, activation), name=name)


def residual_decoder(
    latent_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int] = (64, 32, 16),
    hidden: Sequence[int] = (128,),
    activation: str | Callable = "silu",
    name: str = "decoder",
    condition_dim: int | None = None,
    num_blocks: int | Sequence[int] = 2,
    recompute: bool = False,
) -> keras.Model:
    """The mirror of `residual_encoder`: dense layers, then residual blocks at rising resolutions, from z to an image.

    The dense layers make a small image of `filters[0]` channels. Between two resolutions a 1 x 1 convolution changes
    the channels, and each pixel becomes four; the blocks after it tell these apart. An image grown larger than the
    output is cropped to it.

    Args:
        latent_dim: the number of latent dimensions L.
        output_shape: the shape of one image, `(height, width, channels)`.
        filters: the channels at each resolution: those of the encoder, reversed.
        hidden: the width of each dense layer before them.
        activation: the activation, by Keras name or as a function. The last convolution is linear.
        name: the name of the model.
        condition_dim: C, for a `tfvae.ConditionalVAE`: the first dense layer then takes the condition too.
        num_blocks: how many residual blocks each resolution has: one number for all, or one for each.
        recompute: whether each block is `Recomputed`, which saves memory in training and makes it slower.

    Returns:
        A model from z `[B, L]`, or from z and the condition `[B, C]`, to `[B, height, width, channels]`: unbounded
        values, read by the likelihood as logits, logarithms of means or locations.

    Raises:
        ValueError: `latent_dim` or `condition_dim` is not a positive integer, `output_shape` not that of an image,
            `filters`, `hidden` or `num_blocks` not positive integers, `num_blocks` not as many as `filters`, or
            `recompute` not a bool.

    Reference: He et al. 2016, Identity Mappings in Deep Residual Networks, figure 1b; Child 2021, Very Deep VAEs,
    section 4.
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    height, width, channels = building.image_shape("output_shape", output_shape, "dense_decoder")
    filters = building.sizes("filters", filters, min_length=1)
    hidden = building.sizes("hidden", hidden)
    counts = _counts(num_blocks, filters)
    recompute = checks.boolean("recompute", recompute)
    growth = 2 ** (len(filters) - 1)
    first_shape = (math.ceil(height / growth), math.ceil(width / growth), filters[0])
    z = keras.Input((latent_dim,), name="z")
    inputs, features = building.conditioned(z, z, condition_dim)
    features = keras.layers.Dense(math.prod(first_shape))(building.dense(features, hidden, activation))
    features = keras.layers.Reshape(first_shape)(features)
    for index, (own, count) in enumerate(zip(filters, counts, strict=True)):
        if index:
            features = keras.layers.UpSampling2D()(_convolution(own, kernel_size=1)(features))
        features = _blocks(features, count, activation, sum(counts), recompute)
    outputs = _convolution(channels)(keras.layers.Activation(activation)(features))
    return keras.Model(inputs, building.cropped(outputs, height, width), name=name)


def _blocks(
    features: keras.KerasTensor, count: int, activation: str | Callable, of_network: int, recompute: bool
) -> keras.KerasTensor:
    """Residual blocks, one after the other, in a network that has `of_network` of them."""
    channels = features.shape[-1]
    # Glorot's, of a variance by which the sum over all blocks is not larger than what it is added to.
    small = keras.initializers.VarianceScaling(1 / of_network, "fan_avg", "uniform")

    def block(features: keras.KerasTensor) -> keras.KerasTensor:
        change = keras.layers.Activation(activation)(features)
        change = keras.layers.Activation(activation)(_convolution(channels)(change))
        return keras.layers.Add()([features, _convolution(channels, kernel_initializer=small)(change)])

    for _ in range(count):
        if recompute:
            inputs = keras.Input(features.shape[1:])
            features = Recomputed(keras.Model(inputs, block(inputs)))(features)
        else:
            features = block(features)
    return features


def _convolution(channels: int, kernel_size: int = 3, **arguments: Any) -> keras.layers.Conv2D:
    """A linear convolution that keeps height and width, or divides them by its strides."""
    return keras.layers.Conv2D(channels, kernel_size, padding="same", **arguments)


def _counts(num_blocks: int | Sequence[int], filters: tuple[int, ...]) -> tuple[int, ...]:
    """The number of residual blocks at each resolution."""
    if isinstance(num_blocks, tuple | list):
        counts = building.sizes("num_blocks", num_blocks)
        if len(counts) != len(filters):
            raise ValueError(
                f"`num_blocks` must be one number, or one for each of `filters`, here {len(filters)}. Received: "
                f"num_blocks={checks.shown(num_blocks)}"
            )
        return counts
    return (checks.positive_integer("num_blocks", num_blocks),) * len(filters)
