"""The importance-sampled log p(x) in JAX: one compiled function of a few images, which loops over chunks of samples."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from peers.architectures import Architecture, Weights
from peers.jax_vae import log_likelihood, posterior

# The examples in a batch, and the draws of z per example that the decoder evaluates at a time: small enough to fit in
# the cache.
BATCH_SIZE = 32
DRAWS = 32


class JaxLikelihood:
    """log 1/K sum over K of p(x|z) p(z) / q(z|x), z ~ q(z|x).

    Args:
        architecture: the architecture.
        weights: the weights of the model.
        num_samples: K, the number of importance samples for each example.
    """

    def __init__(self, architecture: Architecture, weights: Weights, num_samples: int) -> None:
        self._weights = jax.tree.map(jnp.asarray, weights)
        self._of_batch = jax.jit(functools.partial(_estimate, architecture, num_samples))

    def estimate(self, x: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """The estimates [N] for examples [N, ...], in nats, and the seconds that they took."""
        start = time.perf_counter()
        keys = jax.random.split(jax.random.key(seed), math.ceil(len(x) / BATCH_SIZE))
        batches = [x[first : first + BATCH_SIZE] for first in range(0, len(x), BATCH_SIZE)]
        values = [self._of_batch(self._weights, *pair) for pair in zip(batches, keys, strict=True)]
        return np.concatenate(values), time.perf_counter() - start


def _estimate(architecture: Architecture, num_samples: int, weights: Weights, x: jax.Array, key: jax.Array) -> Any:
    loc, scale = posterior(architecture, weights, x)

    def log_sum(key: jax.Array, draws: int) -> jax.Array:
        epsilon = jax.random.normal(key, (draws, *loc.shape))
        z = loc + scale * epsilon
        log_ratio = (z**2 - epsilon**2).sum(-1) / 2 - jnp.log(scale).sum(-1)
        return jax.nn.logsumexp(log_likelihood(architecture, weights, x, z) - log_ratio, axis=0)

    *keys, last = jax.random.split(key, num_samples // DRAWS + 1)
    sums = [jax.lax.map(lambda key: log_sum(key, DRAWS), jnp.stack(keys))] if keys else []
    if num_samples % DRAWS:
        sums.append(log_sum(last, num_samples % DRAWS)[jnp.newaxis])
    return jax.nn.logsumexp(jnp.concatenate(sums), axis=0) - jnp.log(num_samples)
