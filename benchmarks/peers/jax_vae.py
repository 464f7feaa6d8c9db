"""A peer in JAX: functions of a tree of weights, compiled by step or by epoch, and Adam in a few lines."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from peers.architectures import LOG_2_PI, MIN_SCALE, RAW_SHIFT, Architecture, Layer, Weights
from peers.peer import EPSILON, LEARNING_RATE, Peer

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "silu": jax.nn.silu}
_LAYOUT = ("NHWC", "HWIO", "NHWC")
# The decay rates of Adam's two moments.
_DECAYS = (0.9, 0.999)


def apply(architecture: Architecture, layers: list[Layer], pairs: Any, outputs: jax.Array) -> jax.Array:
    """Applies an encoder or a decoder.

    Args:
        architecture: the architecture.
        layers: the layers of its encoder or its decoder.
        pairs: the kernel and bias of each layer.
        outputs: the input of the network.
    """
    for layer, (kernel, bias) in zip(layers, pairs, strict=True):
        if layer.kind == "dense":
            outputs = outputs.reshape(len(outputs), -1) @ kernel
        elif layer.kind == "convolution":
            outputs = jax.lax.conv_general_dilated(outputs, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT)
        else:
            outputs = outputs.reshape(len(outputs), *architecture.small_image) if outputs.ndim == 2 else outputs
            outputs = jax.lax.conv_transpose(
                outputs, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT, transpose_kernel=True
            )
        outputs = outputs + bias
        if layer.is_activated:
            outputs = ACTIVATIONS[architecture.activation](outputs)
    return outputs


def posterior(architecture: Architecture, weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The parameters loc and scale of q(z|x), each [B, L]."""
    features = apply(architecture, architecture.encoder, weights.encoder, x)
    loc, raw_scale = (features @ kernel + bias for kernel, bias in (weights.loc, weights.scale))
    return loc, jax.nn.softplus(raw_scale + RAW_SHIFT) + MIN_SCALE


def log_likelihood(architecture: Architecture, weights: Weights, x: jax.Array, z: jax.Array) -> jax.Array:
    """Computes log p(x|z) [S, B] for x [B, ...] and z [S, B, L]."""
    outputs = apply(architecture, architecture.decoder, weights.decoder, z.reshape(-1, architecture.latent_dim))
    x = x.reshape(len(x), -1)
    outputs = outputs.reshape(-1, *x.shape)
    if architecture.likelihood == "normal":
        return -(jnp.square(x - outputs) + LOG_2_PI).sum(-1) / 2
    return (x * outputs - jax.nn.softplus(outputs)).sum(-1)


def loss(architecture: Architecture, k: int, weights: Weights, x: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The loss of x [B, ...] at noise [k, B, L]."""
    loc, scale = posterior(architecture, weights, x)
    z = loc + scale * epsilon
    log_px = log_likelihood(architecture, weights, x, z)
    if k == 1:
        kl = ((loc**2 + scale**2 - 1) / 2 - jnp.log(scale)).sum(-1)
        return (kl - log_px[0]).mean()
    log_ratio = (z**2 - epsilon**2).sum(-1) / 2 - jnp.log(scale).sum(-1)
    return jnp.log(k) - jax.nn.logsumexp(log_px - log_ratio, axis=0).mean()


class JaxPeer(Peer):
    """The peer in JAX.

    Args:
        architecture: the architecture.
        batch_size: B, the number of examples in a step.
        k: the number of draws of z for each example.
        scan: whether a whole epoch is one compiled function; otherwise each step is.
    """

    def __init__(self, architecture: Architecture, batch_size: int, k: int, scan: bool = False) -> None:
        super().__init__(architecture, batch_size, k)
        self._scan = scan
        self._at_noise = jax.jit(functools.partial(loss, architecture, k))
        self._one_step = jax.jit(self._step, donate_argnums=0)
        self._one_epoch = jax.jit(self._steps_of_an_epoch, donate_argnums=0)
        self._permute = jax.jit(lambda key, x: jax.random.permutation(key, len(x)))

    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""
        weights = jax.tree.map(jnp.asarray, weights)
        moments = [jax.tree.map(jnp.zeros_like, weights) for _ in _DECAYS]
        self._state = (weights, moments, jnp.zeros((), jnp.int32), jax.random.key(0))

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""
        return float(self._at_noise(self._state[0], x, epsilon))

    def _take(self, x: np.ndarray) -> None:
        self._x = jnp.asarray(x)

    def _epoch(self) -> float:
        start = time.perf_counter()
        if self._scan:
            self._state = self._one_epoch(self._state, self._x)
        else:
            *state, key = self._state
            key, own = jax.random.split(key)
            self._state, order = (*state, key), self._permute(own, self._x)
            for first in range(0, len(self._x), self.batch_size):
                self._state = self._one_step(self._state, self._x, order, first)
        jax.block_until_ready(self._state)
        return time.perf_counter() - start

    def _steps_of_an_epoch(self, state: Any, x: jax.Array) -> Any:
        *state, key = state
        key, own = jax.random.split(key)
        order = jax.random.permutation(own, len(x))
        firsts = jnp.arange(0, len(x), self.batch_size)
        return jax.lax.scan(lambda state, first: (self._step(state, x, order, first), None), (*state, key), firsts)[0]

    def _step(self, state: Any, x: jax.Array, order: jax.Array, first: jax.Array) -> Any:
        weights, moments, count, key = state
        key, own = jax.random.split(key)
        batch = x[jax.lax.dynamic_slice_in_dim(order, first, self.batch_size)]
        epsilon = jax.random.normal(own, (self.k, self.batch_size, self.architecture.latent_dim))
        gradients = jax.grad(loss, argnums=2)(self.architecture, self.k, weights, batch, epsilon)
        return (*_adam(weights, moments, gradients, count + 1), count + 1, key)


def _adam(weights: Any, moments: list[Any], gradients: Any, count: jax.Array) -> tuple[Any, list[Any]]:
    """One step of Adam, with bias corrections as in Keras and PyTorch, up to where epsilon is added."""
    powers = [gradients, jax.tree.map(jnp.square, gradients)]
    moments = [
        jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, moment, power)
        for decay, moment, power in zip(_DECAYS, moments, powers, strict=True)
    ]
    first, second = (1 - decay**count for decay in _DECAYS)

    def moved(weight: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
        return weight - LEARNING_RATE * (mean / first) / (jnp.sqrt(square / second) + EPSILON)

    return jax.tree.map(moved, weights, *moments), moments
