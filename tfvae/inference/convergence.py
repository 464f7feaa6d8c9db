"""The callback that ends `fit` once the approximate posterior has converged."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfvae import checks

# How a fit runs that ends by itself: the steps of an epoch, after how many of them the weights are an iterate, and the
# most epochs.
STEPS_PER_EPOCH, STEPS_PER_ITERATE = 100, 10
MAX_EPOCHS = 1000
# The fewest epochs in a stage.
_FEWEST_EPOCHS = 4
# Consecutive epochs with a loss that is not finite before giving up: one draw that overflows spoils only one epoch.
_MAX_NON_FINITE_EPOCHS = 5


class NotConverged(UserWarning):
    """The warning that q has not converged."""


class Convergence(keras.callbacks.Callback):
    """Stops the fit of a `tfvae.VariationalInference` once q has converged, at the mean of the last iterates.

    With a constant learning rate, the iterates of stochastic gradient ascent settle around a point. Their mean is far
    nearer to that point than a single iterate, and the point nears the optimum as the learning rate falls. So the fit
    goes through stages. A stage ends when the means over the two halves of its later iterates give the same q; the next
    starts from the mean of both, with half the learning rate. The fit ends when two successive stages give the same q.
    Two are the same when the symmetrised KL divergence between them, estimated from draws, is below tolerance^2 per
    dimension; for a Gaussian this is a shift of each mean by `tolerance` standard deviations. The global variables of a
    `StructuredNormal` are also compared alone, because an error of a few of them would be small beside all others.

    `fit(epochs=None)` adds it, except for flows, which get an `Annealing`. If another callback resumes an interrupted
    fit, the stages start again from the first.

    Args:
        tolerance: how close two q must be to count as the same, in standard deviations, > 0.
        max_epochs: the most epochs in a stage.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Welandawe et al. 2022, A Framework for Improving the Reliability of Black-box Variational Inference,
    sections 4 and 5, with the divergence between the means of two halves in place of R-hat; Dhaka et al. 2020, Robust,
    Accurate Stochastic Optimization for Variational Inference, section 4, for the means of iterates.
    """

    def __init__(self, tolerance: float = 0.03, max_epochs: int = 100) -> None:
        super().__init__()
        if not 0.0 < tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a number above 0. Received: tolerance={checks.shown(tolerance)}")
        self.tolerance = tolerance
        self.max_epochs = checks.positive_integer("max_epochs", max_epochs)

    @property
    def converged(self) -> bool:
        """Whether the last fit ended because q had converged."""
        return self._stages.converged

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the first stage."""
        # A schedule gives a tensor.
        if not isinstance(self.model.optimizer.learning_rate, keras.Variable):
            rate = self.model.optimizer.get_config()["learning_rate"]
            raise ValueError(
                "`optimizer` must have a constant learning rate, which `Convergence` lowers itself. Received: "
                f"learning_rate={checks.shown(rate)}"
            )
        self._first_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._stages = Stages(self._first_rate, self.max_epochs, self._differ)
        self._iterates: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the current weights as an iterate."""
        self._iterates.append(weights_of(self.model))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the stage if its halves agree, and the fit if the last two stages do."""
        mean = np.mean(self._iterates, axis=0)
        self._iterates.clear()
        weights = self._stages.end_epoch(mean, math.isfinite((logs or {}).get("loss", 0.0)))
        if weights is not None:
            assign(self.model, weights)
            self.model.optimizer.learning_rate = self._stages.rate
        if self._stages.ended:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Sets q to the mean of the last iterates, restores the learning rate, and warns if q has not converged."""
        weights = self._stages.best()
        if weights is not None:
            assign(self.model, weights)
        self.model.optimizer.learning_rate = self._first_rate
        if not self.converged:
            self.warn()

    def warn(self) -> None:
        """Warns that q has not converged."""
        warnings.warn(
            f"q has not converged to a tolerance of {self.tolerance}: fit again with more epochs, with more draws "
            "for each step (objective=ELBO(num_samples=...)), or with a lower learning rate.",
            NotConverged,
            stacklevel=3,
        )

    def _differ(self, first: np.ndarray, second: np.ndarray) -> bool:
        return differ(self.model, first, second, self.tolerance)


class Stages:
    """The stages of one fit, as `Convergence` describes them.

    Args:
        rate: the learning rate of the first stage.
        max_epochs: the most epochs in a stage.
        differ: whether two vectors of weights give different q.

    Attributes:
        rate: the learning rate of the present stage.
        converged: whether the last two stages gave the same q.
        ended: whether the fit should end, as it converged or its loss is no longer finite.
    """

    def __init__(self, rate: float, max_epochs: int, differ: Callable[[np.ndarray, np.ndarray], bool]) -> None:
        self.rate = rate
        self.converged = self.ended = False
        self._max_epochs, self._differ = max_epochs, differ
        self._last: np.ndarray | None = None
        self._non_finite_epochs = 0
        self._means: list[np.ndarray] = []

    def end_epoch(self, mean: np.ndarray, is_finite: bool) -> np.ndarray | None:
        """Takes note of an epoch.

        Args:
            mean: the mean of its iterates, vectors of all weights.
            is_finite: whether its loss was finite.

        Returns:
            The weights at the end of the stage if this was its last epoch, and else None.
        """
        self._means.append(mean)
        count = len(self._means)
        self._non_finite_epochs = 0 if is_finite else self._non_finite_epochs + 1
        if self._non_finite_epochs >= _MAX_NON_FINITE_EPOCHS:
            self.ended = True
            return None
        if count < _FEWEST_EPOCHS or count % 2:
            return None
        later = self._means[count // 2 :]
        halves = [np.mean(half, axis=0) for half in (later[: count // 4], later[count // 4 :])]
        weights = np.mean(later, axis=0)
        if self._differ(halves[0], halves[1]) and count < self._max_epochs:
            return None
        self.converged = self.ended = self._last is not None and not self._differ(self._last, weights)
        self._last = weights
        self._means.clear()
        if not self.converged:
            self.rate *= 0.5
        return weights

    def best(self) -> np.ndarray | None:
        """The best weights so far; None if there were too few epochs for a mean."""
        if len(self._means) >= _FEWEST_EPOCHS:
            # The fit ended within a stage, whose later iterates are the best there are.
            return np.mean(self._means[len(self._means) // 2 :], axis=0)
        return self._last


def differ(model: Any, first: np.ndarray, second: np.ndarray, tolerance: float) -> bool:
    """Whether two vectors of weights give different q: see `Convergence`.

    Args:
        model: a `tfvae.VariationalInference`.
        first: the weights of one q.
        second: those of the other.
        tolerance: see `Convergence`.
    """
    now = weights_of(model)
    assign(model, first)
    u, log_first = model.approximation.sample_standard()
    assign(model, second)
    ratio = model.approximation.log_prob_standard(u).numpy() - log_first.numpy()
    assign(model, now)
    # E_q[(r/q - 1) log(r/q)] = KL(r || q) + KL(q || r), where every draw contributes a term that is not negative.
    divergences = np.mean(np.expm1(np.clip(ratio, -20.0, 20.0)) * ratio, axis=1)
    return not np.all(divergences < np.multiply(model.approximation.compared_sizes, tolerance**2))


def weights_of(model: Any) -> np.ndarray:
    """The trainable weights of a model as one vector."""
    return np.concatenate([np.ravel(v) for v in map(keras.ops.convert_to_numpy, model.trainable_variables)])


def assign(model: Any, weights: np.ndarray) -> None:
    """Sets the trainable weights of a model to those in a vector."""
    start = 0
    for variable in model.trainable_variables:
        size = math.prod(variable.shape)
        variable.assign(weights[start : start + size].reshape(variable.shape))
        start += size
