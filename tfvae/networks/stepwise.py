"""A causal network of sequences, one step at a time: for streams and for generation."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import keras
from keras import layers

from tfvae import checks, private_apis
from tfvae.networks.layers import MissingMask, SetAttention, SetMean
from tfvae.networks.sequence_layers import Codes, SeriesSummary, StepMask
from tfvae.networks.step_layers import ConvolutionStep, RecurrentStep

# Layers that compute each element or each step [B, T, ...] from itself alone.
_OF_A_STEP = (
    layers.Activation,
    layers.Add,
    layers.AlphaDropout,
    layers.Average,
    layers.Dense,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.ReLU,
    layers.Rescaling,
    layers.Subtract,
    layers.TimeDistributed,
    MissingMask,
)
# Those that do so if their axes come after that of time.
_OF_AXES = (
    layers.BatchNormalization,
    layers.Concatenate,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.Softmax,
    layers.UnitNormalization,
)
# Those that need no axis after that of time.
_OF_NUMBERS = (layers.Embedding, Codes)

_REASONS: dict[tuple[type, ...], str] = {
    (layers.Bidirectional,): "it reads the sequence backwards too; use `causal=True`, or the recurrent layer alone",
    (
        layers.MultiHeadAttention,
        layers.GroupQueryAttention,
        layers.Attention,
        layers.AdditiveAttention,
        SetAttention,
    ): "it reads all steps at once, so that its state would grow; use `recurrent_encoder` or `temporal_encoder`",
    (
        layers.GlobalAveragePooling1D,
        layers.GlobalMaxPooling1D,
        layers.AveragePooling1D,
        layers.MaxPooling1D,
        layers.Flatten,
        SeriesSummary,
        SetMean,
    ): "it puts steps together; use a network with features of each step, such as those with `per_step=True`",
    (StepMask,): "it looks for the end of the sequence; use `causal=True`, with `per_step=True`",
    (layers.Masking, layers.Embedding): "it makes a mask for the layers after it; use networks.MissingMask for what is "
    "missing, and no mask_zero=True",
}


class NotStepwiseError(ValueError):
    """A network has no form for one step at a time, with states of fixed size."""


class _State(NamedTuple):
    """A state of the network.

    Attributes:
        before: the input of the model for it [B, ...].
        after: the state after the step.
        start: the state before the first step, made of the constants; None for zeros.
    """

    before: keras.KerasTensor
    after: keras.KerasTensor
    start: keras.KerasTensor | None


class Stepwise:
    """A causal network that reads a sequence step by step: see `stepwise`.

    Attributes:
        model: a functional model from `[*constants, x_t, *states]` to `[features_t, *states]`, where x_t is
            `[B, *step_shape]`, features_t `[B, F]`, and each state `[B, ...]` that of a recurrent layer or the last
            inputs of a convolution.
    """

    def __init__(self, network: keras.Model) -> None:
        functional = private_apis.functional(network)
        if functional is None or len(functional.outputs) != 1:
            raise NotStepwiseError(
                "`network` must be a functional or sequential `keras.Model` with one output. Received: "
                f"network={checks.shown(network)}"
            )
        *self._constants, sequence = functional.inputs
        self._states: list[_State] = []
        step = keras.Input(sequence.shape[2:], name=f"{sequence.name}_t", dtype=sequence.dtype)
        moving = layers.Reshape((1, *sequence.shape[2:]), dtype=sequence.dtype)(step)
        output = self._run(functional, [*self._constants, moving], {id(sequence)})
        features = layers.Reshape(output.shape[2:])(output)
        before, after = [state.before for state in self._states], [state.after for state in self._states]
        self.model = keras.Model([*self._constants, step, *before], [features, *after], name=f"{network.name}_step")
        made = [state.start for state in self._states if state.start is not None]
        self._start = keras.Model(self._constants, made) if made else None

    def initial_state(self, n: int, *constants: Any) -> list[Any]:
        """The states before the first step.

        Args:
            n: the number of sequences B.
            constants: the inputs of the network before the sequence, such as z `[B, L]`.

        Returns:
            The states, tensors `[B, ...]`.

        Raises:
            ValueError: `n` is not a positive integer, or there are more or fewer constants than the network has.
        """
        n = checks.positive_integer("n", n)
        if len(constants) != len(self._constants):
            raise ValueError(
                f"`constants` must be the {len(self._constants)} inputs of the network before the sequence. Received: "
                f"{len(constants)} arrays"
            )
        # Keras gives a single output without a list.
        made = iter(keras.tree.flatten(self._start(list(constants))) if self._start is not None else ())
        return [
            keras.ops.zeros((n, *state.before.shape[1:]), state.before.dtype) if state.start is None else next(made)
            for state in self._states
        ]

    def __call__(self, x: Any, states: Sequence[Any], *constants: Any) -> tuple[Any, list[Any]]:
        """One step.

        Args:
            x: the step [B, *step_shape], with NaN for what is missing.
            states: the states before it.
            constants: the inputs of the network before the sequence.

        Returns:
            The features `[B, F]`, and the states after the step.
        """
        inputs = [keras.ops.convert_to_tensor(each) for each in (*constants, x, *states)]
        # Keras gives a single output without a list.
        features, *after = keras.tree.flatten(self.model(inputs))
        return features, after

    def _run(self, network: keras.Model, given: list[keras.KerasTensor], moving: set[int]) -> keras.KerasTensor:
        """The output of a network for one step.

        Args:
            network: the network.
            given: its inputs, of which those with an axis of time have one step.
            moving: the ids of the network's own symbols for those.
        """
        tensors = {id(symbol): tensor for symbol, tensor in zip(network.inputs, given, strict=True)}
        calls = list(private_apis.calls_of(network))
        for operation, *_ in calls:
            # Before the operations that compute the mask, whose names say nothing.
            if isinstance(operation, layers.Masking) or getattr(operation, "mask_zero", False):
                _refuse_kind(operation)
        for operation, arguments, outputs in calls:
            positional, named = arguments.fill_in(tensors)
            symbols = [symbol for symbol in arguments.keras_tensors if id(symbol) in moving]
            if not symbols:
                made = operation(*positional, **named)
            elif inner := private_apis.functional(operation):
                if len(inner.outputs) != 1:
                    _refuse(operation, "it has several outputs; use networks with one")
                pairs = zip(inner.inputs, arguments.keras_tensors, strict=True)
                ids = {id(own) for own, symbol in pairs if id(symbol) in moving}
                made = self._run(inner, [tensors[id(symbol)] for symbol in arguments.keras_tensors], ids)
            else:
                made = self._of_layer(operation, symbols[0], positional, named, outputs[0])
            for output, tensor in zip(outputs, keras.tree.flatten(made), strict=True):
                tensors[id(output)] = tensor
                if symbols:
                    moving.add(id(output))
                    if tuple(tensor.shape[1:]) != (1, *output.shape[2:]):
                        _refuse(operation, "it does not compute each step from that step alone")
        (output,) = network.outputs
        if id(output) not in moving:
            raise NotStepwiseError(
                "`network` must compute its output from the last of its inputs, which is the sequence"
            )
        return tensors[id(output)]

    def _of_layer(
        self,
        layer: keras.layers.Layer,
        symbol: keras.KerasTensor,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        output: keras.KerasTensor,
    ) -> keras.KerasTensor:
        """What a layer makes of one step.

        Args:
            layer: the layer.
            symbol: what it reads in the network, with all steps.
            positional: what it reads here, with one step.
            named: its other arguments.
            output: what it makes in the network.
        """
        rank = len(symbol.shape)
        if isinstance(layer, layers.RNN) and rank == 3:
            return self._recurrent(layer, *positional, **named)
        if isinstance(layer, layers.Conv1D):
            return self._convolution(layer, *positional)
        if isinstance(layer, layers.Reshape):
            if math.prod(symbol.shape[2:]) != math.prod(output.shape[2:]):
                _refuse(layer, "it changes the axis of time")
            return layers.Reshape((1, *output.shape[2:]), dtype=layer.dtype_policy)(*positional)
        if isinstance(layer, _OF_NUMBERS) or (isinstance(layer, _OF_A_STEP) and rank > 2):
            return layer(*positional, **named)
        if isinstance(layer, _OF_AXES):
            axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
            if min(axis % rank for axis in axes) > 1:
                return layer(*positional, **named)
            _refuse(layer, "one of its axes is that of time")
        return _refuse_kind(layer)

    def _recurrent(
        self, layer: keras.layers.RNN, step: keras.KerasTensor, initial_state: Any = None, mask: Any = None, **_: Any
    ) -> keras.KerasTensor:
        """The output of a recurrent layer, whose states become states of the model."""
        if not layer.return_sequences or layer.return_state:
            _refuse(layer, "it must return all of its outputs and no state: return_sequences=True, return_state=False")
        if layer.go_backwards or layer.stateful or mask is not None:
            _refuse(layer, "it must read forwards, without a mask and without states that stay from call to call")
        of_step = RecurrentStep(layer)
        before = [keras.Input((size,), dtype=layer.compute_dtype) for size in of_step.state_sizes]
        output, *after = of_step([step, *before])
        starts = keras.tree.flatten(initial_state) if initial_state is not None else [None] * len(before)
        self._states += map(_State, before, after, starts)
        return output

    def _convolution(self, layer: keras.layers.Conv1D, step: keras.KerasTensor) -> keras.KerasTensor:
        """The output of a convolution, whose last inputs become a state of the model."""
        reach = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        is_plain = layer.strides[0] == layer.groups == 1 and layer.data_format == "channels_last"
        if not is_plain or (reach and layer.padding != "causal"):
            _refuse(
                layer, 'it must have padding="causal" or read one step, and have strides, groups and axes by default'
            )
        if not reach:
            return layer(step)
        before = keras.Input((reach, step.shape[-1]), dtype=layer.compute_dtype)
        window = layers.Concatenate(axis=1)([before, step])
        self._states.append(_State(before, layers.Cropping1D((1, 0))(window), None))
        return ConvolutionStep(layer)(window)


def stepwise(network: keras.Model) -> Stepwise:
    """A causal network for one step at a time, which shares its weights: for streams and for generation.

    Fed with a sequence step by step, it computes the features that the network computes of the whole sequence. What
    the past leaves is in explicit states of fixed size.

    Args:
        network: a functional model with features of each step, such as `recurrent_encoder` or `temporal_encoder` with
            `per_step=True`, or an autoregressive `recurrent_decoder` or `temporal_decoder`. Its last input is the
            sequence `[B, T, *step_shape]`; those before it, such as z, are the same for all steps.

    Returns:
        The network of one step, with its initial state.

    Raises:
        ValueError: the network is not functional, or one of its layers is not known to need a state of fixed size, as
            for attention, or sees later steps.
    """
    return Stepwise(network)


def _refuse(layer: keras.layers.Layer, reason: str) -> NoReturn:
    raise NotStepwiseError(
        "`network` must be made of recurrent layers, causal convolutions and layers of each step alone. Received: "
        f"layer {layer.name!r} of kind {type(layer).__name__}: {reason}"
    )


def _refuse_kind(layer: keras.layers.Layer) -> NoReturn:
    otherwise = "it is not known to compute each step from that step alone; use layers of Keras that do"
    _refuse(layer, next((reason for kinds, reason in _REASONS.items() if isinstance(layer, kinds)), otherwise))
