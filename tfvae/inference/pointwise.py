"""The log-likelihood of each observation by itself, which is what leaving one out needs."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import chunks, graphs
from tfvae.inference.latents import variables

tfd = tfp.distributions

# The most draws times observations that are evaluated at a time.
CHUNK_ELEMENTS = 2**21


def log_prob_of_each(distribution: tfd.Distribution, value: tf.Tensor) -> tf.Tensor:
    """Evaluates the log density of each independent part of a value, in nats.

    Args:
        distribution: the distribution; axes over which `tfd.Independent`, `tfd.Sample` and
            `tfd.MultivariateNormalDiag` sum are kept.
        value: the value, with the axes of the batch and of the event.

    Returns:
        The log densities, with an axis for each axis of independent parts.
    """
    if isinstance(distribution, tfd.Independent):
        return log_prob_of_each(distribution.distribution, value)
    if isinstance(distribution, tfd.Sample):
        # A value has the axes of the batch before those of the sample, for which `log_prob` takes the other order.
        batch = distribution.distribution.batch_shape.rank
        count = distribution.event_shape.rank - distribution.distribution.event_shape.rank
        after = list(range(batch + count, value.shape.rank))
        swapped = tf.transpose(value, [*range(batch, batch + count), *range(batch), *after])
        found = log_prob_of_each(distribution.distribution, swapped)
        rest = list(range(batch + count, found.shape.rank))
        return tf.transpose(found, [*range(count, count + batch), *range(count), *rest])
    if isinstance(distribution, tfd.MultivariateNormalDiag):
        return tfd.Normal(distribution.mean(), distribution.stddev()).log_prob(value)
    return distribution.log_prob(value)


def of_pins(model: Any) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Makes a function that evaluates the log-likelihood of each element of the pinned variables.

    Args:
        model: a joint distribution whose observations are pinned.

    Returns:
        A function from latent variables by name, each [S, ...], to log densities by the names of the pinned variables,
        each [S, ...] with the axes of their independent elements.
    """
    size = max(math.prod(tf.convert_to_tensor(value).shape) for value in model.pins.values())

    def of_one(latents: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = distributions_given(model.distribution, {**latents, **model.pins})
        return {name: log_prob_of_each(given[name], pin) for name, pin in model.pins.items()}

    return of_draws(of_one, size)


def of_draws(
    of_one: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]], size: int
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Makes a function of S draws from a function of one.

    Args:
        of_one: maps one value of each latent variable to tensors by name.
        size: the number of elements of its largest tensor.
    """

    # One draw at a time for the joint distribution, so that it has no batch, of which the kinds of joint distributions
    # differ in what they do with it. As a loop, because TensorFlow vectorises some ops wrongly, such as tf.roll.
    def of_some(latents: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        specs = {name: tf.TensorSpec(value.shape[1:], value.dtype) for name, value in latents.items()}
        graph = graphs.graph(of_one).get_concrete_function(specs)
        signature = tf.nest.map_structure(lambda out: tf.TensorSpec(out.shape, out.dtype), graph.structured_outputs)
        return tf.map_fn(of_one, latents, fn_output_signature=signature)

    return in_chunks(of_some, size)


def in_chunks(
    function: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]], size: int
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Makes a function of S draws that evaluates another, as a graph, for a few of them at a time.

    Args:
        function: maps latent variables by name, each [S, ...], to tensors by name, each [S, ...].
        size: the number of elements that it needs for a draw.
    """
    graph = graphs.graph(function, reduce_retracing=True)

    def of_all(latents: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rows = len(next(iter(latents.values())))
        parts = [
            graph({name: tf.convert_to_tensor(value[part]) for name, value in latents.items()})
            for part in chunks.slices(rows, chunks.rows_within(CHUNK_ELEMENTS, size))
        ]
        return {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}

    return of_all


def distributions_given(joint: tfd.JointDistribution, values: Mapping[str, Any]) -> dict[str, tfd.Distribution]:
    """The distributions of the variables of a joint distribution, by name, given a value of each."""
    names = list(variables(joint))
    dtypes = dict(zip(names, tf.nest.flatten(joint.dtype), strict=True))
    flat = [tf.cast(values[name], dtypes[name]) for name in names]
    # The seed has no effect, for there is nothing left to draw, but TFP wants one.
    found, _ = joint.sample_distributions(value=tf.nest.pack_sequence_as(joint.dtype, flat), seed=tf.constant([0, 0]))
    return dict(zip(names, tf.nest.flatten(found), strict=True))
