"""The private names of Keras, TensorFlow and TFP that tfvae cannot do without, one function or hook for each.

A release of these libraries may drop such a name. `tests/test_private_apis.py` has a test for each, which says what
broke, and pyproject.toml admits the versions that were tested. Private modules are imported where they are used, so
that one that is gone takes no more with it than it must.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

_Optimizer = TypeVar("_Optimizer", bound=keras.optimizers.Optimizer)


class HookedModel(keras.Model):
    """A `keras.Model` whose private hooks have public names."""

    def before_steps(self, iterator: Any, batch: Any) -> None:
        """Prepares the model for the steps of a call of `fit`, `evaluate`, `train_on_batch` and the like.

        Args:
            iterator: Keras's iterator over the executions of an epoch, or None for one batch.
            batch: the batch of `train_on_batch` or `test_on_batch`, or None.
        """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.before_steps(iterator, data_batch)

    def _resolve_auto_jit_compile(self) -> bool | int:
        # `compile(jit_compile="auto")` keeps what this returns. 0 is falsy like False, but tells, also in a saved
        # model, that the user left the choice open.
        return super()._resolve_auto_jit_compile() or 0


def leaves_jit_compile_open(model: keras.Model) -> bool:
    """Whether `compile` left open whether XLA compiles a `HookedModel`."""
    return type(model.jit_compile) is int


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers within it."""
    return list(layer._flatten_layers())


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable variables of a layer itself, without those of the layers within it."""
    return layer._trainable_variables


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was made, or None; the public `distribute_strategy` gives one in any case."""
    return model._distribute_strategy


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Makes `fit` start with an epoch whatever its argument says; None undoes it."""
    model._initial_epoch = epoch


def set_steps_per_execution(iterator: Any, steps: int) -> None:
    """Sets how many steps an iterator over the executions of an epoch counts for each of them."""
    iterator.steps_per_execution = steps


def is_validation_of_fit(arguments: dict[str, Any]) -> bool:
    """Whether `evaluate` was called by `fit`, with validation data that it has looked at already."""
    return bool(arguments.get("_use_cached_eval_dataset", False))


def input_datasets(dataset: tf.data.Dataset) -> Sequence[tf.data.Dataset]:
    """The datasets that a dataset was made from."""
    return dataset._inputs()


def profiles_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a `keras.callbacks.TensorBoard` profiles some batches."""
    return getattr(callback, "_stop_batch", 0) > 0


def with_update(optimizer: _Optimizer, update: Callable[..., None]) -> _Optimizer:
    """The same optimizer, with the same state, but another computation of its update; the original is not changed.

    Args:
        optimizer: the optimizer, once it is built.
        update: takes the optimizer, the gradients, the variables and the learning rate.
    """
    kind = type(type(optimizer).__name__, (type(optimizer),), {"_backend_update_step": update})
    view: Any = object.__new__(kind)
    # Shared, so that whatever the one sets the other has.
    object.__setattr__(view, "__dict__", optimizer.__dict__)
    return view


def with_inner(optimizer: _Optimizer, inner: keras.optimizers.Optimizer) -> _Optimizer:
    """The same `LossScaleOptimizer`, with the same state, around another inner optimizer."""
    view = object.__new__(type(optimizer))
    object.__setattr__(view, "__dict__", {**optimizer.__dict__, "inner_optimizer": inner})
    return view


def adam_moments(
    optimizer: keras.optimizers.Adam, variables: Sequence[tf.Variable]
) -> list[tuple[tf.Variable, tf.Variable]]:
    """The first and the second moment that Adam keeps for each of some variables."""
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    return [(optimizer._momentums[index].value, optimizer._velocities[index].value) for index in indices]


def update_on_all_replicas(
    optimizer: keras.optimizers.Optimizer, update: Callable[..., None], pairs: Sequence[Any], *scalars: tf.Tensor
) -> None:
    """Sums gradients over the replicas and updates each variable on all of them, as Keras's optimizers do.

    Args:
        optimizer: the optimizer.
        update: takes the strategy, the pairs of a summed gradient and its variable, and the scalars.
        pairs: this replica's gradients, each with its variable.
        scalars: further tensors for the update.
    """
    pairs = optimizer._all_reduce_sum_gradients(pairs)
    tf.__internal__.distribute.interim.maybe_merge_call(update, optimizer._distribution_strategy, pairs, *scalars)


def worker_of(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> tuple[int, int]:
    """The number of this worker, and how many there are: TensorFlow's `_id_in_cluster` and `_num_workers`.

    The cluster resolver, which is public, reads TF_CONFIG again: once that is gone, every worker would be the chief.
    """
    return strategy.extended._id_in_cluster, strategy.extended._num_workers


def is_tensorflow_in_use() -> bool:
    """Whether TensorFlow's devices are set up, and refuse changes: `_context_handle` of TensorFlow's eager context."""
    from tensorflow.python.eager import context

    current = context.context_safe()
    return current is not None and current._context_handle is not None


def is_compiled_by_xla(graph: tf.Graph) -> bool:
    """Whether XLA compiles a graph, or one that it is within: TensorFlow's `GraphOrParentsInXlaContext`."""
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(graph)


def names_of(joint: Any) -> list[str]:
    """The names of the variables of a joint distribution: TFP's `JointDistribution._flat_resolve_names`.

    Those of one that is made of a list have no others.
    """
    return joint._flat_resolve_names()


def converter_error() -> type[Exception]:
    """What `tf.lite.TFLiteConverter` raises where it cannot convert a model: TensorFlow's `ConverterError`."""
    from tensorflow.lite.python.convert_phase import ConverterError

    return ConverterError
