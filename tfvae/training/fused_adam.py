"""Adam's update as a single operation per variable.

Keras computes the update in about fifteen operations, each of which reads all weights, gradients or moments from
memory. On a CPU these passes can take as long as the matrix products of a small batch.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfvae import private_apis


def fused(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A view of Keras's Adam or AdamW that updates each variable with one operation.

    The view computes the same update and shares the options and the state of the original, which is not changed.

    Args:
        optimizer: an optimizer that is built. Only Adam and AdamW, without amsgrad, have such a view, alone or within a
            `LossScaleOptimizer`; any other optimizer is returned as it is.

    Reference: Kingma & Ba 2015, Adam, the end of section 2.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # The exact type, because a subclass may compute a different update.
    if type(inner) not in (keras.optimizers.Adam, keras.optimizers.AdamW) or inner.amsgrad:
        return optimizer
    updating = private_apis.with_update(inner, _update)
    return updating if inner is optimizer else private_apis.with_inner(optimizer, updating)


def _update(
    optimizer: keras.optimizers.Adam, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: tf.Tensor
) -> None:
    """Updates the variables; the powers of beta are computed once for all of them."""
    variables = [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]
    step = tf.cast(optimizer.iterations + 1, tf.float32)
    powers = [beta**step for beta in (optimizer.beta_1, optimizer.beta_2)]
    moments = private_apis.adam_moments(optimizer, variables)

    def update_one(
        variable: tf.Variable, gradient: Any, first: tf.Variable, second: tf.Variable, *scalars: tf.Tensor
    ) -> tf.Operation:
        rate, beta_1_power, beta_2_power = (tf.cast(scalar, variable.dtype) for scalar in scalars)
        return tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=rate,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )

    def update_all(strategy: tf.distribute.Strategy, pairs: Sequence[Any], *scalars: tf.Tensor) -> None:
        for (gradient, variable), own in zip(pairs, moments, strict=True):
            strategy.extended.update(variable, update_one, args=(gradient, *own, *scalars), group=False)

    pairs = list(zip(gradients, variables, strict=True))
    private_apis.update_on_all_replicas(optimizer, update_all, pairs, learning_rate, *powers)
