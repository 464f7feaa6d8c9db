"""Posterior predictive moments and draws of a Bayesian model, from draws of its latent variables."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.inference import observations
from tfvae.inference.latents import variables

tfd = tfp.distributions

_Predictive = Callable[[dict[str, tf.Tensor], Any], tfd.Distribution]


def moments(predictive: _Predictive | None, latents: dict[str, tf.Tensor], x: Any) -> dict[str, tf.Tensor]:
    """Computes the `mean` and the `stddev` [B, ...] of the posterior predictive distribution.

    Args:
        predictive: see `tfvae.VariationalInference`.
        latents: the latent variables by name, each [S, ...].
        x: new data [B, ...].

    Raises:
        ValueError: `predictive` is None.
    """
    distribution = _checked(predictive)(latents, _cast(x, latents))
    means = distribution.mean()
    variance = tf.reduce_mean(distribution.variance(), axis=0) + tf.math.reduce_variance(means, axis=0)
    return {"mean": tf.reduce_mean(means, axis=0), "stddev": tf.sqrt(variance)}


def draws(
    model: Any, predictive: _Predictive | None, latents: dict[str, tf.Tensor], x: Any, seed: tf.Tensor
) -> np.ndarray | dict[str, np.ndarray]:
    """Draws data from the posterior predictive distribution, once for each draw of the latent variables.

    Args:
        model: the Bayesian model.
        predictive: see `tfvae.VariationalInference`.
        latents: the latent variables by name, each [S, ...].
        x: new data [N, ...]; or None to replicate the pinned data of a joint distribution.
        seed: int32 [2], a stateless seed.

    Returns:
        Draws [S, N, ...] from `predictive`; or of the pinned variables, by name, each [S, ...].

    Raises:
        ValueError: `predictive` is None and there are no pinned data to replicate.
    """
    if x is None and isinstance(model, tfp.experimental.distributions.JointDistributionPinned):
        return _replicate(model, latents, seed)
    distribution = _checked(predictive)(latents, _cast(x, latents))
    return distribution.sample(seed=seed).numpy()


def _cast(x: Any, latents: dict[str, tf.Tensor]) -> Any:
    """Converts new data to tensors of the precision of the latent variables."""
    dtype = next(iter(latents.values())).dtype
    return tf.nest.map_structure(lambda part: observations.cast(part, dtype), x)


def _checked(predictive: _Predictive | None) -> _Predictive:
    if predictive is None:
        raise ValueError(
            "`predictive` must be given to VariationalInference for predictions. Received: predictive=None"
        )
    return predictive


def _replicate(model: Any, latents: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, np.ndarray]:
    """Draws the pinned variables of a joint distribution, by name, each [S, ...], given latent variables [S, ...]."""
    joint = model.distribution
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Saw Tensor seed")
        draws = tf.function(lambda: joint.sample(seed=seed, **latents), autograph=False)()
    draws = dict(zip(variables(joint), tf.nest.flatten(draws), strict=True))
    return {name: draw.numpy() for name, draw in draws.items() if name not in latents}
