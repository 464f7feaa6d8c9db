"""Reads a user's prior and simulator, in any of their forms, into one source of pairs of latent variables and data."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.inference.latents import Latent, LatentSpace, space, variables

tfd = tfp.distributions

# The name of the latent variable of a prior that is a plain distribution, and of the data beside latent variables.
_THETA, _DATA = "theta", "x"


class Simulations(NamedTuple):
    """The joint distribution of latent variables and data, in the one form to which every user's is brought.

    Attributes:
        space: the latent variables.
        data: the name of the data beside those of the latent variables.
        draw: draws a number of pairs, given a seed: the latent variables by name, and the data; None if there is no
            prior or no simulator.
        log_joint: evaluates log p(theta, x) [S] for latent variables by name, each [S, ...], and data [S, ...]; None if
            it is not known.
        is_plain: whether the prior is a plain distribution, so that a user's functions take theta itself, not by name.
    """

    space: LatentSpace
    data: str
    draw: Callable[[int, tf.Tensor], dict[str, tf.Tensor]] | None
    log_joint: Callable[[dict[str, tf.Tensor], tf.Tensor], tf.Tensor] | None
    is_plain: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the latent variables, and that of the data."""
        return (*self.space.names, self.data)


def simulations(
    prior: Any,
    simulator: Any,
    latents: Mapping[str, Latent | Sequence[int]] | tfd.JointDistribution | None,
    log_likelihood: Any,
) -> Simulations:
    """Reads the arguments of `tfvae.AmortizedInference`, where they are described.

    Raises:
        ValueError: they have the wrong types, or do not fit together.
    """
    _check(prior, simulator, latents, log_likelihood)
    if prior is None:
        unconstrained = space(latents)
        return _checked(Simulations(unconstrained, _DATA, None, None, unconstrained.names == (_THETA,)))
    if isinstance(simulator, str):
        return _of_joint(prior, simulator, latents)
    is_plain = not isinstance(prior, tfd.JointDistribution)
    if is_plain:
        prior = _named(prior)
    names = list(variables(prior))
    unconstrained = space(prior if latents is None else latents)
    if sorted(unconstrained.names) != sorted(names):
        raise ValueError(f"`latents` must be the variables of `prior`, {names}. Received: {list(unconstrained.names)}")

    def given(values: Mapping[str, tf.Tensor]) -> Any:
        return values[_THETA] if is_plain else dict(values)

    def draw(count: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        prior_seed, seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        values = _sampled(prior, count, prior_seed)
        x = tf.cast(tf.convert_to_tensor(simulator(given(values), seed)), tf.float32)
        if x.shape.rank is None or x.shape.rank < 1 or x.shape[0] not in (None, count):
            raise ValueError(
                f"`simulator` must give x [B, ...], one data set for each of B={count} draws of the latent variables. "
                f"Received: x of shape {x.shape}"
            )
        return {**values, _DATA: x}

    def log_joint(values: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return _log_prob(prior, values) + tf.reshape(tf.cast(log_likelihood(given(values), x), tf.float32), [-1])

    return _checked(
        Simulations(
            unconstrained,
            _DATA,
            None if simulator is None else draw,
            None if log_likelihood is None else log_joint,
            is_plain,
        )
    )


def _check(prior: Any, simulator: Any, latents: Any, log_likelihood: Any) -> None:
    """Raises ValueError unless the arguments have the right types."""
    if prior is None:
        if latents is None or simulator is not None or log_likelihood is not None:
            raise ValueError(
                "`prior` must be a distribution of the latent variables. It may be left out only where `latents` gives "
                "their shapes and constraints, and pairs are given to `fit`. Received: prior=None"
            )
        return
    if not isinstance(prior, tfd.Distribution):
        raise ValueError(f"`prior` must be a distribution of TFP. Received: prior={checks.shown(prior)}")
    if not (simulator is None or callable(simulator) or isinstance(simulator, str)):
        raise ValueError(
            "`simulator` must be a function of the latent variables and a seed; or the name of the data, if `prior` is "
            f"a joint distribution that includes them. Received: simulator={checks.shown(simulator)}"
        )
    if log_likelihood is not None and not callable(log_likelihood):
        raise ValueError(f"`log_likelihood` must be a function. Received: {checks.shown(log_likelihood)}")
    if isinstance(simulator, str):
        names = list(variables(prior)) if isinstance(prior, tfd.JointDistribution) else []
        if simulator not in names or len(names) < 2:
            raise ValueError(
                "`simulator` must be a function, or the name of a variable of `prior`, a joint distribution over it "
                f"and the latent variables. Received: simulator={simulator!r} and "
                f"{f'variables {names}' if names else 'a prior that is no joint distribution'}"
            )
        if log_likelihood is not None:
            raise ValueError(
                "`log_likelihood` must be None where `prior` is a joint distribution that includes the data. Received: "
                f"{checks.shown(log_likelihood)}"
            )


def _checked(result: Simulations) -> Simulations:
    if result.data in result.space.names:
        raise ValueError(
            f"`prior` must have no latent variable of the name {result.data!r}, which is that of the data. Received: "
            f"{list(result.space.names)}"
        )
    return result


def _of_joint(joint: Any, data: str, latents: Any) -> Simulations:
    """The simulations of a joint distribution that includes the data, by their name."""
    if latents is None:
        # Only its bijectors and shapes are read, which do not depend on the value.
        latents = joint.experimental_pin(**{data: _sampled(joint, 1, tf.constant([0, 0]))[data][0]})

    def log_joint(values: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return _log_prob(joint, {**values, data: x})

    return Simulations(space(latents), data, lambda count, seed: _sampled(joint, count, seed), log_joint, False)


def _named(prior: tfd.Distribution) -> tfd.JointDistribution:
    """A joint distribution of one variable, whose axes are all of those of a plain distribution."""
    rank = prior.batch_shape.rank
    return tfd.JointDistributionNamed({_THETA: tfd.Independent(prior, rank) if rank else prior})


def _sampled(joint: tfd.JointDistribution, count: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    with warnings.catch_warnings():
        # TFP warns that it must draw the variables one after the other with a Tensor seed.
        warnings.filterwarnings("ignore", message="Saw Tensor seed")
        values = tf.nest.flatten(joint.sample(count, seed=seed))
    return {name: tf.cast(value, tf.float32) for name, value in zip(variables(joint), values, strict=True)}


def _log_prob(joint: tfd.JointDistribution, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    names = variables(joint)
    return tf.cast(joint.log_prob(tf.nest.pack_sequence_as(joint.dtype, [values[name] for name in names])), tf.float32)
