"""The loop of training steps: many steps in one program, on batches from a pipeline or gathered from data in memory.

If XLA compiles each step separately, every step ends by copying all weights and moments, and launching it takes longer
than the step of a small model itself. In one loop of many steps they are updated in place. A program that gathers its
own batches from memory needs no pipeline, whose threads compete with the steps for the cores.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfvae import private_apis
from tfvae.distribute import replicas
from tfvae.training.arrays_in_memory import EpochBatches, take
from tfvae.training.resume import Progress

# The most bytes of stacked batches that one program takes.
_BYTES = 2**26
# XLA compiles a program for each shape of a batch. Batches of further shapes run one at a time, without such a program.
_MOST_SHAPES = 2
# What TensorFlow raises if XLA does not support an operation, or needs a shape that is unknown before it runs.
CANNOT_COMPILE = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Loop:
    """The function that Keras calls to run training steps, following the plan of the model's `fit`.

    Args:
        model: a `tfvae.VariationalModel` that is compiled.
        progress: the position of the model's training.
        by_xla: whether XLA compiles many steps of one replica together; if it cannot, they run without it.

    Attributes:
        by_xla: the argument, even if XLA then turned out unable to compile the steps.
    """

    def __init__(self, model: Any, progress: Progress, by_xla: bool) -> None:
        self._model = model
        self._progress = progress
        self.by_xla = by_xla
        self._steps = replicas.Steps(model, model.train_step)
        self._stack = tf.function(_stack, autograph=False, reduce_retracing=True)
        in_memory = tf.function(self._steps_in_memory, autograph=False, reduce_retracing=True)
        # Many models are fitted in a cross-validation, each with a function of its own.
        self._in_memory = private_apis.without_tracing_warning(in_memory)
        # The programs of XLA, by the function that picks their batches: from a stack, or from data in memory.
        self._programs = {at: _program(model, at) for at in (_at, _rows_at)} if by_xla else {}
        # Whether XLA has compiled a program, or has failed to; and the shapes of the batches that are stacked.
        self._is_compiled = self._cannot_compile = False
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(self, iterator: Any) -> dict[str, Any]:
        """Runs the steps of one execution, or fewer if the data end.

        Args:
            iterator: an iterator over the batches of an epoch, or over the one batch of `train_on_batch`.

        Returns:
            The metrics after the last step.
        """
        self._model.use_averages(False)
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            # `train_on_batch`, which does not belong to an epoch.
            return self._steps.on_batch(next(iterator))
        plan, progress = self._model.plan, self._progress
        if plan is None:
            # Called by the user, outside of `fit`.
            return self._steps.on_iterator(iterator, self._model.steps_per_execution)
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
        """Runs steps on data in memory, or fewer if the epoch ends."""
        if batches.num_left <= 0:
            # The epoch is over, although Keras counts more: the training was resumed with other steps per execution.
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
            # With XLA, this is a smaller last batch, for which alone a second program would have to be compiled.
            rest = batches.rows, batches.order, tf.constant(batches.batch_size)
            metrics = self._in_memory(*rest, tf.constant(first), tf.constant(count))
        return metrics

    def _steps_in_memory(
        self, rows: Any, order: tf.Tensor, batch_size: tf.Tensor, first: tf.Tensor, count: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Runs `count` steps on data in memory, from batch `first` on; for the other arguments see `EpochBatches`."""

        def body(index: tf.Tensor, _: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            start = (first + index) * batch_size
            return index + 1, self._steps.one(take(rows, order[start : start + batch_size]))

        metrics = replicas.zero_metrics(self._steps.one, take(rows, order[:batch_size]))
        return tf.while_loop(lambda index, _: index < count, body, [0, metrics])[1]

    def _run_stacked(self, iterator: tf.data.Iterator, count: int) -> dict[str, Any]:
        """Runs steps by XLA on batches of a pipeline, in stacks of successive batches of the same shape."""
        metrics: Any = None
        slots, left = self._model.plan.steps_per_execution, count
        # If there is no batch left, this raises StopIteration, which ends the epoch.
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
        """Whether XLA's program takes a batch: it must be dense, and of one of the first few shapes that occurred."""
        parts = _tensors(batch)
        if not (self._uses_xla and all(isinstance(part, tf.Tensor) for part in parts)):
            return False
        shapes = tuple(tuple(part.shape) for part in parts)
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shapes)
        return shapes in self._shapes

    def _run_by_xla(self, at: Callable[..., Any], source: Any, number: int | tf.Tensor) -> dict[str, Any] | None:
        """Runs steps by XLA, and returns the metrics; or None if XLA cannot compile the steps, and is given up.

        Args:
            at: picks a batch, given its index and the source: `_at` or `_rows_at`.
            source: the stack or the data in memory from which the batches are picked.
            number: the number of steps.

        Raises:
            tf.errors.OpError: XLA cannot compile the steps, and the model was compiled with `jit_compile=True`.
        """
        try:
            metrics = self._programs[at](source, tf.convert_to_tensor(number))
        except CANNOT_COMPILE as error:
            if self._is_compiled or self._model.jit_compile:
                raise
            warnings.warn(f"XLA cannot compile the steps, so they run without it: {error}", stacklevel=2)
            self._cannot_compile = True
            return None
        self._is_compiled = True
        return metrics


def _program(model: Any, at: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Makes a function that runs training steps and is compiled by XLA; it takes a source and the number of steps.

    Args:
        model: the model.
        at: picks a batch, given its index and the source: `_at` or `_rows_at`.
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
    """Stacks a batch and the batches that follow it, up to the first one of another shape.

    Args:
        first: the batch.
        iterator: an iterator over the batches that follow.
        count: the most batches to stack.
        slots: the first size of the stack, filled or not, unless that takes too much memory. It is always the same, so
            that XLA compiles only one program.

    Returns:
        The stack [slots, ...]; how many slots are filled; and the batch of another shape, if one was read.
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
    """Picks a batch from a stack."""
    return _map(lambda part: part[index], batches)


def _rows_at(index: int | tf.Tensor, source: tuple[Any, tf.Tensor, tf.Tensor]) -> Any:
    """Picks a batch from data in memory: rows, their order [batches, B], and the index of the first batch to use."""
    rows, order, first = source
    return take(rows, order[first + index])


def _map(function: Callable[[tf.Tensor], Any], batch: Any) -> Any:
    """Applies a function to all tensors of a batch, in which None may stand for an absent one."""
    return tf.nest.map_structure(lambda part: None if part is None else function(part), batch)


def _tensors(batch: Any) -> list[tf.Tensor]:
    return [part for part in tf.nest.flatten(batch) if part is not None]
