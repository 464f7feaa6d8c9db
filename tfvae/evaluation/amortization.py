"""How far the bound falls short because of the encoder, and how far because of the family of q(z|x)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, elbo, seeds
from tfvae.evaluation.batches import check_model, prior_of, seeded
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE

# The draws of z for each of the two bounds, on the same noise; and the most elements of x computed at a time.
_NUM_SAMPLES = 256
_CHUNK_ELEMENTS = 2**22


@dataclasses.dataclass(frozen=True)
class InferenceGap:
    """Where the bound falls short: log p(x) - ELBO = approximation gap + amortization gap, in nats.

    Attributes:
        elbo: the ELBO of the encoder's q(z|x) [N].
        optimal_elbo: the ELBO of the q that was optimised for each example [N].
        standard_error: the Monte Carlo error of their difference [N].
        log_likelihood: log p(x) [N] as given to `amortization_gap`, or None.
    """

    elbo: np.ndarray
    optimal_elbo: np.ndarray
    standard_error: np.ndarray
    log_likelihood: np.ndarray | None = None

    @property
    def amortization_gap(self) -> np.ndarray:
        """What the encoder loses against the best q of its family [N]; negative only by noise or too few steps."""
        return self.optimal_elbo - self.elbo

    @property
    def approximation_gap(self) -> np.ndarray | None:
        """What the best q of the family loses against p(z|x) [N], or None where log p(x) was not given."""
        return None if self.log_likelihood is None else self.log_likelihood - self.optimal_elbo


def amortization_gap(
    model: VAE,
    x: Any,
    steps: int = 500,
    *,
    log_likelihood: np.ndarray | None = None,
    learning_rate: float = 0.03,
    num_samples: int = 8,
    batch_size: int = 64,
    seed: int | None = None,
) -> InferenceGap:
    """Optimises q(z|x) for each example by itself, starting from the encoder's, and compares the bounds.

    Adam maximises the ELBO in loc, in units of the encoder's scale, and in log scale, with a learning rate that falls
    to 0 along a cosine. The decoder does not change.

    Args:
        model: the model, with a posterior whose parameters are `loc` and `scale`, such as `DiagonalNormal`.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        steps: the number of optimizer steps for each batch.
        log_likelihood: log p(x) [N] in nats, such as from `importance_sampling`; the approximation gap needs it.
        learning_rate: the learning rate of the first step, > 0.
        num_samples: draws of z for each example in a step.
        batch_size: how many examples are optimised at a time.
        seed: the same seed gives the same draws; None draws anew at each call.

    Returns:
        The bounds and the gaps [N], in nats per example.

    Raises:
        ValueError: an argument is invalid.

    Reference: Cremer et al. 2018, Inference Suboptimality in Variational Autoencoders; for the gradient Roeder et al.
    2017, Sticking the Landing.
    """
    check_model(model, but=SemiSupervisedVAE)
    model.check_defined("elbo", "`amortization_gap`")
    steps = checks.positive_integer("steps", steps)
    num_samples = checks.positive_integer("num_samples", num_samples)
    learning_rate = checks.positive_number("learning_rate", learning_rate)
    if log_likelihood is not None:
        log_likelihood = checks.to_numpy(log_likelihood, "log_likelihood")
        checks.check_shape(log_likelihood, (), "log_likelihood")
    make = functools.cache(functools.partial(_optimizer, model, steps, learning_rate, num_samples))
    results = []
    for batch, batch_seed in seeded(model, x, batch_size, seed):
        first_seed, second_seed = tf.unstack(tf.random.experimental.stateless_split(batch_seed, 2))
        encoded = model._encode(batch)
        if set(encoded) != {"loc", "scale"}:
            raise ValueError(
                "`model` must have a posterior whose parameters are loc and scale, such as DiagonalNormal. Received: "
                f"{type(model.posterior).__name__}, with {sorted(encoded)}"
            )
        optimal = make(len(tf.nest.flatten(batch)[0]))(batch, encoded, first_seed)
        # The mean of the log weights estimates the ELBO, without noise where q(z|x) = p(z|x).
        first, last = (_log_weights(model, batch, each, second_seed) for each in (encoded, optimal))
        error = np.std(last - first, axis=0, ddof=1) / math.sqrt(_NUM_SAMPLES)
        results.append((first.mean(axis=0), last.mean(axis=0), error))
    bounds = [np.concatenate(values) for values in zip(*results, strict=True)]
    if log_likelihood is not None:
        checks.check_same_length(x=bounds[0], log_likelihood=log_likelihood)
    return InferenceGap(bounds[0], bounds[1], bounds[2], log_likelihood)


def _terms(model: VAE, x: Any, parameters: dict[str, tf.Tensor], num_samples: int, seed: tf.Tensor) -> elbo.ElboTerms:
    """The terms of the bound for parameters of q that need not be the encoder's."""
    return elbo.estimate(
        model.posterior.distribution(parameters),
        prior_of(model, x),
        functools.partial(model._log_likelihood, x),
        elbo.Sampling(num_samples=num_samples, seed=seed, analytic_kl=False, path=elbo.Path()),
    )


def _log_weights(model: VAE, x: Any, parameters: dict[str, tf.Tensor], seed: tf.Tensor) -> np.ndarray:
    """The log importance weights [S, B] for parameters of q."""
    size = chunks.rows_within(_CHUNK_ELEMENTS, int(tf.size(model._split(x)[0])))
    parts = seeds.for_draws(_NUM_SAMPLES, size, seed)
    return np.concatenate([_terms(model, x, parameters, *part).log_weights for part in parts])


def _optimizer(
    model: VAE, steps: int, learning_rate: float, num_samples: int, size: int
) -> Callable[[Any, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a function from a batch of `size` examples and the encoder's parameters to those of the best q."""
    variables = [keras.Variable(tf.zeros([size, model.latent_dim]), dtype="float32") for _ in range(2)]
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    optimizer.build(variables)
    all_variables = [*variables, *optimizer.variables]
    initial = [keras.ops.convert_to_numpy(variable) for variable in all_variables]

    def moved(encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        shift, log_ratio = (variable.value for variable in variables)
        return {"loc": encoded["loc"] + encoded["scale"] * shift, "scale": encoded["scale"] * tf.exp(log_ratio)}

    @tf.function(autograph=False)
    def step(x: Any, encoded: dict[str, tf.Tensor], seed: tf.Tensor, index: tf.Tensor) -> None:
        seed = tf.random.experimental.stateless_fold_in(seed, index)
        with tf.GradientTape() as tape:
            terms = _terms(model, x, moved(encoded), num_samples, seed)
            loss = -tf.reduce_sum(terms.elbo)
        optimizer.apply(tape.gradient(loss, variables), variables)

    def optimal(x: Any, encoded: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        for variable, value in zip(all_variables, initial, strict=True):
            variable.assign(value)
        for index in range(steps):
            step(x, encoded, seed, tf.constant(index))
        return moved(encoded)

    return optimal
