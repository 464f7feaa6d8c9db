"""Where a training is, kept with the weights, so that it can be cut anywhere and goes on as if it had not been.

The weights that a model saves hold the epoch and the step in it, the state of the random numbers of its layers, and
that of the metrics. A callback that restores them, such as `keras.callbacks.BackupAndRestore`, is all that `fit` needs:
it starts with that epoch, and passes over the batches that were trained on.
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

_POSITION, _SEEDS, _METRICS = "position", "seed_generators", "metrics"


class Progress:
    """Where a training is.

    Attributes:
        epoch: the epoch, from 0.
        step: how many steps of the epoch are done.
        first_pass: how many epochs were trained before epoch 0, by earlier calls of `fit`.
        metrics: the state of the metrics at that step, or None where it is not known.
        loaded: whether these come from a file.
        under_way: whether the steps of a `fit` have begun, so that a file that is loaded no longer says where to start.
        to_pass: how many batches of earlier epochs are still to be passed over.
        to_skip: how many batches of this epoch are still to be passed over.
        seed: of the order of arrays, the same after the weights are restored.
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

    def get_seed(self) -> int:
        """The seed, for a pipeline: TensorFlow never lets go of what it calls, and this method holds no weights."""
        return self.seed

    def begin(self, initial_epoch: int) -> None:
        """Starts a `fit` with an epoch; its data come in another order than those of the `fit` before."""
        self.first_pass += self.epoch - initial_epoch
        self.epoch, self.step, self.loaded, self.under_way = initial_epoch, 0, False, False
        # Of a training that was interrupted while it passed over batches.
        self.to_pass = self.to_skip = 0

    def pass_over(self, iterator: Any, count: int) -> int:
        """Passes over the batches of steps that were done before a training was cut.

        Args:
            iterator: the batches, one for each step.
            count: how many steps are to run.

        Returns:
            How many of them are not done yet.
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
    """Adds to a model's own weights what they leave out.

    Args:
        model: the model.
        progress: where its training is.
        store: where Keras collects the model's own weights.
    """
    store[_POSITION] = np.array([progress.epoch, progress.step, progress.first_pass])
    for name, variables in ((_SEEDS, seed_variables(model)), (_METRICS, _metric_variables(model))):
        if variables:
            # Metrics of a user's layer may have any shape.
            store[name] = np.concatenate([np.ravel(keras.ops.convert_to_numpy(variable)) for variable in variables])


def load_state(model: keras.Model, progress: Progress, store: MutableMapping[str, Any]) -> None:
    """Restores what `save_state` added, as far as it is there.

    Args:
        model: the model.
        progress: it is set to where the training was.
        store: the model's own weights, as they were saved.

    Raises:
        ValueError: the weights are those of another model.
    """
    # Keras passes an object that has keys but cannot be iterated over.
    saved = {name: np.array(store[name]) for name in store.keys() if not name.isdecimal()}  # noqa: SIM118
    if _POSITION not in saved:
        return
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
    """Sets variables to their parts of an array, or returns False where these are not as long."""
    ends = np.cumsum([math.prod(variable.shape) for variable in variables], dtype=int)
    if len(values) != (ends[-1] if variables else 0):
        return False
    for variable, value in zip(variables, np.split(values, ends[:-1]), strict=False):
        variable.assign(value.reshape(variable.shape))
    return True


def seed_variables(model: keras.Model) -> list[keras.Variable]:
    """The states of the random numbers of a model's layers, such as dropout, which Keras saves nowhere."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _metric_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of the metrics, where they can be read by one process alone."""
    return model.metrics_variables if strategies.workers(model.distribute_strategy)[1] == 1 else []


def _skip(iterator: Any, count: int) -> None:
    for index in range(count):
        try:
            next(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            # As in training, where the last execution of an epoch may have fewer steps.
            if index == 0:
                raise
            return


class FollowEpochs(keras.callbacks.Callback):
    """Keeps the progress, and with it the order of the data, at the epoch that `fit` is in; the first of all callbacks.

    Args:
        progress: where the training is.
        batches_per_epoch: the batches of an epoch where an epoch is no pass over the data, so that an iterator goes on
            from one to the next; else None.
    """

    def __init__(self, progress: Progress, batches_per_epoch: int | None) -> None:
        super().__init__()
        self._progress = progress
        self._batches_per_epoch = batches_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts an epoch, or goes on with the one that was cut."""
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
        """Ends the epoch before another callback saves the weights."""
        self._progress.epoch, self._progress.step = epoch + 1, 0


class Resume(keras.callbacks.Callback):
    """Goes on where the weights were saved that another callback has restored; the last of all callbacks.

    With several workers all go on from what the first one has restored.

    Args:
        progress: where the training is.
        restoring: whether a callback restores weights to go on with.
        shuffled: whether the order of the data is drawn from a state that starts anew.
    """

    def __init__(self, progress: Progress, restoring: bool, shuffled: bool) -> None:
        super().__init__()
        self._progress = progress
        self._restoring = restoring
        self._shuffled = shuffled

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tells `fit` with which epoch to start."""
        progress = self._progress
        if self._restoring and strategies.workers(self.model.distribute_strategy)[1] > 1:
            send_from_first_worker(self.model, progress)
        progress.loaded = progress.loaded and self._restoring
        progress.under_way = True
        progress.seed = self.model.noise_seed
        if not progress.loaded:
            return
        # Also where `BackupAndRestore` was cut between the weights and its own note of the epoch.
        private_apis.set_initial_epoch(self.model, progress.epoch)
        if self._shuffled and (progress.epoch or progress.step):
            warnings.warn(
                "`x` is shuffled by `tf.data` or Keras, whose order starts anew, so that this training differs from "
                "one that was not cut. Pass arrays, or make the dataset with `tfvae.data` or `tfvae.epochs.ordered`.",
                stacklevel=2,
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """From here a file says again where a training is."""
        self._progress.under_way = False


def send_from_first_worker(model: keras.Model, progress: Progress) -> None:
    """Gives the state of the first worker's training to all workers, each of which must call this.

    Args:
        model: the model.
        progress: where its training is.
    """
    strategy = model.distribute_strategy
    variables = [
        *model.weights,
        *seed_variables(model),
        *(variable for optimizer in model.optimizers() for variable in optimizer.variables),
    ]
    position = tf.constant([progress.epoch, progress.step, progress.first_pass, progress.loaded], tf.int64)

    def of_first_replica() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        # As numbers of kinds that can be summed.
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        values = [value if value.dtype.is_floating else tf.cast(value, tf.int64) for value in values]
        parts = [tf.where(is_first, value, tf.zeros_like(value)) for value in [*values, position]]
        # One by one, because those that are sent together must be of one dtype.
        return [context.all_reduce(tf.distribute.ReduceOp.SUM, part) for part in parts]

    sent = tf.function(lambda: strategy.run(of_first_replica), autograph=False)()
    *values, position = [strategy.experimental_local_results(value)[0] for value in sent]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    progress.epoch, progress.step, progress.first_pass, loaded = (int(number) for number in position)
    progress.loaded = bool(loaded)


def with_callbacks_of_fit(
    model: Any, progress: Progress, arguments: FitArguments, batches_per_epoch: int | None
) -> list[keras.callbacks.Callback]:
    """The callbacks of a `fit`: those of the user between those that every training has.

    Args:
        model: a `tfvae.VariationalModel`.
        progress: where its training is.
        arguments: those of the call.
        batches_per_epoch: see `FollowEpochs`.
    """
    every_training = (FollowEpochs, Resume, *model.warnings)
    # A list that was used before has some of these.
    given = [callback for callback in arguments.callbacks if not isinstance(callback, every_training)]
    backups = [callback for callback in given if isinstance(callback, keras.callbacks.BackupAndRestore)]
    for callback in backups:
        _mend_backup(callback)
    restoring = bool(backups) or any(isinstance(callback, Checkpoints) for callback in given)
    first, last = FollowEpochs(progress, batches_per_epoch), Resume(progress, restoring, arguments.is_shuffled)
    return [first, *given, *(warning() for warning in model.warnings), last]


def _mend_backup(callback: keras.callbacks.BackupAndRestore) -> None:
    """Removes the note of the epoch that Keras was killed while writing: the weights hold it too."""
    folder = pathlib.Path(callback.backup_dir)
    files.remove_temporaries(folder)
    note = folder / "training_metadata.json"
    try:
        json.loads(note.read_text())
    except FileNotFoundError:
        pass
    except ValueError:
        note.unlink()
