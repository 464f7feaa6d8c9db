"""Encoders and decoders of sequences by dilated convolutions over time."""

import math
from collections.abc import Callable, Sequence

import keras

from tfvae import checks
from tfvae.networks import building, sequences


def temporal_encoder(
    step_shape: Sequence[int],
    num_steps: int | None = None,
    filters: int = 32,
    dilations: Sequence[int] = (1, 2, 4, 8),
    kernel_size: int = 3,
    hidden: Sequence[int] = (64, 32),
    activation: str | Callable = "silu",
    name: str = "encoder",
    per_step: bool = False,
    causal: bool = True,
    num_classes: int | None = None,
) -> keras.Model:
    """A network of sequences: dilated convolutions over time, each of which is added to what it reads.

    features = hidden layers of (the last step, the mean over all steps, log T) of the convolutions

    A step sees (kernel_size - 1) * sum(dilations) steps before it, 30 by default, or half of them before and half after
    it if not `causal`. NaN in x is a missing value, which the network is told of. Steps after the last one with an
    observed element are padding, which no feature of the sequence depends on, nor one of an earlier step.

    Args:
        step_shape: the shape of x at one step: () for a number, (C,) for C channels.
        num_steps: T, the number of steps; None leaves it open. Exports to TFLite need it.
        filters: the number of features of each step.
        dilations: the distance between the steps that a convolution reads, one convolution for each entry.
        kernel_size: the number of steps that a convolution reads.
        hidden: the width of each dense layer that reads the whole sequence, or each step.
        activation: the activation of every layer, by Keras name or as a function.
        name: the name of the model.
        per_step: whether the features are those of each step.
        causal: whether a step sees only those before it.
        num_classes: K, for x of codes 0 to K - 1, which are embedded, with NaN as one more code.

    Returns:
        A model from x `[B, T, *step_shape]` to features `[B, hidden[-1]]`, or `[B, T, hidden[-1]]` with `per_step`.

    Raises:
        ValueError: `step_shape` has more than one entry, or a size is not a positive integer.

    Reference: van den Oord et al. 2016, WaveNet, section 2.1; Bai et al. 2018, An Empirical Evaluation of Generic
    Convolutional and Recurrent Networks for Sequence Modeling, section 3.
    """
    filters = checks.positive_integer("filters", filters)
    steps = sequences.read("x", step_shape, num_steps, num_classes, filters)
    mask = sequences.mask_of(steps, per_step, causal)
    features = keras.layers.Dense(filters)(steps.features)
    features = _convolutions(features, dilations, kernel_size, activation, causal, mask=mask)
    return sequences.encoder(steps, features, mask, hidden, activation, name, per_step)


def temporal_decoder(
    latent_dim: int,
    num_steps: int | None,
    parameter_shape: Sequence[int],
    filters: int = 32,
    dilations: Sequence[int] = (8, 4, 2, 1),
    kernel_size: int = 3,
    hidden: Sequence[int] = (64,),
    activation: str | Callable = "silu",
    name: str = "decoder",
    step_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> keras.Model:
    """Dilated convolutions over time from z to the parameters of the likelihood of each step.

    A dense layer of z makes features at every 8th step, which are repeated for the steps between and then go through
    the convolutions, each of which is added to what it reads. With `step_shape` the decoder is autoregressive, of two
    inputs: the convolutions are causal and read the step of x before, and z is shown to each of them at every step.

    Args:
        latent_dim: the number of latent dimensions L.
        num_steps: T, the number of steps. An autoregressive decoder may leave it open with None.
        parameter_shape: the shape of the parameters of one step.
        filters: the number of features of each step.
        dilations: the distance between the steps that a convolution reads, one convolution for each entry.
        kernel_size: the number of steps that a convolution reads.
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
        ValueError: a size is not a positive integer, or `num_steps` is None without `step_shape`.

    Reference: Thill et al. 2021, Temporal convolutional autoencoder for unsupervised anomaly detection in time series,
    section 3; for the autoregressive decoder, van den Oord et al. 2016, WaveNet, section 2.5.
    """
    filters = checks.positive_integer("filters", filters)
    code = sequences.code(latent_dim, num_steps, step_shape, num_classes, hidden, activation, filters)
    if code.previous is not None:
        features = _convolutions(code.previous, dilations, kernel_size, activation, causal=True, shown=code.features)
        return sequences.decoder(code, features, parameter_shape, name)
    coarse = math.ceil(code.num_steps / _STEPS_OF_A_COARSE_STEP)
    features = keras.layers.Dense(coarse * filters, activation=activation)(code.features)
    features = keras.layers.UpSampling1D(_STEPS_OF_A_COARSE_STEP)(keras.layers.Reshape((coarse, filters))(features))
    if extra := coarse * _STEPS_OF_A_COARSE_STEP - code.num_steps:
        features = keras.layers.Cropping1D((0, extra))(features)
    features = _convolutions(features, dilations, kernel_size, activation, causal=False)
    return sequences.decoder(code, features, parameter_shape, name)


# Few enough for the convolutions to make a smooth course of the steps that are repeated.
_STEPS_OF_A_COARSE_STEP = 8


def _convolutions(
    features: keras.KerasTensor,
    dilations: Sequence[int],
    kernel_size: int,
    activation: str | Callable,
    causal: bool,
    mask: keras.KerasTensor | None = None,
    shown: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Dilated convolutions, each added to what it reads.

    Args:
        features: what they read first [B, T, F].
        dilations: the dilation of each.
        kernel_size: the number of steps that each reads.
        activation: the activation of each.
        causal: whether they read only earlier steps.
        mask: the steps before the padding [B, T, 1].
        shown: features of the whole sequence [B, H], which each convolution is shown at every step.
    """
    filters, padding = features.shape[-1], "causal" if causal else "same"
    kernel_size = checks.positive_integer("kernel_size", kernel_size)
    for dilation in building.sizes("dilations", dilations, min_length=1):
        # What lies beyond the padding is 0 for a convolution, so the padding must be too.
        seen = features if causal or mask is None else keras.layers.Multiply()([features, mask])
        read = keras.layers.Conv1D(filters, kernel_size, padding=padding, dilation_rate=dilation)(seen)
        if shown is not None:
            read = keras.layers.Add()([read, sequences.at_each_step(shown, filters)])
        features = keras.layers.Add()([features, keras.layers.Activation(activation)(read)])
    return features
