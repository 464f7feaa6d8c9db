"""How much of the bound is lost because an encoder gives q(z|x), and how much because of the family of q."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.evaluation.batches import check_model, prior_of, seeded
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE

# For the bounds that are compared, on the same noise; and the most elements of x that are computed at a time.
_NUM_SAMPLES = 256
_CHUNK_ELEMENTS = 2**22


@dataclasses.dataclass(frozen=True)
class InferenceGap:
    """Where the bound falls short: log p(x) - ELBO = approximation gap + amortization gap, in nats.

    Attributes:
        elbo: of the encoder's q(z|x) [N].
        optimal_elbo: of the q that was optimised for each example [N].
        standard_error: of their difference [N].
        log_likelihood: log p(x) [N] as it was given, or None.
    """

    elbo: np.ndarray
    optimal_elbo: np.ndarray
    standard_error: np.ndarray
    log_likelihood: np.ndarray | None = None

    @property
    def amortization_gap(self) -> np.ndarray:
        """What the encoder loses against the best q of its family [N]; not below 0, but for noise and few steps."""
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
    """Optimises q(z|x) for each example by itself, from the encoder's, and compares the bounds.

    Adam follows the gradient of the ELBO in loc and log scale, in units of the encoder's scale, with a learning rate
    that falls to 0 as a cosine. The decoder is left as it is.

    Args:
        model: the model, with a posterior whose parameters are `loc` and `scale`, such as `DiagonalNormal`.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        steps: of the optimizer, for each batch.
        log_likelihood: log p(x) [N] in nats, such as that of `importance_sampling`, for the approximation gap.
        learning_rate: that of the first step, > 0.
        num_samples: draws of z for each example in a step.
        batch_size: how many examples are optimised at a time.
        seed: the same seed gives the same draws; None draws anew at each call.

    Returns:
        The bounds and the gaps [N], in nats per example.

    Raises:
        ValueError: an argument is not what it must be.

    Reference: Cremer et al. 2018, Inference Suboptimality in Variational Autoencoders; for the gradient Roeder et al.
    2017, Sticking the Landing.
    """
    check_model(model, but=SemiSupervisedVAE)
    steps = checks.positive_integer("steps", steps)
    num_samples = checks.positive_integer("num_samples", num_samples)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` must be a finite number above 0. Received: learning_rate={learning_rate!r}")
    if log_likelihood is not None:
        log_likelihood = checks.to_numpy(log_likelihood, "log_likelihood")
        checks.check_shape(log_likelihood, (), "log_likelihood")
    make = functools.cache(functools.partial(_optimizer, model, steps, learning_rate, num_samples))
    results = []
    for batch, batch_seed in seeded(model, x, batch_size, seed):
        seeds = tf.random.experimental.stateless_split(batch_seed, 2)
        encoded = model._encode(batch)
        if set(encoded) != {"loc", "scale"}:
            raise ValueError(
                "`model` must have a posterior whose parameters are loc and scale, such as DiagonalNormal. Received: "
                f"{type(model.posterior).__name__}, with {sorted(encoded)}"
            )
        optimal = make(len(tf.nest.flatten(batch)[0]))(batch, encoded, seeds[0])
        # Their mean is the ELBO, without noise where q(z|x) = p(z|x).
        first, last = (_log_weights(model, batch, each, seeds[1]) for each in (encoded, optimal))
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
    size = max(1, min(_NUM_SAMPLES, _CHUNK_ELEMENTS // int(tf.size(model._split(x)[0]))))
    parts = []
    for start in range(0, _NUM_SAMPLES, size):
        chunk_seed = tf.random.experimental.stateless_fold_in(seed, start)
        parts.append(_terms(model, x, parameters, min(size, _NUM_SAMPLES - start), chunk_seed).log_weights)
    return np.concatenate(parts)


def _optimizer(
    model: VAE, steps: int, learning_rate: float, num_samples: int, size: int
) -> Callable[[Any, dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a function of a batch of one size that gives the parameters of the best q."""
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
