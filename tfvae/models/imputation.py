"""Imputation of missing values, by their mean under the model or by several draws: see `tfvae.models.completion`.

Reference: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, seeds
from tfvae.data.schema import frame_of, is_rows
from tfvae.models import completion, over_time, particles
from tfvae.models.rows import filled
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE
from tfvae.training.batch import batches


def impute(
    model: VAE | SequentialVAE,
    x: Any,
    num_samples: int = 1000,
    batch_size: int = 64,
    seed: int | None = None,
    num_imputations: int | None = None,
) -> Any:
    """Fills in the missing values of x, which are marked by NaN.

    By default the imputation is E[x_missing|x_observed] = sum over S of v E[x_missing|z], where v are the importance
    weights divided by their sum; for a `Categorical` element it is the most probable code. With `num_imputations`, each
    imputation picks one of the z with the probabilities v, and draws x_missing ~ p(x_missing|z). If `num_samples` is
    at least 100, a warning is given when a few draws have almost all of the weight, 1 / (sum of v^2) < 10, for more
    than a tenth of the examples.

    For a `SequentialVAE` the weighted draws are the paths of particles, given all of x. Only gaps are filled: what
    follows the last step with any number in it stays NaN, and `tfvae.forecast` is for it.

    Args:
        model: a trained model with the likelihood `Missing` and no condition.
        x: the data [N, ...]; for a model of a table also a data frame.
        num_samples: S, the number of draws of z for each example.
        batch_size: how many examples are computed at a time; memory is bounded whatever S is.
        seed: the same seed gives the same draws; None draws anew at each call.
        num_imputations: M, how many times to draw x_missing; None returns its mean instead.

    Returns:
        x as floats, filled in: [N, ...], or [M, N, ...] for M draws; for a data frame a `pandas.DataFrame`, or a list
        of M. Observed values are unchanged.

    Raises:
        ValueError: an argument is out of its range, or x is not valid data for the model.

    Reference: Mattei & Frellsen 2019, MIWAE; for the draws Rubin 1987, sampling importance resampling; for sequences
    Doucet & Johansen 2011, A Tutorial on Particle Filtering and Smoothing, section 4.1.
    """
    if isinstance(model, VAE) and not model.completes:
        raise ValueError(
            "`model` must be a VAE of x alone, without a condition, whose elements are independent given z. Received: "
            f"a {type(model).__name__}"
        )
    if not isinstance(model, VAE | SequentialVAE) or not model.likelihood.allows_missing:
        received = type(model.likelihood).__name__ if isinstance(model, VAE | SequentialVAE) else repr(model)
        raise ValueError(
            "`model` must be a VAE whose likelihood allows missing values, for example Missing(Normal()). Received: "
            f"{received}"
        )
    model.check_defined("elbo", "`impute` weighs draws of z, which")
    num_samples = checks.positive_integer("num_samples", num_samples)
    if num_imputations is not None:
        num_imputations = checks.positive_integer("num_imputations", num_imputations)
    table = model.table if isinstance(model, VAE) else None
    given = frame_of(x) if table is not None and is_rows(x) else None
    x = checks.to_numpy(model.of_rows(x))
    model.check_data(x)
    impute_rows = _of_sequences if isinstance(model, SequentialVAE) else _of_examples
    pairs = list(impute_rows(model, x, num_samples, batch_size, model._seed(seed), num_imputations))
    rows, sizes = zip(*pairs, strict=True)
    completion.warn_where_few(np.concatenate(sizes), num_samples, "imputations")
    drawn = np.concatenate(rows, axis=0 if num_imputations is None else 1)
    dtype = np.result_type(x.dtype, np.float32)
    completed = np.where(np.isnan(x), drawn.astype(dtype), x.astype(dtype))
    if given is None or table is None:
        return completed
    if num_imputations is None:
        return filled(table, given, completed)
    return [filled(table, given, each) for each in completed]


def _of_examples(
    model: VAE, x: np.ndarray, num_samples: int, batch_size: int, seed: tf.Tensor, num_imputations: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What to fill in [B, ...] or [M, B, ...], and the effective size [B], for each batch."""
    for batch, batch_seed in seeds.for_each(batches(x, batch_size), seed):
        weights = completion.Weights()
        if num_imputations is None:
            found = model.likelihood.to_data(completion.mean(model, batch, num_samples, batch_seed, weights))
        else:
            found = completion.draws(model, batch, num_samples, num_imputations, batch_seed, weights)
        yield found, weights.effective_size


def _of_sequences(
    model: SequentialVAE,
    x: np.ndarray,
    num_samples: int,
    batch_size: int,
    seed: tf.Tensor,
    num_imputations: int | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What to fill in, as `_of_examples`; the effective size is that of the gap where it is least."""
    found = particles.of_batches(model, x, num_samples, batch_size, seed, has_paths=True)
    for (batch, each), of_batch in seeds.for_each(found, seeds.of_z_and_x(seed)[1]):
        of_choice, of_x = seeds.of_z_and_x(of_batch)
        count, rows = each.log_weights.shape
        if num_imputations is None:
            numbers = np.tile(np.arange(count)[:, np.newaxis], rows)
        else:
            log_weights = tf.transpose(each.log_weights)
            numbers = tf.random.stateless_categorical(log_weights, num_imputations, of_choice).numpy().T
        paths, sizes = particles.traced(each, numbers)
        parts = chunks.slices(len(paths[0]), chunks.rows_within(particles.STEPS, batch.shape[1]))
        decoded = [model._run(model.parameters_along, *(path[part] for path in paths)) for part in parts]
        parameters = tf.concat(decoded, axis=0)
        parameters = tf.reshape(parameters, [len(numbers), rows, *parameters.shape[1:]])
        if num_imputations is None:
            means = np.float64(model.likelihood.mean(parameters))
            shares = np.exp(np.float64(each.log_weights)).reshape([count, rows, *[1] * (means.ndim - 2)])
            values = model.likelihood.to_data((shares * means).sum(axis=0))
        else:
            values = model.likelihood.distribution(parameters).sample(seed=of_x).numpy()
        real = over_time.is_step(batch).numpy()
        gaps = np.isnan(batch).any(axis=tuple(range(2, len(batch.shape)))) & real
        padding = ~real.reshape([*real.shape, *[1] * (len(batch.shape) - 2)])
        yield np.where(padding, np.nan, values), np.where(gaps, sizes, np.inf).min(axis=1)
