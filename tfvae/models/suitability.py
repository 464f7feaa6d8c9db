"""Whether a decoder and the data suit the likelihood: whether they mean what it takes them for.

A decoder that ends in a sigmoid has the right shape for logits, but keeps every probability between 0.5 and 0.73. Only
the results of a training would show it.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from tfvae import private_apis
from tfvae.likelihoods import Likelihood
from tfvae.likelihoods.likelihood import Group

# Logits, and logarithms, that cannot be this far from 0 on both sides are taken to be bounded.
_FAR = 5.0
# A location should be able to be where at least this share of the data are.
_SHARE = 0.75
# The arguments by which the range of an activation is found.
_ARGUMENTS = (-1000.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1000.0)
# How far outputs vary, relative to their mean, if some of them should be of the other sign.
_CROSSING = 0.45
# Enough numbers to tell outputs between 0 and 1 from chance.
_FEWEST = 64
# Evenly spaced rows, so many at most, are enough to see the units of the data.
_MOST_ROWS = 4096
# Layers of Keras that only move numbers, so that the range of their output is that of their input.
_MOVING = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Identity,
    keras.layers.Dropout,
)


class _Reach(NamedTuple):
    """Where the outputs of a decoder can lie.

    Attributes:
        low: the lowest number.
        high: the highest number.
        why: how that is known, to follow "a decoder".
        is_sure: whether it is known, not inferred from a few outputs.
    """

    low: float
    high: float
    why: str
    is_sure: bool


def some_rows(x: np.ndarray) -> np.ndarray:
    """Those rows of data [N, ...] that `check` needs."""
    return x[:: -(-len(x) // _MOST_ROWS)]


def check(
    name: str, decoder: keras.Model, outputs: Callable[[], np.ndarray], likelihood: Likelihood, x: np.ndarray
) -> None:
    """Checks, before a training, that the decoder and the data are what the likelihood takes them for.

    Args:
        name: the name of the argument through which the decoder was passed.
        decoder: the decoder.
        outputs: computes some of its outputs [M, ...]; called if its layers do not say where they lie.
        likelihood: the likelihood.
        x: data of the training [N, ...].

    Raises:
        ValueError: they surely are not.

    Warns:
        UserWarning: they probably are not.
    """
    reach = _reach_of_activation(decoder)
    ranges = {group.likelihood.outputs_range for group in likelihood.groups(x, _none(likelihood, x))}
    reads = not ranges.isdisjoint({"real", "relative"})
    found = outputs() if reach is None and reads else _none(likelihood, x)
    for group in likelihood.groups(x, found):
        own = reach or _reach_shown_by(group.outputs)
        try:
            said = [group.likelihood.check_training(group.x), None if own is None else _check_reach(name, group, own)]
        except ValueError as error:
            raise ValueError(f"{group.name}{error}") from error
        for message in filter(None, said):
            warnings.warn(f"{group.name}{message}", stacklevel=2)


def check_logits(name: str, network: keras.Model) -> None:
    """Raises ValueError if the last activation of a network bounds its last output, which is taken for logits.

    Args:
        name: the name of the argument through which the network was passed.
        network: the network.
    """
    outputs = getattr(network, "outputs", None)
    reach = _reach_of(outputs[-1]) if outputs and type(network).__module__.startswith("keras.") else None
    if reach is not None and (reach.low > -_FAR or reach.high < _FAR):
        raise ValueError(
            f"`{name}` must give logits, which may be any real numbers, of either sign: let its last layer have no "
            f"activation. Received: a {name} {reach.why}"
        )


def _none(likelihood: Likelihood, x: np.ndarray) -> np.ndarray:
    return np.zeros((0, *likelihood.parameter_shape(x.shape[1:])), np.float32)


def _check_reach(name: str, group: Group, reach: _Reach) -> str | None:
    """Checks that the outputs of a decoder can be what a likelihood takes them for.

    Returns:
        What to warn the user of, or None.

    Raises:
        ValueError: they surely cannot.
    """
    likelihood = group.likelihood
    kind = type(likelihood).__name__
    is_bounded = {
        "real": reach.low > -_FAR or reach.high < _FAR,
        # Classes are told apart by logits that are all negative too.
        "relative": reach.low > -_FAR,
    }
    if is_bounded.get(likelihood.outputs_range or "", False):
        message = (
            f"`{name}` must give {likelihood.outputs} under the {kind} likelihood, which may be any real numbers, of "
            "either sign: let its last layer have no activation, because the likelihood applies its own. Received: a "
            f"decoder {reach.why}"
        )
        if reach.is_sure:
            raise ValueError(message)
        return message
    if likelihood.outputs_range == "data" and reach.is_sure and math.isfinite(max(reach.low, -reach.high)):
        margin = 0.1 * np.nanstd(group.x)
        inside = (group.x >= reach.low - margin) & (group.x <= reach.high + margin)
        if np.mean(inside | np.isnan(group.x)) < _SHARE:
            return (
                f"`{name}` should give {likelihood.outputs} wherever x lies under the {kind} likelihood: let its last "
                f"layer have no activation, or scale x. Received: a decoder {reach.why}, whose outputs are "
                f"from {reach.low:g} to {reach.high:g}, and x from {np.nanmin(group.x):g} to {np.nanmax(group.x):g}"
            )
    return None


def _reach_of_activation(decoder: Any) -> _Reach | None:
    """The reach of the last activation of a functional or Sequential decoder; None if it is not known."""
    return _reach_of(decoder.outputs[0]) if _is_functional(decoder) else None


def _reach_of(tensor: keras.KerasTensor) -> _Reach | None:
    """The reach of the activation that made a symbolic tensor; None if it is not known."""
    while True:
        layer, inputs = private_apis.made_by(tensor)
        if isinstance(layer, _MOVING):
            tensor = inputs[0]
        elif _is_functional(layer):
            tensor = layer.outputs[0]
        else:
            break
    if not type(layer).__module__.startswith("keras."):
        return None
    if isinstance(layer, keras.layers.Softmax):
        activation, name = keras.activations.softmax, "softmax"
    elif isinstance(layer, keras.layers.ReLU | keras.layers.ELU | keras.layers.LeakyReLU):
        activation, name = layer, type(layer).__name__.lower()
    else:
        activation = getattr(layer, "activation", None)
        # A layer, such as Activation("sigmoid"), may be passed as an activation.
        activation = getattr(activation, "activation", activation)
        name = getattr(activation, "__name__", type(activation).__name__.lower())
    if activation is None or not (getattr(activation, "__module__", "") or "").startswith("keras."):
        return None
    values = keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor([_ARGUMENTS])))
    low, high = (math.copysign(math.inf, edge) if abs(edge) > 10 else edge for edge in (values.min(), values.max()))
    return _Reach(low, high, f"that ends in {name}", True)


def _is_functional(layer: Any) -> bool:
    """Whether a layer is a functional or Sequential model of Keras's own class, with one output."""
    return type(layer).__module__.startswith("keras.") and len(getattr(layer, "outputs", None) or []) == 1


def _reach_shown_by(outputs: np.ndarray) -> _Reach | None:
    """The reach that outputs show: that of a sigmoid, a softmax, a relu, a tanh and the like, or None."""
    if outputs.size < _FEWEST or not np.isfinite(outputs).all():
        return None
    if outputs.min() >= 0 and outputs.max() <= 1 and outputs.std(axis=0).mean() > 0.01:
        return _Reach(0.0, 1.0, f"whose first outputs are all from {outputs.min():.3g} to {outputs.max():.3g}", False)
    if (
        outputs.min() < -0.9
        and outputs.max() > 0.9
        and np.abs(outputs).max() <= 1
        and np.mean(np.abs(outputs) > 0.9) > 0.1
    ):
        return _Reach(-1.0, 1.0, "whose first outputs are all from -1 to 1, many of them close to -1 or 1", False)
    if outputs.min() >= 0 and np.mean(outputs == 0) > 0.05 and outputs.max() > 0:
        return _Reach(
            0.0, math.inf, f"none of whose first outputs is negative, and {np.mean(outputs == 0):.0%} are 0", False
        )
    # Each output by itself, because the biases may have been set to its mean.
    varies = outputs.std(axis=0) > _CROSSING * np.abs(outputs.mean(axis=0))
    if np.mean(varies) > 0.5 and (outputs.min() >= 0 or outputs.max() <= 0):
        low, high, sign = (0.0, math.inf, "negative") if outputs.min() >= 0 else (-math.inf, 0.0, "positive")
        return _Reach(low, high, f"none of whose first outputs is {sign}, although they vary", False)
    return None
