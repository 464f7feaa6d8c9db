"""Posterior predictive moments and draws of a Bayesian model, from draws of its latent variables."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.inference import observations
from tfvae.inference.latents import variables

tfd = tfp.distributions

_PREDICTIVE_DRAWS = 200

_Predictive = Callable[[dict[str, tf.Tensor], Any], tfd.Distribution]


class Prediction(keras.Model):
    """The methods of `tfvae.VariationalInference` that predict."""

    def posterior_predictive(self, x: Any = None, num_samples: int = 1000, *, seed: int | None = None) -> Any:
        """Draws data from the posterior predictive distribution.

        Args:
            x: new data [N, ...] in the form that `predictive` takes; None for a pinned joint distribution.
            num_samples: S.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            Draws [S, N, ...] of the quantity that `predictive` predicts; for a pinned joint distribution, draws of the
            pinned variables by name, each [S, ...].
        """
        self._check_fitted("posterior_predictive")
        z_seed, x_seed = tf.random.experimental.stateless_split(self._seed(seed), 2)
        num_samples = checks.positive_integer("num_samples", num_samples)
        z, _ = self.approximation.sample(num_samples, z_seed)
        latents, _ = self._run(self.space.constrain, z)
        return _draws(self._given["model"], self.predictive, latents, x, x_seed)

    def call(self, x: Any, training: bool = False) -> tf.Tensor:
        """The mean [B, ...] of the posterior predictive distribution, over 200 draws of q that are always the same.

        Args:
            x: new data [B, ...] in the form that `predictive` takes.
            training: has no effect.
        """
        return self.predict_moments(x)["mean"]

    def predict_moments(self, x: Any) -> dict[str, tf.Tensor]:
        """The `mean` and the `stddev` [B, ...] of the posterior predictive distribution, over the draws of `call`.

        Args:
            x: new data [B, ...] in the form that `predictive` takes.
        """
        z, _ = self.approximation.draw(_PREDICTIVE_DRAWS, tf.constant([0, 0]))
        return _moments(self.predictive, self.space.constrain(z)[0], x)


def _moments(predictive: _Predictive | None, latents: dict[str, tf.Tensor], x: Any) -> dict[str, tf.Tensor]:
    """Computes the `mean` and the `stddev` [B, ...] of the posterior predictive distribution.

    Args:
        predictive: see `tfvae.VariationalInference`.
        latents: the latent variables by name, each [S, ...].
        x: new data [B, ...].

    Raises:
        ValueError: `predictive` is None.
    """
    distribution = _checked(predictive)(latents, tf.nest.map_structure(observations.cast, x))
    means = distribution.mean()
    variance = tf.reduce_mean(distribution.variance(), axis=0) + tf.math.reduce_variance(means, axis=0)
    return {"mean": tf.reduce_mean(means, axis=0), "stddev": tf.sqrt(variance)}


def _draws(
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
    distribution = _checked(predictive)(latents, tf.nest.map_structure(observations.cast, x))
    return distribution.sample(seed=seed).numpy()


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
