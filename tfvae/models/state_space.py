"""The densities of a model with latent variables at each step, for one step and for all steps at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import elbo
from tfvae.distributions.normal import Normal
from tfvae.models import over_time
from tfvae.models.autoencoder import Autoencoder
from tfvae.numerics import is_number

tfd = tfp.distributions

# The latent variables of a step [R, L], and the states of the memory after it.
State = tuple[tf.Tensor, ...]
_Parameters = dict[str, tf.Tensor]


class Path(NamedTuple):
    """The latent variables of R sequences of T steps.

    Attributes:
        z: the latent variables [R, T, L].
        memory: what was remembered before each step [R, T, H]; None without a memory.
        parameters: the parameters of q(z_t|...), each [R * T, ...].
        log_q: log q(z_t|...) [R, T].
    """

    z: tf.Tensor
    memory: tf.Tensor | None
    parameters: _Parameters
    log_q: tf.Tensor


class Steps(NamedTuple):
    """The terms of the bound at each step, in nats; exactly 0 where a sequence has ended.

    Attributes:
        log_likelihood: log p(x_t|z_t) [S, B, T].
        log_prior: log p(z_t|z_{t-1}) [S, B, T].
        log_posterior: log q(z_t|...) [S, B, T].
        kl: KL(q(z_t|...) || p(z_t|z_{t-1})) [S, B, T], in closed form where there is one.
    """

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor
    kl: tf.Tensor


class StateSpace(Autoencoder):
    """The base class of `SequentialVAE`, with its densities: see there for the parts.

    In the methods, R counts rows, which may be examples, draws of examples, or their steps.
    """

    encoder: keras.Model
    decoder: keras.Model
    transition: keras.Model | None
    combiner: keras.Model | None
    memory: keras.layers.Layer | None
    latent_dim: int

    def initial(self, rows: tf.Tensor) -> State:
        """The state before the first step: zeros."""
        sizes = [] if self.memory is None else tf.nest.flatten(self.memory.state_size)
        dtype = None if self.memory is None else self.memory.compute_dtype
        return tf.zeros([rows, self.latent_dim]), *(tf.zeros([rows, size], dtype) for size in sizes)

    def after(self, state: State, x: tf.Tensor, z: tf.Tensor) -> State:
        """The state after a step.

        Args:
            state: the state before it.
            x: the data of the step [R, ...].
            z: its latent variables [R, L].
        """
        if self.memory is None:
            return (z,)
        _, states = self.memory(self._to_remember(x, z), list(state[1:]))
        return z, *tf.nest.flatten(states)

    def features_of(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The features [B, T, F] that q(z_t|...) reads."""
        return self.encoder(self.likelihood.encoder_input(x), training=training)

    def q_of(
        self, features: tf.Tensor, z: tf.Tensor, memory: tf.Tensor | None = None, training: bool = False
    ) -> _Parameters:
        """The parameters of q(z_t|...) from the features [R, F], z_{t-1} [R, L] and the memory [R, H] of each step."""
        if self.combiner is not None:
            features = self.combiner(_inputs(z, features, memory), training=training)
        return self.posterior(features)

    def p_of(self, z: tf.Tensor, memory: tf.Tensor | None = None, training: bool = False) -> _Parameters:
        """The parameters of p(z_t|z_{t-1}), from z_{t-1} [R, L] and the memory [R, H]."""
        if self.transition is not None:
            return self.conditional(self.transition(_inputs(z, memory), training=training))
        return self.conditional(z if memory is None else tf.concat([z, tf.cast(memory, z.dtype)], axis=-1))

    def x_of(self, z: tf.Tensor, memory: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """The parameters of p(x_t|z_t) [R, ...], from z_t [R, L] and the memory [R, H] before the step."""
        return self.decoder(_inputs(z, memory), training=training)

    def path(self, x: tf.Tensor, num_samples: int = 1, noise: tf.Tensor | None = None, training: bool = False) -> Path:
        """The latent variables of S draws for each example, S * B rows.

        Args:
            x: the data [B, T, ...].
            num_samples: S.
            noise: epsilon [S * B, T, L]; None takes each q(z_t|...) at its center.
            training: whether layers such as dropout behave as in training.
        """
        features = _tiled(self.features_of(x, training), num_samples)
        z = memory = None
        if self.combiner is not None:
            z, memory = self._drawn_in_turn(features, _tiled(x, num_samples), noise, training)
        flat = over_time.folded(features)
        earlier = None if z is None else over_time.folded(over_time.before(z))
        parameters = self.q_of(flat, earlier, _folded(memory), training)
        # All steps at once. In turn, the loop computed the same z, to which the gradient leads through `earlier`.
        z, log_q = self.posterior.sample_and_log_prob_from(parameters, _folded(noise))
        z, log_q = over_time.unfolded(z, features), over_time.unfolded(log_q, features)
        if self.memory is not None and memory is None:
            memory = self.remembered(z, _tiled(x, num_samples))
        return Path(z, memory, parameters, log_q)

    def _drawn_in_turn(
        self, features: tf.Tensor, x: tf.Tensor, noise: tf.Tensor | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The latent variables [R, T, L] where q depends on those of the step before, and the memory [R, T, H]."""
        elements = [features, *([] if noise is None else [noise]), *([] if self.memory is None else [x])]

        def step(state: State, features: tf.Tensor, *others: tf.Tensor) -> tuple[State, State]:
            memory = self.read(state)
            parameters = self.q_of(features, state[0], memory, training)
            if noise is None:
                z = self.posterior.center(parameters)
            else:
                z = self.posterior.sample_from(parameters, others[0])
            # Without a memory x is not read, and not an element.
            return self.after(state, others[-1] if others else None, z), _inputs_as_tuple(z, memory)

        state = self.initial(tf.shape(features)[0])
        _, outputs = over_time.scan(step, state, elements, state[:2])
        return outputs if self.memory is not None else (outputs[0], None)

    def remembered(self, z: tf.Tensor, x: tf.Tensor | None) -> tf.Tensor:
        """The memory [R, T, H] before each step, given the latent variables and the data [R, T, ...].

        Args:
            z: the latent variables.
            x: the data; None takes the mean of p(x_t|...) at each step.
        """

        def step(state: State, z: tf.Tensor, *x_of_step: tf.Tensor) -> tuple[State, State]:
            memory = self.read(state)
            seen = x_of_step[0] if x_of_step else self.likelihood.mean(self.x_of(z, memory))
            return self.after(state, seen, z), (memory,)

        state = self.initial(tf.shape(z)[0])
        elements = [z] if x is None else [z, x]
        return over_time.scan(step, state, elements, state[1:2])[1][0]

    def read(self, state: State) -> tf.Tensor | None:
        """What the networks read of the memory: its first state [R, H]."""
        return None if self.memory is None else state[1]

    def steps_at(self, x: tf.Tensor, path: Path, sampling: elbo.Sampling) -> tuple[Steps, tf.Tensor]:
        """The terms of the bound at each step, and the parameters of p(x_t|z_t) [S * B * T, ...].

        Args:
            x: the data [B, T, ...].
            path: the latent variables of S * B rows.
            sampling: how they were drawn.
        """
        observed = x if sampling.target is None else sampling.target
        batch, training = tf.shape(x)[0], sampling.training
        parameters = self.x_of(over_time.folded(path.z), _folded(path.memory), training)
        events = over_time.folded(observed)
        by_sample = parameters
        if training or sampling.num_samples > 1:
            by_sample = tf.reshape(parameters, [sampling.num_samples, tf.shape(events)[0], *parameters.shape[1:]])
        log_likelihood = self.likelihood.log_prob(events, by_sample, training=training)
        log_prior, kl = self._against_prior(path, sampling)
        shape = [sampling.num_samples, batch, tf.shape(x)[1]]
        terms = [tf.reshape(each, shape) for each in (log_likelihood, log_prior, path.log_q, kl)]
        if self.likelihood.allows_missing:
            counts = over_time.is_step(observed)
            terms = [tf.where(counts, each, 0.0) for each in terms]
        return Steps(*terms), parameters

    def _against_prior(self, path: Path, sampling: elbo.Sampling) -> tuple[tf.Tensor, tf.Tensor]:
        """The log-density p(z_t|z_{t-1}), and the KL divergence from p, at each step: both [R, T]."""
        later = None if path.memory is None else path.memory[:, 1:]
        given = self.p_of(over_time.folded(path.z[:, :-1]), _folded(later), sampling.training)
        parameters = {name: over_time.unfolded(each, path.z) for name, each in path.parameters.items()}
        parts = []
        for part, p in ((slice(1), self.prior.distribution()), (slice(1, None), self.conditional.distribution(given))):
            q = self.posterior.distribution(
                {name: over_time.folded(each[:, part]) for name, each in parameters.items()}
            )
            log_prior = over_time.unfolded(p.log_prob(over_time.folded(path.z[:, part])), path.z[:, part])
            kl = elbo.closed_form_kl(q, p) if sampling.analytic_kl else None
            kl = path.log_q[:, part] - log_prior if kl is None else over_time.unfolded(kl, path.z[:, part])
            parts.append((log_prior, kl))
        log_prior, kl = (tf.concat(each, axis=1) for each in zip(*parts, strict=True))
        return log_prior, kl

    def continued(
        self,
        state: State,
        noise: tf.Tensor,
        draw: Callable[..., tf.Tensor],
        elements: Sequence[tf.Tensor] = (),
        first: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Draws the steps after a state from the model.

        Args:
            state: the state of R rows.
            noise: epsilon [R, T, L].
            draw: a function of the parameters of p(x_t|z_t) [R, ...], and of the elements of the step, to the data
                [R, ...] that the memory reads; it is not called without a memory.
            elements: what else `draw` takes, each [R, T, ...] or [1, T, ...].
            first: the latent variables [R, L] of the first of these steps; where they are NaN, and for None, they are
                drawn from p(z_t|z_{t-1}).

        Returns:
            The latent variables [R, T, L], the parameters of p(x_t|z_t) [R, T, ...], and with a memory the data
            [R, T, ...] that it read.
        """
        number = tf.shape(noise)[1]

        def step(
            state: State, noise: tf.Tensor, is_first: tf.Tensor, *elements: tf.Tensor
        ) -> tuple[State, tuple[tf.Tensor, ...]]:
            memory = self.read(state)
            z = self.conditional.sample_from(self.p_of(state[0], memory), noise)
            if first is not None:
                z = tf.where(is_first & is_number(first), first, z)
            if memory is None:
                return self.after(state, None, z), (z,)
            x = draw(self.x_of(z, memory), *elements)
            return self.after(state, x, z), (z, memory, x)

        given = [noise, tf.range(number)[tf.newaxis] == 0, *([] if self.memory is None else elements)]
        like = list(state[:2])
        if self.memory is not None:
            like.append(tf.zeros([tf.shape(noise)[0], *self.event_shape[1:]]))
        _, outputs = over_time.scan(step, state, given, like)
        z, memory, x = outputs if len(outputs) > 1 else (*outputs, None, None)
        parameters = self.x_of(over_time.folded(z), _folded(memory))
        return z, over_time.unfolded(parameters, z), x

    def _to_remember(self, x: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """What the memory takes of a step [R, D]: the data, whether they were observed, and the latent variables."""
        x = tf.reshape(x, [-1, math.prod(x.shape[1:])])
        if not self.likelihood.allows_missing:
            return tf.concat([x, z], axis=-1)
        observed = is_number(x)
        return tf.concat([tf.where(observed, x, 0.0), tf.cast(observed, tf.float32), z], axis=-1)


def noise(shape: list[Any], seed: tf.Tensor) -> tf.Tensor:
    """Noise from N(0, I) of a shape, which may hold tensors."""
    return Normal(0.0, 1.0).sample(shape, seed=seed)


def _inputs(first: tf.Tensor, *others: tf.Tensor | None) -> Any:
    """The input of a network: one tensor, or a list of those that there are."""
    given = [first, *(each for each in others if each is not None)]
    return given if len(given) > 1 else first


def _inputs_as_tuple(first: tf.Tensor, memory: tf.Tensor | None) -> State:
    return (first,) if memory is None else (first, memory)


def _folded(sequences: tf.Tensor | None) -> tf.Tensor | None:
    return None if sequences is None else over_time.folded(sequences)


def _tiled(x: tf.Tensor, num_samples: int) -> tf.Tensor:
    return x if num_samples == 1 else tf.tile(x, [num_samples] + [1] * (len(x.shape) - 1))
