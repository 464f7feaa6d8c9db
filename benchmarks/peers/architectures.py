"""The architectures that the peers are compared on, with weights and data as NumPy arrays made from a seed.

Kernels have the layout of Keras: dense [in, out], convolutions [height, width, in, out], transposed convolutions
[height, width, out, in]. Images are [height, width, channels], and are flattened in that order.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

# The kernel size of every convolution; as in `tfvae.networks`, each has stride 2 and "same" padding.
KERNEL_SIZE = 4
# scale = softplus(raw + RAW_SHIFT) + MIN_SCALE, as in `tfvae.posteriors.DiagonalNormal`: about 1 at raw = 0.
RAW_SHIFT = math.log(math.e - 1)
MIN_SCALE = 1e-6
LOG_2_PI = math.log(2 * math.pi)
# The data are noise around this many prototypes, so that there is something to learn.
_PROTOTYPES = 20


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        kind: the kind of layer; "transposed" is a transposed convolution.
        kernel: the shape of its kernel, in the layout of Keras.
        is_activated: whether the activation function follows.
    """

    kind: Literal["dense", "convolution", "transposed"]
    kernel: tuple[int, ...]
    is_activated: bool = True

    @property
    def outputs(self) -> int:
        """The number of outputs, or of channels of the output."""
        return self.kernel[2] if self.kind == "transposed" else self.kernel[-1]


class Architecture(NamedTuple):
    """A variational autoencoder with q(z|x) a diagonal normal and p(z) = N(0, I).

    Attributes:
        event_shape: the shape of one x.
        hidden: the widths of the encoder's dense layers; the decoder has them in reverse.
        latent_dim: L.
        activation: the activation function, by its Keras name.
        likelihood: "bernoulli" for binary x; "normal", with a scale of 1, for real x.
        filters: the filters of the encoder's convolutions; the decoder has them in reverse.
    """

    event_shape: tuple[int, ...]
    hidden: tuple[int, ...]
    latent_dim: int
    activation: Literal["tanh", "relu", "silu"] = "silu"
    likelihood: Literal["bernoulli", "normal"] = "bernoulli"
    filters: tuple[int, ...] = ()

    @property
    def small_image(self) -> tuple[int, int, int]:
        """The shape of the image after the encoder's last convolution and before the decoder's first."""
        height, width, _ = self.event_shape
        growth = 2 ** len(self.filters)
        return height // growth, width // growth, self.filters[-1]

    @property
    def encoder(self) -> list[Layer]:
        """The layers from x to the features from which the heads compute the parameters of q(z|x)."""
        layers, channels = [], self.event_shape[-1]
        for filters in self.filters:
            layers.append(Layer("convolution", (KERNEL_SIZE, KERNEL_SIZE, channels, filters)))
            channels = filters
        width = math.prod(self.small_image if self.filters else self.event_shape)
        return layers + _dense(width, self.hidden)

    @property
    def decoder(self) -> list[Layer]:
        """The layers from z to the parameters of the likelihood."""
        widths = self.hidden[::-1]
        if not self.filters:
            layers = _dense(self.latent_dim, (*widths, math.prod(self.event_shape)))
            return [*layers[:-1], layers[-1]._replace(is_activated=False)]
        layers = _dense(self.latent_dim, (*widths, math.prod(self.small_image)))
        channels = self.filters[-1]
        for filters in (*self.filters[-2::-1], self.event_shape[-1]):
            layers.append(Layer("transposed", (KERNEL_SIZE, KERNEL_SIZE, filters, channels)))
            channels = filters
        return [*layers[:-1], layers[-1]._replace(is_activated=False)]

    @property
    def head(self) -> Layer:
        """The shape of both heads: the layer that computes loc of q(z|x), and the one that computes the raw scale."""
        return Layer("dense", (self.hidden[-1], self.latent_dim), is_activated=False)


class Weights(NamedTuple):
    """The weights of an architecture: a kernel and a bias for each layer."""

    encoder: list[tuple[np.ndarray, np.ndarray]]
    loc: tuple[np.ndarray, np.ndarray]
    scale: tuple[np.ndarray, np.ndarray]
    decoder: list[tuple[np.ndarray, np.ndarray]]


ARCHITECTURES = {
    "dense 784-200-200-50": Architecture((784,), (200, 200), 50, activation="tanh"),
    "dense 784-512-512-32": Architecture((784,), (512, 512), 32),
    "convolutional 28x28x1": Architecture((28, 28, 1), (128,), 32, filters=(32, 64)),
    "convolutional 32x32x3": Architecture((32, 32, 3), (128,), 64, filters=(32, 64)),
    "tabular 30-64-64-8": Architecture((30,), (64, 64), 8, likelihood="normal"),
}


def weights(architecture: Architecture, seed: int = 0) -> Weights:
    """Draws weights: Glorot-uniform kernels, and small random biases, so that weights in a wrong order change the loss.

    Args:
        architecture: the architecture.
        seed: the same seed gives the same weights.
    """
    numbers = np.random.default_rng(seed)

    def pair(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        *window, first, second = layer.kernel
        limit = math.sqrt(6 / (math.prod(window) * (first + second)))
        kernel = numbers.uniform(-limit, limit, layer.kernel)
        return kernel.astype(np.float32), (0.1 * numbers.normal(size=layer.outputs)).astype(np.float32)

    return Weights(
        [pair(layer) for layer in architecture.encoder],
        pair(architecture.head),
        pair(architecture.head),
        [pair(layer) for layer in architecture.decoder],
    )


def data(architecture: Architecture, rows: int, seed: int = 0) -> np.ndarray:
    """Draws examples [rows, ...], float32, binary or real to fit the likelihood.

    Args:
        architecture: the architecture.
        rows: the number of examples.
        seed: the same seed gives the same examples.
    """
    numbers = np.random.default_rng(seed)
    kind = numbers.integers(_PROTOTYPES, size=rows)
    if architecture.likelihood == "normal":
        prototypes = 2 * numbers.normal(size=(_PROTOTYPES, *architecture.event_shape)).astype(np.float32)
        return prototypes[kind] + numbers.standard_normal((rows, *architecture.event_shape), np.float32)
    prototypes = numbers.beta(0.3, 0.9, size=(_PROTOTYPES, *architecture.event_shape)).astype(np.float32)
    return (numbers.random((rows, *architecture.event_shape), np.float32) < prototypes[kind]).astype(np.float32)


def noise(architecture: Architecture, k: int, rows: int, seed: int = 0) -> np.ndarray:
    """Draws noise from N(0, I) [k, rows, L], float32.

    Args:
        architecture: the architecture.
        k: the number of draws for each example.
        rows: the number of examples.
        seed: the same seed gives the same noise.
    """
    return np.random.default_rng(seed).standard_normal((k, rows, architecture.latent_dim), np.float32)


def _dense(width: int, widths: tuple[int, ...]) -> list[Layer]:
    return [Layer("dense", pair) for pair in zip((width, *widths), widths, strict=False)]
