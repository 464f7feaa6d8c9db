"""A peer in PyTorch: the data are one tensor, and a hand-written loop trains on a permutation of its rows."""

import math
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from peers.architectures import KERNEL_SIZE, LOG_2_PI, MIN_SCALE, RAW_SHIFT, Architecture, Layer, Weights
from peers.peer import EPSILON, LEARNING_RATE, Peer

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
# With this padding, a stride of 2 halves or doubles an image exactly as "same" padding does in Keras.
_PADDING = (KERNEL_SIZE - 2) // 2


def network(architecture: Architecture, layers: list[Layer]) -> nn.Sequential:
    """Makes an encoder or a decoder, in which images are [channels, height, width].

    Args:
        architecture: the architecture.
        layers: the layers of its encoder or its decoder.
    """
    modules = []
    for previous, layer in zip([None, *layers], layers, strict=False):
        kinds = (previous.kind if previous else None, layer.kind)
        if kinds == ("convolution", "dense"):
            modules.append(nn.Flatten())
        if kinds == ("dense", "transposed"):
            modules.append(nn.Unflatten(1, _channels_first(architecture.small_image)))
        if layer.kind == "dense":
            modules.append(nn.Linear(*layer.kernel))
        else:
            kind = nn.Conv2d if layer.kind == "convolution" else nn.ConvTranspose2d
            first, second = layer.kernel[2:]
            channels = (first, second) if layer.kind == "convolution" else (second, first)
            modules.append(kind(*channels, KERNEL_SIZE, stride=2, padding=_PADDING))
        if layer.is_activated:
            modules.append(ACTIVATIONS[architecture.activation]())
    return nn.Sequential(*modules)


def load_network(
    modules: nn.Sequential, architecture: Architecture, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Sets the kernels and biases of a network's layers from arrays in the layout of Keras."""
    kinds = [type(module) for module in modules if not isinstance(module, tuple(ACTIVATIONS.values()))]
    kernels, biases = (list(arrays) for arrays in zip(*pairs, strict=True))
    # A flattened image has its channels first here and last in Keras, so these kernels are reordered.
    if nn.Flatten in kinds:
        at = kinds.index(nn.Flatten)
        kernels[at] = _reordered(kernels[at].T, architecture).T
    if nn.Unflatten in kinds:
        at = kinds.index(nn.Unflatten) - 1
        kernels[at], biases[at] = _reordered(kernels[at], architecture), _reordered(biases[at], architecture)
    layers = [module for module in modules if hasattr(module, "weight")]
    for layer, kernel, bias in zip(layers, kernels, biases, strict=True):
        load_layer(layer, kernel, bias)


def load_layer(layer: nn.Module, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Sets the kernel and bias of a layer from arrays in the layout of Keras."""
    kernel = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        layer.bias.copy_(torch.from_numpy(bias))


def to_tensor(x: np.ndarray) -> torch.Tensor:
    """Converts examples to a tensor; images [N, height, width, channels] become [N, channels, height, width].

    The memory layout stays channels-last. Convolution weights are channels-last too, for which oneDNN is faster.
    """
    return torch.from_numpy(x).movedim(-1, 1) if x.ndim == 4 else torch.from_numpy(x)


class VAE(nn.Module):
    """A variational autoencoder.

    Args:
        architecture: the architecture.
        k: the number of draws of z for each example.
    """

    def __init__(self, architecture: Architecture, k: int) -> None:
        super().__init__()
        self.architecture, self.k = architecture, k
        self.encoder = network(architecture, architecture.encoder)
        self.loc = nn.Linear(*architecture.head.kernel)
        self.raw_scale = nn.Linear(*architecture.head.kernel)
        self.decoder = network(architecture, architecture.decoder)

    def load(self, weights: Weights) -> None:
        """Sets the weights."""
        load_network(self.encoder, self.architecture, weights.encoder)
        load_network(self.decoder, self.architecture, weights.decoder)
        load_layer(self.loc, *weights.loc)
        load_layer(self.raw_scale, *weights.scale)
        self.to(memory_format=torch.channels_last)

    def log_likelihood(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Computes log p(x|z) [S, B] for x [B, ...], from the decoder's outputs [S * B, ...]."""
        rows = x.flatten(1)
        outputs = outputs.reshape(-1, *rows.shape)
        if self.architecture.likelihood == "normal":
            return -((rows - outputs).square().sum(-1) + LOG_2_PI * rows.shape[1]) / 2
        # Makes a step of eager PyTorch a third faster than `binary_cross_entropy_with_logits` would.
        return (rows * outputs).sum(-1) - functional.softplus(outputs).sum(-1)

    def forward(self, x: torch.Tensor, epsilon: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of x [B, ...], at the given noise [k, B, L] or at new noise."""
        features = self.encoder(x)
        loc = self.loc(features)
        scale = functional.softplus(self.raw_scale(features) + RAW_SHIFT) + MIN_SCALE
        if epsilon is None:
            epsilon = torch.randn(self.k, *loc.shape)
        z = loc + scale * epsilon
        log_likelihood = self.log_likelihood(x, self.decoder(z.flatten(0, 1)))
        if self.k == 1:
            kl = ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum(-1)
            return (kl - log_likelihood[0]).mean()
        log_ratio = (z.square() - epsilon.square()).sum(-1) / 2 - scale.log().sum(-1)
        return math.log(self.k) - torch.logsumexp(log_likelihood - log_ratio, 0).mean()


class TorchPeer(Peer):
    """The peer in PyTorch, eager or compiled.

    Args:
        architecture: the architecture.
        batch_size: B, the number of examples in a step.
        k: the number of draws of z for each example.
        compiled: whether `torch.compile` compiles the loss and its gradient.
    """

    def __init__(self, architecture: Architecture, batch_size: int, k: int, compiled: bool = False) -> None:
        super().__init__(architecture, batch_size, k)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        self._model = self._build()
        self._loss = torch.compile(self._training_loss, dynamic=False) if compiled else self._training_loss

    def _build(self) -> nn.Module:
        return VAE(self.architecture, self.k)

    def _training_loss(self, x: torch.Tensor) -> torch.Tensor:
        return self._model(x)

    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""
        self._model.load(weights)
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        self._optimizer = torch.optim.Adam(self._model.parameters(), LEARNING_RATE, eps=EPSILON, fused=True)

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""
        with torch.no_grad():
            return float(self._model(to_tensor(x), torch.from_numpy(epsilon)))

    def _take(self, x: np.ndarray) -> None:
        self._x = to_tensor(x)

    def _epoch(self) -> float:
        start = time.perf_counter()
        for rows in torch.randperm(len(self._x)).split(self.batch_size):
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(self._x.index_select(0, rows)).backward()
            self._optimizer.step()
        return time.perf_counter() - start


def _channels_first(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    height, width, channels = shape
    return channels, height, width


def _reordered(array: np.ndarray, architecture: Architecture) -> np.ndarray:
    """Reorders the last axis of an array from [height, width, channels] to [channels, height, width], flattened."""
    images = array.reshape(*array.shape[:-1], *architecture.small_image)
    return np.moveaxis(images, -1, -3).reshape(array.shape)
