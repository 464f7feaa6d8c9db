"""What every peer can do."""

import abc

import numpy as np

from peers import architectures
from peers.architectures import Architecture, Weights

# Of every Adam; the latter is the default of Keras.
LEARNING_RATE = 1e-3
EPSILON = 1e-7


class Peer(abc.ABC):
    """A variational autoencoder in one framework, which Adam trains on data of the architecture.

    The loss is the mean over examples of the negative ELBO, its KL divergence in closed form, for k = 1, and of the
    negative importance weighted bound of k draws for more.

    Args:
        architecture: which one.
        batch_size: B, the examples of a step.
        k: the draws of z for each example.

    Raises:
        NotImplementedError: the peer has no such model; the message says why.
    """

    def __init__(self, architecture: Architecture, batch_size: int, k: int) -> None:
        self.architecture = architecture
        self.batch_size = batch_size
        self.k = k
        self._steps = None

    @abc.abstractmethod
    def load(self, weights: Weights) -> None:
        """Takes weights, and forgets what Adam knows."""

    @abc.abstractmethod
    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""

    def epoch(self, steps: int) -> float:
        """Trains for one pass over as many examples as so many steps take, in a new order.

        Args:
            steps: the number of batches.

        Returns:
            The seconds that it took. The first pass, and the first after another number of steps, hold more work.
        """
        if steps != self._steps:
            self._take(architectures.data(self.architecture, steps * self.batch_size))
            self._steps = steps
        return self._epoch()

    @abc.abstractmethod
    def _take(self, x: np.ndarray) -> None:
        """Makes x [N, ...] what the next passes are over."""

    @abc.abstractmethod
    def _epoch(self) -> float:
        """One pass over the data, and its seconds."""
