"""Discrete latent variables with few states, summed out of a joint distribution, for q is a density."""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, graphs
from tfvae.inference.latents import variables
from tfvae.inference.pointwise import distributions_given, in_chunks, log_prob_of_each, of_draws

tfd = tfp.distributions

# The most combinations of states that are summed over.
_MOST_STATES = 1024
# Points at which it is found out what depends on the discrete variables.
_POINTS = 3


class _Parts(NamedTuple):
    """The log densities of a pinned joint distribution, under the names that TFP gives them."""

    pinned: dict[str, tf.Tensor]
    unpinned: dict[str, tf.Tensor]


class Enumerated(tfp.experimental.distributions.JointDistributionPinned):
    """A pinned joint distribution whose discrete variables are summed out: see `enumerated`.

    Args:
        model: the joint distribution with pinned observations.
        states: values of each discrete variable by name, each [C, ...], for C combinations of their states.
        plate: the axes along which the discrete variables are independent given all others; () sums over them jointly.
        inside: the names of the variables of which a factor depends on the discrete ones.

    Attributes:
        observed: the pinned observations by name.
    """

    def __init__(
        self, model: Any, states: dict[str, np.ndarray], plate: tuple[int, ...], inside: Sequence[str] | None = None
    ) -> None:
        # To TFP the discrete variables are pinned too, to a state that is never used.
        super().__init__(model.distribution, **model.pins, **{name: value[0] for name, value in states.items()})
        self.observed: Mapping[str, Any] = model.pins
        self.states, self.plate = states, plate
        self.inside = list(variables(model.distribution)) if inside is None else list(inside)

    def with_observed(self, observed: Mapping[str, Any]) -> "Enumerated":
        """The same for other observations of the same shapes."""
        return Enumerated(self.distribution.experimental_pin(**observed), self.states, self.plate, self.inside)

    def factors(self, latents: Mapping[str, tf.Tensor], states: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Evaluates the log density of each variable, in nats.

        Args:
            latents: the continuous latent variables by name, each [S, ...].
            states: the discrete ones by name, each [C, ...].

        Returns:
            For each variable [S, C, ...] with the axes of the plate, if it has these, and else [S, C].
        """
        first = next(iter(latents.values()))
        rows = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        combinations = len(next(iter(states.values())))
        given = {name: tf.repeat(value, combinations, axis=0) for name, value in latents.items()}
        given |= {name: tf.tile(value, [rows, *[1] * (np.ndim(value) - 1)]) for name, value in states.items()}

        def of_one(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            every = {**values, **self.observed}
            found = distributions_given(self.distribution, every)
            return {
                name: self._on_plate(log_prob_of_each(each, tf.cast(every[name], each.dtype)))
                for name, each in found.items()
            }

        found = tf.vectorized_map(of_one, given)
        return {name: tf.reshape(each, [rows, combinations, *each.shape[1:]]) for name, each in found.items()}

    def _on_plate(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Sums over all axes but those of the plate, or over all where these are not there."""
        rank = len(self.plate) if tuple(log_prob.shape[: len(self.plate)]) == self.plate else 0
        return tf.reduce_sum(log_prob, axis=list(range(rank, log_prob.shape.rank)))

    def log_prob_of_each(self, latents: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Sums the discrete variables out.

        Args:
            latents: the continuous latent variables by name, each [S, ...].

        Returns:
            The log densities of what depends on the discrete variables, one for each element of the plate, [S, ...];
            and those of all other variables by name [S].
        """
        found = self.factors(latents, self.states)
        inside = tf.add_n([found.pop(name) for name in self.inside])
        others = {name: each[:, 0] for name, each in found.items()}
        others = {name: tf.reduce_sum(each, axis=list(range(1, each.shape.rank))) for name, each in others.items()}
        return tf.reduce_logsumexp(inside, axis=1), others

    def log_likelihood_of_each(self, latents: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        """Evaluates the log-likelihood of each observation, or of each pinned variable where these are not independent.

        Args:
            latents: the continuous latent variables by name, each [S, ...].

        Returns:
            The log-likelihoods by the name of the pinned variable, each [S, ...]. Variables of which an element depends
            on the same discrete one share a column, and their names are joined.
        """
        together = [name for name in self.observed if name in self.inside]

        def of_all(latents: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            found = self.factors(latents, self.states)
            inside = tf.add_n([found[name] for name in self.inside])
            rest = [found[name] for name in self.inside if name not in together]
            log_likelihood = tf.reduce_logsumexp(inside, axis=1) - tf.reduce_logsumexp(tf.add_n(rest), axis=1)
            return {" and ".join(together): log_likelihood}

        def of_one(latents: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            state = {name: value[0] for name, value in self.states.items()}
            given = distributions_given(self.distribution, {**latents, **state, **self.observed})
            return {
                name: log_prob_of_each(given[name], tf.cast(pin, given[name].dtype))
                for name, pin in self.observed.items()
                if name not in together
            }

        size = max(np.size(value) for value in [*self.observed.values(), *self.states.values()])
        found = in_chunks(of_all, len(next(iter(self.states.values()))) * size)(latents) if together else {}
        return found | (of_draws(of_one, size)(latents) if len(together) < len(self.observed) else {})

    def unnormalized_log_prob_parts(self, *args: Any, **kwargs: Any) -> _Parts:
        """The log densities as of `JointDistributionPinned`, for values each [S, ...].

        Args:
            args: a structure of the latent variables.
            kwargs: or the latent variables by name.
        """
        values = kwargs or dict(zip(variables(self), tf.nest.flatten(args[0] if len(args) == 1 else args), strict=True))
        each, others = self.log_prob_of_each(values)
        pinned = {name: others.pop(name) for name in self.observed if name in others}
        summed = tf.reduce_sum(each, axis=list(range(1, each.shape.rank)))
        return _Parts({**pinned, "summed out": summed}, {**others, "": tf.zeros_like(summed)})

    # In every other form too, for those of TFP would be of the state that is pinned.
    log_prob_parts = unnormalized_log_prob_parts

    def log_prob(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        """The log density [S] of the continuous latent variables and the observations, in nats.

        Args:
            args: a structure of the latent variables, each [S, ...].
            kwargs: or the latent variables by name.
        """
        return tf.add_n(tf.nest.flatten(self.unnormalized_log_prob_parts(*args, **kwargs)))

    unnormalized_log_prob = log_prob

    def experimental_pin(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: pin all observations before discrete variables are summed out."""
        raise NotImplementedError("all observations must be pinned before discrete variables are summed out")

    def unpin(self, *args: str) -> Any:
        """Refused, as `experimental_pin` is."""
        return self.experimental_pin()

    def sample_unpinned(self, sample_shape: Any = (), seed: Any = None) -> Any:
        """Draws the continuous latent variables.

        Args:
            sample_shape: how many.
            seed: a seed.
        """
        draws = self.distribution.sample(sample_shape, seed=seed, **self.observed)
        named = dict(zip(variables(self.distribution), tf.nest.flatten(draws), strict=True))
        return tf.nest.pack_sequence_as(self.dtype, [named[name] for name in variables(self)])


def enumerated(model: Any, names: Sequence[str]) -> Enumerated:
    """Sums discrete latent variables out of a pinned joint distribution, by adding up all of their states.

    The elements of the variables, such as one for each observation, are summed out one by one if each factor of the
    joint density depends on one of them alone, as in a mixture: this is found out by evaluating the density. Otherwise
    all combinations of their states are, of which there must be at most 1024.

    Args:
        model: a joint distribution whose observations are pinned, `joint.experimental_pin(y=y)`.
        names: the discrete variables, each a Categorical, Bernoulli, OneHotCategorical, Binomial or FiniteDiscrete, or
            a tfd.Sample or tfd.Independent of such.

    Returns:
        The model for `tfvae.VariationalInference`, of the continuous latent variables.

    Raises:
        ValueError: an argument is not valid, or there are too many states.
    """
    if not isinstance(model, tfp.experimental.distributions.JointDistributionPinned) or isinstance(model, Enumerated):
        raise ValueError(
            "`model` must be a joint distribution whose observations are pinned, such as "
            f"joint.experimental_pin(y=y). Received: {checks.shown(model)}"
        )
    free = list(variables(model))
    if isinstance(names, str) or not names or not set(names) < set(free):
        raise ValueError(
            f"`names` must be a list of some, and not all, of the latent variables {free}. Received: {names!r}"
        )
    joint, shapes = model.distribution, variables(model.distribution)
    values = _drawn(joint, model.pins)
    given = distributions_given(joint, {name: value[0] for name, value in values.items()})
    supports, plates = {}, {}
    for name in names:
        supports[name] = _support(name, given[name])
        event = supports[name].ndim - 1
        plates[name] = shapes[name][: len(shapes[name]) - event]
    plate = plates[names[0]]
    combinations = math.prod(len(each) for each in supports.values())
    if all(each == plate for each in plates.values()) and combinations <= _MOST_STATES:
        columns = zip(*itertools.product(*supports.values()), strict=True)
        filled = {
            name: np.stack([np.broadcast_to(value, shapes[name]) for value in column])
            for name, column in zip(names, columns, strict=True)
        }
        one_by_one = Enumerated(model, filled, plate)
        _check_vectorised(one_by_one, values)
        inside = _inside(one_by_one, values)
        if inside is not None:
            return Enumerated(model, filled, plate, inside)
    sizes = {name: math.prod(plates[name]) for name in names}
    combinations = math.prod(len(supports[name]) ** size for name, size in sizes.items())
    if combinations > _MOST_STATES:
        raise ValueError(
            f"`names` must be variables of at most {_MOST_STATES} combinations of states, unless each factor of the "
            "joint density depends on one of their elements alone; sum them out in a density of your own, such as a "
            f"tfd.HiddenMarkovModel. Received: {', '.join(names)} with {combinations:.3g} combinations"
        )
    every = list(itertools.product(*(supports[name] for name in names for _ in range(sizes[name]))))
    states, start = {}, 0
    for name in names:
        stop = start + sizes[name]
        states[name] = np.stack([np.reshape(row[start:stop], shapes[name]) for row in every])
        start = stop
    jointly = Enumerated(model, states, ())
    _check_vectorised(jointly, values)
    return Enumerated(model, states, (), _inside(jointly, values))


def _check_vectorised(model: Enumerated, values: Mapping[str, tf.Tensor]) -> None:
    """Raises ValueError where many draws at a time have other densities than each by itself.

    Args:
        model: the model.
        values: values of all variables by name, each [M, ...].
    """
    states = {name: values[name][:1] for name in model.states}
    latents = {name: values[name] for name in variables(model)}
    factors = graphs.graph(lambda: model.factors(latents, states))().values()
    found = sum(np.sum(each.numpy().reshape([_POINTS, -1]), axis=1) for each in factors)
    for index, density in enumerate(found):
        one = {name: values[name][0 if name in states else index] for name in values}
        each = distributions_given(model.distribution, one)
        exact = sum(float(tf.reduce_sum(part.log_prob(tf.cast(one[name], part.dtype)))) for name, part in each.items())
        if not np.isclose(density, exact, rtol=1e-4, atol=1e-3, equal_nan=True):
            raise ValueError(
                "`model` must be made of ops that TensorFlow can vectorise, see tf.vectorized_map; tf.roll with a "
                f"negative axis, for example, gives wrong values. Received: a log density of {exact:.6g} for one draw "
                f"by itself, and of {density:.6g} among others"
            )


def _drawn(joint: tfd.JointDistribution, pins: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """A few draws of all variables by name, each [M, ...], given the pinned ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Saw Tensor seed")
        seed = tf.constant([0, 0])
        draw = graphs.graph(lambda: [joint.sample(seed=seed + index, **pins) for index in range(_POINTS)])
        draws = [tf.nest.flatten(each) for each in draw()]
    return {name: tf.stack(each) for name, each in zip(variables(joint), zip(*draws, strict=True), strict=True)}


def _support(name: str, distribution: tfd.Distribution) -> np.ndarray:
    """The states [K, ...] of an element of a discrete variable."""
    while isinstance(distribution, tfd.Independent | tfd.Sample):
        distribution = distribution.distribution
    dtype = distribution.dtype.as_numpy_dtype
    if isinstance(distribution, tfd.Bernoulli):
        return np.arange(2, dtype=dtype)
    if isinstance(distribution, tfd.FiniteDiscrete):
        return np.asarray(distribution.outcomes, dtype)
    if isinstance(distribution, tfd.Categorical | tfd.OneHotCategorical):
        states = distribution.probs_parameter().shape[-1]
        return (np.eye if isinstance(distribution, tfd.OneHotCategorical) else np.arange)(states, dtype=dtype)
    if isinstance(distribution, tfd.Binomial):
        return np.arange(int(np.max(distribution.total_count)) + 1).astype(dtype)
    raise ValueError(
        "`names` must be variables with a Categorical, Bernoulli, OneHotCategorical, Binomial or FiniteDiscrete "
        f"distribution. Received: {name!r}, a {type(distribution).__name__}"
    )


def _inside(model: Enumerated, values: Mapping[str, tf.Tensor]) -> list[str] | None:
    """The variables whose factors depend on the discrete ones; None if one depends on more than one element of these.

    Args:
        model: the model, in which the discrete variables are summed out element by element.
        values: values of all variables by name, each [M, ...], at which the factors are compared.
    """
    latents = {name: values[name] for name in variables(model)}
    count, generator = len(next(iter(model.states.values()))), np.random.default_rng(0)
    chosen = generator.integers(count, size=model.plate)
    mixed = {}
    for name, states in model.states.items():
        event = states.shape[1 + len(model.plate) :]
        index = np.broadcast_to(chosen.reshape([1, *model.plate, *[1] * len(event)]), [1, *states.shape[1:]])
        mixed[name] = np.take_along_axis(states, index, axis=0)
    evaluate = graphs.graph(lambda: (model.factors(latents, model.states), model.factors(latents, mixed)))
    of_states, of_mixed = ({name: each.numpy() for name, each in found.items()} for found in evaluate())
    inside = []
    for name, found in of_states.items():
        if name not in model.states and np.array_equal(
            found, np.broadcast_to(found[:, :1], found.shape), equal_nan=True
        ):
            if np.allclose(of_mixed[name][:, 0], found[:, 0], rtol=1e-4, atol=1e-4, equal_nan=True):
                continue
            return None
        if found.shape[2:] != model.plate:
            return None
        index = np.broadcast_to(chosen, [len(found), 1, *model.plate])
        expected = np.take_along_axis(found, index, axis=1)
        if not np.allclose(expected, of_mixed[name], rtol=1e-4, atol=1e-4, equal_nan=True):
            return None
        inside.append(name)
    return inside
