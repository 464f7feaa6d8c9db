"""Dense encoders and decoders: of arrays, and of the rows of a table."""

import math
from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import MissingMask, RowFeatures


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
    event_shape = building.sizes("event_shape", event_shape, min_length=1)
    hidden = building.sizes("hidden", hidden)
    x = keras.Input(event_shape, name="x")
    features = keras.layers.Flatten()(MissingMask()(x) if missing_mask else x)
    inputs, features = building.conditioned(x, features, condition_dim)
    return keras.Model(inputs, building.dense(features, hidden, activation), name=name)


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
    output_shape = building.sizes("output_shape", output_shape, min_length=1)
    hidden = building.sizes("hidden", hidden)
    z = keras.Input((latent_dim,), name="z")
    inputs, features = building.conditioned(z, z, condition_dim)
    outputs = keras.layers.Dense(math.prod(output_shape))(building.dense(features, hidden, activation))
    return keras.Model(inputs, keras.layers.Reshape(output_shape)(outputs), name=name)


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
    hidden = building.sizes("hidden", hidden)
    if not num_classes:
        raise ValueError(f"`num_classes` must have an entry for each column of x. Received: num_classes={num_classes}")
    x = keras.Input((len(num_classes),), name="x")
    features = RowFeatures(num_classes, log_moments)(x)
    return keras.Model(x, building.dense(features, hidden, activation), name=name)
