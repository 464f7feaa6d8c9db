"""Synchronous training on several replicas, where the training loop of Keras is wrong or fails.

In Keras 3 a custom `train_step` takes steps that are too large by the number of replicas, clips gradients before they
are summed over replicas, and does not run under several workers, with several steps per execution or with XLA. Here one
graph runs the steps, and communication between replicas stays outside of the parts that XLA compiles.
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
        model: a compiled model. If it says so, XLA compiles the whole step; with several replicas, only the parts of a
            step without communication: see `compiled`.
        step: its `train_step` or `test_step`.

    Attributes:
        one: a function of one batch for each replica. It runs a step and returns its metrics, averaged over the
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
        """Runs several steps, or fewer where the data end.

        Args:
            iterator: a `tf.data.Iterator` or a `tf.distribute.DistributedIterator` of the batches.
            count: how many steps.

        Returns:
            The metrics of the last step, averaged over all replicas.
        """
        return self._steps_eagerly(iterator, count) if self._is_eager else self._many(iterator, tf.constant(count))

    def _steps(self, iterator: Any, count: tf.Tensor) -> dict[str, Any]:
        # With no batch left, this ends the epoch before a step begins; otherwise Keras would count one step more.
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
        # Metrics must be the same on all workers: if one stopped because of its own NaN, the others would wait for it.
        if strategies.workers(self._strategy)[1] == 1:
            return metrics
        means = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.stack(list(metrics.values())), axis=None)
        return dict(zip(metrics, tf.unstack(means, num=len(metrics)), strict=True))


def on_own_replicas(model: keras.Model, step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Makes a function that runs a step on all replicas of this process, and averages its metrics over them.

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
    """Zeros with the shapes of a step's metrics, as the start of a loop of steps.

    Args:
        one: the step, a `tf.function` of a batch.
        batch: a batch.
    """
    outputs = one.get_concrete_function(batch).structured_outputs
    return tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), outputs)


def next_batch(
    iterator: tf.data.Iterator | tf.distribute.DistributedIterator, is_wanted: tf.Tensor
) -> tf.experimental.Optional:
    """The next batch if `is_wanted` and there is one, else none: a batch that is read but not used would be lost."""
    optional = iterator.get_next_as_optional
    return tf.cond(is_wanted, optional, lambda: tf.experimental.Optional.empty(iterator.element_spec))


def compiled(model: keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by XLA if the model has `jit_compile` but several replicas prevent compiling whole steps.

    Args:
        model: a compiled model.
        function: a part of the model's step that does not communicate with other replicas.
    """
    if model.jit_compile and not model.run_eagerly and count() > 1:
        # A new tf.function at each trace, because each replica has its own variables.
        return tf.function(function, jit_compile=True, autograph=False)
    return function


def count() -> int:
    """The number of replicas of the current strategy: the one whose scope, or replica, this is called in; else 1."""
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
    """Prepares this replica's gradients for an optimizer that clips, or checks for infinity, before it sums them.

    Keras optimizers sum gradients over the N replicas as their last operation, but clipping and the search of a
    LossScaleOptimizer for non-finite values are not linear, and must see the sum. For such optimizers the gradients are
    summed and clipped here, and each replica passes on 1/N of the result. For all others they are returned unchanged,
    because summing twice costs twice the communication.

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
    # Unscaled first: with the loss scale, the squares in a norm overflow before the gradients do.
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


def share_statistics(model: keras.Model, share: tf.Tensor) -> None:
    """Sets the moving statistics of layers on all replicas to their mean, weighted by each replica's examples.

    The layers are BatchNormalization, and layers of tfvae with the attribute `has_moving_statistics`.

    Keras keeps separate statistics on each replica, and saves those of the first.

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


def check(model: keras.Model) -> None:
    """Raises ValueError when a compiled model cannot be trained under its strategy."""
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy | tf.distribute.experimental.CentralStorageStrategy):
        raise ValueError(
            "A strategy must be one that `tfvae.strategy` makes, with the same variables on every replica. Received: "
            f"{type(strategy).__name__}"
        )
    optimizers = [("optimizer", optimizer.variables) for optimizer in model.optimizers()]
    for owner, variables in [("model", model.weights), *optimizers]:
        for variable in variables:
            if not strategy.extended.variable_created_in_scope(variable.value):
                raise ValueError(
                    "A model, its networks and its optimizer must be made in the scope of the strategy that trains "
                    f"them, {type(strategy).__name__}. Received: the {owner}'s variable {variable.path}, made elsewhere"
                )
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
