"""Synchronous training on several replicas, in place of Keras's own loop, which is wrong there or fails.

With a custom `train_step` on several replicas, Keras 3 multiplies the step size by their number, clips gradients before
they are summed, and fails with several workers, with several steps per execution or with XLA. Here a single graph runs
the steps, and communication between replicas stays outside of the parts that XLA compiles.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfvae import private_apis
from tfvae.distribute import strategies


class Steps:
    """Runs the steps of a compiled model on all replicas.

    Args:
        model: a compiled model. With `jit_compile`, XLA compiles the whole step, or, with several replicas, only the
            parts of it that do not communicate: see `compiled`.
        step: its `train_step` or `test_step`.

    Attributes:
        one: a function that runs one step, on one batch for each replica, and returns the metrics, averaged over the
            replicas of this process.
    """

    def __init__(self, model: keras.Model, step: Callable[[Any], dict[str, Any]]) -> None:
        self._strategy = model.distribute_strategy
        self.one = on_own_replicas(model, step)
        self._is_eager = model.run_eagerly
        if not self._is_eager:
            jit_compile = bool(model.jit_compile) if self._strategy.num_replicas_in_sync == 1 else None
            self.one = tf.function(self.one, autograph=False, reduce_retracing=True, jit_compile=jit_compile)
            self._many = tf.function(self._steps, autograph=False, reduce_retracing=True)

    def on_batch(self, batch: Any) -> dict[str, Any]:
        """Runs one step, and returns its metrics, averaged over all replicas."""
        return self._over_workers(self.one(batch))

    def on_iterator(self, iterator: Any, count: int) -> dict[str, Any]:
        """Runs several steps, or fewer if the data end.

        Args:
            iterator: a `tf.data.Iterator` or a `tf.distribute.DistributedIterator` over the batches.
            count: the number of steps.

        Returns:
            The metrics of the last step, averaged over all replicas.
        """
        return self._steps_eagerly(iterator, count) if self._is_eager else self._many(iterator, tf.constant(count))

    def _steps(self, iterator: Any, count: tf.Tensor) -> dict[str, Any]:
        # If no batch is left, this ends the epoch before a step begins; otherwise Keras would count one step too many.
        first = iterator.get_next()

        def body(index: tf.Tensor, batch: Any, _: dict[str, Any]) -> tuple[tf.Tensor, Any, dict[str, Any]]:
            metrics = self.one(batch.get_value())
            return index + 1, next_batch(iterator, index + 1 < count), metrics

        # The first step runs in the loop too: outside of it TensorFlow may round differently, and a training that was
        # resumed in the middle of an execution would end with different weights.
        start = [tf.constant(0), tf.experimental.Optional.from_value(first), zero_metrics(self.one, first)]
        return self._over_workers(tf.while_loop(lambda _, batch, __: batch.has_value(), body, start)[2])

    def _steps_eagerly(self, iterator: Any, count: int) -> dict[str, Any]:
        metrics = self.one(next(iterator))
        for batch in itertools.islice(iterator, count - 1):
            metrics = self.one(batch)
        return self._over_workers(metrics)

    def _over_workers(self, metrics: dict[str, Any]) -> dict[str, Any]:
        # All workers need the same metrics: if one stopped because of a NaN of its own, the others would wait forever.
        if strategies.workers(self._strategy)[1] == 1:
            return metrics
        means = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.stack(list(metrics.values())), axis=None)
        return dict(zip(metrics, tf.unstack(means, num=len(metrics)), strict=True))


def on_own_replicas(model: keras.Model, step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Makes a function that runs a step on all replicas of this process, and averages the metrics over them.

    Args:
        model: the model.
        step: its `train_step` or `test_step`.
    """
    strategy = model.distribute_strategy

    def run(data: Any) -> dict[str, Any]:
        metrics = strategy.run(step, args=(data,))
        # A metric may be a Keras variable rather than a tensor.
        own = {
            name: map(tf.convert_to_tensor, strategy.experimental_local_results(each)) for name, each in metrics.items()
        }
        return {name: tf.reduce_mean(list(values), axis=0) for name, values in own.items()}

    return run


def zero_metrics(one: Any, batch: Any) -> dict[str, tf.Tensor]:
    """Zeros with the shapes of a step's metrics, the initial values for a loop of steps.

    Args:
        one: the step, a `tf.function` of a batch.
        batch: a batch.
    """
    outputs = one.get_concrete_function(batch).structured_outputs
    return tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), outputs)


def next_batch(
    iterator: tf.data.Iterator | tf.distribute.DistributedIterator, is_wanted: tf.Tensor
) -> tf.experimental.Optional:
    """The next batch, if `is_wanted` and if there is one; reading a batch that is not wanted would lose it."""
    optional = iterator.get_next_as_optional
    return tf.cond(is_wanted, optional, lambda: tf.experimental.Optional.empty(iterator.element_spec))


def compiled(model: keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by XLA if the model has `jit_compile` and several replicas, where whole steps cannot be.

    Args:
        model: a compiled model.
        function: a part of the model's step that does not communicate with other replicas.
    """
    if model.jit_compile and not model.run_eagerly and count() > 1:
        # A new tf.function each time a step is traced, because each replica has its own variables.
        return tf.function(function, jit_compile=True, autograph=False)
    return function


def count() -> int:
    """The number of replicas of the strategy in whose scope, or on whose replica, this is called; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def index() -> tf.Tensor | int:
    """The index of this replica among all replicas; 0 outside of a replica."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def total(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def at_least_one(x: tf.Tensor) -> tf.Tensor:
    """Replaces an empty x [0, ...] by one example of ones [1, ...]; any other x [B, ...] is returned as it is.

    A replica may get no rows of a small last batch. Layers and regularisers that take means over examples would then
    give NaN.
    """
    missing = tf.cast(tf.equal(tf.shape(x)[:1], 0), tf.int32)
    return tf.concat([x, tf.ones(tf.concat([missing, tf.shape(x)[1:]], axis=0), x.dtype)], axis=0)


def reduce_gradients(gradients: Sequence[Any], optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Prepares this replica's gradients for an optimizer that clips them or scales the loss.

    Keras optimizers sum gradients over the N replicas only at the very end. But clipping, and the check of a
    LossScaleOptimizer for non-finite values, are not linear, and must see the sum. For these optimizers the gradients
    are summed and clipped here, and each replica passes on 1/N of the result. For all others the gradients are returned
    unchanged, because summing twice would double the communication.

    Args:
        gradients: the gradients of this replica's part of the loss, scaled by `optimizer.scale_loss`; None for a
            variable that has none.
        optimizer: the optimizer.

    Returns:
        The gradients to give to `optimizer.apply`.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner is optimizer and not (inner.clipnorm or inner.clipvalue or inner.global_clipnorm):
        return list(gradients)
    present = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    context = tf.distribute.get_replica_context()
    present = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
    scale = optimizer.scale_loss(1.0)
    # Unscaled first: with the loss scale, the squares in a norm would overflow before the gradients do.
    present = [gradient / tf.cast(scale, gradient.dtype) for gradient in present]
    if inner.clipnorm:
        present = [tf.clip_by_norm(gradient, inner.clipnorm) for gradient in present]
    elif inner.global_clipnorm:
        present = tf.clip_by_global_norm(present, inner.global_clipnorm)[0]
    elif inner.clipvalue:
        limit = inner.clipvalue
        # Non-finite values are kept, so that the LossScaleOptimizer finds them.
        present = [tf.where(tf.math.is_finite(g), tf.clip_by_value(g, -limit, limit), g) for g in present]
    share = scale / context.num_replicas_in_sync
    parts = iter(gradient * tf.cast(share, gradient.dtype) for gradient in present)
    return [None if gradient is None else next(parts) for gradient in gradients]


def without_long(
    gradients: Sequence[Any], optimizer: keras.optimizers.Optimizer, limit: float
) -> tuple[list[Any], tf.Tensor]:
    """Replaces the gradients by zeros if the norm of their sum over the replicas is above a limit, or not finite.

    Args:
        gradients: as for `reduce_gradients`.
        optimizer: the optimizer; a `LossScaleOptimizer` itself skips a step that is not finite, and must see it.
        limit: the largest norm of all gradients together, without the optimizer's loss scale.

    Returns:
        This replica's gradients, or zeros in their place; and whether they were replaced, the same on all replicas.
    """
    scale = optimizer.scale_loss(1.0)
    present = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    # Unscaled first: with the loss scale, the squares in a norm would overflow before the gradients do.
    sums = [total(tf.cast(gradient, tf.float32) / scale) for gradient in present]
    norm = tf.linalg.global_norm(sums)
    is_long = norm > limit
    is_finite = tf.math.is_finite(norm)
    is_long = is_long & is_finite if hasattr(optimizer, "inner_optimizer") else is_long | ~is_finite
    kept = iter(tf.where(is_long, tf.zeros_like(gradient), gradient) for gradient in present)
    return [None if gradient is None else next(kept) for gradient in gradients], is_long


def share_statistics(model: keras.Model, share: tf.Tensor) -> None:
    """Replaces the moving statistics on each replica by their mean over replicas, weighted by the number of examples.

    This concerns BatchNormalization layers, and layers of tfvae with the attribute `has_moving_statistics`. Keras keeps
    separate statistics on each replica, and saves those of the first.

    Args:
        model: the model.
        share: this replica's share of the examples in the step, from 0 to 1.
    """
    variables = [
        variable
        for layer in private_apis.layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) or getattr(layer, "has_moving_statistics", False)
        if layer.trainable
        for variable in layer.non_trainable_variables
    ]
    if variables:
        parts = [variable.value * share for variable in variables]
        means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, parts)
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)


def check_scope(owner: str, variables: list[Any], strategy: tf.distribute.Strategy) -> None:
    """Raises ValueError, naming their owner, if variables were not made in the scope of a strategy."""
    for variable in variables:
        if not strategy.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                "A model, its networks and its optimizer must be made in the scope of the strategy that trains "
                f"them, {type(strategy).__name__}. Received: the {owner}'s variable {variable.path}, made elsewhere"
            )


def check(model: keras.Model) -> None:
    """Raises ValueError if a compiled model cannot be trained under its strategy."""
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy | tf.distribute.experimental.CentralStorageStrategy):
        raise ValueError(
            "A strategy must be one that `tfvae.strategy` makes, with the same variables on every replica. Received: "
            f"{type(strategy).__name__}"
        )
    optimizers = [("optimizer", optimizer.variables) for optimizer in model.optimizers()]
    for owner, variables in [("model", model.weights), *optimizers]:
        check_scope(owner, variables, strategy)
    if strategy.num_replicas_in_sync == 1:
        return
    for optimizer in model.optimizers():
        for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            value = getattr(getattr(optimizer, "inner_optimizer", optimizer), option)
            if value is not None:
                raise ValueError(
                    f"The optimizer's `{option}` must be None with several replicas, where Keras cannot do it. "
                    f"Received: {option}={value}"
                )
