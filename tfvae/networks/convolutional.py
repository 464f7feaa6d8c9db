"""Convolutional encoders and decoders of images."""

import math
from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import MissingMask

# A multiple of the stride: every pixel made by a transposed convolution then sums equally many taps, which keeps the
# checkerboard out of the pictures (Odena et al., 2016, "Deconvolution and Checkerboard Artifacts").
_KERNEL_SIZE = 4


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
    event_shape = building.image_shape("event_shape", event_shape, "dense_encoder")
    filters = building.sizes("filters", filters, min_length=1)
    hidden = building.sizes("hidden", hidden)
    x = keras.Input(event_shape, name="x")
    features = MissingMask()(x) if missing_mask else x
    for channels in filters:
        convolution = keras.layers.Conv2D(channels, _KERNEL_SIZE, strides=2, padding="same", activation=activation)
        features = convolution(features)
    inputs, features = building.conditioned(x, keras.layers.Flatten()(features), condition_dim)
    return keras.Model(inputs, building.dense(features, hidden, activation), name=name)


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
    height, width, channels = building.image_shape("output_shape", output_shape, "dense_decoder")
    filters = building.sizes("filters", filters, min_length=1)
    hidden = building.sizes("hidden", hidden)
    growth = 2 ** len(filters)
    first_shape = (math.ceil(height / growth), math.ceil(width / growth), filters[0])
    z = keras.Input((latent_dim,), name="z")
    inputs, features = building.conditioned(z, z, condition_dim)
    outputs = building.dense(features, (*hidden, math.prod(first_shape)), activation)
    outputs = keras.layers.Reshape(first_shape)(outputs)
    activations = [activation] * (len(filters) - 1) + ["linear"]
    for out_channels, out_activation in zip((*filters[1:], channels), activations, strict=True):
        outputs = keras.layers.Conv2DTranspose(
            out_channels, _KERNEL_SIZE, strides=2, padding="same", activation=out_activation
        )(outputs)
    return keras.Model(inputs, building.cropped(outputs, height, width), name=name)
