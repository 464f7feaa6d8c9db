"""Posterior predictive moments and draws of a Bayesian model, from draws of its latent variables."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, graphs
from tfvae.inference import observations
from tfvae.inference.latents import variables
from tfvae.inference.targets import AUTO_BATCHED

tfd = tfp.distributions

_PREDICTIVE_DRAWS = 200

_Predictive = Callable[[dict[str, tf.Tensor], Any], tfd.Distribution]


class Prediction(keras.Model):
    """The methods of `tfvae.VariationalInference` that predict."""

    def posterior_predictive(self, x: Any = None, num_samples: int = 1000, *, seed: int | None = None) -> Any:
        """Draws data from the posterior predictive distribution.

        Args:
            x: new data [N, ...] in the form that `predictive` takes; None takes the x of the last `fit`, or replicates
                the pinned variables of a joint distribution.
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
        return self._predicted(latents, x, x_seed)

    def prior_predictive(self, x: Any = None, num_samples: int = 1000, *, seed: int | None = None) -> Any:
        """Draws data from the prior predictive distribution: what the model expects before it sees data.

        Args:
            x: as for `posterior_predictive`.
            num_samples: S.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            As for `posterior_predictive`.

        Raises:
            ValueError: the model is neither a pinned joint distribution, nor a function with `predictive` and with
                `latents` as a joint distribution, the prior.
        """
        prior_seed, x_seed = tf.unstack(tf.random.experimental.stateless_split(self._seed(seed), 2))
        num_samples = checks.positive_integer("num_samples", num_samples)
        prior, predicted = self._prior(num_samples, prior_seed)
        if not prior:
            raise ValueError(
                "`latents` must be a joint distribution, the prior, or `model` a pinned joint distribution, to draw "
                f"from the prior. Received: latents={checks.shown(self._given['latents'])}"
            )
        if predicted and x is None:
            return {name: value.numpy() for name, value in predicted.items()}
        return self._predicted(prior, x, x_seed)

    def _prior(self, num_samples: int, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Draws from the prior the latent variables, and the pinned ones, by name; empty where there is none."""
        model, latents = self._given["model"], self._given["latents"]
        pins = self._joint.target.pins
        joint = latents if pins is None else model.distribution
        if not isinstance(joint, tfd.JointDistribution):
            return {}, {}
        drawn = _sampled(joint, seed, num_samples)
        return {name: drawn[name] for name in self.space.names}, {name: drawn[name] for name in pins or {}}

    def _predicted(self, latents: dict[str, tf.Tensor], x: Any, seed: tf.Tensor) -> np.ndarray | dict[str, np.ndarray]:
        """Draws data, once for each draw of the latent variables: see `posterior_predictive`.

        Args:
            latents: the latent variables by name, each [S, ...].
            x: new data [N, ...]; or None for those of the last `fit`, or for the pinned data of a joint distribution.
            seed: int32 [2], a stateless seed.

        Raises:
            ValueError: `predictive` is None and there are no pinned data to replicate; or there are no data.
        """
        pins = self._joint.target.pins
        if x is None and pins is not None:
            drawn = _sampled(self._given["model"].distribution, seed, **latents)
            return {name: value.numpy() for name, value in drawn.items() if name in pins}
        predictive = _checked(self.predictive)
        if x is None and self._data is not None:
            x = self._data[0]
        if x is None or isinstance(x, tf.data.Dataset):
            raise ValueError(
                "`x` must be the data that `predictive` takes, unless the model was fitted to arrays, of which x is "
                f"taken. Received: x=None{', and a fit to a dataset' if x is not None else ''}"
            )
        return predictive(latents, _cast(x, latents)).sample(seed=seed).numpy()

    def predict(self, x: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        """The mean of the posterior predictive distribution: `keras.Model.predict`.

        Args:
            x: new data [N, ...] in the form that `predictive` takes, or a `tf.data.Dataset` of batches of such.
            batch_size: as for `keras.Model.predict`.
            kwargs: the other arguments of `keras.Model.predict`.
        """
        if self._joint.dtype == tf.float64 and not isinstance(x, tf.data.Dataset):
            # Keras would round arrays to float32.
            x, batch_size = tf.data.Dataset.from_tensor_slices(x).batch(batch_size or len(tf.nest.flatten(x)[0])), None
        return super().predict(x, batch_size=batch_size, **kwargs)

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
    distribution = _checked(predictive)(latents, _cast(x, latents))
    means = distribution.mean()
    variance = tf.reduce_mean(distribution.variance(), axis=0) + tf.math.reduce_variance(means, axis=0)
    return {"mean": tf.reduce_mean(means, axis=0), "stddev": tf.sqrt(variance)}


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


def _sampled(joint: Any, seed: tf.Tensor, *sample_shape: int, **given: tf.Tensor) -> dict[str, tf.Tensor]:
    """Draws the variables of a joint distribution by name, of which some may be given."""

    def draw() -> Any:
        if not given or not isinstance(joint, AUTO_BATCHED):
            return joint.sample(*sample_shape, seed=seed, **given)
        # Given a batch of values, automatic batching would take the same noise for each of them.
        count = len(next(iter(given.values())))
        seeds = tf.random.experimental.stateless_split(seed, count)
        return tf.map_fn(
            lambda one: joint.sample(seed=one[0], **one[1]),
            (seeds, given),
            fn_output_signature=tf.nest.map_structure(tf.as_dtype, joint.dtype),
        )

    with warnings.catch_warnings():
        # TFP warns that it must draw the variables one after the other with a Tensor seed.
        warnings.filterwarnings("ignore", message="Saw Tensor seed")
        drawn = graphs.graph(draw)()
    return dict(zip(variables(joint), tf.nest.flatten(drawn), strict=True))
