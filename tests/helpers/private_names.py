"""The private names of other libraries that tfvae uses, each with what has it and what needs it."""

import importlib

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import private_apis

tfd = tfp.distributions


def small_model():
    return keras.Sequential([keras.Input((2,)), keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])])


def built_adam():
    optimizer = keras.optimizers.Adam()
    optimizer.build([keras.Variable([1.0])])
    return optimizer


def averaging_adam():
    optimizer = keras.optimizers.Adam(use_ema=True)
    optimizer.build([keras.Variable([1.0])])
    return optimizer


def module(name, package="tensorflow.python"):
    """Makes a function that imports a private module, or gives None if the module is gone too."""

    def find():
        try:
            return importlib.import_module(f"{package}.{name}")
        except ImportError:
            return None

    return find


# The library, the object that has the name, the name, and the part of tfvae that needs it.
USES = [
    (
        "Keras",
        small_model,
        "_maybe_symbolic_build",
        "`HookedModel`: models and optimizers that are built before a step",
    ),
    ("Keras", small_model, "_resolve_auto_jit_compile", "`HookedModel`: whether `compile` left XLA open"),
    ("Keras", lambda: private_apis.HookedModel, "_resolve_auto_jit_compile", "`leaves_jit_compile_open`: the plan"),
    (
        "Keras",
        averaging_adam,
        "_model_variables_moving_average",
        "`averages`: averages of the weights in their place",
    ),
    (
        "Keras",
        lambda: keras.layers.Dense(1),
        "_trainable_variables",
        "`own_trainable_variables`: the cost of a step of layers of a user's own",
    ),
    ("Keras", lambda: keras.layers.Dense(1), "_losses", "`has_added_losses`: losses that `Recomputed` would lose"),
    (
        "Keras",
        module("saving.saving_lib", "keras.src"),
        "H5IOStore",
        "`weights_file`: weights that HDF5 does not write to a full disk",
    ),
    (
        "Keras",
        module("saving.saving_lib", "keras.src"),
        "_save_state",
        "`weights_file`: weights that HDF5 does not write to a full disk",
    ),
    (
        "Keras",
        module("backend.common.global_state", "keras.src"),
        "get_global_attribute",
        "`is_saving_hdf5`: a file in HDF5 that is refused",
    ),
    ("Keras", built_adam, "_var_key", "`is_built_for`: weights that were unfrozen"),
    ("Keras", built_adam, "_trainable_variables_indices", "`is_built_for`: weights that were unfrozen"),
    ("Keras", small_model, "_initial_epoch", "`set_initial_epoch`: a training that goes on where it was cut"),
    (
        "Keras",
        lambda: module("trainers.epoch_iterator", "keras.src")().EpochIterator(x=np.zeros([2, 1])),
        "steps_per_execution",
        "`set_steps_per_execution`: several steps of training in one execution",
    ),
    (
        "TensorFlow",
        lambda: tf.data.Dataset.range(1),
        "_inputs",
        "`input_datasets`: the warning of an order that cannot be resumed",
    ),
    (
        "Keras",
        lambda: keras.callbacks.TensorBoard(profile_batch=2),
        "_stop_batch",
        "`profiles_batches`: how many steps run between two profiles",
    ),
    ("Keras", keras.optimizers.Adam, "_backend_update_step", "`with_update`: the update of Adam by one operation"),
    (
        "Keras",
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        "inner_optimizer",
        "`with_inner`: the update of Adam by one operation in mixed precision",
    ),
    ("Keras", built_adam, "_get_variable_index", "`adam_moments`: the update of Adam by one operation"),
    ("Keras", built_adam, "_momentums", "`adam_moments`: the update of Adam by one operation"),
    ("Keras", built_adam, "_velocities", "`adam_moments`: the update of Adam by one operation"),
    ("Keras", built_adam, "_all_reduce_sum_gradients", "`update_on_all_replicas`: the update of Adam on replicas"),
    ("Keras", built_adam, "_distribution_strategy", "`update_on_all_replicas`: the update of Adam on replicas"),
    (
        "TensorFlow",
        lambda: tf.__internal__.distribute.interim,
        "maybe_merge_call",
        "`update_on_all_replicas`: the update of Adam on replicas",
    ),
    (
        "TensorFlow",
        lambda: tf.function(lambda: 0),
        "_omit_frequent_tracing_warning",
        "`without_tracing_warning`: no warning of many models that are trained one after another",
    ),
    ("Keras", small_model, "_flatten_layers", "`layers_of`: the cost of a step, and moving statistics over replicas"),
    ("Keras", small_model, "_tracker", "`replace_layer`: a model that is given another prior"),
    ("Keras", lambda: small_model().outputs[0], "_keras_history", "`made_by`: the activation that a decoder ends in"),
    (
        "Keras",
        lambda: small_model()._functional,
        "_nodes_by_depth",
        "`functional`: whether a layer is a functional model",
    ),
    (
        "Keras",
        lambda: small_model()._functional,
        "_nodes_by_depth",
        "`calls_of`: a network of sequences one step at a time",
    ),
    ("Keras", small_model, "_functional", "`functional`: the model that a sequential one consists of"),
    ("Keras", lambda: keras.layers.Dense(1), "_inbound_nodes", "`made_by`: the activation that a decoder ends in"),
    ("Keras", small_model, "_functional", "`functional`: a network that is run step by step"),
    (
        "Keras",
        lambda: small_model()._functional,
        "_nodes_by_depth",
        "`calls_of`: a network that is run step by step",
    ),
    ("Keras", small_model, "_distribute_strategy", "`strategy_of`: whether XLA may compile a log-likelihood"),
    (
        "TensorFlow",
        lambda: tf.distribute.MultiWorkerMirroredStrategy().extended,
        "_id_in_cluster",
        "`worker_of`: which worker writes files, and reads which shards",
    ),
    (
        "TensorFlow",
        lambda: tf.distribute.MultiWorkerMirroredStrategy().extended,
        "_num_workers",
        "`worker_of`: how many workers divide the data",
    ),
    (
        "TensorFlow",
        module("eager.context"),
        "context_safe",
        "`is_tensorflow_in_use`: `tfvae.strategy` with several workers",
    ),
    (
        "TensorFlow",
        lambda: module("eager.context")().context(),
        "_context_handle",
        "`is_tensorflow_in_use`: `tfvae.strategy` with several workers",
    ),
    (
        "TensorFlow",
        lambda: module("eager.context")().context(),
        "configure_coordination_service",
        "`limit_wait_for_workers`: `tfvae.strategy` with several workers",
    ),
    (
        "TensorFlow",
        lambda: module("xla.tsl.protobuf.coordination_config_pb2", "tensorflow.compiler")().CoordinationServiceConfig(),
        "cluster_register_with_barrier",
        "`limit_wait_for_workers`: `tfvae.strategy` with several workers",
    ),
    (
        "TensorFlow",
        module("ops.control_flow_util"),
        "GraphOrParentsInXlaContext",
        "`is_compiled_by_xla`: the fast forms of `Bernoulli` and of normal draws",
    ),
    (
        "TFP",
        lambda: tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)]),
        "_flat_resolve_names",
        "`names_of`: latent variables of a joint distribution that is made of a list",
    ),
    *(
        (
            "TFP",
            module(path, "tensorflow_probability.python"),
            name,
            "`joint_bijector`: the constraints of a joint distribution with a Dirichlet",
        )
        for path, name in (
            ("distributions.joint_distribution", "_DefaultJointBijector"),
            ("distributions.joint_distribution", "_DefaultJointBijectorAutoBatched"),
            ("experimental.distributions.joint_distribution_pinned", "_DefaultJointBijectorAutoBatchedWithPins"),
        )
    ),
    (
        "TensorFlow",
        module("convert_phase", "tensorflow.lite.python"),
        "ConverterError",
        "`converter_error`: why `tfvae.export.tflite` refuses",
    ),
]
