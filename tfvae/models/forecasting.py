"""Forecasts of time series, as draws of the steps to come.

Reference: Gneiting & Katzfuss 2014, Probabilistic Forecasting, for quantiles as the form of a forecast.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, seeds
from tfvae.models import completion, over_time, particles
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE
from tfvae.training.batch import batches


class Forecast(NamedTuple):
    """The steps to come of N sequences.

    Attributes:
        mean: the mean of each step `[N, steps, C]`.
        quantiles: for each level, the quantile of each step `[N, steps, C]`.
        samples: the draws `[num_samples, N, steps, C]`, each of which is of a whole future; None unless asked for.
    """

    mean: np.ndarray
    quantiles: dict[float, np.ndarray]
    samples: np.ndarray | None = None

    @classmethod
    def of(cls, samples: np.ndarray, levels: Sequence[float], keeps_samples: bool) -> Self:
        """The forecast that draws `[num_samples, N, steps, C]` are."""
        quantiles = np.quantile(samples, levels, axis=0).astype(samples.dtype)
        by_level = dict(zip(levels, quantiles, strict=True))
        return cls(samples.mean(axis=0), by_level, samples if keeps_samples else None)


def forecast(
    model: SequentialVAE | VAE,
    x: Any,
    steps: int,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    num_samples: int = 1000,
    batch_size: int = 64,
    seed: int | None = None,
    return_samples: bool = False,
) -> Forecast:
    """Forecasts the steps that follow sequences, by draws from p(x_{T+1}, ..., x_{T+steps}|x).

    A `tfvae.SequentialVAE` draws z_T from its particles (see `SequentialVAE.filter`), and continues from there; where a
    sequence ends before T, in steps of NaN alone, the forecast is of the steps after its own end, and of the first
    ones where all are NaN. A `tfvae.VAE` of windows of T steps, with the likelihood `Missing`, fills in the last of a
    window that begins with the last T - steps steps before that end, as `tfvae.impute` does; a window in which steps at
    the end were missing should be among its training data. If its `series` is of whole sequences, they keep their
    places in the window, and the steps after their end must be within it.

    Args:
        model: a trained model of sequences [N, T, C].
        x: the sequences up to now [N, T, C], in the model's units; NaN marks missing values, if its likelihood allows
            them.
        steps: the number of steps to forecast; for a `VAE` fewer than those of a window.
        quantiles: the levels of the quantiles, each between 0 and 1.
        num_samples: the number of particles, or of weighted draws of z, and of the futures that are drawn.
        batch_size: how many examples are computed at a time, at most.
        seed: the same seed gives the same forecast; None draws anew at each call.
        return_samples: whether the result has the draws themselves.

    Returns:
        The mean and the quantiles of each step and channel, over the draws.

    Raises:
        ValueError: an argument is out of its range, or x is not valid data for the model.

    Warns:
        UserWarning: a few draws of z have almost all of the weight, as for `tfvae.impute`.
    """
    steps = checks.positive_integer("steps", steps)
    num_samples = checks.positive_integer("num_samples", num_samples, 2)
    keeps_samples = checks.boolean("return_samples", return_samples)
    is_listed = isinstance(quantiles, Iterable) and not isinstance(quantiles, str | bytes)
    levels = [checks.number("quantiles", level) for level in quantiles] if is_listed else []
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(
            f"`quantiles` must be a list of numbers between 0 and 1. Received: quantiles={checks.shown(quantiles)}"
        )
    if isinstance(model, SequentialVAE):
        samples, sizes = _continued(model, x, steps, num_samples, batch_size, seed)
    elif isinstance(model, VAE) and model.completes and model.likelihood.allows_missing:
        samples, sizes = _completed(model, x, steps, num_samples, batch_size, seed)
    else:
        raise ValueError(
            "`model` must be a SequentialVAE, or a VAE of windows whose likelihood allows missing values, such as "
            f"Missing(Normal()). Received: {checks.shown(model)}"
        )
    completion.warn_where_few(sizes, num_samples, "forecasts")
    return Forecast.of(samples, levels, keeps_samples)


def _continued(
    model: SequentialVAE, x: Any, steps: int, num_samples: int, batch_size: int, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The futures [num_samples, N, steps, ...], and the effective size [N] of the particles that they start from."""
    state = model._seed(seed)
    found = particles.of_batches(model, x, num_samples, batch_size, state, more_steps=steps)
    drawn, sizes = [], []
    for (batch, after), of_batch in seeds.for_each(found, seeds.of_z_and_x(state)[1]):
        of_choice, of_steps = seeds.of_z_and_x(of_batch)
        chosen = particles.resampled(after, num_samples, of_choice)
        # Where nothing is known of a sequence, its first step is the first one of the model.
        has_begun = tf.tile(tf.reduce_any(over_time.is_step(batch), axis=1), [num_samples])[:, tf.newaxis]
        of_first = tf.random.experimental.stateless_fold_in(of_steps, 1)
        first = tf.where(has_begun, math.nan, model.prior.distribution().sample(len(has_begun), seed=of_first))
        parts = seeds.for_slices(len(first), chunks.rows_within(particles.STEPS, steps), of_steps)
        futures = np.concatenate(
            [
                particles.drawn(model, tuple(each[part] for each in chosen), steps, seed, first[part])[1]
                for part, seed in parts
            ]
        )
        drawn.append(futures.reshape([num_samples, len(batch), *futures.shape[1:]]))
        sizes.append(np.exp(-np.logaddexp.reduce(2 * np.float64(after.log_weights), axis=0)))
    return np.concatenate(drawn, axis=1), np.concatenate(sizes)


def _completed(
    model: VAE, x: Any, steps: int, num_samples: int, batch_size: int, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `_continued`, from the draws of z that are weighted by the steps before."""
    x = checks.to_numpy(x)
    model._check_built("forecast")
    if len(model.event_shape) != 2 or steps >= model.event_shape[0]:
        raise ValueError(
            "`steps` must be less than the number of steps of the model's windows [T, C]. Received: "
            f"steps={steps} for examples of shape {list(model.event_shape)}"
        )
    checks.check_shape(x, (None, *model.event_shape[1:]))
    windows, starts = _windows(model, x.astype(np.float32), steps)
    model.check_data(windows)
    drawn, sizes = [], []
    for batch, of_batch in seeds.for_each(batches(windows, batch_size), model._seed(seed)):
        weights = completion.Weights()
        drawn.append(completion.draws(model, batch, num_samples, num_samples, of_batch, weights))
        sizes.append(weights.effective_size)
    places = (starts[:, np.newaxis] + np.arange(steps))[np.newaxis, :, :, np.newaxis]
    return np.take_along_axis(np.concatenate(drawn, axis=1), places, axis=2), np.concatenate(sizes)


def _windows(model: VAE, x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows [N, T, C] in which the steps after the end of each sequence are missing, and where these start [N].

    Args:
        model: the model of windows of T steps.
        x: the sequences; steps of NaN alone are after their end.
        steps: how many steps there must be after the end.
    """
    length = model.event_shape[0]
    ends = np.count_nonzero(over_time.is_step(tf.constant(x)), axis=1)
    if model.series is not None and model.series.is_whole:
        # The place of a step in the sequence is one in the window too.
        starts, longest = ends, ends.max(initial=0)
        if longest + steps > length:
            raise ValueError(
                f"`steps` must end within the model's {length} steps, because its windows are whole sequences. "
                f"Received: steps={steps} after a sequence of {longest}"
            )
    else:
        starts = np.full(len(x), length - steps)
    windows = np.full([len(x), length, x.shape[2]], np.nan, np.float32)
    for window, row, end, start in zip(windows, x, ends, starts, strict=True):
        number = min(end, start)
        window[start - number : start] = row[end - number : end]
    return windows, starts
