"""What tfvae takes of Keras, TensorFlow and TFP that these do not promise to keep, one function for each.

There is no public way to any of it. A new version of a library may rename it: `tests/test_private_apis.py` says which.
Private modules are imported where they are used, so that one that is gone takes no more with it than it must.
"""

from typing import Any

import keras
import tensorflow as tf


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers within it: Keras's `Layer._flatten_layers`."""
    return layer._flatten_layers()


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was made, or None: Keras's `Model._distribute_strategy`.

    `Model.distribute_strategy`, which is public, gives one in any case.
    """
    return model._distribute_strategy


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
