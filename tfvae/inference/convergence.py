"""The callback that ends the fit of an approximate posterior once it has converged."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from tfvae import checks

# Of a stage.
_FEWEST_EPOCHS = 4
# One after the other; a single draw that overflows makes one.
_MAX_NON_FINITE_EPOCHS = 5


class Convergence(keras.callbacks.Callback):
    """Stops the fit of a `tfvae.VariationalInference` when q has converged, and takes the mean of its last iterates.

    With a constant learning rate the iterates of stochastic gradients settle around a point; their mean is far nearer
    to it than they are, and its distance from the optimum falls with the learning rate. So the fit goes through stages.
    A stage ends when the means over the two halves of its later iterates give one q; the next starts from their mean,
    with half the learning rate. The fit ends when two stages give one q. Two are one when the symmetrised KL divergence
    between them, estimated from draws, is below tolerance^2 for each dimension; for a Gaussian this is a shift of each
    mean by `tolerance` standard deviations.

    `fit(epochs=None)` adds it. Where another callback resumes a training, its first stage starts anew.

    Args:
        tolerance: how near is converged, > 0.
        max_epochs: the most epochs of a stage.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Welandawe et al. 2022, A Framework for Improving the Reliability of Black-box Variational Inference,
    sections 4 and 5, with the divergence between the means of two halves in place of R-hat; Dhaka et al. 2020, Robust,
    Accurate Stochastic Optimization for Variational Inference, section 4, for the means of iterates.
    """

    def __init__(self, tolerance: float = 0.03, max_epochs: int = 100) -> None:
        super().__init__()
        if not 0.0 < tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a number above 0. Received: tolerance={tolerance!r}")
        self.tolerance = tolerance
        self.max_epochs = checks.positive_integer("max_epochs", max_epochs)

    @classmethod
    def added_to(cls, callbacks: Any) -> list[keras.callbacks.Callback]:
        """The callbacks that `fit` was given, in any form that Keras takes, with one of these where there is none."""
        callbacks = getattr(callbacks, "callbacks", callbacks) or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        return callbacks if any(isinstance(each, cls) for each in callbacks) else [*callbacks, cls()]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the first stage."""
        # A schedule gives a tensor.
        if not isinstance(self.model.optimizer.learning_rate, keras.Variable):
            rate = self.model.optimizer.get_config()["learning_rate"]
            raise ValueError(
                "`optimizer` must have a constant learning rate, which `Convergence` lowers itself. Received: "
                f"learning_rate={rate!r}"
            )
        self.converged = False
        self._first_rate = self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._last: np.ndarray | None = None
        self._non_finite_epochs = 0
        self._means: list[np.ndarray] = []
        self._iterates: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes note of an iterate."""
        self._iterates.append(self._weights())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the stage, or the fit, where that is reached."""
        self._means.append(np.mean(self._iterates, axis=0))
        self._iterates.clear()
        count = len(self._means)
        is_finite = math.isfinite((logs or {}).get("loss", 0.0))
        self._non_finite_epochs = 0 if is_finite else self._non_finite_epochs + 1
        if self._non_finite_epochs >= _MAX_NON_FINITE_EPOCHS:
            self.model.stop_training = True
            return
        if count < _FEWEST_EPOCHS or count % 2:
            return
        later = self._means[count // 2 :]
        halves = [np.mean(half, axis=0) for half in (later[: count // 4], later[count // 4 :])]
        mean = np.mean(later, axis=0)
        if self._differ(*halves) and count < self.max_epochs:
            return
        self.converged = self._last is not None and not self._differ(self._last, mean)
        self._assign(mean)
        self._last = mean
        self._means.clear()
        if self.converged:
            self.model.stop_training = True
        else:
            self._rate *= 0.5
            self.model.optimizer.learning_rate = self._rate

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the mean of the last iterates and the first learning rate, and warns where q has not converged."""
        if len(self._means) >= _FEWEST_EPOCHS:
            # The stage was cut.
            self._assign(np.mean(self._means[len(self._means) // 2 :], axis=0))
        elif self._last is not None:
            self._assign(self._last)
        self.model.optimizer.learning_rate = self._first_rate
        if not self.converged:
            warnings.warn(
                f"q has not converged to a tolerance of {self.tolerance}: fit again with more epochs, with more draws "
                "for each step (objective=ELBO(num_samples=...)), or with a lower learning rate.",
                stacklevel=2,
            )

    def _differ(self, first: np.ndarray, second: np.ndarray) -> bool:
        now = self._weights()
        self._assign(first)
        u, log_first = self.model.approximation.sample_standard()
        self._assign(second)
        ratio = self.model.approximation.log_prob_standard(u).numpy() - log_first.numpy()
        self._assign(now)
        # E_q[(r/q - 1) log(r/q)] = KL(r || q) + KL(q || r), of which every draw gives a part that is not negative.
        return not np.mean(np.expm1(np.clip(ratio, -20.0, 20.0)) * ratio) < u.shape[1] * self.tolerance**2

    def _weights(self) -> np.ndarray:
        return np.concatenate([np.ravel(v) for v in map(keras.ops.convert_to_numpy, self.model.trainable_variables)])

    def _assign(self, weights: np.ndarray) -> None:
        start = 0
        for variable in self.model.trainable_variables:
            size = math.prod(variable.shape)
            variable.assign(weights[start : start + size].reshape(variable.shape))
            start += size
