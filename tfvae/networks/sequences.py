"""What the networks of sequences have in common: how they read steps, and where their outputs come from."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import MissingMask
from tfvae.networks.sequence_layers import Codes, SeriesSummary, StepMask


class Steps(NamedTuple):
    """The steps of a sequence that a network reads.

    Attributes:
        inputs: the input of the network [B, T, *step_shape].
        values: the same with an axis of channels [B, T, C].
        features: what the first layer reads [B, T, F], without NaN.
    """

    inputs: keras.KerasTensor
    values: keras.KerasTensor
    features: keras.KerasTensor


def read(name: str, step_shape: Sequence[int], num_steps: int | None, num_classes: int | None, width: int) -> Steps:
    """The steps of x as features, in which NaN is a missing value or a code of its own.

    Args:
        name: the name of the input.
        step_shape: the shape of x at one step.
        num_steps: T, or None.
        num_classes: the number of codes, for x of codes; None for x of numbers.
        width: the number of features of a code.
    """
    shape = building.item_shape("step_shape", step_shape)
    num_steps = None if num_steps is None else checks.positive_integer("num_steps", num_steps)
    inputs = keras.Input((num_steps, *shape), name=name)
    length = num_steps or -1
    values = inputs if shape else keras.layers.Reshape((length, 1))(inputs)
    if num_classes is None:
        return Steps(inputs, values, MissingMask()(values))
    num_classes = checks.positive_integer("num_classes", num_classes)
    embedded = keras.layers.Embedding(num_classes + 1, width)(Codes(num_classes)(values))
    return Steps(inputs, values, keras.layers.Reshape((length, math.prod(shape) * width))(embedded))


def mask_of(steps: Steps, per_step: bool, causal: bool) -> keras.KerasTensor | None:
    """The mask [B, T, 1] of the steps before the padding, or None where no feature depends on the padding.

    A causal network gives a step the same features whatever comes after it.
    """
    checks.boolean("per_step", per_step)
    return None if checks.boolean("causal", causal) and per_step else StepMask()(steps.values)


def encoder(
    steps: Steps,
    features: keras.KerasTensor,
    mask: keras.KerasTensor | None,
    hidden: Sequence[int],
    activation: str | Callable,
    name: str,
    per_step: bool,
) -> keras.Model:
    """The network from x to hidden layers of the features of each step, or of their summary."""
    if not per_step:
        features = SeriesSummary()([features, mask])
    return keras.Model(steps.inputs, building.dense(features, building.sizes("hidden", hidden), activation), name=name)


class Code(NamedTuple):
    """What a decoder reads.

    Attributes:
        inputs: its inputs: z, or z and the steps before.
        features: hidden layers of z [B, H].
        previous: features [B, T, width] of z and the step before, for each step; None for a decoder of z alone.
        num_steps: T, or None.
    """

    inputs: keras.KerasTensor | list[keras.KerasTensor]
    features: keras.KerasTensor
    previous: keras.KerasTensor | None
    num_steps: int | None


def code(
    latent_dim: int,
    num_steps: int | None,
    step_shape: Sequence[int] | None,
    num_classes: int | None,
    hidden: Sequence[int],
    activation: str | Callable,
    width: int,
) -> Code:
    """The inputs of a decoder, as features. See the arguments of the decoders."""
    z = keras.Input((checks.positive_integer("latent_dim", latent_dim),), name="z")
    features = building.dense(z, building.sizes("hidden", hidden), activation)
    if step_shape is None:
        if num_classes is not None:
            raise ValueError(
                "`num_classes` is for decoders that read the steps before: give `step_shape` too. Received: "
                f"num_classes={checks.shown(num_classes)}, step_shape=None"
            )
        if num_steps is None:
            raise ValueError(
                "`num_steps` must be the number of steps that the decoder makes. Only a decoder that reads the steps "
                "before, with a `step_shape`, may leave it open. Received: num_steps=None"
            )
        return Code(z, features, None, checks.positive_integer("num_steps", num_steps))
    steps = read("previous", step_shape, num_steps, num_classes, width)
    previous = keras.layers.Add()([keras.layers.Dense(width)(steps.features), at_each_step(features, width)])
    return Code([z, steps.inputs], features, previous, num_steps)


def at_each_step(features: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """A dense layer of features of the whole sequence [B, F], to be added to each step [B, 1, width]."""
    # The layer of the steps that it is added to has a bias.
    return keras.layers.Reshape((1, width))(keras.layers.Dense(width, use_bias=False)(features))


def decoder(code: Code, features: keras.KerasTensor, parameter_shape: Sequence[int], name: str) -> keras.Model:
    """The network from the inputs to the parameters [B, T, *parameter_shape], linear in the features of each step."""
    shape = building.sizes("parameter_shape", parameter_shape)
    parameters = keras.layers.Dense(math.prod(shape))(features)
    if len(shape) != 1:
        parameters = keras.layers.Reshape((code.num_steps or -1, *shape))(parameters)
    return keras.Model(code.inputs, parameters, name=name)
