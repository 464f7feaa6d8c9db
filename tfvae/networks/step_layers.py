"""Layers that share the weights of a layer of sequences and compute one step of it."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("tfvae.networks")
class RecurrentStep(keras.layers.Layer):
    """One step of a recurrent layer: from x_t [B, 1, F] and the states to the output [B, 1, H] and the states.

    Args:
        recurrent: a `keras.layers.RNN` that is built, such as a GRU, or its configuration.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, recurrent: keras.layers.RNN | dict[str, Any], **kwargs: Any) -> None:
        self.recurrent = _layer(recurrent)
        super().__init__(**{"dtype": self.recurrent.dtype_policy, **kwargs})

    @property
    def state_sizes(self) -> list[int]:
        """The number of features of each state."""
        return keras.tree.flatten(self.recurrent.cell.state_size)

    def call(self, inputs: list[Any]) -> list[Any]:
        """Returns the output [B, 1, H] and the states."""
        step, *states = inputs
        sizes = self.recurrent.cell.state_size
        nested = keras.tree.pack_sequence_as(sizes, states) if keras.tree.is_nested(sizes) else states
        output, after = self.recurrent.cell(step[:, 0], nested)
        return [output[:, None], *keras.tree.flatten(after)]

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> list[tuple[int | None, ...]]:
        """The shapes of the output and the states."""
        batch, size = input_shape[0][0], self.recurrent.cell.output_size
        return [(batch, 1, size), *input_shape[1:]]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "recurrent": keras.saving.serialize_keras_object(self.recurrent)}


@keras.saving.register_keras_serializable("tfvae.networks")
class ConvolutionStep(keras.layers.Layer):
    """The last output of a causal convolution over time, from the inputs that it reads: [B, 1 + (k - 1) d, F].

    Args:
        convolution: a `keras.layers.Conv1D` that is built, of kernel size k and dilation d, or its configuration.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, convolution: keras.layers.Conv1D | dict[str, Any], **kwargs: Any) -> None:
        self.convolution = _layer(convolution)
        super().__init__(**{"dtype": self.convolution.dtype_policy, **kwargs})

    def call(self, window: Any) -> Any:
        """Returns the output [B, 1, filters]."""
        ops, own = keras.ops, self.convolution
        taps = window[:, :: own.dilation_rate[0]]
        kernel = ops.reshape(own.kernel, (-1, own.filters))
        output = ops.matmul(ops.reshape(taps, (-1, 1, kernel.shape[0])), kernel)
        if own.use_bias:
            output = output + own.bias
        return output if own.activation is None else own.activation(output)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int, int]:
        """The shape [B, 1, filters]."""
        return (input_shape[0], 1, self.convolution.filters)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "convolution": keras.saving.serialize_keras_object(self.convolution)}


def _layer(given: keras.layers.Layer | dict[str, Any]) -> Any:
    return keras.saving.deserialize_keras_object(given) if isinstance(given, dict) else given
