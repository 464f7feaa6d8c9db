"""Networks that are trained beside a model, to tell its draws from others, and their own optimizers."""

from typing import Any

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.distribute import replicas
from tfvae.models import ownership, parts, suitability
from tfvae.objectives import CriticObjective


def checked_optimizer(name: str, optimizer: Any, model: keras.Model) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a network beside the model, with a scaled loss where `compile` would scale that of its.

    Args:
        name: the argument's name.
        optimizer: its value.
        model: the model.

    Raises:
        ValueError: it is no optimizer, updates another network, or was not made in the scope of the strategy.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"`{name}` must be a Keras optimizer. Received: {name}={checks.shown(optimizer)}")
    if getattr(optimizer, "inner_optimizer", optimizer).built:
        raise ValueError(
            f"`{name}` must be an optimizer that nothing else has, neither another model nor `compile`: make a new one "
            f"for each model. Received: {name}={type(optimizer).__name__}(...)"
        )
    replicas.check_scope(name, optimizer.variables, tf.distribute.get_strategy())
    if model.dtype_policy.name == "mixed_float16" and not hasattr(optimizer, "inner_optimizer"):
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def build(model: keras.Model, latent_dim: int) -> None:
    """Builds the critic of a model's objective, if it has one, and its optimizer.

    Args:
        model: the model.
        latent_dim: L, the dimension of z.

    Raises:
        ValueError: the critic takes something else than z, or gives something else than one logit.
    """
    if not isinstance(model.objective, CriticObjective):
        return
    critic = model.critic
    declared = parts.input_shapes(critic)
    if declared is not None and [tuple(shape[1:]) for shape in declared] != [(latent_dim,)]:
        raise ValueError(
            f"`critic` must take z of shape [B, {latent_dim}], as latent_dim={latent_dim} says. Received: a critic "
            f"whose inputs have the shapes {[list(shape) for shape in declared]}"
        )
    logits = critic(keras.KerasTensor((None, latent_dim)))
    parts.freeze_within(critic)
    check_logits("critic", logits, "z")
    suitability.check_logits("critic", critic)
    ownership.refuse_shared("objective", critic, model, "its critic and its optimizer")
    ownership.claim(critic, model)
    # At once, so that every file has its state.
    model.critic_optimizer.build(critic.trainable_variables)


def check_logits(name: str, logits: Any, of: str) -> None:
    """Raises ValueError unless symbolic logits have the shape [B, 1].

    Args:
        name: the name of the argument through which their network was passed.
        logits: the logits.
        of: what they are of.
    """
    if not isinstance(logits, keras.KerasTensor) or tuple(logits.shape[1:]) != (1,):
        raise ValueError(
            f"`{name}` must give one logit [B, 1] for each {of}: let it end in keras.layers.Dense(1). Received: a "
            f"{name} that gives {parts.describe(logits)}"
        )
