"""One step of training: the losses of a batch, their gradients, and the update of the variables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfvae.distribute import replicas
from tfvae.training.batch import Batch
from tfvae.training.fused_adam import fused


class Minimizer(NamedTuple):
    """Who minimises one of a model's losses.

    Attributes:
        variables: the trainable variables that follow the loss's gradient. No two minimizers have one in common.
        optimizer: what moves them; several minimizers may share it, and then take one step of it together.
    """

    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


def gradients(model: Any, batch: Batch) -> tuple[list[list[Any]], dict[str, tf.Tensor]]:
    """Computes the gradients of this replica's parts of the losses.

    Args:
        model: a `tfvae.VariationalModel`.
        batch: what the step computes with.

    Returns:
        For each of the model's minimizers the gradients of its loss, scaled by its optimizer's `scale_loss`, None for a
        variable that has none; and the values of the metrics by name, each [B, ...].
    """
    minimizers = model.minimizers()
    with tf.GradientTape(persistent=len(minimizers) > 1) as tape:
        losses, values = model.batch_losses(batch, training=True)
        pairs = zip(losses, minimizers, strict=True)
        scaled = [minimizer.optimizer.scale_loss(loss) for loss, minimizer in pairs]
    return [tape.gradient(loss, list(each.variables)) for loss, each in zip(scaled, minimizers, strict=True)], values


def update(model: Any, gradients: Sequence[Sequence[Any]], is_alone: bool) -> None:
    """Moves the variables of a model, the same on all replicas.

    Args:
        model: a `tfvae.VariationalModel`.
        gradients: for each of its minimizers those of its loss: see `gradients`.
        is_alone: whether no other replica trains with this one.
    """
    minimizers = model.minimizers()
    for optimizer in optimizers_of(minimizers):
        by_variable = {
            id(variable): gradient
            for minimizer, own in zip(minimizers, gradients, strict=True)
            if minimizer.optimizer is optimizer
            for variable, gradient in zip(minimizer.variables, own, strict=True)
        }
        variables = [variable for variable in model.trainable_variables if id(variable) in by_variable]
        together = [by_variable[id(variable)] for variable in variables]
        if not is_alone:
            together = replicas.reduce_gradients(together, optimizer)
        fused(optimizer).apply(together, variables)


def optimizers_of(minimizers: Sequence[Minimizer]) -> list[keras.optimizers.Optimizer]:
    """The optimizers of some minimizers, each once, in the order of their first."""
    return list({id(each.optimizer): each.optimizer for each in minimizers}.values())
