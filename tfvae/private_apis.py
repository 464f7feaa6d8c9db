"""The private names of Keras, TensorFlow and TFP that tfvae depends on, each behind one function or hook.

A new release of these libraries may remove such a name. `tests/test_private_apis.py` has a test for each that reports
what would break, and pyproject.toml only allows versions that were tested. Private modules are imported inside the
functions that use them, so that a module that was removed breaks nothing else.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

_Function = TypeVar("_Function", bound=Any)
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
        # `compile(jit_compile="auto")` stores what this returns. 0 is falsy, like False, but marks, even in a saved
        # model, that the user left the choice open.
        return super()._resolve_auto_jit_compile() or 0


def leaves_jit_compile_open(model: keras.Model) -> bool:
    """Whether the user's call of `compile` left it open whether XLA compiles a `HookedModel`."""
    return type(model.jit_compile) is int


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers within it."""
    return list(layer._flatten_layers())


def replace_layer(layer: keras.layers.Layer, name: str, new: keras.layers.Layer) -> None:
    """Sets an attribute of a built layer to a layer, which takes the place of the old one, if any, among the weights.

    Keras would keep the weights of the old one among those of the outer layer, and refuses new layers once it is built.
    """
    old = getattr(layer, name)
    if old is not None:
        layer._tracker.replace_tracked_value("layers", old, new)
    layer._tracker.unlock()
    try:
        setattr(layer, name, new)
    finally:
        layer._tracker.lock()


def made_by(tensor: keras.KerasTensor) -> tuple[Any, list[keras.KerasTensor]]:
    """The layer or operation of a functional model that a symbolic tensor comes from, and what it was applied to."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index].input_tensors


def functional(layer: Any) -> keras.Model | None:
    """The functional model that a layer is, or, if it is sequential and built, consists of; None for other layers."""
    model = getattr(layer, "_functional", layer)
    return model if isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth") else None


def calls_of(model: keras.Model) -> Iterator[tuple[Any, Any, list[keras.KerasTensor]]]:
    """The calls of layers and operations that a functional model is made of, each after those that it depends on.

    Yields:
        The layer or operation; its symbolic arguments, whose `fill_in` replaces the tensors of the graph by those that
        a dictionary has for their ids; and the tensors that it made.
    """
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield node.operation, node.arguments, node.outputs


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable variables of a layer itself, without those of the layers within it."""
    return layer._trainable_variables


def has_added_losses(layer: keras.layers.Layer) -> bool:
    """Whether a layer itself, not one within it, has called `add_loss` in the current computation."""
    return bool(layer._losses)


def without_tracing_warning(function: _Function) -> _Function:
    """The `tf.function`, which no longer warns of tracing.

    TensorFlow counts the traces of all functions made from one Python function together, so that it takes several
    models, trained one after another, for one function that is traced again and again.
    """
    function._omit_frequent_tracing_warning = True
    return function


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was made, or None; the public `distribute_strategy` is never None."""
    return model._distribute_strategy


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Makes `fit` start at an epoch, regardless of its own `initial_epoch`; None undoes this."""
    model._initial_epoch = epoch


def set_steps_per_execution(iterator: Any, steps: int) -> None:
    """Sets how many steps Keras's iterator over the executions of an epoch counts for each execution."""
    iterator.steps_per_execution = steps


def is_validation_of_fit(arguments: dict[str, Any]) -> bool:
    """Whether the arguments of `evaluate` show that `fit` called it, with validation data that were already checked."""
    return bool(arguments.get("_use_cached_eval_dataset", False))


def input_datasets(dataset: tf.data.Dataset) -> Sequence[tf.data.Dataset]:
    """The datasets that a dataset was made from."""
    return dataset._inputs()


def profiles_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback is a `keras.callbacks.TensorBoard` that profiles batches."""
    return getattr(callback, "_stop_batch", 0) > 0


def with_update(optimizer: _Optimizer, update: Callable[..., None]) -> _Optimizer:
    """A view of an optimizer that shares its state but computes its update differently; the original is not changed.

    Args:
        optimizer: an optimizer that is built.
        update: the new update, a function of the optimizer, the gradients, the variables and the learning rate.
    """
    kind = type(type(optimizer).__name__, (type(optimizer),), {"_backend_update_step": update})
    view: Any = object.__new__(kind)
    # One shared dictionary, so that an attribute set on either is set on both.
    object.__setattr__(view, "__dict__", optimizer.__dict__)
    return view


def with_inner(optimizer: _Optimizer, inner: keras.optimizers.Optimizer) -> _Optimizer:
    """A view of a `LossScaleOptimizer` that has the same state but wraps another inner optimizer."""
    view = object.__new__(type(optimizer))
    object.__setattr__(view, "__dict__", {**optimizer.__dict__, "inner_optimizer": inner})
    return view


def adam_moments(
    optimizer: keras.optimizers.Adam, variables: Sequence[tf.Variable]
) -> list[tuple[tf.Variable, tf.Variable]]:
    """The first and second moments that Adam keeps for each of the given variables."""
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    return [(optimizer._momentums[index].value, optimizer._velocities[index].value) for index in indices]


def averages(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Variables with the averages of their values that an optimizer with `use_ema=True`, which is built, keeps."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return [
        (variable, inner._model_variables_moving_average[inner._get_variable_index(variable)]) for variable in variables
    ]


def is_built_for(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether an optimizer that is built can update a variable: its `_trainable_variables_indices` has it."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner._var_key(variable) in inner._trainable_variables_indices


def update_on_all_replicas(
    optimizer: keras.optimizers.Optimizer, update: Callable[..., None], pairs: Sequence[Any], *scalars: tf.Tensor
) -> None:
    """Sums gradients over the replicas and updates the variables on all replicas, as Keras's optimizers do.

    Args:
        optimizer: the optimizer.
        update: a function of the strategy, the pairs of a summed gradient and its variable, and the scalars.
        pairs: this replica's gradients, each paired with its variable.
        scalars: further arguments of the update.
    """
    pairs = optimizer._all_reduce_sum_gradients(pairs)
    tf.__internal__.distribute.interim.maybe_merge_call(update, optimizer._distribution_strategy, pairs, *scalars)


def is_saving_hdf5() -> bool:
    """Whether Keras is saving a whole model as HDF5: its `use_legacy_config`."""
    from keras.src.backend.common import global_state

    return bool(global_state.get_global_attribute("use_legacy_config", False))


def weights_file(model: keras.Model) -> memoryview:
    """The content of the file that `model.save_weights` would write: Keras's `H5IOStore` and `_save_state`."""
    from keras.src.saving import saving_lib

    content = io.BytesIO()
    store = saving_lib.H5IOStore(content, mode="w")
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())
    store.close()
    return content.getbuffer()


def worker_of(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> tuple[int, int]:
    """The index of this worker, and the number of workers: TensorFlow's `_id_in_cluster` and `_num_workers`.

    The public cluster resolver reads TF_CONFIG at every call: if the variable were unset later, every worker would take
    itself for the chief.
    """
    return strategy.extended._id_in_cluster, strategy.extended._num_workers


def limit_wait_for_workers(tasks: dict[str, int], seconds: float) -> None:
    """Makes the next `MultiWorkerMirroredStrategy` wait for its workers for a limited time, and name who is missing.

    By itself it waits for an hour and names nobody. Sets TensorFlow's coordination service, which has no public name,
    before the strategy does.

    Args:
        tasks: the number of tasks of each job, first the job whose first task leads.
        seconds: how long to wait.
    """
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    current = context.context()
    current.configure_coordination_service(
        "standalone",
        service_leader=f"/job:{next(iter(tasks))}/replica:0/task:0",
        cluster_register_timeout_in_ms=max(round(1000 * seconds), 1),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=count) for job, count in tasks.items()
        ],
    )
    current.coordination_service.cluster_register_with_barrier = True


def is_tensorflow_in_use() -> bool:
    """Whether TensorFlow has set up its devices, which can then no longer be changed.

    Reads `_context_handle` of TensorFlow's eager context.
    """
    from tensorflow.python.eager import context

    current = context.context_safe()
    return current is not None and current._context_handle is not None


def is_compiled_by_xla(graph: tf.Graph) -> bool:
    """Whether XLA compiles a graph, or a graph that encloses it: TensorFlow's `GraphOrParentsInXlaContext`."""
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(graph)


def joint_bijector(joint: Any, of_distribution: Callable[[Any], Any]) -> Any:
    """The bijector to the support of a joint distribution, pinned or not, made of those of its variables.

    It is `joint.experimental_default_event_space_bijector()`, but that a function gives the bijector of a variable.

    Args:
        joint: the joint distribution.
        of_distribution: maps the distribution of a variable to its bijector.
    """
    from tensorflow_probability.python.distributions import joint_distribution
    from tensorflow_probability.python.experimental.distributions import joint_distribution_pinned

    if not joint.use_vectorized_map:
        kind = joint_distribution._DefaultJointBijector
    elif isinstance(joint, joint_distribution_pinned.JointDistributionPinned):
        kind = joint_distribution_pinned._DefaultJointBijectorAutoBatchedWithPins
    else:
        kind = joint_distribution._DefaultJointBijectorAutoBatched
    return kind(joint, bijector_fn=of_distribution)


def names_of(joint: Any) -> list[str]:
    """The names of the variables of a joint distribution: TFP's `JointDistribution._flat_resolve_names`.

    The variables of a joint distribution that is made of a list have no other names.
    """
    return joint._flat_resolve_names()


def converter_error() -> type[Exception]:
    """What `tf.lite.TFLiteConverter` raises if it cannot convert a model: TensorFlow's `ConverterError`."""
    from tensorflow.lite.python.convert_phase import ConverterError

    return ConverterError
