"""Relaxed one-hot vectors, with a density that can be computed in float32 at any temperature."""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import numerics

tfd = tfp.distributions

# An element of z below exp(-_CUT) falls with its logarithm y as 1 / (1 - _CUT - y), not as exp(y).
_CUT = 60.0


def support(num_categories: int) -> str:
    """The name of the space of vectors of K categories, which a posterior and a prior must have in common."""
    return f"simplex of {num_categories} categories"


def num_groups(latent_dim: int, num_categories: int) -> int:
    """How many relaxed one-hot vectors of K categories z [L] holds.

    Raises:
        ValueError: L is not a multiple of K.
    """
    if latent_dim % num_categories:
        raise ValueError(
            f"`num_categories` must divide latent_dim={latent_dim}. Received: num_categories={num_categories}"
        )
    return latent_dim // num_categories


class RelaxedOneHot(tfd.Distribution):
    """Groups of independent relaxed one-hot vectors, flattened: z = softmax((logits + g) / temperature), g ~ Gumbel.

    At low temperatures nearly all elements of z are too small for float32, but log p(z) needs their logarithms y. So an
    element below e^-60 is not exp(y) but e^-60 / (1 - 60 - y), which is close to 0 too, but from which y can be
    recovered. The density is that of z defined in this way:

        log p(y) = log (K - 1)! + (K - 1) log t + sum_k (logits_k - t y_k) - K log sum_k exp(logits_k - t y_k)
        log p(z) = log p(y) - sum_k log dz_k / dy_k

    Args:
        logits: [..., G, K], of G groups of K categories.
        temperature: t, > 0.

    Reference: Maddison et al. 2017, The Concrete Distribution, definition 1 and appendix C.3; Jang et al. 2017,
    Categorical Reparameterization with Gumbel-Softmax, section 2.
    """

    def __init__(self, logits: tf.Tensor, temperature: float, name: str = "RelaxedOneHot") -> None:
        parameters = dict(locals())
        self.logits = tf.convert_to_tensor(logits)
        self.temperature = temperature
        super().__init__(
            dtype=self.logits.dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    def from_gumbel(self, noise: tf.Tensor) -> tf.Tensor:
        """Maps standard Gumbel noise [..., L], L = G K, to a sample z [..., L]."""
        noise = tf.reshape(noise, tf.concat([tf.shape(noise)[:-1], self.logits.shape[-2:]], axis=0))
        y = numerics.log_softmax((self.logits + noise) / self.temperature)
        z = tf.where(y > -_CUT, tf.exp(tf.maximum(y, -_CUT)), math.exp(-_CUT) / (1 + tf.nn.relu(-_CUT - y)))
        return tf.reshape(z, tf.concat([tf.shape(z)[:-2], [self._size]], axis=0))

    def _log_prob(self, z: tf.Tensor) -> tf.Tensor:
        z = tf.reshape(z, tf.concat([tf.shape(z)[:-1], self.logits.shape[-2:]], axis=0))
        # At least the smallest normal float: the zeros of an exact one-hot vector have no logarithm.
        log_z = tf.math.log(tf.maximum(z, 1.2e-38))
        is_small = log_z < -_CUT
        y = tf.where(is_small, 1 - _CUT - tf.exp(-_CUT - tf.minimum(log_z, -_CUT)), log_z)
        log_slope = tf.where(is_small, 2 * log_z + _CUT, log_z)
        categories = self.logits.shape[-1]
        scores = self.logits - self.temperature * y
        constant = math.lgamma(categories) + (categories - 1) * math.log(self.temperature)
        groups = tf.reduce_sum(scores - log_slope, axis=-1) - categories * numerics.logsumexp(scores)
        return tf.reduce_sum(groups + constant, axis=-1)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        shape = tf.concat([[n], self.batch_shape_tensor(), [self._size]], axis=0)
        return self.from_gumbel(tfd.Gumbel(0.0, 1.0).sample(shape, seed=seed))

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
        return {
            "logits": tfp.util.ParameterProperties(event_ndims=2),
            "temperature": tfp.util.ParameterProperties(event_ndims=0),
        }

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self._size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self._size])

    @property
    def _size(self) -> int:
        return math.prod(self.logits.shape[-2:])
