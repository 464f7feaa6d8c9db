"""What the ready-made networks have in common: their sizes, the condition and the dense layers."""

import numbers
from collections.abc import Callable, Sequence

import keras

from tfvae import checks


def conditioned(
    inputs: keras.KerasTensor, features: keras.KerasTensor, condition_dim: int | None
) -> tuple[keras.KerasTensor | list[keras.KerasTensor], keras.KerasTensor]:
    """The inputs of a model and the features of its first dense layer, with the condition [B, C] where there is one."""
    if condition_dim is None:
        return inputs, features
    condition = keras.Input((checks.positive_integer("condition_dim", condition_dim),), name="condition")
    return [inputs, condition], keras.layers.Concatenate()([features, condition])


def dense(inputs: keras.KerasTensor, widths: tuple[int, ...], activation: str | Callable) -> keras.KerasTensor:
    """Dense layers, one after the other."""
    outputs = inputs
    for width in widths:
        outputs = keras.layers.Dense(width, activation=activation)(outputs)
    return outputs


def cropped(images: keras.KerasTensor, height: int, width: int) -> keras.KerasTensor:
    """The middle of images [B, height or more, width or more, channels]; all of them where nothing is to be cut off."""
    extras = images.shape[1] - height, images.shape[2] - width
    if not any(extras):
        return images
    return keras.layers.Cropping2D([(extra // 2, extra - extra // 2) for extra in extras])(images)


def sizes(argument: str, values: Sequence[int], min_length: int = 0) -> tuple[int, ...]:
    """Checks an argument that holds sizes, and returns them as a tuple."""
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


def image_shape(argument: str, shape: Sequence[int], dense_network: str) -> tuple[int, int, int]:
    """Checks an argument that is the shape of an image, and returns it."""
    checked = sizes(argument, shape, min_length=1)
    if len(checked) != 3:
        raise ValueError(
            f"`{argument}` must be (height, width, channels): add a channels axis to an image without one, "
            f"and use `{dense_network}` for vectors. Received: {argument}={checks.shown(shape)}"
        )
    return checked


def item_shape(argument: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Checks an argument that is the shape of one element of a set or of one step of a sequence, and returns it."""
    checked = sizes(argument, shape)
    if len(checked) > 1:
        raise ValueError(
            f"`{argument}` must be () for numbers or (D,) for vectors. Received: {argument}={checks.shown(shape)}"
        )
    return checked
