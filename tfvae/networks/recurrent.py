"""Recurrent encoders and decoders of sequences."""

from collections.abc import Callable, Sequence

import keras

from tfvae.networks import building, sequences


def recurrent_encoder(
    step_shape: Sequence[int],
    num_steps: int | None = None,
    units: Sequence[int] = (64,),
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
    per_step: bool = False,
    causal: bool = True,
    num_classes: int | None = None,
    layer: Callable[..., keras.layers.RNN] = keras.layers.GRU,
) -> keras.Model:
    """A recurrent network of sequences, whose state carries what it saw from step to step.

    features = hidden layers of (the last step, the mean over all steps, log T) of the recurrent layers

    NaN in x is a missing value, which the network is told of. Steps after the last one with an observed element are
    padding, which no feature of the sequence depends on, nor one of an earlier step.

    Args:
        step_shape: the shape of x at one step: () for a number, (C,) for C channels.
        num_steps: T, the number of steps; None leaves it open. Exports to TFLite need it.
        units: the number of features of each recurrent layer.
        hidden: the width of each dense layer that reads the whole sequence, or each step.
        activation: the activation of the dense layers, by Keras name or as a function.
        name: the name of the model.
        per_step: whether the features are those of each step.
        causal: whether a step sees only those before it. If False, one half of the features of each recurrent layer
            reads the sequence backwards, and the width is twice `units`.
        num_classes: K, for x of codes 0 to K - 1, which are embedded, with NaN as one more code.
        layer: the kind of recurrent layer, such as `keras.layers.LSTM`.

    Returns:
        A model from x `[B, T, *step_shape]` to features `[B, hidden[-1]]`, or `[B, T, hidden[-1]]` with `per_step`.

    Raises:
        ValueError: `step_shape` has more than one entry, or a size is not a positive integer.

    Reference: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, section 2.3.
    """
    units = building.sizes("units", units, min_length=1)
    steps = sequences.read("x", step_shape, num_steps, num_classes, units[0])
    mask, features = sequences.mask_of(steps, per_step, causal), steps.features
    for width in units:
        recurrent = layer(width, return_sequences=True)
        if causal:
            features = recurrent(features)
        else:
            # Read backwards, the padding comes first, where the state must not change.
            is_step = keras.layers.Reshape((num_steps or -1,), dtype="bool")(mask)
            features = keras.layers.Bidirectional(recurrent)(features, mask=is_step)
    return sequences.encoder(steps, features, mask, hidden, activation, name, per_step)


def recurrent_decoder(
    latent_dim: int,
    num_steps: int | None,
    parameter_shape: Sequence[int],
    units: Sequence[int] = (64,),
    hidden: Sequence[int] = (64,),
    activation: str | Callable = "silu",
    name: str = "decoder",
    step_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    layer: Callable[..., keras.layers.RNN] = keras.layers.GRU,
) -> keras.Model:
    """A recurrent network from z to the parameters of the likelihood of each step.

    z gives the first state of each recurrent layer and is shown to the first layer at every step. With `step_shape`, so
    is the step of x before: an autoregressive decoder, of two inputs.

    Args:
        latent_dim: the number of latent dimensions L.
        num_steps: T, the number of steps. An autoregressive decoder may leave it open with None.
        parameter_shape: the shape of the parameters of one step.
        units: the number of features of each recurrent layer.
        hidden: the width of each dense layer that reads z.
        activation: the activation of those, by Keras name or as a function.
        name: the name of the model.
        step_shape: the shape of x at one step, for an autoregressive decoder.
        num_classes: K, if x are codes 0 to K - 1, for an autoregressive decoder.
        layer: the kind of recurrent layer, such as `keras.layers.LSTM`.

    Returns:
        A model from z `[B, L]` to `[B, T, *parameter_shape]`: unbounded values, read by the likelihood as logits,
        logarithms of means or locations. With `step_shape` it reads z and the steps before `[B, T, *step_shape]`, which
        are those of x moved by one, with NaN for the first and for what is not to be seen.

    Raises:
        ValueError: a size is not a positive integer, or `num_steps` is None without `step_shape`.
    """
    units = building.sizes("units", units, min_length=1)
    code = sequences.code(latent_dim, num_steps, step_shape, num_classes, hidden, activation, units[0])
    features = code.previous
    if features is None:
        features = keras.layers.RepeatVector(code.num_steps)(keras.layers.Dense(units[0])(code.features))
    for width in units:
        recurrent = layer(width, return_sequences=True)
        number = len(_state_sizes(recurrent))
        state = [keras.layers.Dense(width)(code.features) for _ in range(number)]
        features = recurrent(features, initial_state=state)
    return sequences.decoder(code, features, parameter_shape, name)


def _state_sizes(recurrent: keras.layers.RNN) -> list[int]:
    sizes = recurrent.cell.state_size
    return list(sizes) if isinstance(sizes, list | tuple) else [sizes]
