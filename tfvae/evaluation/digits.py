"""A small network that ships with the package, whose features tell pictures of digits apart."""

import importlib.resources
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfvae import checks

# The side of the pictures, and the strides of the convolutions that bring them to 4 x 4.
SIDES = {8: (1, 2, 1), 28: (2, 2, 2)}
# Above this, pixels are surely not in units in which white is 1. A decoder may exceed 1 a little.
_TOO_BRIGHT = 2.0


@keras.saving.register_keras_serializable("tfvae.evaluation")
class Pictures(keras.layers.Layer):
    """Brings square pictures of one channel to the shape [B, side, side, 1].

    Args:
        side: the number of pixels of a side.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, x: Any) -> Any:
        """Returns the pictures.

        Raises:
            ValueError: pixels are far from 0 to 1; within a graph, and so in `predict`, this is not noticed.
        """
        # Within a graph there are no values yet.
        if hasattr(x, "numpy") and (largest := float(keras.ops.max(keras.ops.abs(x)))) > _TOO_BRIGHT:
            raise ValueError(
                "`x` must be pictures of digits in white on black, with pixels from 0 to 1. Received: pixels up to "
                f"{largest:g}"
            )
        return keras.ops.reshape(x, (-1, self.side, self.side, 1))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "side": self.side}


def digit_features(shape: Sequence[int] = (28, 28, 1)) -> keras.Model:
    """Loads a network of pictures of digits, for `tfvae.evaluation.features`.

    The features are the last hidden layer of a classifier of ten digits, a convolutional network of 22,000 weights:
    that of 28 x 28 pixels was trained on MNIST, with 98.5 % of its test data right, that of 8 x 8 on the first 1500 of
    scikit-learn's digits, with 97.0 % of the others right (`benchmarks/digit_features.py`).

    Args:
        shape: the shape of a picture, such as `model.event_shape`, of 28 * 28 or 8 * 8 pixels: `(28, 28, 1)`,
            `(28, 28)` and `(784,)` are the same. Pixels are from 0 to 1, digits white on black.

    Returns:
        A Keras model of x [B, *shape] to features [B, 64].

    Raises:
        ValueError: the shape is not that of such pictures.
    """
    sides = {side * side: side for side in SIDES}
    received = f"Received: shape={checks.shown(shape)}"
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ValueError(f"`shape` must be a tuple, such as (28, 28, 1). {received}")
    shape = tuple(checks.positive_integer("shape", size) for size in shape)
    side = sides.get(math.prod(shape))
    if side is None or shape not in ((side, side, 1), (side, side), (side * side,)):
        raise ValueError(
            "`shape` must be that of pictures of 28 x 28 or 8 x 8 pixels, such as (28, 28, 1), (28, 28) or (784,). "
            f"{received}"
        )
    network = layers(shape, side)
    path = importlib.resources.files("tfvae.evaluation") / f"digits_{side}.npz"
    with path.open("rb") as file, np.load(file) as weights:
        network.set_weights([weights[name].astype("float32") for name in weights.files])
    network.trainable = False
    return network


def layers(shape: tuple[int, ...], side: int) -> keras.Sequential:
    """The network, with new weights.

    Args:
        shape: the shape of a picture.
        side: the number of pixels of a side.
    """
    convolutions = [
        keras.layers.Conv2D(size, 3, strides, padding="same", activation="gelu")
        for size, strides in zip((16, 32, 32), SIDES[side], strict=True)
    ]
    # Features before an activation are nowhere constant, and closer to normal.
    head = [keras.layers.MaxPooling2D(2), keras.layers.Flatten(), keras.layers.Dense(64)]
    return keras.Sequential([keras.Input(shape), Pictures(side), *convolutions, *head], name="digit_features")
