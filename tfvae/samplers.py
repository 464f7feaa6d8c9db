"""Priors that are fitted after the training, so that what a model generates is more like the data."""

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, elbo, graphs, seeds
from tfvae.models import parts
from tfvae.models.autoencoder import Autoencoder
from tfvae.models.density import Density
from tfvae.models.hierarchical import HierarchicalVAE
from tfvae.models.replacement import check_replacement, replace_prior
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.posteriors import Posterior
from tfvae.priors import NormalMixture, Prior, SecondStage, SplineFlow
from tfvae.training.batch import batches, check_no_weights

__all__ = ["Comparison", "fit"]

# For each kind: the prior, the number of steps, and the learning rate of the first one.
_KINDS: dict[str, tuple[Callable[..., Prior], int, float]] = {
    "mixture": (functools.partial(NormalMixture, num_components=100), 500, 5e-3),
    "flow": (SplineFlow, 2000, 3e-3),
    "vae": (SecondStage, 3000, 1e-3),
}
# After so many steps z is drawn anew, and the prior is compared with the best one so far.
_STEPS_OF_ROUND = 100
# The most draws from which the start of a mixture is found.
_START_ROWS = 20_000
# A component of the start is not narrower than the square root of this, in standard deviations of z.
_LEAST_VARIANCE = 1e-3
# How many z are drawn for each example that was held out.
_DRAWS = 10
_FEWEST_ROWS = 20
# A standard error needs two.
_FEWEST_TO_COMPARE = 2
_MOST_HELD_OUT = 0.5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a fitted prior gains on data that were held out from its fit, in nats per example.

    Attributes:
        kind: "mixture", "flow" or "vae".
        is_used: whether the model has the new prior now.
        gain: the mean of log p(z) under the new prior minus that under the old one, z ~ q(z|x): that by which the bound
            on log p(x) rises.
        standard_error: the standard error of the gain, over the examples.
        before: the bound with the old prior; None if the model has no bound on log p(x).
        after: the bound with the new prior.
        num_examples: how many examples were held out.
    """

    kind: str
    is_used: bool
    gain: float
    standard_error: float
    before: float | None
    after: float | None
    num_examples: int

    def __str__(self) -> str:
        """The comparison in words."""
        what = "mean log p(z)" if self.before is None else f"bound on log p(x), from {self.before:.2f}"
        verb = "raises" if self.gain >= 0 else "lowers"
        now = "" if self.after is None else f" to {self.after:.2f} nats"
        doubt = ", which may be chance," if abs(self.gain) <= 2 * self.standard_error else ""
        used = "the model has the new prior" if self.is_used else "the model keeps its prior"
        return (
            f'The prior "{self.kind}" {verb} the {what}{now}, by {abs(self.gain):.3f} +- {self.standard_error:.3f} '
            f"nats per example{doubt} on {self.num_examples} examples that were held out: {used}"
        )


def fit(
    model: Autoencoder,
    x: Any,
    kind: Literal["mixture", "flow", "vae"],
    *,
    validation_data: Any = None,
    held_out: float = 0.1,
    steps: int | None = None,
    batch_size: int = 500,
    learning_rate: float | None = None,
    always: bool = False,
    seed: int | None = None,
    **arguments: Any,
) -> Comparison:
    """Fits a prior to the latent variables of a trained model, and gives it to the model.

    The prior maximises the mean of log p(z) over z ~ q(z|x), drawn anew all the time, for the x of the training. Its
    maximum is at the aggregated posterior, the mean of q(z|x) over the data: the prior with the highest bound on
    log p(x) for this encoder and decoder, and the z that the decoder knows. The model then has it as `model.prior`, in
    the place of the old one, for all that it does: `generate`, `evaluate`, `log_likelihood`, `score`, `save`, exports,
    and a further `fit`, which begins with a new state of the optimizer. A threshold of anomalies is forgotten, because
    it was one of the old bound.

    Some examples are held out, and a tenth of the others chooses the best of the priors on the way. If the new prior
    has a lower bound on what was held out than the old one, there is a warning, and the model keeps the old one.

    - "mixture" is a `NormalMixture`, which starts where expectation maximisation ends, of 100 components unless
      `num_components` says how many;
    - "flow" is a `SplineFlow`;
    - "vae" is a `SecondStage`, another VAE, whose log p(z) is a lower bound on average: so `evaluate` and
      `log_likelihood` stay lower bounds on log p(x), and the gain is at least the one given.

    Args:
        model: a trained `VAE`, `AutoregressiveVAE`, `ConditionalVAE` or `HierarchicalVAE` (whose part `prior` is that
            of its last layer), with q(z|x) of all real vectors. Of a `ConditionalVAE` the prior is one for all
            conditions. "vae" is for a `VAE` alone.
        x: the data of the training, as for `fit` of the model, without y: an array, rows of a table, a dataset.
        kind: the kind of prior.
        validation_data: data to compare the priors on, at least two examples; None holds out some of x.
        held_out: the share of x that is held out, if there are no `validation_data`; above 0 and up to 0.5.
        steps: the number of training steps; None means 500 for a mixture, 2000 for a flow and 3000 for a VAE.
        batch_size: how many z there are in a step.
        learning_rate: that of the first step, from which it falls to 0; None means one that suits the kind.
        always: whether the model gets the new prior even if its bound is lower.
        seed: the same seed holds out the same examples and draws the same z; the weights of networks start as
            `keras.utils.set_random_seed` says.
        arguments: the arguments of the prior, such as `num_components`.

    Returns:
        The comparison of the two priors.

    Raises:
        ValueError: an argument is invalid or does not exist, or the model has no prior that can be replaced.

    Reference: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, section 4; Dai & Wipf 2019, Diagnosing
    and Enhancing VAE Models, section 4.
    """
    prior = _checked_prior(model, kind, arguments)
    _, default_steps, default_rate = _KINDS[kind]
    steps = default_steps if steps is None else checks.positive_integer("steps", steps)
    rate = default_rate if learning_rate is None else checks.positive_number("learning_rate", learning_rate)
    batch_size = checks.positive_integer("batch_size", batch_size)
    held_out = checks.positive_number("held_out", held_out)
    if held_out > _MOST_HELD_OUT:
        raise ValueError(f"`held_out` must be above 0 and up to {_MOST_HELD_OUT}. Received: held_out={held_out}")
    always = checks.boolean("always", always)
    data = _checked_data(model, x, "x")
    validation = None if validation_data is None else _checked_data(model, validation_data, "validation_data")
    state = model._seed(seed)
    rng = np.random.default_rng(np.asarray(state).view(np.uint32))
    order = rng.permutation(_rows(data))
    if validation is None:
        count = max(_FEWEST_TO_COMPARE, round(held_out * len(order)))
        validation, order = _taken(data, order[:count]), order[count:]
    if isinstance(prior, NormalMixture) and prior.num_components > len(order):
        raise ValueError(
            f"`num_components` must be at most the number of examples that are not held out, {len(order)}. Received: "
            f"num_components={prior.num_components}"
        )
    count = max(1, len(order) // 10)
    split = [_Draws(model, _taken(data, rows)) for rows in (order[count:], order[:count])]
    with model.distribute_strategy.scope():
        density = Density(prior)
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        # The networks of flows and second stages are many small products, which XLA makes one of.
        density.compile(keras.optimizers.Adam(decay), jit_compile=kind != "mixture" and _is_alone(model))
    _train(density, *split, steps=steps, batch_size=batch_size, rate=rate, seed=state, rng=rng)
    comparison = _compared(model, prior, kind, validation, tf.random.experimental.stateless_fold_in(state, 2), always)
    if not comparison.gain >= 0:
        advice = "" if comparison.is_used else "; take more data or fewer weights, or pass always=True to use it anyway"
        warnings.warn(f"{comparison}{advice}", stacklevel=2)
    if comparison.is_used:
        replace_prior(model, prior)
    return comparison


def _checked_prior(model: Any, kind: Any, arguments: dict[str, Any]) -> Prior:
    """The new prior, not built yet, if the model can have it."""
    if not isinstance(model, VAE | HierarchicalVAE) or isinstance(model, SemiSupervisedVAE):
        raise ValueError(
            "`model` must be a tfvae.VAE, AutoregressiveVAE, ConditionalVAE or HierarchicalVAE, whose prior is a part "
            f"of its own; that of a VQVAE is learned by its `fit_prior`. Received: {checks.shown(model)}"
        )
    if model.event_shape is None:
        raise ValueError("`model` must be trained before its prior is fitted. Received: a model not yet built")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f'`kind` must be "mixture", "flow" or "vae". Received: kind={checks.shown(kind)}')
    if isinstance(model.prior, Posterior):
        raise ValueError(
            "`model` must have a prior that is the same for every condition: one of its own, such as StandardNormal, "
            f"and no p(z|c). Received: a {type(model).__name__} with {checks.shown(model.prior)}"
        )
    posterior = model.inference_parts()[-1][1]
    if posterior.support != "real":
        raise ValueError(
            f"`model` must have a q(z|x) of all real vectors. Received: {checks.shown(posterior)}, whose support is "
            f"{posterior.support}"
        )
    if kind == "vae" and type(model) is not VAE:
        raise ValueError(
            f'`kind` must be "mixture" or "flow" for a {type(model).__name__}: only a tfvae.VAE draws the latent '
            f'variables of a second VAE. Received: kind="vae"'
        )
    latent_dim = model.latent_dims[-1] if isinstance(model, HierarchicalVAE) else model.latent_dim
    _check_arguments(kind, arguments)
    prior = _KINDS[kind][0](**arguments)
    parts.set_latent_dim("prior", prior, latent_dim)
    try:
        check_replacement(model, prior)
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f'`model` cannot have the prior "{kind}": {error}') from error
    return prior


def _check_arguments(kind: str, arguments: Iterable[str]) -> None:
    """Raises ValueError unless the prior of a kind has arguments of these names."""
    own = [name for name, each in inspect.signature(fit).parameters.items() if each.kind is each.KEYWORD_ONLY]
    parameters = inspect.signature(_KINDS[kind][0]).parameters.values()
    of_prior = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    for name in arguments:
        if name not in of_prior:
            raise ValueError(
                f'`{name}` must be an argument of `samplers.fit`, {", ".join(own)}, or one of the prior "{kind}", '
                f"{', '.join(of_prior)}{checks.did_you_mean(name, [*own, *of_prior])}. Received: {name}"
            )


def _checked_data(model: Autoencoder, x: Any, argument: str) -> Any:
    """The data as arrays in the form that the model's methods take."""
    try:
        check_no_weights(model, x)
        if isinstance(x, tf.data.Dataset):
            found = list(model._checked_batches(x, 1, model.denoises))
            x = tf.nest.map_structure(lambda *each: np.concatenate(each), *found)
        x = model._arrays(x)
        model.check_data(x, model.denoises)
    except ValueError as error:
        if argument == "x":
            raise
        raise ValueError(f"`{argument}`: {error}") from error
    fewest = _FEWEST_ROWS if argument == "x" else _FEWEST_TO_COMPARE
    if _rows(x) < fewest:
        raise ValueError(f"`{argument}` must hold at least {fewest} examples. Received: {_rows(x)}")
    return x


def _rows(x: Any) -> int:
    return len(tf.nest.flatten(x)[0])


def _taken(x: Any, rows: np.ndarray) -> Any:
    return tf.nest.map_structure(lambda array: array[rows], x)


def _is_alone(model: keras.Model) -> bool:
    return model.distribute_strategy.num_replicas_in_sync == 1


class _Draws:
    """Draws z ~ q(z|x) of some examples, each of which is encoded only once if it can be.

    Args:
        model: the model.
        x: the examples, checked.
    """

    def __init__(self, model: Autoencoder, x: Any) -> None:
        self.model, self.x, self.rows = model, x, _rows(x)
        self._parameters = None
        if isinstance(model, VAE):
            encoded = [model._run(model._encode, part) for part in batches(x, 256)]
            self._parameters = tf.nest.map_structure(lambda *each: tf.concat(each, axis=0), *encoded)
            self._sample = graphs.graph(lambda each, seed: model.posterior.distribution(each).sample(seed=seed))

    def __call__(self, seed: tf.Tensor) -> np.ndarray:
        """One z [N, L] for each example."""
        if self._parameters is not None:
            return self._sample(self._parameters, seed).numpy()
        pairs = seeds.for_each(batches(self.x, 256), seed)
        return np.concatenate([self.model._run(self.model._draw_for_prior, *each).numpy() for each in pairs])


def _train(
    density: Density,
    train: _Draws,
    choice: _Draws,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: tf.Tensor,
    rng: np.random.Generator,
) -> None:
    """Trains the prior on draws of `train`, and leaves it as it was when it suited those of `choice` best.

    Raises:
        ValueError: log p(z) was never finite, after steps with this learning rate.
    """
    batch_size = min(batch_size, train.rows)
    of_train, of_choice = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    chosen_on = choice(of_choice)
    # As many draws of each example as a round has passes over them, each of which so has draws of its own.
    passes = math.ceil(_STEPS_OF_ROUND * batch_size / train.rows)
    best, best_weights = -math.inf, None
    for index, part in enumerate(chunks.slices(steps, _STEPS_OF_ROUND)):
        of_round = tf.random.experimental.stateless_fold_in(of_train, index)
        z = np.concatenate(list(_repeated(train, passes, of_round)))
        if index == 0:
            density.check_data(z)
            _start(density.prior, z, rng)
        # Whole batches alone, because XLA compiles a program for each shape.
        rows = rng.permutation(len(z))[: (part.stop - part.start) * batch_size]
        density.fit(z[rows], epochs=index + 1, initial_epoch=index, batch_size=batch_size, verbose=0)
        value = density.log_prob(chosen_on).mean(dtype=float)
        if value > best:
            best, best_weights = value, density.prior.get_weights()
    if best_weights is None:
        raise ValueError(
            "`learning_rate` must be lower: log p(z) was NaN or infinite after every round of steps. Received: "
            f"learning_rate={rate:g}"
        )
    density.prior.set_weights(best_weights)


def _repeated(draws: _Draws, count: int, seed: tf.Tensor) -> Iterator[np.ndarray]:
    """A z [N, L] for each example, so many times."""
    for _, of_draw in seeds.for_each(range(count), seed):
        yield draws(of_draw)


def _start(prior: Prior, z: np.ndarray, rng: np.random.Generator) -> None:
    """Sets the weights of a prior to where its fit starts."""
    loc, scale = z.mean(axis=0), np.maximum(z.std(axis=0), 1e-3)
    if not isinstance(prior, NormalMixture):
        prior.start_near(loc, _raw(scale))
        return
    # A second, and only a mixture needs it.
    from sklearn.mixture import GaussianMixture

    rows = rng.permutation(len(z))[:_START_ROWS]
    mixture = GaussianMixture(
        prior.num_components,
        covariance_type="diag",
        reg_covar=_LEAST_VARIANCE,
        init_params="k-means++",
        random_state=int(rng.integers(2**31)),
    )
    with warnings.catch_warnings():
        # That it has not converged, which a start need not.
        warnings.simplefilter("ignore")
        mixture.fit((z[rows] - loc) / scale)
    deviations = np.sqrt(mixture.covariances_) * scale
    prior.set_weights([np.log(mixture.weights_ + 1e-30), loc + scale * mixture.means_, _raw(deviations)])


def _raw(scale: np.ndarray) -> np.ndarray:
    """What `numerics.positive` maps to a scale."""
    return np.log(np.expm1(np.minimum(scale, 80.0))) + np.maximum(scale - 80.0, 0.0) - math.log(math.e - 1)


def _compared(model: Autoencoder, prior: Prior, kind: str, x: Any, seed: tf.Tensor, always: bool) -> Comparison:
    """Compares the prior with that of the model, on data that were held out."""
    draws, gains = _Draws(model, x), []
    old, new = (graphs.graph(lambda z, part=part: part.distribution().log_prob(z)) for part in (model.prior, prior))
    for z in _repeated(draws, _DRAWS, tf.random.experimental.stateless_fold_in(seed, 0)):
        gains.append(np.concatenate([(new(part) - old(part)).numpy() for part in batches(z, 4096)]))
    of_examples = np.mean(gains, axis=0, dtype=float)
    gain = float(of_examples.mean())
    error = float(of_examples.std(ddof=1) / math.sqrt(len(of_examples)))
    before = None
    # A model without a bound has no such metric; one that removes noise has a bound of data that are not here.
    if any(metric.name == "elbo" for metric in model.metrics) and not model.denoises:
        before = _bound(model, x, tf.random.experimental.stateless_fold_in(seed, 1))
    after = None if before is None else before + gain
    return Comparison(kind, always or gain >= 0, gain, error, before, after, len(of_examples))


def _bound(model: Autoencoder, x: Any, seed: tf.Tensor) -> float:
    """The mean of the evidence lower bound over examples, in nats."""

    def bound(part: Any, of_part: tf.Tensor) -> tf.Tensor:
        return model.elbo_terms(part, elbo.Sampling(1, of_part)).elbo

    function = graphs.graph(bound, reduce_retracing=True)
    pairs = seeds.for_each(batches(x, 256), seed)
    return float(np.concatenate([function(*each).numpy() for each in pairs]).mean(dtype=float))
