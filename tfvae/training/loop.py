"""The loop of the steps of training: many in one program, on batches of a pipeline or on data in memory.

Where XLA compiles each step alone, a step ends with a copy of all weights and moments, and to start it takes longer
than a small model's step. In one loop of many they are updated where they are. A program that takes its batches of data
in memory itself needs no pipeline, whose threads compete with the steps for the cores.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfvae.distribute import replicas
from tfvae.training.arrays_in_memory import EpochBatches, take
from tfvae.training.resume import Progress

# The most bytes of the batches that one program is given.
_BYTES = 2**26
# XLA compiles a program for each shape of the batches; those of more shapes run without it, one at a time.
_MOST_SHAPES = 2
# What TensorFlow raises where XLA has no form of an operation, or must know a shape.
CANNOT_COMPILE = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Loop:
    """The function that Keras calls to run steps of training, as the plan of the model's `fit` says.

    Args:
        model: a `tfvae.VariationalModel` that is compiled.
        progress: where its training is.
        by_xla: whether XLA compiles many steps of one replica together; where it cannot, they run without.

    Attributes:
        by_xla: whether it was asked for.
    """

    def __init__(self, model: Any, progress: Progress, by_xla: bool) -> None:
        self._model = model
        self._progress = progress
        self.by_xla = by_xla
        self._steps = replicas.Steps(model, model.train_step)
        self._stack = tf.function(_stack, autograph=False, reduce_retracing=True)
        self._in_memory = tf.function(self._steps_in_memory, autograph=False, reduce_retracing=True)
        # By XLA: of batches that are stacked, and of data in memory.
        self._programs = {at: _program(model, at) for at in (_at, _rows_at)} if by_xla else {}
        # Whether XLA has compiled a program, or cannot; and the shapes of the batches that are stacked for one.
        self._is_compiled = self._cannot_compile = False
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(self, iterator: Any) -> dict[str, Any]:
        """Runs the steps of one execution, or fewer where the data end.

        Args:
            iterator: of the batches of an epoch, or of the one batch of `train_on_batch`.

        Returns:
            The metrics after the last step.
        """
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            # `train_on_batch`, which is no step of an epoch.
            return self._steps.on_batch(next(iterator))
        plan, progress = self._model.plan, self._progress
        count = progress.pass_over(iterator, plan.steps_per_execution)
        if count == 0:
            return self._model.get_metrics_result()
        if plan.data is not None:
            batches = plan.data.batches(progress.first_pass + progress.epoch, progress.step)
            metrics = self._run_in_memory(batches, count)
        elif self._uses_xla and isinstance(iterator, tf.data.Iterator):
            metrics = self._run_stacked(iterator, count)
        else:
            metrics = self._steps.on_iterator(iterator, count)
        progress.step += count
        return metrics

    @property
    def _uses_xla(self) -> bool:
        return self.by_xla and not self._cannot_compile

    def _run_in_memory(self, batches: EpochBatches, count: int) -> dict[str, Any]:
        """Runs steps of data in memory, or fewer where the epoch ends."""
        if batches.num_left <= 0:
            # A training that was resumed with other numbers of steps in an execution: the epoch is over.
            raise StopIteration
        first, count = batches.first, min(count, batches.num_left)
        metrics: Any = None
        if self._uses_xla and batches.num_whole > 0:
            whole = min(count, batches.num_whole)
            size = batches.batch_size
            order = tf.reshape(batches.order[: len(batches.order) // size * size], [-1, size])
            metrics = self._run_by_xla(_rows_at, (batches.rows, order, tf.constant(first)), whole)
            if metrics is not None:
                first, count = first + whole, count - whole
        if count > 0:
            # With XLA, the last batch where it is smaller: a program would be compiled for this one alone.
            rest = batches.rows, batches.order, tf.constant(batches.batch_size)
            metrics = self._in_memory(*rest, tf.constant(first), tf.constant(count))
        return metrics

    def _steps_in_memory(
        self, rows: Any, order: tf.Tensor, batch_size: tf.Tensor, first: tf.Tensor, count: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Runs steps on data in memory: see `EpochBatches` for the arguments."""

        def body(index: tf.Tensor, _: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            start = (first + index) * batch_size
            return index + 1, self._steps.one(take(rows, order[start : start + batch_size]))

        metrics = replicas.zero_metrics(self._steps.one, take(rows, order[:batch_size]))
        return tf.while_loop(lambda index, _: index < count, body, [0, metrics])[1]

    def _run_stacked(self, iterator: tf.data.Iterator, count: int) -> dict[str, Any]:
        """Runs steps by XLA on batches of a pipeline, each program on a stack of some of one shape."""
        metrics: Any = None
        slots, left = self._model.plan.steps_per_execution, count
        # Where there is no batch, this ends the epoch.
        batch = next(iterator)
        while batch is not None:
            if not self._is_stackable(batch):
                metrics, left = self._steps.on_batch(batch), left - 1
                batch = next(iterator, None) if left else None
                continue
            stack, number, following = self._stack(batch, iterator, tf.constant(left), tf.constant(slots))
            found = self._run_by_xla(_at, stack, number)
            if found is None:
                for index in range(int(number)):
                    found = self._steps.on_batch(_at(index, stack))
            metrics = found
            left -= int(number)
            batch = following.get_value() if following.has_value() else next(iterator, None) if left else None
        return metrics

    def _is_stackable(self, batch: Any) -> bool:
        """Whether a program takes a batch: not a sparse or a ragged one, nor one of too many shapes."""
        parts = _tensors(batch)
        if not (self._uses_xla and all(isinstance(part, tf.Tensor) for part in parts)):
            return False
        shapes = tuple(tuple(part.shape) for part in parts)
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shapes)
        return shapes in self._shapes

    def _run_by_xla(self, at: Callable[..., Any], source: Any, number: int | tf.Tensor) -> dict[str, Any] | None:
        """Runs steps by XLA; None where it cannot compile them, after which it is not tried again.

        Args:
            at: gives a batch, of its number and the source.
            source: what the batches are taken from.
            number: how many steps.

        Raises:
            tf.errors.OpError: XLA cannot compile the steps, and `compile` asks for it.
        """
        try:
            metrics = self._programs[at](source, tf.convert_to_tensor(number))
        except CANNOT_COMPILE as error:
            if self._is_compiled or self._model.jit_compile:
                raise
            warnings.warn(f"XLA cannot compile the steps, which run without it: {error}", stacklevel=2)
            self._cannot_compile = True
            return None
        self._is_compiled = True
        return metrics


def _program(model: Any, at: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Makes a program that XLA compiles: a function of what its batches are taken from, and of how many there are.

    Args:
        model: the model.
        at: gives a batch, of its number and the source.
    """
    one = tf.function(replicas.on_own_replicas(model, model.train_step), autograph=False, reduce_retracing=True)

    @tf.function(autograph=False, reduce_retracing=True, jit_compile=True)
    def program(source: Any, number: tf.Tensor) -> dict[str, Any]:
        def body(index: tf.Tensor, _: dict[str, Any]) -> tuple[tf.Tensor, dict[str, Any]]:
            return index + 1, one(at(index, source))

        metrics = replicas.zero_metrics(one, at(0, source))
        return tf.while_loop(lambda index, _: index < number, body, [0, metrics])[1]

    return program


def _stack(
    first: Any, iterator: tf.data.Iterator, count: tf.Tensor, slots: tf.Tensor
) -> tuple[Any, tf.Tensor, tf.experimental.Optional]:
    """Stacks a batch and those after it that have its shape.

    Args:
        first: the batch.
        iterator: of those after it.
        count: the most batches to take.
        slots: how many the stack has places for, where so many take not too much memory: always as many, so that XLA
            compiles one program.

    Returns:
        The batches [slots, ...], how many of them are there, and the batch after them if it was read.
    """
    parts = _tensors(first)
    size = tf.add_n([part.dtype.size * tf.size(part) for part in parts])
    slots = tf.clip_by_value(_BYTES // tf.maximum(size, 1), 1, slots)
    count = tf.minimum(count, slots)

    def fits(_: tf.Tensor, batch: tf.experimental.Optional, __: Sequence[tf.TensorArray]) -> tf.Tensor:
        def has_shape() -> tf.Tensor:
            pairs = zip(parts, _tensors(batch.get_value()), strict=True)
            return tf.reduce_all([tf.reduce_all(tf.shape(part) == tf.shape(other)) for part, other in pairs])

        return tf.cond(batch.has_value(), has_shape, lambda: tf.constant(False))

    def add(number: tf.Tensor, batch: tf.experimental.Optional, arrays: Sequence[tf.TensorArray]) -> tuple[Any, ...]:
        pairs = zip(arrays, _tensors(batch.get_value()), strict=True)
        return (
            number + 1,
            replicas.next_batch(iterator, number + 1 < count),
            [array.write(number, part) for array, part in pairs],
        )

    arrays = [tf.TensorArray(part.dtype, slots, element_shape=part.shape).write(0, part) for part in parts]
    number, following, arrays = tf.while_loop(fits, add, [1, replicas.next_batch(iterator, count > 1), arrays])
    stacks = iter(arrays)
    return _map(lambda _: next(stacks).stack(), first), number, following


def _at(index: int | tf.Tensor, batches: Any) -> Any:
    """One of the batches that are stacked."""
    return _map(lambda part: part[index], batches)


def _rows_at(index: int | tf.Tensor, source: tuple[Any, tf.Tensor, tf.Tensor]) -> Any:
    """One of the whole batches of data in memory, whose order [batches, B] is to start with a certain one."""
    rows, order, first = source
    return take(rows, order[first + index])


def _map(function: Callable[[tf.Tensor], Any], batch: Any) -> Any:
    """Applies a function to the tensors of a batch, which may hold None as well."""
    return tf.nest.map_structure(lambda part: None if part is None else function(part), batch)


def _tensors(batch: Any) -> list[tf.Tensor]:
    return [part for part in tf.nest.flatten(batch) if part is not None]
