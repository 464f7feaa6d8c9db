"""Distributions on the unit sphere that are symmetric around a direction, in any number of dimensions.

TFP draws from the von Mises-Fisher distribution by rejection, which XLA cannot compile and which has no gradient for
the concentration; its draws of the power spherical distribution are not a function of normal noise, as exports need.
Here both are drawn by the quantile of one number, the angle to the direction, whose density is integrated on a grid.
"""

import abc
import math
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.distributions.normal import Normal
from tfvae.numerics import first_axis, normal_cdf, softplus, unit

tfd = tfp.distributions

# The number of points of the grid, and its reach: to where the density is below 1e-8 of its peak.
_POINTS = 256
_REACH = 6.5
_TAIL = 20.0
_NEWTON_STEPS = 4


class _Grid(NamedTuple):
    """The density of y (see `Spherical`), up to a constant, at equally spaced points, for each example.

    Attributes:
        start: the first point [..., 1].
        step: the distance between points [..., 1].
        y: the points [..., N].
        density: [..., N], divided by its peak.
        integral: the integral of this density from the first point to each point [..., N].
        log_peak: the logarithm of the peak [...].
    """

    start: tf.Tensor
    step: tf.Tensor
    y: tf.Tensor
    density: tf.Tensor
    integral: tf.Tensor
    log_peak: tf.Tensor


class Spherical(tfd.Distribution, abc.ABC):
    """The distribution on the sphere with q(z) proportional to exp(concentration * g(t)), t = <loc, z>.

    t is drawn as y = log((1 + t) / (1 - t)), a real number with a density proportional to
    exp(concentration * g(t)) (1 - t^2)^((L - 1) / 2). This density is integrated by the trapezoidal rule, which is as
    exact as float32 here; the quantile is found by Newton's method. The gradient with respect to the concentration is
    that of an implicit function, -(dF / d concentration) / (dF / dy), F the distribution function of y.

    Args:
        loc: the mean direction [..., L], of length 1.
        concentration: [...], > 0.
        name: the name of the distribution.

    Reference: Figurnov et al. 2018, Implicit Reparameterization Gradients, section 3; Davidson et al. 2018,
    Hyperspherical Variational Auto-Encoders, algorithm 1: the rotation by a reflection.
    """

    def __init__(self, loc: tf.Tensor, concentration: tf.Tensor, name: str = "Spherical") -> None:
        parameters = dict(locals())
        self.loc = tf.convert_to_tensor(loc)
        self.concentration = tf.convert_to_tensor(concentration)
        # Half the dimension of the sphere.
        self.half = (self.loc.shape[-1] - 1) / 2
        super().__init__(
            dtype=self.loc.dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @abc.abstractmethod
    def kernel(self, y: tf.Tensor) -> tf.Tensor:
        """The function g in terms of y, with g = 0 at t = 1."""

    @abc.abstractmethod
    def kernel_at(self, near: tf.Tensor, far: tf.Tensor) -> tf.Tensor:
        """The function g in terms of (1 - t) / 2 and (1 + t) / 2, the smaller of which is the more precise."""

    @abc.abstractmethod
    def slope(self, y: tf.Tensor) -> tf.Tensor:
        """The derivative of g with respect to y."""

    @abc.abstractmethod
    def peak(self, concentration: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The mode of y, the curvature of the log-density there, and the slope of the log-density far below it."""

    def from_noise(self, epsilon: tf.Tensor) -> tf.Tensor:
        """Maps noise epsilon ~ N(0, I) [..., L] to a sample z [..., L]."""
        y = self._quantile(normal_cdf(epsilon[..., 0]))[..., tf.newaxis]
        small = tf.exp(-tf.abs(y) / 2)
        sine = 2 * small / (1 + small**2)
        x = tf.concat([tf.tanh(y / 2), sine * unit(epsilon[..., 1:])], axis=-1)
        # The negative of the reflection that takes the first axis to -loc.
        u = self.loc + first_axis(self.loc.shape[-1])
        squared = tf.maximum(tf.reduce_sum(u**2, axis=-1, keepdims=True), 1e-30)
        return 2 * u * tf.reduce_sum(u * x, axis=-1, keepdims=True) / squared - x

    def kl_from_uniform(self) -> tf.Tensor:
        """KL(q || uniform) [...], in nats."""
        grid = self._grid()
        mean = tf.reduce_sum(grid.density * self.kernel(grid.y), -1) / tf.reduce_sum(grid.density, -1)
        return self.concentration * mean - self._log_mean_kernel(grid)

    def _log_prob(self, z: tf.Tensor) -> tf.Tensor:
        # By distances, because <loc, z> loses its digits near 1 and -1.
        near, far = (tf.reduce_sum((z - sign * self.loc) ** 2, axis=-1) / 4 for sign in (1, -1))
        log_ratio = self.concentration * self.kernel_at(near, far) - self._log_mean_kernel(self._grid())
        return log_ratio + math.lgamma(self.half + 0.5) - math.log(2) - (self.half + 0.5) * math.log(math.pi)

    def _log_mean_kernel(self, grid: _Grid) -> tf.Tensor:
        """The logarithm of the mean of exp(concentration * g) over the sphere [...]."""
        b = self.half
        log_uniform = 2 * math.lgamma(b) - math.lgamma(2 * b) + 2 * b * math.log(2)
        return tf.math.log(grid.integral[..., -1]) + grid.log_peak - log_uniform

    def _grid(self) -> _Grid:
        concentration = self.concentration[..., tf.newaxis]
        # No gradient flows through the positions of the points, on which the integral does not depend.
        mode, curvature, growth = map(tf.stop_gradient, self.peak(concentration))
        reach = _REACH * tf.math.rsqrt(curvature)
        start = mode - reach - _TAIL / growth
        step = (mode + reach + _TAIL / self.half - start) / (_POINTS - 1)
        y = start + step * tf.range(_POINTS, dtype=tf.float32)
        # 4 sigmoid(y) sigmoid(-y) = 1 - t^2.
        log_density = concentration * self.kernel(y) + self.half * (2 * math.log(2) - softplus(y) - softplus(-y))
        log_peak = tf.stop_gradient(tf.reduce_max(log_density, axis=-1))
        density = tf.exp(log_density - log_peak[..., tf.newaxis])
        derivative = density * (concentration * self.slope(y) - self.half * tf.tanh(y / 2))
        pairs = tf.cumsum(density[..., 1:] + density[..., :-1], axis=-1)
        integral = step / 2 * tf.concat([tf.zeros_like(pairs[..., :1]), pairs], axis=-1)
        # The first correction of the Euler-Maclaurin formula, for the ends.
        integral += step**2 / 12 * (derivative[..., :1] - derivative)
        return _Grid(start, step, y, density, integral, log_peak)

    def _quantile(self, probability: tf.Tensor) -> tf.Tensor:
        """The y [...] at which the distribution function has the value `probability` [...]."""
        grid = self._grid()
        target = probability * grid.integral[..., -1]
        below = tf.cast(grid.integral[..., 1:-1] < target[..., tf.newaxis], tf.int32)
        cell = tf.reduce_sum(below, axis=-1)
        hot = tf.one_hot(cell, _POINTS - 1)
        low, high, low_slope, high_slope = (
            tf.reduce_sum(hot * values, axis=-1)
            for values in (
                grid.integral[..., :-1],
                grid.integral[..., 1:],
                grid.step * grid.density[..., :-1],
                grid.step * grid.density[..., 1:],
            )
        )

        # Between two points the integral is taken as the cubic that has its values and slopes at both.
        def excess(s: tf.Tensor) -> tf.Tensor:
            rise = s**2 * (3 - 2 * s)
            return low - target + rise * (high - low) + s * (1 - s) * ((1 - s) * low_slope - s * high_slope)

        def derivative(s: tf.Tensor) -> tf.Tensor:
            slope = 6 * s * (1 - s) * (high - low)
            slope += (1 - s) * (1 - 3 * s) * low_slope - s * (2 - 3 * s) * high_slope
            return tf.stop_gradient(tf.maximum(slope, 1e-30))

        s = tf.clip_by_value((target - low) / tf.maximum(high - low, 1e-30), 0.0, 1.0)
        for _ in range(_NEWTON_STEPS):
            s = tf.stop_gradient(tf.clip_by_value(s - excess(s) / derivative(s), 0.0, 1.0))
        # One more step, the only one that the gradient flows through.
        s = s - excess(s) / derivative(s)
        return grid.start[..., 0] + grid.step[..., 0] * (tf.cast(cell, tf.float32) + s)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        shape = tf.concat([[n], self.batch_shape_tensor(), self.event_shape_tensor()], axis=0)
        return self.from_noise(Normal(0.0, 1.0).sample(shape, seed=seed))

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
        return {
            "loc": tfp.util.ParameterProperties(event_ndims=1),
            "concentration": tfp.util.ParameterProperties(event_ndims=0),
        }

    def _event_shape(self) -> tf.TensorShape:
        return self.loc.shape[-1:]

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.shape(self.loc)[-1:]


class PowerSpherical(Spherical):
    """The distribution with q(z) proportional to (1 + t)^concentration: g = log((1 + t) / 2)."""

    def kernel(self, y: tf.Tensor) -> tf.Tensor:
        """The function g in terms of y."""
        return -softplus(-y)

    def kernel_at(self, near: tf.Tensor, far: tf.Tensor) -> tf.Tensor:
        """The function g in terms of (1 - t) / 2 and (1 + t) / 2."""
        is_near = near < 0.5
        # The branch that is not taken must be finite too: its NaN would spread to the gradient.
        return tf.where(is_near, tf.math.log1p(-tf.where(is_near, near, 0.5)), tf.math.log(tf.maximum(far, 1e-30)))

    def slope(self, y: tf.Tensor) -> tf.Tensor:
        """The derivative of g with respect to y."""
        return tf.sigmoid(-y)

    def peak(self, concentration: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Spherical.peak`; y is the log-odds of a Beta(a, b) variable."""
        a, b = self.half + concentration, self.half
        return tf.math.log(a / b), a * b / (a + b), a


class VonMisesFisher(Spherical):
    """The distribution with q(z) proportional to exp(concentration * t): g = t - 1."""

    def kernel(self, y: tf.Tensor) -> tf.Tensor:
        """The function g in terms of y."""
        return -2 * tf.sigmoid(-y)

    def kernel_at(self, near: tf.Tensor, far: tf.Tensor) -> tf.Tensor:
        """The function g in terms of (1 - t) / 2 and (1 + t) / 2."""
        return -2 * near

    def slope(self, y: tf.Tensor) -> tf.Tensor:
        """The derivative of g with respect to y."""
        return 2 * tf.sigmoid(y) * tf.sigmoid(-y)

    def peak(self, concentration: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Spherical.peak`; at the mode concentration (1 - t^2) = 2 b t, b = (L - 1) / 2."""
        b = self.half
        root = tf.sqrt(b**2 + concentration**2)
        t = concentration / (b + root)
        # 1 - t, without the digits that a subtraction would lose for t near 1.
        rest = (b + b**2 / (root + concentration)) / (b + root)
        curvature = rest * (1 + t) * (concentration * t + b) / 2
        return tf.math.log((1 + t) / rest), curvature, b * tf.ones_like(t)


@tfd.RegisterKL(Spherical, tfd.SphericalUniform)
def _kl_from_uniform(q: Spherical, p: tfd.SphericalUniform, name: str | None = None) -> tf.Tensor:
    """KL(q || uniform), in nats."""
    return q.kl_from_uniform()
