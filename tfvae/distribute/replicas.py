"""Replicas that train in step, where Keras's own loop computes something else or fails.

Keras 3 lets a custom `train_step` take steps that are too large by the number of replicas, clips gradients before they
are summed, and cannot run it under several workers, with several steps in one execution or with XLA. Here one graph
runs the steps, and what crosses replicas stays outside of what XLA compiles.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfvae.distribute import strategies


def make_function(
    model: keras.Model, step: Callable[[Any], dict[str, Any]], jit_compile: bool | None
) -> Callable[..., dict[str, Any]]:
    """Makes the function that Keras calls to run steps on all replicas.

    Args:
        model: a compiled model.
        step: its `train_step` or `test_step`.
        jit_compile: whether XLA compiles the steps; of several replicas it compiles what concerns no other: see
            `compiled`.

    Returns:
        A function of an iterator, and of the number of steps, without which that is the model's `steps_per_execution`.
        It runs these, or fewer where the data end, and returns the metrics of the last, averaged over the replicas.
    """
    strategy = model.distribute_strategy
    jit_compile = jit_compile if strategy.num_replicas_in_sync == 1 else None

    one_step: Any = functools.partial(run_step, strategy, step)

    def over_workers(metrics: dict[str, Any]) -> dict[str, Any]:
        # Alike in all, once an execution: where one worker stopped for its own NaN, the others would wait for it.
        if strategies.workers(strategy)[1] == 1:
            return metrics
        means = strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.stack(list(metrics.values())), axis=None)
        return dict(zip(metrics, tf.unstack(means, num=len(metrics)), strict=True))

    def steps(iterator: tf.data.Iterator | tf.distribute.DistributedIterator, count: tf.Tensor) -> dict[str, Any]:
        # Where there is no batch, this ends the epoch before anything of a step is done: Keras would count one more.
        first = iterator.get_next()

        def body(index: tf.Tensor, batch: Any, _: dict[str, Any]) -> tuple[tf.Tensor, Any, dict[str, Any]]:
            metrics = one_step(batch.get_value())
            return index + 1, next_batch(iterator, index + 1 < count), metrics

        # The first step is in the loop as well: outside of it TensorFlow may round in another way, and a training that
        # went on elsewhere in an execution would end elsewhere.
        metrics = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), one_step.get_concrete_function(first).structured_outputs
        )
        start = [tf.constant(0), tf.experimental.Optional.from_value(first), metrics]
        return over_workers(tf.while_loop(lambda _, batch, __: batch.has_value(), body, start)[2])

    def steps_eagerly(iterator: tf.data.Iterator | tf.distribute.DistributedIterator, count: int) -> dict[str, Any]:
        metrics = one_step(next(iterator))
        for batch in itertools.islice(iterator, count - 1):
            metrics = one_step(batch)
        return over_workers(metrics)

    if model.run_eagerly:
        run = steps_eagerly
    else:
        one_step = tf.function(one_step, autograph=False, reduce_retracing=True, jit_compile=jit_compile)
        run = tf.function(steps, autograph=False, reduce_retracing=True)

    def function(iterator: Any, count: int | None = None) -> dict[str, Any]:
        if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            count = model.steps_per_execution if count is None else count
            return run(iterator, count if model.run_eagerly else tf.constant(count))
        # Of `train_on_batch` and `test_on_batch`.
        return over_workers(one_step(next(iterator)))

    return function


def run_step(strategy: tf.distribute.Strategy, step: Callable[[Any], dict[str, Any]], data: Any) -> dict[str, Any]:
    """Runs a step on all replicas of this process, and returns its metrics, averaged over them.

    Args:
        strategy: the strategy of the replicas.
        step: a `train_step` or `test_step`.
        data: the batch of each replica.
    """

    def mean(value: Any) -> tf.Tensor:
        # A metric may be a variable of Keras.
        return tf.reduce_mean([tf.convert_to_tensor(own) for own in strategy.experimental_local_results(value)], axis=0)

    return {name: mean(value) for name, value in strategy.run(step, args=(data,)).items()}


def next_batch(
    iterator: tf.data.Iterator | tf.distribute.DistributedIterator, is_wanted: tf.Tensor
) -> tf.experimental.Optional:
    """The next batch where it is wanted and there is one; one that was read and that no step takes would be lost."""
    optional = iterator.get_next_as_optional
    return tf.cond(is_wanted, optional, lambda: tf.experimental.Optional.empty(iterator.element_spec))


def compiled(model: keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by XLA where `compile` says so and Keras does not compile the whole step.

    Args:
        model: a compiled model.
        function: a part of its step that concerns no other replica.
    """
    if model.jit_compile and not model.run_eagerly and count() > 1:
        # A new one at each trace: each replica has variables of its own.
        return tf.function(function, jit_compile=True, autograph=False)
    return function


def count() -> int:
    """The number of replicas that train in step; in a strategy's scope or one of its replicas, of that strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def index() -> tf.Tensor | int:
    """The number of this replica among all, 0 outside of one."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def total(value: tf.Tensor) -> tf.Tensor:
    """Sums over the replicas a tensor that each of them has."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def at_least_one(x: tf.Tensor) -> tf.Tensor:
    """Adds an example of ones to x [B, ...] where B is 0, as for a replica that the last batch does not reach.

    Layers and regularisers that take means over examples would give NaN there.
    """
    missing = tf.cast(tf.equal(tf.shape(x)[:1], 0), tf.int32)
    return tf.concat([x, tf.ones(tf.concat([missing, tf.shape(x)[1:]], axis=0), x.dtype)], axis=0)


def reduce_gradients(gradients: Sequence[Any], optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Makes of the gradients of this replica what the optimizer can sum over the replicas in the right order.

    An optimizer sums last. What is not linear must see the sum: clipping, and the search of a LossScaleOptimizer for
    values that are not finite. So these get their N-th part of a gradient that is summed, and clipped, already. Other
    optimizers get the gradients as they are, because to sum twice costs twice the communication.

    Args:
        gradients: those of this replica's part of the loss, scaled by `optimizer.scale_loss`; None for a variable that
            has none.
        optimizer: the optimizer.

    Returns:
        What to give to `optimizer.apply`.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner is optimizer and not (inner.clipnorm or inner.clipvalue or inner.global_clipnorm):
        return list(gradients)
    present = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    context = tf.distribute.get_replica_context()
    present = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
    scale = optimizer.scale_loss(1.0)
    # Without the scale, with which the squares in a norm overflow before the gradients do.
    present = [gradient / tf.cast(scale, gradient.dtype) for gradient in present]
    if inner.clipnorm:
        present = [tf.clip_by_norm(gradient, inner.clipnorm) for gradient in present]
    elif inner.global_clipnorm:
        present = tf.clip_by_global_norm(present, inner.global_clipnorm)[0]
    elif inner.clipvalue:
        limit = inner.clipvalue
        # Infinity must remain, for the LossScaleOptimizer to see.
        present = [tf.where(tf.math.is_finite(g), tf.clip_by_value(g, -limit, limit), g) for g in present]
    share = scale / context.num_replicas_in_sync
    parts = iter(gradient * tf.cast(share, gradient.dtype) for gradient in present)
    return [None if gradient is None else next(parts) for gradient in gradients]


def share_statistics(model: keras.Model, share: tf.Tensor) -> None:
    """Makes the moving statistics of layers the same on all replicas, the mean over them.

    The layers are BatchNormalization, and those of tfvae that say so by an attribute `has_moving_statistics`.

    Keras leaves each replica with its own, and saves the first one's.

    Args:
        model: the model.
        share: how much of the examples of the step this replica has, from 0 to 1.
    """
    variables = [
        variable
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) or getattr(layer, "has_moving_statistics", False)
        if layer.trainable
        for variable in layer.non_trainable_variables
    ]
    if variables:
        parts = [variable.value * share for variable in variables]
        means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, parts)
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)


def check(model: keras.Model) -> None:
    """Raises ValueError when a compiled model cannot be trained under its strategy."""
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy | tf.distribute.experimental.CentralStorageStrategy):
        raise ValueError(
            "A strategy must be one that `tfvae.strategy` makes, with the same variables on every replica. Received: "
            f"{type(strategy).__name__}"
        )
    for owner, variables in (("model", model.weights), ("optimizer", model.optimizer.variables)):
        for variable in variables:
            if not strategy.extended.variable_created_in_scope(variable.value):
                raise ValueError(
                    "A model, its networks and its optimizer must be made in the scope of the strategy that trains "
                    f"them, {type(strategy).__name__}. Received: the {owner}'s variable {variable.path}, made elsewhere"
                )
    if strategy.num_replicas_in_sync == 1:
        return
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(optimizer, option)
        if value is not None:
            raise ValueError(
                f"The optimizer's `{option}` must be None with several replicas, where Keras cannot do it. Received: "
                f"{option}={value}"
            )
