"""The callback that lowers the learning rate to 0, by which a flow is fitted."""

import math
from typing import Any

import keras

from tfvae import checks
from tfvae.inference.convergence import Convergence
from tfvae.inference.structured_normal import default_learning_rate
from tfvae.posteriors import Posterior
from tfvae.posteriors.flow import FlowPosterior

# With other families Adam may take longer steps: their parameters are those of z itself, in standard coordinates.
_LEARNING_RATE_OF_FLOWS = 0.01
# A flow that bends far has draws of which the gradients differ far.
_NUM_SAMPLES = {True: 64, False: 32}
# Epochs without a finite loss before giving up: one draw that overflows spoils only one epoch.
_MAX_NON_FINITE_EPOCHS = 5


class Annealing(keras.callbacks.Callback):
    """Lowers the learning rate along a half cosine, from that of the optimizer to 0, and then ends the fit.

    The iterates of a flow do not settle around one point, as those of a normal q do: one and the same q belongs to many
    weights of its networks. So q improves for as long as the learning rate is high enough to move it, and reaches its
    best where the rate has fallen so far that its noise is gone. `fit(epochs=None)` adds this callback for flows.

    Args:
        epochs: the number of epochs.

    Raises:
        ValueError: the argument is out of its range.

    Reference: Loshchilov & Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, equation 5, with one
    period.
    """

    def __init__(self, epochs: int = 100) -> None:
        super().__init__()
        self.epochs = checks.positive_integer("epochs", epochs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes the learning rate."""
        rate = self.model.optimizer.learning_rate
        # A schedule gives a tensor, and is left as it is.
        self._first_rate = float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else None
        self._count = self._non_finite = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the learning rate."""
        if self._first_rate is not None:
            share = self._count / self.epochs
            self.model.optimizer.learning_rate = self._first_rate * math.cos(0.5 * math.pi * share) ** 2

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the fit after the last epoch, or if the loss is not finite any more."""
        self._count += 1
        self._non_finite = 0 if math.isfinite((logs or {}).get("loss", 0.0)) else self._non_finite + 1
        if self._count >= self.epochs or self._non_finite >= _MAX_NON_FINITE_EPOCHS:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the learning rate."""
        if self._first_rate is not None:
            self.model.optimizer.learning_rate = self._first_rate


def optimizer(posterior: Posterior, dim: int) -> keras.optimizers.Optimizer:
    """The optimizer by which a family is fitted.

    Args:
        posterior: the family.
        dim: L.
    """
    is_flow = isinstance(posterior, FlowPosterior)
    rate = _LEARNING_RATE_OF_FLOWS if is_flow else default_learning_rate(posterior, dim)
    # Keras would number the names of optimizers, by which their configurations would differ.
    return keras.optimizers.Adam(rate, name="adam")


def num_samples(posterior: Posterior | None) -> int:
    """The number of draws in each step by which a family is fitted."""
    return _NUM_SAMPLES[isinstance(posterior, FlowPosterior)]


def ending(posterior: Posterior, callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks given to `fit`, in any form that Keras takes, as a list with one that ends the fit.

    Args:
        posterior: the family: a flow gets an `Annealing` unless there is a `Convergence`, others a `Convergence`.
        callbacks: those that were given.
    """
    given = getattr(callbacks, "callbacks", callbacks) or []
    given = list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(each, Annealing | Convergence) for each in given):
        return given
    return [*given, Annealing() if isinstance(posterior, FlowPosterior) else Convergence()]
