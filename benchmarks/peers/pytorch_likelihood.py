"""The importance-sampled log p(x) in PyTorch, a few images and some samples at a time, so that memory is bounded."""

import math
import os
import time

import numpy as np
import torch
from torch.nn import functional

from peers.architectures import MIN_SCALE, RAW_SHIFT, Architecture, Weights
from peers.pytorch_vae import VAE, to_tensor

# The examples in a batch, and the draws of z per example that the decoder evaluates at a time: small enough to fit in
# the cache.
BATCH_SIZE = 16
DRAWS = 256


class TorchLikelihood:
    """log 1/K sum over K of p(x|z) p(z) / q(z|x), z ~ q(z|x).

    Args:
        architecture: the architecture.
        weights: the weights of the model.
        num_samples: K, the number of importance samples for each example.
        compiled: whether `torch.compile` compiles the evaluation of a chunk of draws.
    """

    def __init__(self, architecture: Architecture, weights: Weights, num_samples: int, compiled: bool = False) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._vae = VAE(architecture, num_samples)
        self._vae.load(weights)
        self._num_samples = num_samples
        self._chunk = torch.compile(self._log_weights, dynamic=False) if compiled else self._log_weights

    @torch.no_grad()
    def estimate(self, x: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """The estimates [N] for examples [N, ...], in nats, and the seconds that they took."""
        start = time.perf_counter()
        torch.manual_seed(seed)
        values = torch.cat([self._of_batch(batch) for batch in to_tensor(x).split(BATCH_SIZE)])
        return values.numpy(), time.perf_counter() - start

    def _of_batch(self, x: torch.Tensor) -> torch.Tensor:
        features = self._vae.encoder(x)
        loc = self._vae.loc(features)
        scale = functional.softplus(self._vae.raw_scale(features) + RAW_SHIFT) + MIN_SCALE
        sums = []
        for first in range(0, self._num_samples, DRAWS):
            draws = min(DRAWS, self._num_samples - first)
            sums.append(torch.logsumexp(self._chunk(x, loc, scale, draws), 0))
        return torch.logsumexp(torch.stack(sums), 0) - math.log(self._num_samples)

    def _log_weights(self, x: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, draws: int) -> torch.Tensor:
        epsilon = torch.randn(draws, *loc.shape)
        z = loc + scale * epsilon
        log_ratio = (z.square() - epsilon.square()).sum(-1) / 2 - scale.log().sum(-1)
        return self._vae.log_likelihood(x, self._vae.decoder(z.flatten(0, 1))) - log_ratio
