"""TFP's normal distribution, with draws that are fast under XLA."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import numerics

tfd = tfp.distributions

# The lowest uniform draw: the quantile of -1 itself would be minus infinity.
_LOWEST = np.nextafter(np.float32(-1.0), np.float32(0.0))


class Normal(tfd.Normal):
    """TFP's `Normal`, with draws that are fast under XLA, and reparameterised as those of TFP.

    On a CPU, `tf.random.stateless_normal` takes ten times as long under XLA as without. So where XLA compiles a draw,
    the draw is the quantile of a uniform number by the Threefry generator.

    Reference: Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3.
    """

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        if not numerics.is_by_xla() or self.dtype != tf.float32:
            return super()._sample_n(n, seed)
        shape = tf.concat([[n], self._batch_shape_tensor(loc=self.loc, scale=self.scale)], axis=0)
        key = tfp.random.sanitize_seed(seed)
        uniform = tf.random.stateless_uniform(shape, key, _LOWEST, 1.0, alg="threefry")
        return self.loc + self.scale * (math.sqrt(2) * tf.math.erfinv(uniform))
