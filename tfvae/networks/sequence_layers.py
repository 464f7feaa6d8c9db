"""The layers of the ready-made networks of sequences."""

from typing import Any

import keras

from tfvae import checks
from tfvae.networks.layers import is_number

# The ratio of the longest to the shortest wavelength of `RotaryAttention`: that of Vaswani et al. 2017.
_WAVELENGTHS = 10000.0


@keras.saving.register_keras_serializable("tfvae.networks")
class StepMask(keras.layers.Layer):
    """Which steps belong to a sequence: [B, T, C], with NaN for what is missing, to [B, T, 1].

    A step is 1 up to the last one with an observed element, and 0 after it, in the padding. A gap, with observed steps
    after it, is 1, because time goes on in it.

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Half precision would count no further than 256.
        self.autocast = False

    def call(self, x: Any) -> Any:
        """Returns the mask [B, T, 1]."""
        ops = keras.ops
        is_observed = ops.max(ops.cast(is_number(x), "float32"), axis=-1, keepdims=True)
        number = ops.cast(ops.reshape(ops.arange(1, ops.shape(x)[1] + 1), (1, -1, 1)), "float32")
        last = ops.max(is_observed * number, axis=1, keepdims=True)
        return ops.cast(number <= last, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape [B, T, 1]."""
        return (*input_shape[:2], 1)


@keras.saving.register_keras_serializable("tfvae.networks")
class Codes(keras.layers.Layer):
    """Turns codes 0 to K - 1 as floating-point numbers into integers, with K for NaN: for `keras.layers.Embedding`.

    Args:
        num_classes: K.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = checks.positive_integer("num_classes", num_classes)
        # Half precision has no whole numbers between 256 and 258.
        self.autocast = False

    def call(self, x: Any) -> Any:
        """Returns the integers, in the shape of x."""
        return keras.ops.cast(keras.ops.where(is_number(x), keras.ops.round(x), float(self.num_classes)), "int32")

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Integers of the shape of x."""
        return keras.KerasTensor(x.shape, dtype="int32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable("tfvae.networks")
class SeriesSummary(keras.layers.Layer):
    """The last step of a sequence, the mean over its steps and the logarithm of their number, without the padding.

    [B, T, F] and the mask [B, T, 1] of `StepMask` become [B, 2 F + 1].

    Args:
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, *arguments: Any) -> None:
        """No mask of Keras goes on from here."""

    def call(self, inputs: list[Any]) -> Any:
        """Returns the last step, the mean and log T, side by side [B, 2 F + 1]."""
        ops = keras.ops
        # Half precision could overflow in the sum.
        steps, mask = (ops.cast(tensor, "float32") for tensor in inputs)
        number = ops.maximum(ops.sum(mask, axis=1), 1.0)
        is_last = mask - ops.concatenate([mask[:, 1:], ops.zeros_like(mask[:, :1])], axis=1)
        last, mean = ops.sum(is_last * steps, axis=1), ops.sum(mask * steps, axis=1) / number
        return ops.cast(ops.concatenate([last, mean, ops.log(number)], axis=-1), self.compute_dtype)

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> tuple[int | None, int]:
        """The shape [B, 2 F + 1]."""
        return (input_shape[0][0], 2 * input_shape[0][-1] + 1)


@keras.saving.register_keras_serializable("tfvae.networks")
class Positions(keras.layers.Layer):
    """Adds a learned vector for each of T steps to one vector: [B, F] to [B, T, F].

    Args:
        num_steps: T.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, num_steps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_steps = checks.positive_integer("num_steps", num_steps)

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the vectors."""
        self.positions = self.add_weight(
            name="positions", shape=(self.num_steps, input_shape[-1]), initializer="random_normal"
        )
        self.built = True

    def call(self, x: Any) -> Any:
        """Returns the steps [B, T, F]."""
        return x[:, None] + self.positions

    def compute_output_shape(self, input_shape: tuple[int | None, int]) -> tuple[int | None, int, int]:
        """The shape [B, T, F]."""
        return (input_shape[0], self.num_steps, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_steps": self.num_steps}


@keras.saving.register_keras_serializable("tfvae.networks")
class RotaryAttention(keras.layers.MultiHeadAttention):
    """Keras's attention, in which the query and the key of step t are turned by angles proportional to t.

    What a step attends to then depends on the distance to other steps, for sequences of any length. `key_dim` is even.

    Args:
        num_heads: the number of heads.
        key_dim: the number of features of each head.
        kwargs: the other arguments of `keras.layers.MultiHeadAttention`.

    Reference: Su et al. 2021, RoFormer: Enhanced Transformer with Rotary Position Embedding, equation 34.
    """

    # Keras documents this method as one to override. Without its last argument, Keras makes the causal mask itself.
    def _compute_attention(self, query: Any, key: Any, *arguments: Any) -> Any:
        return super()._compute_attention(_turned(query), _turned(key), *arguments)


def _turned(heads: Any) -> Any:
    """The heads [B, T, N, H], each pair of features at i and i + H / 2 turned by t / wavelength_i."""
    ops = keras.ops
    half = heads.shape[-1] // 2
    rates = _WAVELENGTHS ** (-ops.arange(half, dtype="float32") / half)
    angles = ops.cast(ops.arange(ops.shape(heads)[1]), "float32")[:, None, None] * rates
    cos, sin = ops.cast(ops.cos(angles), heads.dtype), ops.cast(ops.sin(angles), heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return ops.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
