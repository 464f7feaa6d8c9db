"""Couplings by rational-quadratic splines: invertible functions of noise, by operations that every runtime has."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.numerics import compressed, softplus

tfb = tfp.bijectors

# A spline is the identity outside of [-_BOUND, _BOUND].
_BOUND = 5.0
# No bin is narrower or lower than this share of the whole, and no slope at a knot lower than this.
_MIN_BIN, _MIN_SLOPE = 1e-3, 1e-3
# The raw slope for which softplus gives 1 - _MIN_SLOPE.
_UNIT_SLOPE = float(np.log(np.expm1(1.0 - _MIN_SLOPE)))
# Scales of a coupling are between exp(-3) and exp(3).
_MAX_LOG_SCALE = 3.0


def halves(latent_dim: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The dimensions that a coupling keeps, and those that it changes.

    Couplings come in pairs, of which the second changes what the first keeps; each pair divides the dimensions in
    another way. A single dimension is always changed.

    Args:
        latent_dim: L.
        index: the number of the coupling, from 0.
    """
    order = np.random.default_rng(index // 2).permutation(latent_dim).astype(np.int32)
    first, second = np.sort(order[: latent_dim // 2]), np.sort(order[latent_dim // 2 :])
    return (second, first) if index % 2 and len(first) else (first, second)


def networks(latent_dim: int, num_couplings: int, bins: int, hidden: int, num_features: int) -> list[keras.Model]:
    """Makes the networks, with two hidden layers each, of a flow of spline couplings that starts as the identity.

    Args:
        latent_dim: L.
        num_couplings: the number of couplings.
        bins: the number of bins of each spline.
        hidden: units of each hidden layer.
        num_features: F, the number of features that a network reads besides the dimensions that its coupling keeps.
    """
    made = []
    for index in range(num_couplings):
        kept, changed = halves(latent_dim, index)
        network = keras.Sequential(
            [
                keras.layers.Dense(hidden, activation="silu", dtype="float32"),
                keras.layers.Dense(hidden, activation="silu", dtype="float32"),
                keras.layers.Dense(len(changed) * (3 * bins + 1), kernel_initializer="zeros", dtype="float32"),
            ],
            name=f"coupling_{index}",
        )
        # A layer without inputs is none: see `SplineCoupling`.
        network.build((None, max(1, len(kept) + num_features)))
        made.append(network)
    return made


class SplineCoupling(tfb.Bijector):
    """Keeps some dimensions of u, and maps each other one by shift + scale * spline(u_l).

    The spline is monotone and made of quotients of quadratic functions, one on each bin of [-5, 5], and the identity
    outside. Shift, scale, and the bins and slopes of the spline are functions of the dimensions that are kept and of
    the features, by a network. Both directions are closed forms.

    Args:
        network: one of `networks`.
        index: its number.
        features: [B, F].

    Reference: Durkan et al. 2019, Neural Spline Flows, equations 4 to 8 and, for the inverse, 25 to 29.
    """

    def __init__(self, network: keras.Model, index: int, features: tf.Tensor) -> None:
        self.network, self.index, self.features = network, index, features
        # The last point at which each direction was evaluated: TFP asks for the value and the Jacobian one by one.
        self._last: dict[bool, tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]] = {}
        # A new object in each bijector, because TFP caches values by the parameters of bijectors.
        parameters = {"network": network, "index": index, "features": features, "own": object()}
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name="spline_coupling")

    @classmethod
    def _parameter_properties(cls, dtype: object) -> dict[str, object]:
        # No parameter has a batch shape: the batch shape is that of the noise.
        return {}

    def _forward(self, u: tf.Tensor) -> tf.Tensor:
        return self._both(u, inverse=False)[0]

    def _inverse(self, z: tf.Tensor) -> tf.Tensor:
        return self._both(z, inverse=True)[0]

    def _forward_log_det_jacobian(self, u: tf.Tensor) -> tf.Tensor:
        return self._both(u, inverse=False)[1]

    def _inverse_log_det_jacobian(self, z: tf.Tensor) -> tf.Tensor:
        return self._both(z, inverse=True)[1]

    def _both(self, given: tf.Tensor, *, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The values [..., B, L] of one direction at a point, and its log |det| [..., B]."""
        last = self._last.get(inverse)
        if last is None or last[0] is not given:
            last = self._last[inverse] = given, self._computed(given, inverse)
        return last[1]

    def _computed(self, given: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        kept_at, changed_at = halves(given.shape[-1], self.index)
        kept, changed = tf.gather(given, kept_at, axis=-1), tf.gather(given, changed_at, axis=-1)
        shift, log_scale, knots = self._knots(given, kept, len(changed_at))
        if inverse:
            changed, log_slope = _spline((changed - shift) * tf.exp(-log_scale), *knots, inverse=True)
            log_det = -(log_slope + log_scale)
        else:
            changed, log_slope = _spline(changed, *knots, inverse=False)
            changed, log_det = shift + tf.exp(log_scale) * changed, log_slope + log_scale
        places = np.argsort(np.concatenate([kept_at, changed_at])).astype(np.int32)
        values = tf.gather(tf.concat([kept, changed], axis=-1), places, axis=-1)
        return values, tf.reduce_sum(log_det, axis=-1)

    def _knots(
        self, given: tf.Tensor, kept: tf.Tensor, count: int
    ) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """The shift and log scale [..., B, C] of the C dimensions changed, and the widths, heights and slopes."""
        # Broadcast by a sum, and constant shapes where that is possible: LiteRT's CompiledModel misreads computed ones.
        row = tf.zeros_like(given[..., :1])
        # A network that is linear far out would move what is changed by as much more in each coupling.
        read = [compressed(kept)] if kept.shape[-1] else []
        read += [self.features + row] if self.features.shape[-1] else []
        # LiteRT misreads a concatenation with a tensor that has no columns.
        inputs = tf.concat(read, axis=-1) if len(read) > 1 else read[0] if read else row + 1.0
        is_flat = given.shape.rank == 2
        # A Keras network takes only one batch axis.
        raw = self.network(inputs if is_flat else tf.reshape(inputs, [-1, inputs.shape[-1]]))
        bins = (raw.shape[-1] // count - 1) // 3
        sizes, leading = [count, 3 * bins + 1], given.shape[:-1].as_list()
        if leading.count(None) < 2:
            shape = [-1 if size is None else size for size in leading] + sizes
        else:
            shape = tf.concat([tf.shape(given)[:-1], sizes], axis=0)
        raw = tf.reshape(raw, shape)
        widths, heights, slopes, affine = tf.split(raw, [bins, bins, bins - 1, 2], axis=-1)
        shift, log_scale = affine[..., 0], _MAX_LOG_SCALE * tf.tanh(affine[..., 1] / _MAX_LOG_SCALE)
        slopes = _MIN_SLOPE + softplus(slopes + _UNIT_SLOPE)
        return shift, log_scale, (_sizes(widths), _sizes(heights), slopes)


def _sizes(raw: tf.Tensor) -> tf.Tensor:
    """The widths or heights [..., K] of the bins, which sum to 2 _BOUND."""
    return 2.0 * _BOUND * (_MIN_BIN + (1.0 - _MIN_BIN * raw.shape[-1]) * tf.nn.softmax(raw))


def _spline(
    u: tf.Tensor, widths: tf.Tensor, heights: tf.Tensor, slopes: tf.Tensor, *, inverse: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Evaluates the spline, or its inverse, at u [...]; and the log slope of the spline there [...].

    Args:
        u: where to evaluate it.
        widths: those of the bins [..., K].
        heights: those of the bins [..., K].
        slopes: those at the inner knots [..., K - 1]; at the outer ones they are 1.
        inverse: whether u is a value of the spline, whose argument is sought.
    """
    lefts, lows = (tf.cumsum(sizes, axis=-1, exclusive=True) - _BOUND for sizes in (widths, heights))
    one = tf.ones_like(widths[..., :1])
    starts, ends = tf.concat([one, slopes], axis=-1), tf.concat([slopes, one], axis=-1)
    inside = tf.clip_by_value(u, -_BOUND, _BOUND)
    # 1 in the bin that holds u and 0 in the others: sums of products take the place of gathering, by built-in ops.
    is_past = tf.cast(inside[..., tf.newaxis] >= (lows if inverse else lefts)[..., 1:], tf.float32)
    is_in = tf.concat([one, is_past], axis=-1) - tf.concat([is_past, tf.zeros_like(one)], axis=-1)
    left, width, low, height, start, end = (
        tf.reduce_sum(is_in * each, axis=-1) for each in (lefts, widths, lows, heights, starts, ends)
    )
    slope = height / width
    curve = start + end - 2.0 * slope
    if inverse:
        above = inside - low
        a, b, c = height * (slope - start) + above * curve, height * start - above * curve, -slope * above
        root = tf.sqrt(tf.maximum(b * b - 4.0 * a * c, 0.0) + 1e-30)
        t = tf.clip_by_value(-2.0 * c / (b + root), 0.0, 1.0)
        value = left + t * width
    else:
        t = (inside - left) / width
        value = low + height * (slope * t * t + start * t * (1.0 - t)) / (slope + curve * t * (1.0 - t))
    rest = t * (1.0 - t)
    log_slope = (
        2.0 * tf.math.log(slope)
        + tf.math.log(end * t * t + 2.0 * slope * rest + start * (1.0 - t) * (1.0 - t))
        - 2.0 * tf.math.log(slope + curve * rest)
    )
    is_inside = tf.abs(u) < _BOUND
    return tf.where(is_inside, value, u), tf.where(is_inside, log_slope, 0.0)
