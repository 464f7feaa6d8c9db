"""The abstract class of all peers: the same VAE, loss and training in one framework each."""

import abc

import numpy as np

from peers import architectures
from peers.architectures import Architecture, Weights

# Every peer's Adam has these; epsilon is Keras's default.
LEARNING_RATE = 1e-3
EPSILON = 1e-7


class Peer(abc.ABC):
    """A variational autoencoder in one framework, trained by Adam on the data of its architecture.

    The loss is a mean over examples: for k = 1 of the negative ELBO, with the KL divergence in closed form, and for
    k > 1 of the negative importance weighted bound of k draws.

    Args:
        architecture: the architecture.
        batch_size: B, the number of examples in a step.
        k: the number of draws of z for each example.

    Raises:
        NotImplementedError: the framework does not have this model; the message says why.
    """

    def __init__(self, architecture: Architecture, batch_size: int, k: int) -> None:
        self.architecture = architecture
        self.batch_size = batch_size
        self.k = k
        self._steps = None

    @abc.abstractmethod
    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""

    @abc.abstractmethod
    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""

    def epoch(self, steps: int) -> float:
        """Trains for one epoch of this many steps, over the examples in a new order.

        Args:
            steps: the number of batches.

        Returns:
            The seconds that the epoch took. The first epoch, and the first with a new number of steps, do more work.
        """
        if steps != self._steps:
            self._take(architectures.data(self.architecture, steps * self.batch_size))
            self._steps = steps
        return self._epoch()

    @abc.abstractmethod
    def _take(self, x: np.ndarray) -> None:
        """Makes x [N, ...] the data of the next epochs."""

    @abc.abstractmethod
    def _epoch(self) -> float:
        """Trains for one pass over the data, and returns its seconds."""
