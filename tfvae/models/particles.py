"""Sequential Monte Carlo for models with latent variables at each step: particles, which are weighted draws of z_t.

At each step every particle draws z_t ~ q(z_t|...), and is weighted by p(x_t|z_t) p(z_t|z_{t-1}) / q(z_t|...). The mean
of the weights estimates p(x_t|x_1, ..., x_{t-1}), so that their product is an unbiased estimate of p(x). Where few
particles have most of the weight they are resampled.

Reference: Doucet & Johansen 2011, A Tutorial on Particle Filtering and Smoothing: Fifteen Years Later, section 3.5;
Douc et al. 2005, Comparison of Resampling Schemes for Particle Filtering, section 2.4, for systematic resampling.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, seeds
from tfvae.models import over_time
from tfvae.models.state_space import State, StateSpace, noise

# The most elements of one tensor (16 MB).
_ELEMENTS = 2**22
# The most steps that are decoded at a time, because a decoder may have many hidden units.
STEPS = 2**18


class Filtered(NamedTuple):
    """What is known of z_t at each step from x up to this step.

    Attributes:
        mean: the mean of p(z_t|x_1, ..., x_t) [N, T, L]; NaN for steps of padding.
        stddev: its standard deviation [N, T, L].
        log_likelihood: the estimate of log p(x) [N], in nats.
        effective_size: the number of equally weighted draws of z_t that the particles are worth [N, T]; NaN, as the
            others, for steps of padding.
    """

    mean: np.ndarray
    stddev: np.ndarray
    log_likelihood: np.ndarray
    effective_size: np.ndarray


class Particles(NamedTuple):
    """K particles for each of B sequences, K * B rows, after their last steps.

    Attributes:
        state: their states.
        log_weights: the logarithms of their weights [K, B], which sum to 1.
        of_steps: log p(x_t|x_1, ..., x_{t-1}) [B, T], and the mean and standard deviation [B, T, L] and effective size
            [B, T] of z_t; then, if they are asked for, each z_t [K * B, T, L] with what was remembered before it, and
            the number of the particle that it comes from [K, B, T].
    """

    state: State
    log_weights: tf.Tensor
    of_steps: tuple[tf.Tensor, ...]


def filtered(model: StateSpace, x: Any, num_samples: int, batch_size: int, seed: int | None) -> Iterator[Filtered]:
    """Runs the particles along each batch of sequences: see `SequentialVAE.filter` for the arguments."""
    for _, particles in of_batches(model, x, num_samples, batch_size, model._seed(seed)):
        log_likelihood, mean, stddev, effective_size = (each.numpy() for each in particles.of_steps)
        yield Filtered(mean, stddev, np.asarray(log_likelihood.sum(axis=1, dtype=np.float64)), effective_size)


def of_batches(
    model: StateSpace,
    x: Any,
    num_samples: int,
    batch_size: int,
    seed: tf.Tensor,
    has_paths: bool = False,
    more_steps: int = 0,
) -> Iterator[tuple[tf.Tensor, Particles]]:
    """The particles after each batch of sequences, beside the batch.

    Args:
        model: a `SequentialVAE`.
        x: data as for `fit`.
        num_samples: K.
        batch_size: the most examples in a batch.
        seed: a stateless seed.
        has_paths: whether the particles of all steps are kept.
        more_steps: how many steps the caller draws after them, for as many particles.
    """
    num_samples = checks.positive_integer("num_samples", num_samples, 2)
    batch_size = checks.positive_integer("batch_size", batch_size)

    def run(batch: tf.Tensor, seed: tf.Tensor, num_samples: int, has_paths: bool) -> Particles:
        return along(model, batch, seed, num_samples, has_paths)

    for whole, whole_seed in seeds.for_each(model._checked_batches(x, batch_size), seed):
        steps = max(1, more_steps, whole.shape[1] if has_paths else 1)
        width = max(model.latent_dim, math.prod(model.likelihood.parameter_shape(model.event_shape[1:])))
        rows = chunks.rows_within(_ELEMENTS, num_samples * steps * width)
        for part, part_seed in seeds.for_slices(len(whole), rows, whole_seed):
            batch = whole[part]
            yield batch, model._run(run, batch, part_seed, num_samples=num_samples, has_paths=has_paths)


def along(model: StateSpace, x: tf.Tensor, seed: tf.Tensor, num_samples: int, has_paths: bool = False) -> Particles:
    """Runs K particles along each of the sequences x [B, T, ...].

    Args:
        model: a `SequentialVAE`.
        x: the data.
        seed: a stateless seed.
        num_samples: K.
        has_paths: see `of_batches`.
    """
    batch, number = tf.unstack(tf.shape(x)[:2])
    rows = num_samples * batch
    own = tf.range(num_samples)[:, tf.newaxis] * tf.ones([1, batch], tf.int32)
    uniform = tf.fill([num_samples, batch], -math.log(num_samples))
    counts = over_time.is_step(x) if model.likelihood.allows_missing else tf.ones([batch, number], tf.bool)
    prior = model.prior.distribution()

    def tiled(each: tf.Tensor) -> tf.Tensor:
        return tf.tile(each, [num_samples] + [1] * (len(each.shape) - 1))

    def step(
        carry: tuple[tf.Tensor, ...],
        features: tf.Tensor,
        x: tf.Tensor,
        counts: tf.Tensor,
        is_first: tf.Tensor,
        seeds: tf.Tensor,
    ) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
        state, log_weights = carry[:-1], carry[-1]
        few = tf.reduce_logsumexp(2 * log_weights, axis=0) > math.log(2 / num_samples)
        chosen = few & counts
        origin = tf.where(chosen, _systematic(log_weights, seeds[0, 0]), own)
        log_weights = tf.where(chosen, uniform, log_weights)
        places = tf.reshape(origin * batch + tf.range(batch), [-1])
        state = tuple(tf.gather(each, places) for each in state)

        memory = model.read(state)
        parameters = model.q_of(tiled(features), state[0], memory)
        z, log_q = model.posterior.sample_and_log_prob_from(parameters, noise([rows, model.latent_dim], seeds[0, 1]))
        log_p = model.conditional.distribution(model.p_of(state[0], memory)).log_prob(z)
        log_p = tf.where(is_first, prior.log_prob(z), log_p)
        of_x = model.x_of(z, memory)
        log_x = model.likelihood.log_prob(x, tf.reshape(of_x, [num_samples, batch, *of_x.shape[1:]]))
        weighted = log_weights + log_x + tf.reshape(log_p - log_q, [num_samples, batch])
        total = tf.reduce_logsumexp(weighted, axis=0)

        after = model.after(state, tiled(x), z)
        is_real = tiled(counts)[:, tf.newaxis]
        state = tuple(tf.where(is_real, new, old) for new, old in zip(after, state, strict=True))
        log_weights = tf.where(counts, weighted - total, log_weights)
        weights = tf.exp(log_weights)
        by_particle = tf.reshape(z, [num_samples, batch, model.latent_dim])
        mean = tf.reduce_sum(weights[..., tf.newaxis] * by_particle, axis=0)
        variance = tf.reduce_sum(weights[..., tf.newaxis] * (by_particle - mean) ** 2, axis=0)
        outputs = [tf.where(counts, total, 0.0)]
        real = counts[:, tf.newaxis]
        outputs += [tf.where(real, mean, math.nan), tf.where(real, tf.sqrt(variance), math.nan)]
        outputs += [tf.where(counts, 1 / tf.reduce_sum(weights**2, axis=0), math.nan)]
        if has_paths:
            # By rows, which are the first axis of what a loop gives.
            outputs += [z, *([] if memory is None else [memory]), tf.reshape(origin, [-1])]
        return (*state, log_weights), tuple(outputs)

    start = model.initial(rows)
    of_steps = tf.random.experimental.stateless_split(seed, 2 * number)
    elements = [
        model.features_of(x),
        x,
        counts,
        tf.range(number)[tf.newaxis] == 0,
        tf.reshape(of_steps, [1, number, 2, 2]),
    ]
    dtypes = [tf.float32] * 4
    if has_paths:
        dtypes += [tf.float32, *([] if model.memory is None else [start[1].dtype]), tf.int32]
    end, outputs = over_time.scan(step, (*start, uniform), elements, dtypes)
    return Particles(end[:-1], end[-1], outputs)


def resampled(particles: Particles, number: int, seed: tf.Tensor) -> State:
    """The states of particles drawn by their weights: `number` for each sequence, in rows [number * B, ...]."""
    log_weights = tf.transpose(particles.log_weights)
    chosen = tf.random.stateless_categorical(log_weights, number, seed, dtype=tf.int32)
    batch = tf.shape(log_weights)[0]
    places = tf.reshape(tf.transpose(chosen) * batch + tf.range(batch), [-1])
    return tuple(tf.gather(each, places) for each in particles.state)


def drawn(
    model: StateSpace, state: State, length: int, seed: tf.Tensor, first: tf.Tensor | None = None
) -> tuple[tf.Tensor, np.ndarray]:
    """Draws the steps after a state: the parameters of p(x_t|z_t) and draws of x_t, both [R, T, ...].

    Args:
        model: a `SequentialVAE`.
        state: the state of R rows.
        length: T, the number of steps.
        seed: a stateless seed.
        first: see `StateSpace.continued`.
    """
    of_z, of_memory, of_x = tf.unstack(tf.random.experimental.stateless_split(seed, 3))

    def draw(parameters: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return model.likelihood.distribution(parameters).sample(seed=seed[0])

    def continued(state: State, of_z: tf.Tensor, of_memory: tf.Tensor, *first: tf.Tensor, length: int) -> Any:
        epsilon = noise([tf.shape(state[0])[0], length, model.latent_dim], of_z)
        of_steps = tf.random.experimental.stateless_split(of_memory, length)
        return model.continued(state, epsilon, draw, [of_steps[tf.newaxis]], *first)[1:]

    given = () if first is None else (first,)
    parameters, x = model._run(continued, state, of_z, of_memory, *given, length=length)
    # Outside of the compiled functions, because XLA cannot draw from every distribution.
    return parameters, (model.likelihood.distribution(parameters).sample(seed=of_x) if x is None else x).numpy()


def traced(particles: Particles, numbers: np.ndarray) -> tuple[tuple[tf.Tensor, ...], np.ndarray]:
    """The paths of particles back to the first step: draws of all z_t given all of x.

    Few different particles of the past have descendants after a long time, so that z_t is the less certain the longer
    ago it was.

    Args:
        particles: the result of `along`, with paths.
        numbers: which of the last particles to trace [M, B].

    Returns:
        The latent variables [M * B, T, L], with what was remembered before each step [M * B, T, H] if there is a
        memory; and how many equally weighted draws of each z_t [B, T] the weights of the last particles are worth.
    """
    count, batch = particles.log_weights.shape
    *kept, origin = (each.numpy() for each in particles.of_steps[4:])
    weights, number = np.exp(np.float64(particles.log_weights)), origin.shape[1]
    own, every = np.arange(batch), np.tile(np.arange(count)[:, np.newaxis], batch)
    paths = [np.empty([*numbers.shape, number, each.shape[-1]], each.dtype) for each in kept]
    sizes = np.empty([batch, number])
    for t in reversed(range(number)):
        for path, each in zip(paths, kept, strict=True):
            path[:, :, t] = each[numbers * batch + own, t]
        shared = np.zeros([count, batch])
        np.add.at(shared, (every, own), weights)
        sizes[:, t] = 1 / (shared**2).sum(axis=0)
        numbers, every = (origin[each * batch + own, t] for each in (numbers, every))
    return tuple(tf.constant(path.reshape([-1, *path.shape[2:]])) for path in paths), sizes


def _systematic(log_weights: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The numbers [K, B] of the particles from which the next ones come, by their weights [K, B]."""
    count, batch = tf.unstack(tf.shape(log_weights))
    edges = tf.cumsum(tf.exp(tf.transpose(log_weights)), axis=1)
    shift = tf.random.stateless_uniform([batch, 1], seed)
    # How many of the points (i + shift) / K are below each edge, and by it how many edges are below each point: not by
    # `tf.searchsorted`, because XLA compares all points with all edges.
    below = tf.cast(tf.math.ceil(tf.cast(count, tf.float32) * edges - shift), tf.int32)
    places = tf.clip_by_value(below, 0, count) + (count + 1) * tf.range(batch)[:, tf.newaxis]
    ones = tf.ones([batch * count], tf.int32)
    passed = tf.math.unsorted_segment_sum(ones, tf.reshape(places, [-1]), batch * (count + 1))
    origin = tf.cumsum(tf.reshape(passed, [batch, count + 1]), axis=1)[:, :count]
    return tf.transpose(tf.minimum(origin, count - 1))
