"""The update of Adam by one operation for each variable.

Keras computes it by some fifteen operations, each of which passes over all weights, their gradients or their moments.
On a CPU these passes can take as long as the matrix products of a small batch.
"""

import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def fuse(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes Keras's Adam and AdamW update each variable by one operation; leaves other optimizers as they are.

    What they compute, their options and their files stay the same.

    Args:
        optimizer: that of a model, or a `LossScaleOptimizer` of it.

    Reference: Kingma & Ba 2015, Adam, the end of section 2.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # A subclass may compute another update.
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad:
        optimizer._backend_update_step = types.MethodType(_update, optimizer)


def _update(
    optimizer: keras.optimizers.Adam, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: tf.Tensor
) -> None:
    """What `_backend_update_step` of Keras does, with the powers of beta computed once for all variables."""
    variables = [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]
    step = tf.cast(optimizer.iterations + 1, tf.float32)
    powers = [beta**step for beta in (optimizer.beta_1, optimizer.beta_2)]
    pairs = optimizer._all_reduce_sum_gradients(list(zip(gradients, variables, strict=True)))

    def update_one(variable: tf.Variable, gradient: Any, *scalars: tf.Tensor) -> tf.Operation:
        index = optimizer._get_variable_index(variable)
        rate, beta_1_power, beta_2_power = (tf.cast(scalar, variable.dtype) for scalar in scalars)
        return tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[index].value.handle,
            v=optimizer._velocities[index].value.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )

    def update_all(strategy: tf.distribute.Strategy, pairs: Sequence[Any], *scalars: tf.Tensor) -> None:
        for gradient, variable in pairs:
            strategy.extended.update(variable, update_one, args=(gradient, *scalars), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update_all, optimizer._distribution_strategy, pairs, learning_rate, *powers
    )
