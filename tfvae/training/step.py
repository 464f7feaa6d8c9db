"""One training step: the losses of a batch, their gradients, and the update of the variables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfvae import checks, private_apis
from tfvae.distribute import replicas
from tfvae.training.batch import Batch
from tfvae.training.fused_adam import fused


class Minimizer(NamedTuple):
    """The variables over which one of a model's losses is minimised, and the optimizer that updates them.

    Attributes:
        variables: trainable variables, none of which belongs to another minimizer.
        optimizer: the optimizer; minimizers that share one are updated together, in a single step of it.
    """

    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


def gradients(model: Any, batch: Batch) -> tuple[list[list[Any]], dict[str, tf.Tensor]]:
    """Computes the gradients of this replica's share of the losses.

    Args:
        model: a `tfvae.VariationalModel`.
        batch: the data and the seed of the step.

    Returns:
        For each of the model's minimizers, the gradients of its loss with respect to its variables, scaled by the
        optimizer's `scale_loss` and None for a variable on which the loss does not depend; and the values of the
        metrics by name, each [B, ...].
    """
    minimizers = model.minimizers()
    with tf.GradientTape(persistent=len(minimizers) > 1) as tape:
        losses, values = model.batch_losses(batch, training=True)
        pairs = zip(losses, minimizers, strict=True)
        scaled = [minimizer.optimizer.scale_loss(loss) for loss, minimizer in pairs]
    return [tape.gradient(loss, list(each.variables)) for loss, each in zip(scaled, minimizers, strict=True)], values


def update(model: Any, gradients: Sequence[Sequence[Any]], is_alone: bool) -> dict[str, tf.Tensor]:
    """Updates the variables of a model in the same way on all replicas.

    Args:
        model: a `tfvae.VariationalModel`.
        gradients: the gradients for each of its minimizers, as the function `gradients` returns them.
        is_alone: whether this is the only replica.

    Returns:
        Metrics of the step, scalars by name: with a `max_gradient_norm`, `skipped`: the share of the optimizers that
        were given zeros.
    """
    minimizers, skipped = model.minimizers(), []
    for optimizer in optimizers_of(minimizers):
        by_variable = {
            id(variable): gradient
            for minimizer, own in zip(minimizers, gradients, strict=True)
            if minimizer.optimizer is optimizer
            for variable, gradient in zip(minimizer.variables, own, strict=True)
        }
        variables = [variable for variable in model.trainable_variables if id(variable) in by_variable]
        together = [by_variable[id(variable)] for variable in variables]
        if model.max_gradient_norm is not None:
            together, is_skipped = replicas.without_long(together, optimizer, model.max_gradient_norm)
            skipped.append(tf.cast(is_skipped, tf.float32))
        if not is_alone:
            together = replicas.reduce_gradients(together, optimizer)
        fused(optimizer).apply(together, variables)
    return {"skipped": tf.reduce_mean(skipped)} if skipped else {}


def check(minimizers: Sequence[Minimizer], trainable_variables: Sequence[keras.Variable]) -> None:
    """Checks that every variable of some minimizers is trained, by one of them.

    Args:
        minimizers: the minimizers of a model.
        trainable_variables: the trainable variables of that model.

    Raises:
        ValueError: a variable is not trainable, or belongs to two minimizers.
    """
    left = {id(variable) for variable in trainable_variables}
    for variable in (variable for each in minimizers for variable in each.variables):
        if id(variable) not in left:
            raise ValueError(
                "`minimizers` must have trainable variables of the model, each in one of them. Received: "
                f"{variable.path}, which is not trainable, not the model's or there twice"
            )
        left.remove(id(variable))


def check_optimizers(minimizers: Sequence[Minimizer]) -> None:
    """Raises ValueError if an optimizer, which is built, was built for fewer variables than it has to update.

    Args:
        minimizers: the minimizers of a model.
    """
    pairs = [(each.optimizer, variable) for each in minimizers for variable in each.variables]
    unknown = [variable.path for optimizer, variable in pairs if not private_apis.is_built_for(optimizer, variable)]
    if unknown:
        raise ValueError(
            "Call `compile()` again, with a new optimizer, after making more weights trainable: the present one was "
            f"built without them. Received: the weights {checks.shown_names(unknown)}"
        )


def optimizers_of(minimizers: Sequence[Minimizer]) -> list[keras.optimizers.Optimizer]:
    """The distinct optimizers of the minimizers, in the order in which they first occur."""
    return list({id(each.optimizer): each.optimizer for each in minimizers}.values())
