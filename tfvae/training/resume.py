"""The position of a training, saved with the weights, so that training can be interrupted at any step and resumed.

A resumed training gives the same result as one that was never interrupted. With its weights, a model saves the epoch,
the step within it, the state of its layers' random numbers and the state of its metrics. If a callback, such as
`keras.callbacks.BackupAndRestore`, restores the weights, `fit` continues from that epoch, and skips the batches that
were already trained on.
"""

import json
import math
import pathlib
import warnings
from collections.abc import MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import files, private_apis
from tfvae.callbacks import Checkpoints
from tfvae.data import epochs
from tfvae.distribute import strategies
from tfvae.training.fit_arguments import FitArguments

_POSITION, _SEEDS, _METRICS, _AVERAGES = "position", "seed_generators", "metrics", "holds_averages"


class Progress:
    """The position of a training.

    Attributes:
        epoch: the current epoch, counted from 0.
        step: the number of steps that the epoch has completed.
        first_pass: the number to add to `epoch` to count all passes over the data, those of earlier calls of `fit`
            included. The order of the data depends on that count, so that a second `fit` does not repeat an order.
        metrics: the state of the metrics at this step, or None if it is unknown.
        loaded: whether the position was loaded from a file.
        under_way: whether the steps of a `fit` have begun. A file that is loaded later does not change the position.
        to_pass: the number of batches of earlier epochs that are still to be skipped.
        to_skip: the number of batches of this epoch that are still to be skipped.
        seed: the seed of the order of arrays. It comes from the weights, and so survives an interruption.
        holds_averages: whether the model has the averages of its weights in their place, and the optimizers have the
            weights: see `tfvae.training.averages`.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.step = 0
        self.first_pass = 0
        self.metrics: np.ndarray | None = None
        self.loaded = False
        self.under_way = False
        self.to_pass = 0
        self.to_skip = 0
        self.seed = 0
        self.holds_averages = False

    def get_seed(self) -> int:
        """The seed, as a function for pipelines.

        TensorFlow never releases a Python function that a pipeline calls. This one keeps no weights in memory.
        """
        return self.seed

    def begin(self, initial_epoch: int) -> None:
        """Starts a `fit` at an epoch; the count of passes over the data continues from the `fit` before."""
        self.first_pass += self.epoch - initial_epoch
        self.epoch, self.step, self.loaded, self.under_way = initial_epoch, 0, False, False
        # An earlier training may have been interrupted while it skipped batches.
        self.to_pass = self.to_skip = 0

    def pass_over(self, iterator: Any, count: int) -> int:
        """Skips the batches that were trained on before an interruption.

        Args:
            iterator: an iterator over batches, one for each step.
            count: the number of steps to run next.

        Returns:
            How many of these steps remain to be run, after the skipped ones.
        """
        if self.to_pass > 0:
            _skip(iterator, self.to_pass)
            self.to_pass = 0
        skipped = min(self.to_skip, count)
        if skipped > 0:
            self.to_skip -= skipped
            _skip(iterator, skipped)
        return count - skipped


def save_state(model: keras.Model, progress: Progress, store: MutableMapping[str, Any]) -> None:
    """Adds the position, the random state and the metrics to the weights that Keras saves.

    Args:
        model: the model.
        progress: the position of its training.
        store: the mapping in which Keras collects the model's own weights.
    """
    store[_POSITION] = np.array([progress.epoch, progress.step, progress.first_pass])
    for name, variables in ((_SEEDS, seed_variables(model)), (_METRICS, _metric_variables(model))):
        if variables:
            # Raveled, because the metrics of a user's layer may have any shape.
            store[name] = np.concatenate([np.ravel(keras.ops.convert_to_numpy(variable)) for variable in variables])
    if progress.holds_averages:
        store[_AVERAGES] = np.array([1])


def load_state(model: keras.Model, progress: Progress, store: MutableMapping[str, Any]) -> None:
    """Restores what `save_state` added; a file that lacks it, such as an older one, changes nothing.

    Args:
        model: the model.
        progress: the position, which is set to the saved one unless a `fit` is under way.
        store: the mapping of the model's saved weights.

    Raises:
        ValueError: the weights are those of a different model.
    """
    # `keys()`, because the object that Keras passes cannot be iterated over directly.
    saved = {name: np.array(store[name]) for name in store.keys() if not name.isdecimal()}  # noqa: SIM118
    if _POSITION not in saved:
        return
    progress.holds_averages = _AVERAGES in saved
    seeds, variables = saved.get(_SEEDS, np.zeros(0)), seed_variables(model)
    if not _assign(variables, seeds):
        raise ValueError(
            f"The weights must be those of a model with {len(variables)} layers that draw random numbers. Received: "
            f"weights of one with {len(seeds) // 2}"
        )
    if not progress.under_way:
        progress.epoch, progress.step, progress.first_pass = (int(number) for number in saved[_POSITION])
        progress.metrics = saved.get(_METRICS)
        progress.loaded = True


def _assign(variables: Sequence[keras.Variable], values: np.ndarray) -> bool:
    """Sets variables to successive parts of an array; returns False, and sets none, if the total sizes differ."""
    ends = np.cumsum([math.prod(variable.shape) for variable in variables], dtype=int)
    if len(values) != (ends[-1] if variables else 0):
        return False
    for variable, value in zip(variables, np.split(values, ends[:-1]), strict=False):
        variable.assign(value.reshape(variable.shape))
    return True


def seed_variables(model: keras.Model) -> list[keras.Variable]:
    """The random states of a model's layers, such as dropout, which Keras does not save."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _metric_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of the metrics; none under several workers, where one process alone cannot read them."""
    return model.metrics_variables if strategies.workers(model.distribute_strategy)[1] == 1 else []


def _skip(iterator: Any, count: int) -> None:
    for index in range(count):
        try:
            next(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            # As in training, the data may end within an execution; with no batch at all, the epoch is over.
            if index == 0:
                raise
            return


class FollowEpochs(keras.callbacks.Callback):
    """Keeps the position, on which the order of the data depends, at the current epoch; the first of all callbacks.

    Args:
        progress: the position of the training.
        batches_per_epoch: the number of batches in an epoch if one iterator continues from epoch to epoch; None if
            every epoch starts a new pass over the data.
    """

    def __init__(self, progress: Progress, batches_per_epoch: int | None) -> None:
        super().__init__()
        self._progress = progress
        self._batches_per_epoch = batches_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts an epoch, or continues the one that was interrupted."""
        progress = self._progress
        epochs.set_epoch(progress.first_pass + epoch if self._batches_per_epoch is None else None)
        if progress.loaded:
            progress.to_pass = epoch * (self._batches_per_epoch or 0)
            progress.to_skip = progress.step
            if progress.step and progress.metrics is not None:
                _assign(self.model.metrics_variables, progress.metrics)
        else:
            progress.step = progress.to_pass = progress.to_skip = 0
        progress.epoch, progress.loaded = epoch, False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the position to the start of the next epoch, before another callback saves it with the weights.

        Callbacks that save or evaluate the model have its averages, where there are any.
        """
        self._progress.epoch, self._progress.step = epoch + 1, 0
        self.model.use_averages()


class Resume(keras.callbacks.Callback):
    """Continues from the position of the weights that another callback restored; the last of all callbacks.

    Under several workers, all continue from the weights that the first worker restored.

    Args:
        progress: the position of the training.
        restoring: whether another callback restores weights in order to resume.
        shuffled: whether the order of the data cannot be reproduced: see `FitArguments.is_shuffled`.
    """

    def __init__(self, progress: Progress, restoring: bool, shuffled: bool) -> None:
        super().__init__()
        self._progress = progress
        self._restoring = restoring
        self._shuffled = shuffled

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Sets the epoch with which `fit` starts."""
        progress = self._progress
        if self._restoring and strategies.workers(self.model.distribute_strategy)[1] > 1:
            send_from_first_worker(self.model, progress)
        progress.loaded = progress.loaded and self._restoring
        progress.under_way = True
        progress.seed = self.model.noise_seed
        if not progress.loaded:
            return
        # Set here even for `BackupAndRestore`, which may have been killed after it saved the weights, but before it
        # wrote its own note of the epoch.
        private_apis.set_initial_epoch(self.model, progress.epoch)
        if self._shuffled and (progress.epoch or progress.step):
            warnings.warn(
                "`x` is shuffled by `tf.data` or Keras, whose order starts anew, so that this training differs from "
                "one without interruption. Pass arrays, or make the dataset with `tfvae.data` or "
                "`tfvae.epochs.ordered`.",
                stacklevel=2,
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Lets a file that is loaded from now on set the position again."""
        self._progress.under_way = False


def send_from_first_worker(model: keras.Model, progress: Progress) -> None:
    """Copies the state of the first worker's training to all workers, each of which must call this function.

    Args:
        model: the model.
        progress: the position of its training, which is set to that of the first worker.
    """
    strategy = model.distribute_strategy
    variables = [
        *model.weights,
        *seed_variables(model),
        *(variable for optimizer in model.optimizers() for variable in optimizer.variables),
    ]
    position = tf.constant(
        [progress.epoch, progress.step, progress.first_pass, progress.loaded, progress.holds_averages], tf.int64
    )

    def of_first_replica() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        # Integers and booleans become int64, which can be summed over replicas.
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        values = [value if value.dtype.is_floating else tf.cast(value, tf.int64) for value in values]
        parts = [tf.where(is_first, value, tf.zeros_like(value)) for value in [*values, position]]
        # One by one, because tensors that are reduced together must have the same dtype.
        return [context.all_reduce(tf.distribute.ReduceOp.SUM, part) for part in parts]

    sent = tf.function(lambda: strategy.run(of_first_replica), autograph=False)()
    *values, position = [strategy.experimental_local_results(value)[0] for value in sent]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    progress.epoch, progress.step, progress.first_pass, loaded, averages = (int(number) for number in position)
    progress.loaded, progress.holds_averages = bool(loaded), bool(averages)


def with_callbacks_of_fit(
    model: Any, progress: Progress, arguments: FitArguments, batches_per_epoch: int | None
) -> list[keras.callbacks.Callback]:
    """The callbacks of a `fit`: the user's callbacks, between those that every training has.

    Args:
        model: a `tfvae.VariationalModel`.
        progress: the position of its training.
        arguments: the arguments of the call of `fit`.
        batches_per_epoch: see `FollowEpochs`.
    """
    every_training = (FollowEpochs, Resume, *model.warnings)
    # A `CallbackList` from an earlier `fit` may already contain them.
    given = [callback for callback in arguments.callbacks if not isinstance(callback, every_training)]
    backups = [callback for callback in given if isinstance(callback, keras.callbacks.BackupAndRestore)]
    for callback in backups:
        _mend_backup(callback)
    restoring = bool(backups) or any(isinstance(callback, Checkpoints) for callback in given)
    first, last = FollowEpochs(progress, batches_per_epoch), Resume(progress, restoring, arguments.is_shuffled)
    return [first, *given, *(warning() for warning in model.warnings), last]


def _mend_backup(callback: keras.callbacks.BackupAndRestore) -> None:
    """Removes the note of the epoch if it is damaged, as by a kill while it was written; the weights hold it too."""
    folder = pathlib.Path(callback.backup_dir)
    files.remove_temporaries(folder)
    note = folder / "training_metadata.json"
    try:
        json.loads(note.read_text())
    except FileNotFoundError:
        pass
    except ValueError:
        note.unlink()
