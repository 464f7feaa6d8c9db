"""Imputation of missing values, by their mean under the model or by several draws: see `tfvae.models.completion`.

Reference: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
"""

import warnings
from typing import Any

import numpy as np

from tfvae import checks, seeds
from tfvae.data.schema import frame_of, is_rows
from tfvae.models import completion
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.rows import filled
from tfvae.models.vae import VAE
from tfvae.training.batch import batches

# A warning is given if fewer effective draws than this remain, for more than this share of the examples.
_FEW_DRAWS = 10
_FEW_EXAMPLES = 0.1


def impute(
    model: VAE,
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

    Reference: Mattei & Frellsen 2019, MIWAE; for the draws Rubin 1987, sampling importance resampling.
    """
    if isinstance(model, ConditionalVAE | AutoregressiveVAE):
        raise ValueError(
            "`model` must be a VAE of x alone, without a condition, whose elements are independent given z. Received: "
            f"a {type(model).__name__}"
        )
    if not isinstance(model, VAE) or not model.likelihood.allows_missing:
        received = type(model.likelihood).__name__ if isinstance(model, VAE) else repr(model)
        raise ValueError(
            "`model` must be a VAE whose likelihood allows missing values, for example Missing(Normal()). Received: "
            f"{received}"
        )
    num_samples = checks.positive_integer("num_samples", num_samples)
    if num_imputations is not None:
        num_imputations = checks.positive_integer("num_imputations", num_imputations)
    given = frame_of(x) if model.table is not None and is_rows(x) else None
    x = checks.to_numpy(model.of_rows(x))
    model.check_data(x)
    rows, sizes = [], []
    for batch, batch_seed in seeds.for_each(batches(x, batch_size), model._seed(seed)):
        weights = completion.Weights()
        if num_imputations is None:
            rows.append(model.likelihood.to_data(completion.mean(model, batch, num_samples, batch_seed, weights)))
        else:
            rows.append(completion.draws(model, batch, num_samples, num_imputations, batch_seed, weights))
        sizes.append(weights.effective_size)
    share = np.mean(np.concatenate(sizes) < _FEW_DRAWS)
    if share > _FEW_EXAMPLES and num_samples >= 10 * _FEW_DRAWS:
        warnings.warn(
            f"Fewer than {_FEW_DRAWS} draws of z have almost all the weight for {share:.0%} of the examples, so that "
            "their imputations are noisy: take more samples, or train with more draws (IWAE) or a richer posterior.",
            stacklevel=2,
        )
    drawn = np.concatenate(rows, axis=0 if num_imputations is None else 1)
    dtype = np.result_type(x.dtype, np.float32)
    completed = np.where(np.isnan(x), drawn.astype(dtype), x.astype(dtype))
    if given is None or model.table is None:
        return completed
    if num_imputations is None:
        return filled(model.table, given, completed)
    return [filled(model.table, given, each) for each in completed]
