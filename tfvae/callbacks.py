"""Callbacks for `fit`: checkpoints to go on from, and a KL divergence that comes in slowly."""

import hashlib
import math
import os
import pathlib
import re
import warnings
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from tfvae import checks, files, strategies

_SUFFIX = ".weights.h5"
_DAMAGED = "damaged-"
# Epoch, step and the digest of the content: a name that says whether the file is whole.
_NAME = re.compile(r"(\d{6})-(\d{9})-([0-9a-f]{16})" + re.escape(_SUFFIX))


# Of a stage.
_FEWEST_EPOCHS = 4
# One after the other; a single draw that overflows makes one.
_MAX_NON_FINITE_EPOCHS = 5
# In nats per example: what is left of the KL divergence by the noise of training, with up to some 30 latent dimensions.
_COLLAPSED = 0.05


class Checkpoint(NamedTuple):
    """A checkpoint.

    Attributes:
        path: its file.
        epoch: the epoch that a training goes on with.
    """

    path: pathlib.Path
    epoch: int


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints during a training, which goes on from the newest one where it was cut.

    A checkpoint holds the weights, the optimizer, the state of every random number, the epoch and the step. It is
    written aside and moved in by one rename, so that a kill at any time leaves those from before. A damaged one is
    passed over, with a warning. Training that goes on ends with the weights of one that was not cut, bit for bit on the
    same CPUs, when the order of the data does not depend on a state of its own: that of arrays, `tfvae.data` and
    `tfvae.epochs.ordered` does not.

    With several workers the first one reads and writes the folder, and the others get from it what it has read.

    Args:
        folder: where the checkpoints are; it belongs to one training.
        save_freq: "epoch", or a number of steps; checkpoints are written at the end of an execution of
            `steps_per_execution` steps.
        keep: how many checkpoints to keep, at least 1; more than 1 to survive a damaged one.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, folder: str | os.PathLike[str], save_freq: int | Literal["epoch"] = "epoch", keep: int = 2
    ) -> None:
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.save_freq = save_freq if save_freq == "epoch" else checks.positive_integer("save_freq", save_freq)
        self.keep = checks.positive_integer("keep", keep)
        self._saved_at = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the newest checkpoint that is whole.

        Raises:
            ValueError: none is whole, or it is that of another model.
        """
        self._saved_at = 0
        if strategies.workers(self.model.distribute_strategy)[0] > 0:
            return
        newest = self.newest()
        if newest is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # From here a training that is cut early starts with the same random numbers.
            self._save(*self.model.progress)
        else:
            self.model.optimizer.build(self.model.trainable_variables)
            try:
                self.model.load_weights(newest.path)
            except ValueError as error:
                raise ValueError(
                    f"`folder` must hold checkpoints of this model. Received: {newest.path}: {error}"
                ) from error

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None where there is none at all.

        One that is damaged is renamed, with a warning.

        Raises:
            ValueError: none is whole.
        """
        for path in reversed(self._paths()):
            epoch, _, digest = _NAME.fullmatch(path.name).groups()
            if _digest(path) == digest:
                return Checkpoint(path, int(epoch))
            damaged = path.rename(path.with_name(_DAMAGED + path.name))
            warnings.warn(f"A checkpoint is damaged, and the one before it is used. Received: {damaged}", stacklevel=2)
        if any(self.folder.glob(f"{_DAMAGED}*")):
            raise ValueError(f"`folder` must hold a checkpoint that is whole, or none. Received: {self.folder}")
        return None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint where `save_freq` steps have been taken since the last."""
        if self.save_freq != "epoch":
            epoch, step = self.model.progress
            if step - self._saved_at >= self.save_freq:
                self._save(epoch, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint."""
        self._save(*self.model.progress)

    def _save(self, epoch: int, step: int) -> None:
        self._saved_at = step
        if strategies.workers(self.model.distribute_strategy)[0] > 0:
            return
        files.remove_temporaries(self.folder)
        # The name is known when the file is written.
        written = self.folder / f"{files.TEMPORARY}{_SUFFIX}"
        self.model.save_weights(written)
        os.replace(written, self.folder / f"{epoch:06d}-{step:09d}-{_digest(written)}{_SUFFIX}")
        for path in self._paths()[: -self.keep]:
            path.unlink()

    def _paths(self) -> list[pathlib.Path]:
        """The checkpoints, from the oldest on."""
        return sorted(path for path in self.folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name))


class KLWarmUp(keras.callbacks.Callback):
    """Multiplies the KL divergence in the objective by a weight that rises from `start` to 1.

    weight = start + (1 - start) * min(1, t / steps), t the steps that the optimizer has taken

    It keeps a posterior from collapsing to the prior before the decoder has learnt to use z. The weight is set before
    each execution of `steps_per_execution` steps. It is 1 in evaluation, and again when the training ends.

    Args:
        steps: how many steps it takes; a warning is given where the training is shorter.
        start: the weight at first, from 0 to 1.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1; Sonderby et al. 2016,
    Ladder Variational Autoencoders, section 2.3.
    """

    def __init__(self, steps: int, start: float = 0.0) -> None:
        super().__init__()
        self.steps = checks.positive_integer("steps", steps)
        self.start = checks.number("start", start, 0)
        if self.start > 1:
            raise ValueError(f"`start` must be from 0 to 1. Received: start={start!r}")
        self._has_warned = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Warns where the training will end before the weight is 1, if it is known how long it takes."""
        self._has_warned = False
        # A `CallbackList` that a user made may have no parameters.
        steps_per_epoch = (self.params or {}).get("steps")
        if steps_per_epoch is not None:
            self._warn_where_short(self._taken + steps_per_epoch * self.params["epochs"])

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the weight."""
        self.model.kl_weight.assign(self.start + (1.0 - self.start) * min(1.0, self._taken / self.steps))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Sets the weight back to 1, and warns where it was not: the data or a callback have ended the training."""
        self.model.kl_weight.assign(1.0)
        self._warn_where_short(self._taken)

    @property
    def _taken(self) -> int:
        """The steps that the optimizer has taken."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _warn_where_short(self, steps: int) -> None:
        if steps < self.steps and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The KL warm-up takes longer than the training, {steps} steps, so that the bound is never maximised. "
                f"Received: steps={self.steps}",
                stacklevel=3,
            )


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
        rate = self.model.optimizer._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
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


class NonFiniteLossWarning(keras.callbacks.Callback):
    """Says at the end of an epoch when the loss was NaN or infinite, which Keras only prints; `fit` adds it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns of a loss that is not finite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            warnings.warn(
                f"The loss was {loss} in epoch {epoch + 1}. Try a lower learning rate or the optimizer's `clipnorm`, "
                "and look for values that are not finite in the data; `keras.callbacks.TerminateOnNaN` stops at the "
                "first.",
                stacklevel=2,
            )


class PosteriorCollapseWarning(keras.callbacks.Callback):
    """Says once when z tells next to nothing of x, which no error shows; the `fit` of every autoencoder adds it.

    It does where the mean of KL(q(z|x) || p(z)) over an epoch was below 0.05 nats per example, as in the epoch before,
    and has not grown since, both with the whole weight of the KL divergence: not in the first epoch, nor in a warm-up,
    nor where training has yet to find a use for z. Instead of `kl` it watches those of the layers of a
    `tfvae.HierarchicalVAE`, and `kl_z` of a `tfvae.SemiSupervisedVAE`.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the training before."""
        self._last = {}
        self._has_warned = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns of a posterior that has collapsed."""
        is_whole = float(keras.ops.convert_to_numpy(self.model.kl_weight)) == 1.0
        for name in getattr(self.model, "collapsing", ("kl",)):
            kl = float((logs or {}).get(name, math.inf)) if is_whole else math.inf
            if kl <= self._last.get(name, math.inf) < _COLLAPSED and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"The posterior has collapsed to the prior: KL(q(z|x) || p(z)), the metric `{name}`, was {kl:.2g} "
                    f"nats in epoch {epoch + 1}, so that z tells next to nothing of x. Try `tfvae.callbacks.KLWarmUp`, "
                    "free bits, a smaller `beta`, a weaker decoder, or a likelihood with a smaller `scale`.",
                    stacklevel=2,
                )
            self._last[name] = kl


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
