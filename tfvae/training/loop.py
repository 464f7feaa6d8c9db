"""Many steps of training in one program, by XLA or on data in memory.

Where XLA compiles each step alone, a step ends with a copy of all weights and moments, and to start it takes longer
than a small model's step. In one loop of many they are updated where they are. A program that takes its batches of data
in memory itself needs no pipeline, whose threads compete with the steps for the cores.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfvae.distribute import replicas
from tfvae.training import arrays_in_memory

# The most bytes of the batches that one program is given.
_BYTES = 2**26
# XLA compiles a program for each shape of the batches; those of more shapes run without it, one at a time.
_MOST_SHAPES = 2
# What TensorFlow raises where XLA has no form of an operation, or must know a shape.
CANNOT_COMPILE = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Scan:
    """The function that Keras calls to run steps on one replica.

    Args:
        model: a compiled model.
        step: its `train_step`.
        by_xla: whether XLA compiles many steps together; where it cannot, they run without.
    """

    def __init__(self, model: keras.Model, step: Callable[[Any], dict[str, Any]], by_xla: bool) -> None:
        self._model, self._step = model, step
        # The batches of a pipeline and of `train_on_batch` without XLA, what a strategy makes of data, and of data in
        # memory the last batch where it is smaller.
        self._otherwise = replicas.make_function(model, step, bool(model.jit_compile))
        self._stack = tf.function(_stack, autograph=False, reduce_retracing=True)
        self._make_programs(by_xla)
        # Whether XLA has compiled a program, and the shapes of the batches that it stacks.
        self._is_compiled = False
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()

    def _make_programs(self, by_xla: bool) -> None:
        self._by_xla = by_xla
        # Of batches that are stacked, and of some in memory.
        self._programs = {at: _program(self._model, self._step, at, by_xla) for at in (_at, _rows_at)}

    def __call__(self, iterator: Any, count: int | None = None) -> dict[str, Any]:
        """Runs steps, or fewer where the data end, and returns the metrics of the last.

        Args:
            iterator: of the batches, or those of an epoch of data in memory.
            count: how many steps; None for one, of `train_on_batch`.

        Raises:
            tf.errors.OpError: XLA cannot compile the steps, and `compile` asks for it.
        """
        if isinstance(iterator, arrays_in_memory.Batches):
            return self._run_rows(iterator, count)
        if not self._by_xla or isinstance(iterator, tf.distribute.DistributedIterator):
            return self._otherwise(iterator, count)
        if not isinstance(iterator, tf.data.Iterator):
            # Of `train_on_batch`.
            batches = _map(lambda part: tf.convert_to_tensor(part)[tf.newaxis], next(iterator))
            return self._run(_at, batches, 1)
        slots, left = self._model._steps_of_training, count
        # Where there is no batch, this ends the epoch.
        batch = next(iterator)
        while batch is not None:
            if not self._is_stacked(batch):
                metrics, left = self._otherwise(iter([batch])), left - 1
                batch = next(iterator, None) if left else None
                continue
            batches, number, following = self._stack(batch, iterator, tf.constant(left), tf.constant(slots))
            metrics = self._run(_at, batches, number)
            left -= int(number)
            batch = following.get_value() if following.has_value() else next(iterator, None) if left else None
        return metrics

    def _is_stacked(self, batch: Any) -> bool:
        """Whether a batch is stacked for a program: not a sparse or a ragged one, nor one of many shapes."""
        parts = _tensors(batch)
        if not all(isinstance(part, tf.Tensor) for part in parts):
            return False
        shapes = tuple(tuple(part.shape) for part in parts)
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shapes)
        return shapes in self._shapes

    def _run_rows(self, batches: arrays_in_memory.Batches, count: int) -> dict[str, Any]:
        """Runs steps of data in memory, or fewer where the epoch ends."""
        number = min(count, len(batches.order) - batches.first)
        if number < 0 or (number == 0 and not len(batches.rest)):
            # A training that was resumed with other executions: the epoch is over.
            raise StopIteration
        if number > 0:
            source = batches.rows, batches.order, tf.constant(batches.first)
            metrics = self._run(_rows_at, source, number)
        if number < count and len(batches.rest):
            # A program of many steps would be compiled for this one.
            metrics = self._otherwise(iter([arrays_in_memory.take(batches.rows, batches.rest)]))
        return metrics

    def _run(self, at: Callable[..., Any], source: Any, number: int | tf.Tensor) -> dict[str, Any]:
        """Takes steps.

        Args:
            at: gives a batch, of its number and the source.
            source: what the batches are taken of.
            number: how many steps.
        """
        number = tf.convert_to_tensor(number)
        if not self._by_xla:
            return self._programs[at](source, number)
        try:
            metrics = self._programs[at](source, number)
        except CANNOT_COMPILE as error:
            if self._is_compiled or self._model.jit_compile:
                raise
            warnings.warn(f"XLA cannot compile the steps, which run without it: {error}", stacklevel=2)
            self._make_programs(by_xla=False)
            return self._programs[at](source, number)
        self._is_compiled = True
        return metrics


def _program(
    model: keras.Model, step: Callable[[Any], dict[str, Any]], at: Callable[..., Any], by_xla: bool
) -> Callable[..., dict[str, Any]]:
    """Makes the program: a function of what its batches are taken of, and of how many of them there are.

    Args:
        model: a compiled model.
        step: its `train_step`.
        at: gives a batch, of its number and the source.
        by_xla: whether XLA compiles the whole; else each step, where `compile` asks for it.
    """

    @tf.function(autograph=False, reduce_retracing=True, jit_compile=bool(model.jit_compile and not by_xla))
    def one_step(batch: Any) -> dict[str, Any]:
        return replicas.run_step(model.distribute_strategy, step, batch)

    @tf.function(autograph=False, reduce_retracing=True, jit_compile=by_xla)
    def program(source: Any, number: tf.Tensor) -> dict[str, Any]:
        def body(index: tf.Tensor, _: dict[str, Any]) -> tuple[tf.Tensor, dict[str, Any]]:
            return index + 1, one_step(at(index, source))

        outputs = one_step.get_concrete_function(at(0, source)).structured_outputs
        metrics = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), outputs)
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
    """One of the batches of data in memory, the order of which starts with a certain one."""
    rows, order, first = source
    return arrays_in_memory.take(rows, order[first + index])


def _map(function: Callable[[tf.Tensor], Any], batch: Any) -> Any:
    """Applies a function to the tensors of a batch, which may hold None as well."""
    return tf.nest.map_structure(lambda part: None if part is None else function(part), batch)


def _tensors(batch: Any) -> list[tf.Tensor]:
    return [part for part in tf.nest.flatten(batch) if part is not None]
