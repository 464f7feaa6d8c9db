"""Encoders and decoders of sequences whose steps attend to each other."""

from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import sequences
from tfvae.networks.sequence_layers import Positions, RotaryAttention


def transformer_encoder(
    step_shape: Sequence[int],
    num_steps: int | None = None,
    width: int = 64,
    num_heads: int = 4,
    num_blocks: int = 2,
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
    per_step: bool = False,
    causal: bool = False,
    num_classes: int | None = None,
) -> keras.Model:
    """A Transformer of sequences: each step attends to others, near and far.

    features = hidden layers of (the last step, the mean over all steps, log T) of the blocks

    The positions are rotary (`RotaryAttention`), so sequences may have any length; the cost grows with its square. NaN
    in x is a missing value, which the network is told of. Steps after the last one with an observed element are
    padding, which no feature of the sequence depends on, nor one of an earlier step.

    Args:
        step_shape: the shape of x at one step: () for a number, (C,) for C channels.
        num_steps: T, the number of steps; None leaves it open. Exports to TFLite need it.
        width: the number of features of each step, an even multiple of `num_heads`.
        num_heads: the number of heads of each attention.
        num_blocks: the number of blocks, each of an attention and two dense layers, the first four times as wide.
        hidden: the width of each dense layer that reads the whole sequence, or each step.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.
        per_step: whether the features are those of each step.
        causal: whether a step attends only to itself and those before it.
        num_classes: K, for x of codes 0 to K - 1, which are embedded, with NaN as one more code.

    Returns:
        A model from x `[B, T, *step_shape]` to features `[B, hidden[-1]]`, or `[B, T, hidden[-1]]` with `per_step`.

    Raises:
        ValueError: `step_shape` has more than one entry, a size is not a positive integer, or `width` is not an even
            multiple of `num_heads`.

    Reference: Vaswani et al. 2017, Attention Is All You Need, section 3, normalised before each layer.
    """
    width = checks.positive_integer("width", width)
    steps = sequences.read("x", step_shape, num_steps, num_classes, width)
    mask = sequences.mask_of(steps, per_step, causal)
    features = keras.layers.Dense(width)(steps.features)
    features = _blocks(features, num_heads, num_blocks, activation, causal, num_steps, mask)
    return sequences.encoder(steps, features, mask, hidden, activation, name, per_step)


def transformer_decoder(
    latent_dim: int,
    num_steps: int | None,
    parameter_shape: Sequence[int],
    width: int = 64,
    num_heads: int = 4,
    num_blocks: int = 2,
    hidden: Sequence[int] = (64,),
    activation: str | Callable = "silu",
    name: str = "decoder",
    step_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> keras.Model:
    """A Transformer from z to the parameters of the likelihood of each step.

    The first block reads a dense layer of z plus a learned vector for each step. With `step_shape` the decoder is
    autoregressive, of two inputs: it reads a dense layer of z plus one of the step of x before, and each step attends
    only to itself and those before it.

    Args:
        latent_dim: the number of latent dimensions L.
        num_steps: T, the number of steps. An autoregressive decoder may leave it open with None.
        parameter_shape: the shape of the parameters of one step.
        width: the number of features of each step, an even multiple of `num_heads`.
        num_heads: the number of heads of each attention.
        num_blocks: the number of blocks, each of an attention and two dense layers, the first four times as wide.
        hidden: the width of each dense layer that reads z.
        activation: the activation of every layer but the last, by Keras name or as a function.
        name: the name of the model.
        step_shape: the shape of x at one step, for an autoregressive decoder.
        num_classes: K, if x are codes 0 to K - 1, for an autoregressive decoder.

    Returns:
        A model from z `[B, L]` to `[B, T, *parameter_shape]`: unbounded values, read by the likelihood as logits,
        logarithms of means or locations. With `step_shape` it reads z and the steps before `[B, T, *step_shape]`, which
        are those of x moved by one, with NaN for the first and for what is not to be seen.

    Raises:
        ValueError: a size is not a positive integer, `width` is not an even multiple of `num_heads`, or `num_steps` is
            None without `step_shape`.
    """
    width = checks.positive_integer("width", width)
    code = sequences.code(latent_dim, num_steps, step_shape, num_classes, hidden, activation, width)
    features = code.previous
    if features is None:
        features = Positions(code.num_steps)(keras.layers.Dense(width)(code.features))
    is_causal = code.previous is not None
    features = _blocks(features, num_heads, num_blocks, activation, is_causal, code.num_steps)
    return sequences.decoder(code, features, parameter_shape, name)


def _blocks(
    features: keras.KerasTensor,
    num_heads: int,
    num_blocks: int,
    activation: str | Callable,
    causal: bool,
    num_steps: int | None,
    mask: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Blocks of attention and dense layers, normalised before each and at the end."""
    layers, width = keras.layers, features.shape[-1]
    num_heads = checks.positive_integer("num_heads", num_heads)
    if width % (2 * num_heads):
        raise ValueError(
            f"`width` must be an even multiple of `num_heads`. Received: width={width}, num_heads={num_heads}"
        )
    # No step before the padding attends to it in a causal network.
    attended = None if causal or mask is None else layers.Reshape((1, num_steps or -1))(mask)
    for _ in range(checks.positive_integer("num_blocks", num_blocks)):
        normalised = layers.LayerNormalization()(features)
        attention = RotaryAttention(num_heads, width // num_heads)
        read = attention(normalised, normalised, attention_mask=attended, use_causal_mask=causal)
        features = layers.Add()([features, read])
        wide = layers.Dense(4 * width, activation=activation)(layers.LayerNormalization()(features))
        features = layers.Add()([features, layers.Dense(width)(wide)])
    return layers.LayerNormalization()(features)
