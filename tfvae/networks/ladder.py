"""The networks of a deep hierarchy of latent pictures: bottom-up features of x, and cells from the top down."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from tfvae import checks
from tfvae.networks import building
from tfvae.networks.layers import LearnedMap
from tfvae.networks.recomputed import Recomputed

_KERNEL_SIZE = 3
# How filters of the heads start, relative to the usual start, and those that read z: q(z|x) is then close to p(z), and
# p(z) to N(0, I).
_SMALL, _OF_LATENTS = 1e-2, 0.1


class Ladder(NamedTuple):
    """The networks of a `tfvae.DeepHierarchicalVAE`, in the order of its first arguments.

    Each list has one network for each of the T groups of latent variables, the top one first. h is the state [B, H, W,
    C] at the resolution of the group, and z are its latent variables [B, H, W, D].

    Attributes:
        encoder: a Keras model from x [B, ...] to a list of T features [B, H, W, C], one for each group.
        prior_networks: Keras models from h to 2 D channels: loc and log scale of p(z).
        posterior_networks: Keras models from h and the features of the group to 2 D channels: see
            `tfvae.DeepHierarchicalVAE`.
        decoders: Keras models from h and z to the h of the next group, and for the last group to the parameters of
            the likelihood.
    """

    encoder: keras.Model
    prior_networks: list[keras.Model]
    posterior_networks: list[keras.Model]
    decoders: list[keras.Model]


def ladder(
    input_shape: Sequence[int],
    parameter_shape: Sequence[int] | None = None,
    filters: Sequence[int] = (32, 64),
    groups: Sequence[int] = (2, 2),
    latent_channels: int = 8,
    activation: str | Callable = "silu",
    recompute: bool = False,
) -> Ladder:
    """Makes the networks of a deep hierarchy of latent pictures, for a `tfvae.DeepHierarchicalVAE`.

    Features and states have residual cells: each adds to its input what two convolutions make of it. The latent
    variables of a group are a small picture, [H, W, latent_channels]. The first resolution has half the height and
    width of x, and each further one half of those of the one before.

    Args:
        input_shape: the shape of one picture, `(height, width, channels)`.
        parameter_shape: the shape of the likelihood's parameters for one picture, `likelihood.parameter_shape(...)`;
            None means `input_shape`, one parameter for each element.
        filters: the channels of features and states at each resolution, the finest first.
        groups: the number of groups of latent variables at each resolution, the finest first; at least two in all.
        latent_channels: D, the channels of each group.
        activation: the activation before each convolution but the first, by Keras name or as a function.
        recompute: whether each residual cell is `Recomputed`, which saves memory in training and makes it slower.

    Returns:
        The networks: `tfvae.DeepHierarchicalVAE(*tfvae.networks.ladder((28, 28, 1)))`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Vahdat & Kautz 2020, NVAE, section 3; Child 2021, Very Deep VAEs, section 3 and figure 3.
    """
    height, width, _ = input_shape = building.image_shape("input_shape", input_shape, "dense_encoder")
    parameter_shape = input_shape if parameter_shape is None else building.sizes("parameter_shape", parameter_shape, 1)
    if parameter_shape[:2] != input_shape[:2]:
        raise ValueError(
            f"`parameter_shape` must begin with the height and width of `input_shape`, {(height, width)}: take "
            f"`likelihood.parameter_shape(input_shape)`. Received: parameter_shape={checks.shown(parameter_shape)}"
        )
    filters = building.sizes("filters", filters, min_length=1)
    groups = building.sizes("groups", groups, min_length=1)
    latent_channels = checks.positive_integer("latent_channels", latent_channels)
    if len(groups) != len(filters) or sum(groups) < 2:
        raise ValueError(
            f"`groups` must have one number for each of the {len(filters)} entries of `filters`, two groups in all at "
            f"least. Received: groups={checks.shown(groups)}"
        )
    if min(height, width) < 2 ** len(filters):
        raise ValueError(
            f"`filters` must have so few entries that a picture of {height} x {width} can be halved for each. "
            f"Received: filters={checks.shown(filters)}"
        )
    made = _Builder(activation, latent_channels, checks.boolean("recompute", recompute))
    encoder = made.encoder(input_shape, filters, groups)
    shapes = [tuple(features.shape[1:]) for features in encoder.outputs]
    followings = [*shapes[1:], (*parameter_shape[:2], max(1, filters[0] // 2))]
    priors, posteriors, decoders = [], [], []
    for index, (shape, following) in enumerate(zip(shapes, followings, strict=True)):
        priors.append(made.prior(index, shape))
        posteriors.append(made.posterior(index, shape))
        outputs = parameter_shape if index == len(shapes) - 1 else None
        decoders.append(made.decoder(index, shape, following, outputs))
    return Ladder(encoder, priors, posteriors, decoders)


class _Builder:
    """Makes the networks, all with the same options."""

    def __init__(self, activation: str | Callable, latent_channels: int, recompute: bool) -> None:
        self.activation, self.latent_channels, self.recompute = activation, latent_channels, recompute

    def encoder(self, input_shape: tuple[int, ...], filters: tuple[int, ...], groups: tuple[int, ...]) -> keras.Model:
        """From x to the features of each group, the top one first."""
        x = keras.Input(input_shape, name="x")
        h, features = x, []
        for level, (channels, count) in enumerate(zip(filters, groups, strict=True)):
            h = self._active(h) if level else h
            h = keras.layers.Conv2D(channels, _KERNEL_SIZE, strides=2, padding="same")(h)
            for _ in range(count):
                h = self._residual(h)
                features.append(h)
        return keras.Model(x, features[::-1], name="encoder")

    def prior(self, index: int, shape: tuple[int, ...]) -> keras.Model:
        """From the state of a group to the parameters of p(z)."""
        h = keras.Input(shape, name="h")
        return keras.Model(h, self._convolved(h, 2 * self.latent_channels, _SMALL), name=f"prior_{index}")

    def posterior(self, index: int, shape: tuple[int, ...]) -> keras.Model:
        """From the state of a group and its features to the parameters of q(z|x)."""
        h, features = keras.Input(shape, name="h"), keras.Input(shape, name="features")
        both = self._convolved(keras.layers.Concatenate()([h, features]), shape[-1])
        outputs = self._convolved(both, 2 * self.latent_channels, _SMALL)
        return keras.Model([h, features], outputs, name=f"posterior_{index}")

    def decoder(
        self, index: int, shape: tuple[int, ...], following: tuple[int, ...], parameter_shape: tuple[int, ...] | None
    ) -> keras.Model:
        """From the state and z of a group to the state of the next, or for the last group to likelihood parameters."""
        h, z = keras.Input(shape, name="h"), keras.Input((*shape[:2], self.latent_channels), name="z")
        # Small too: where noise does harm at first, decoders learn to ignore a group before q has learned to use it.
        added = keras.layers.Conv2D(shape[-1], 1, kernel_initializer=keras.initializers.VarianceScaling(_OF_LATENTS))(z)
        state = self._residual(LearnedMap()(keras.layers.Add()([h, added])))
        state = state if following == shape else self._doubled(state, following)
        if parameter_shape is not None:
            state = self._convolved(self._residual(state), math.prod(parameter_shape[2:]))
            state = state if len(parameter_shape) == 3 else keras.layers.Reshape(parameter_shape)(state)
        return keras.Model([h, z], state, name=f"decoder_{index}")

    def _doubled(self, h: Any, following: tuple[int, ...]) -> Any:
        """The state at twice the height and width, cropped where those are odd."""
        extra = [(0, 2 * size - wanted) for size, wanted in zip(h.shape[1:3], following[:2], strict=True)]
        h = keras.layers.Conv2DTranspose(following[-1], 4, strides=2, padding="same")(self._active(h))
        return keras.layers.Cropping2D(extra)(h) if extra != [(0, 0), (0, 0)] else h

    def _residual(self, h: Any) -> Any:
        def cell(h: Any) -> Any:
            channels = h.shape[-1]
            return keras.layers.Add()([h, self._convolved(self._convolved(h, channels, 1.0), channels, _SMALL)])

        if not self.recompute:
            return cell(h)
        inputs = keras.Input(h.shape[1:])
        return Recomputed(keras.Model(inputs, cell(inputs)))(h)

    def _convolved(self, h: Any, channels: int, scale: float | None = None) -> Any:
        """A convolution of the activated h; `scale` is that of its filters at the start, None that of Keras."""
        initializer = "glorot_uniform" if scale is None else keras.initializers.VarianceScaling(scale)
        layer = keras.layers.Conv2D(channels, _KERNEL_SIZE, padding="same", kernel_initializer=initializer)
        return layer(self._active(h))

    def _active(self, h: Any) -> Any:
        return keras.layers.Activation(self.activation)(h)
