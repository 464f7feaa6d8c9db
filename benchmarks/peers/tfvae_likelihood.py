"""The importance-sampled log p(x) in tfvae: `log_likelihood` with its defaults."""

import time

import numpy as np

from peers import tfvae_vae
from peers.architectures import Architecture, Weights


class TfvaeLikelihood:
    """`tfvae.VAE.log_likelihood`, of a model that is compiled with an optimizer and nothing else.

    Args:
        architecture: the architecture.
        weights: the weights of the model.
        num_samples: the number of importance samples for each example.
    """

    def __init__(self, architecture: Architecture, weights: Weights, num_samples: int) -> None:
        self._model = tfvae_vae.build(architecture, 1)
        tfvae_vae.load(self._model, weights)
        self._model.compile("adam")
        self._num_samples = num_samples

    def estimate(self, x: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """The estimates [N] for examples [N, ...], in nats, and the seconds that they took."""
        start = time.perf_counter()
        values = self._model.log_likelihood(x, num_samples=self._num_samples, seed=seed)
        return values, time.perf_counter() - start
