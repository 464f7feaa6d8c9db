"""Reads the user's Bayesian model, in any of its forms, into one kind of joint density of latent variables and data."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, graphs
from tfvae.inference.latents import Latent, LatentSpace, space, variables

tfd = tfp.distributions

# The errors that a user's function may raise for tensors that it does not accept.
FAILURES = (TypeError, ValueError, AttributeError, IndexError, NotImplementedError, tf.errors.OpError)

AUTO_BATCHED = (
    tfd.JointDistributionNamedAutoBatched,
    tfd.JointDistributionCoroutineAutoBatched,
    tfd.JointDistributionSequentialAutoBatched,
)

_MUST_GIVE = (
    "`model` must give the log joint density [S], or the pair of log p(latents) [S] and log p(data | latents) [S, B]"
)


class LogDensities(NamedTuple):
    """The parts of a joint density, in nats.

    Attributes:
        log_prior: log p(latents) [S], or 0 if the user gave only the log joint density.
        log_likelihood: log p(data | latents), either [S] or [S, B] with a column for each row of the data; or the log
            joint density [S] if the user gave only that.
    """

    log_prior: tf.Tensor
    log_likelihood: tf.Tensor


class Target(NamedTuple):
    """The joint density of latent variables and data, in the one form to which every user's model is brought.

    Attributes:
        space: the latent variables.
        log_densities: maps the latent variables by name, each [S, ...], and the data to the parts of the density.
        starts: draws a number of points from the prior, given a seed, by name; None if the prior cannot be sampled. A
            draw that float32 rounds to the edge of the prior's support is replaced by NaN.
        pins: the data that are pinned in the model, by name; None if they are passed to `fit`.
    """

    space: LatentSpace
    log_densities: Callable[[dict[str, tf.Tensor], Any], LogDensities]
    starts: Callable[[int, tf.Tensor], dict[str, tf.Tensor]] | None
    pins: Mapping[str, Any] | None = None

    def check(self, values: dict[str, tf.Tensor], x: Any, *, whole: bool, must_split: str | None) -> None:
        """Raises ValueError unless the densities have the required shapes.

        Args:
            values: the latent variables by name, each [S, ...].
            x: the data of B rows, or None.
            whole: whether these are all of the data.
            must_split: why the log-likelihood must have a column for each row, for the message; None if it need not.
        """
        num_samples = len(next(iter(values.values())))
        try:
            if self.pins is None:
                densities = self.log_densities(values, x)
            else:
                # As a graph: TFP would trace a joint distribution at each call, and TensorFlow warn of that.
                graph = graphs.graph(lambda: self.log_densities(values, x))
                densities = graph.get_concrete_function()()
        except KeyError as error:
            raise ValueError(
                f"`model` must take the names of `latents`, {sorted(values)}. Received: a model that asks for {error}"
            ) from error
        except FAILURES as error:
            if str(error).startswith("`model`"):
                raise
            inputs = {name: list(value.shape) for name, value in values.items()}
            dtype = next(iter(values.values())).dtype.name
            data = None if x is None else tf.nest.map_structure(lambda part: (part.dtype.name, list(part.shape)), x)
            raise ValueError(
                f"`model` must take {dtype} latent variables and the data, as TensorFlow tensors; "
                'VariationalInference(..., dtype="float64") passes float64. Received: for latent '
                f"variables of shapes {checks.shown(inputs)} and data {checks.shown(data)} it raised "
                f"{type(error).__name__}: {checks.brief(error)}"
            ) from error
        shapes = [list(part.shape) for part in densities]
        rows = None if x is None else len(tf.nest.flatten(x)[0])
        if shapes[0] != [num_samples] or shapes[1] not in ([num_samples], [num_samples, rows]):
            raise ValueError(
                f"{_MUST_GIVE}; sum over all other axes. Received: shapes {shapes[0]} and {shapes[1]} for "
                f"S={num_samples} and B={rows}"
            )
        if not whole and must_split is None:
            must_split = "the data come in batches, whose log-likelihood is scaled"
        if must_split is not None and len(shapes[1]) == 1:
            raise ValueError(
                "`model` must give the pair of log p(latents) [S] and log p(data | latents) [S, B], because "
                f"{must_split}. Received: only a density summed over rows, of shape {shapes[1]}"
            )


def target(
    model: Any,
    latents: Mapping[str, Latent | Sequence[int]] | tfd.JointDistribution | None,
    dtype: tf.DType = tf.float32,
) -> Target:
    """Reads a user's Bayesian model.

    Args:
        model: see `tfvae.VariationalInference`.
        latents: see `tfvae.VariationalInference`.
        dtype: the precision in which the model computes.

    Raises:
        ValueError: `model` is neither a pinned joint distribution nor a function, or `latents` does not fit it.
    """
    if isinstance(model, tfp.experimental.distributions.JointDistributionPinned):
        return _of_pinned(model, latents, dtype)
    if isinstance(model, tfd.Distribution) or not callable(model):
        raise ValueError(
            "`model` must be a joint distribution whose observations are pinned, such as joint.experimental_pin(y=y), "
            f"or a function log_joint(latents, data). Received: {checks.shown(model)}"
        )
    if latents is None:
        raise ValueError(
            "`latents` must give the shapes and constraints of the latent variables that the function `model` takes. "
            "Received: latents=None"
        )
    unconstrained, starts = space(latents), None
    if isinstance(latents, tfd.JointDistribution):
        starts = _plausible(unconstrained, latents.sample, latents.log_prob, dtype)
    return Target(unconstrained, lambda values, data: _split(model(values, data), dtype), starts)


def _split(density: Any, dtype: tf.DType) -> LogDensities:
    """Splits the result of a user's function: log p(data, latents), or log p(latents) and log p(data | latents)."""
    parts = density if isinstance(density, tuple | list) else (density,)
    try:
        parts = [tf.convert_to_tensor(part) for part in parts]
        is_less = any(part.dtype.size < dtype.size for part in parts)
        parts = [tf.cast(part, dtype) for part in parts]
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ValueError(f"{_MUST_GIVE}. Received: {checks.shown(density)}") from error
    if is_less and dtype == tf.float64:
        raise ValueError(
            "`model` must compute in float64, as `dtype` says: constants and casts of its own in float32 would round "
            "it. Received: a log density in float32"
        )
    if len(parts) not in (1, 2):
        raise ValueError(f"{_MUST_GIVE}. Received: {len(parts)} parts")
    return LogDensities(*parts) if len(parts) == 2 else LogDensities(tf.zeros_like(parts[0]), parts[0])


def _check_pins(model: Any) -> None:
    """Raises ValueError unless the observations have the shapes of the variables to which they are pinned."""
    shapes = variables(model.distribution)
    for name, value in model.pins.items():
        shape, expected = tuple(value.shape), shapes[name]
        more = len(shape) - len(expected)
        # Without automatic batching, the shape of a variable lacks the axes that its parameters give it.
        is_batch = not isinstance(model.distribution, AUTO_BATCHED) or set(shape[:more]) <= {1}
        if more < 0 or shape[more:] != expected or not is_batch:
            raise ValueError(
                f"`model` must be pinned to observations of the shapes of its variables, here {list(expected)} for "
                f"{name}; n observations of one distribution need tfd.Sample(distribution, n), and n of different ones "
                f"tfd.Independent(distribution, 1). Received: {name} of shape {list(shape)}"
            )


def _of_pinned(model: Any, latents: Any, dtype: tf.DType) -> Target:
    """Makes the target of a joint distribution with pinned observations."""
    _check_pins(model)
    shapes = variables(model)
    names = list(shapes)
    unconstrained = space(model if latents is None else latents)
    if unconstrained.shapes != shapes:
        raise ValueError(
            f"`latents` must be the variables of the joint distribution that are not pinned, {shapes}. Received: "
            f"{unconstrained.shapes}"
        )

    def log_densities(values: dict[str, tf.Tensor], _: Any) -> LogDensities:
        parts = model.unnormalized_log_prob_parts(
            tf.nest.pack_sequence_as(model.dtype, [values[name] for name in names])
        )
        return LogDensities(*(tf.add_n(tf.nest.flatten(part)) for part in (parts.unpinned, parts.pinned)))

    def log_prior(values: Any) -> tf.Tensor:
        return tf.add_n(tf.nest.flatten(model.unnormalized_log_prob_parts(values).unpinned))

    starts = _plausible(unconstrained, model.sample_unpinned, log_prior, dtype)
    # Discrete variables that are summed out are pins only to TFP.
    return Target(unconstrained, log_densities, starts, getattr(model, "observed", model.pins))


def _plausible(
    unconstrained: LatentSpace,
    sample: Callable[..., Any],
    log_prob: Callable[[Any], tf.Tensor],
    dtype: tf.DType,
) -> Callable[[int, tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a function that draws from a joint distribution: see `Target.starts`.

    Args:
        unconstrained: the latent variables.
        sample: draws from the distribution.
        log_prob: the log density at draws [S].
        dtype: the precision of the draws.
    """
    names = unconstrained.names

    def draw(count: int, seed: tf.Tensor) -> list[tf.Tensor]:
        draws = sample(count, seed=seed)
        flat = [tf.cast(part, dtype) for part in tf.nest.flatten(draws)]
        # A vague Gamma, for example, often draws a number so small that it, or what comes back from the unconstrained
        # space, is 0 in float32, where the density is infinite.
        back, _ = unconstrained.constrain(unconstrained.unconstrain(dict(zip(names, flat, strict=True)), dtype))
        is_inside = tf.math.is_finite(log_prob(tf.nest.pack_sequence_as(draws, [back[name] for name in names])))
        return [tf.where(tf.reshape(is_inside, [-1] + [1] * (len(part.shape) - 1)), part, math.nan) for part in flat]

    drawn = graphs.graph(draw)

    def starts(count: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        with warnings.catch_warnings():
            # TFP warns that it must draw the variables one after the other with a Tensor seed.
            warnings.filterwarnings("ignore", message="Saw Tensor seed")
            return dict(zip(names, drawn(count, seed), strict=True))

    return starts
