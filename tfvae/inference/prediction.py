"""What a Bayesian model with an approximate posterior predicts."""

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
    """The `mean` and the `stddev` [B, ...] of what is predicted, over draws of the latent variables.

    Args:
        predictive: see `tfvae.VariationalInference`.
        latents: the latent variables by name, each [S, ...].
        x: new data [B, ...].

    Raises:
        ValueError: there is no `predictive`.
    """
    distribution = _checked(predictive)(latents, tf.nest.map_structure(observations.cast, x))
    means = distribution.mean()
    variance = tf.reduce_mean(distribution.variance(), axis=0) + tf.math.reduce_variance(means, axis=0)
    return {"mean": tf.reduce_mean(means, axis=0), "stddev": tf.sqrt(variance)}


def draws(
    model: Any, predictive: _Predictive | None, latents: dict[str, tf.Tensor], x: Any, seed: tf.Tensor
) -> np.ndarray | dict[str, np.ndarray]:
    """Draws data at draws of the latent variables.

    Args:
        model: the Bayesian model.
        predictive: see `tfvae.VariationalInference`.
        latents: the latent variables by name, each [S, ...].
        x: new data [N, ...], or None for what is pinned in a joint distribution.
        seed: int32 [2], a stateless seed.

    Raises:
        ValueError: there is no `predictive`, and the model is no joint distribution.
    """
    if x is None and isinstance(model, tfp.experimental.distributions.JointDistributionPinned):
        return _replicate(model, latents, seed)
    distribution = _checked(predictive)(latents, tf.nest.map_structure(observations.cast, x))
    return distribution.sample(seed=seed).numpy()


def _checked(predictive: _Predictive | None) -> _Predictive:
    if predictive is None:
        raise ValueError(
            "`predictive` must be given to VariationalInference for predictions. Received: predictive=None"
        )
    return predictive


def _replicate(model: Any, latents: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, np.ndarray]:
    """Draws what is pinned in a joint distribution, by name, each [S, ...], at latent variables [S, ...]."""
    joint = model.distribution
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Saw Tensor seed")
        draws = tf.function(lambda: joint.sample(seed=seed, **latents), autograph=False)()
    draws = dict(zip(variables(joint), tf.nest.flatten(draws), strict=True))
    return {name: draw.numpy() for name, draw in draws.items() if name not in latents}
