"""Functions in forms that all runtimes evaluate precisely: TensorFlow, XLA, and TFLite in float32 and int8."""

import math
from collections.abc import Callable

import tensorflow as tf

from tfvae import private_apis

# Added to a scale, because a softplus that underflows to 0 would make a log-density infinite.
_MIN_SCALE = 1e-6

# The squared length below which a vector in float32 has no direction.
_MIN_SQUARED = 1e-30

# From where `compressed` grows as a logarithm.
_COMPRESSED_FROM = 3.0

# The coefficients of the polynomials of `normal_log_survival` and `normal_quantile`, highest powers first.
_LOG_ERFC = (
    *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196),
    *(1.00002368, -1.26551223),
)
_ERFINV_CENTRAL = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_ERFINV_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)
# The Taylor series of sin(x) / x in x^2.
_SINE = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(6, -1, -1))


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)).

    TFLite computes `tf.nn.softplus` by this formula, which overflows from x = 89 on, and its int8 form of a sigmoid
    cross-entropy is off by a third. The gradient is written out because that of the form used here, term by term, would
    be wrong at 0.
    """
    return tf.nn.relu(x) + tf.math.log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


def is_by_xla() -> bool:
    """Whether the graph that is being traced will be compiled by XLA."""
    graph = tf.compat.v1.get_default_graph()
    return not tf.executing_eagerly() and private_apis.is_compiled_by_xla(graph)


@tf.custom_gradient
def sum_softplus_minus_relu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Sums log(1 + exp(x)) - max(x, 0) = log(1 + exp(-|x|)) over the last axis, in the form that is fastest under XLA.

    One logarithm of a product serves up to 120 elements: its factors are at most 2, and 2^120 does not overflow.
    max(x, 0) is left to the caller, in whose density it cancels element by element; the difference of two sums would
    lose digits.
    """
    size = x.shape[-1]
    factors = max(count for count in range(1, 121) if size % count == 0)
    shape = tf.concat([tf.shape(x)[:-1], [size // factors, factors]], axis=0)
    products = tf.reduce_prod(tf.reshape(1 + tf.exp(-tf.abs(x)), shape), axis=-1)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # 1/2 at x = 0, where `tf.nn.relu`, which the caller adds, has the gradient 0.
        return upstream[..., tf.newaxis] * (tf.sigmoid(x) - tf.cast(x > 0, x.dtype))

    return tf.reduce_sum(tf.math.log(products), axis=-1), gradient


def positive(raw: tf.Tensor) -> tf.Tensor:
    """Maps real numbers to positive ones, such as scales; 0 becomes 1."""
    return softplus(raw + math.log(math.e - 1)) + _MIN_SCALE


def compressed(x: tf.Tensor) -> tf.Tensor:
    """Maps numbers of a standard deviation about 1 to themselves up to 3, and above to 3 + log(1 + |x| - 3)."""
    inside = tf.clip_by_value(x, -_COMPRESSED_FROM, _COMPRESSED_FROM)
    return inside + tf.sign(x) * tf.math.log(1.0 + tf.abs(x - inside))


@tf.custom_gradient
def normal_log_survival(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log P(epsilon > x) for epsilon ~ N(0, 1).

    TFLite has neither erf nor erfc. The survival function of |x| is t exp(-x^2 / 2 + polynomial(t)) / 2 with
    t = 1 / (1 + |x| / sqrt(8)), whose relative error is below 1.2e-7 everywhere.

    Reference: Press et al. 1992, Numerical Recipes in C, second edition, section 6.2, erfcc.
    """
    magnitude = tf.abs(x)
    t = 1 / (1 + magnitude / math.sqrt(8))
    tail = tf.math.log(t) - magnitude**2 / 2 + _polynomial(t, _LOG_ERFC) - math.log(2)
    value = tf.where(x < 0, log1p(-tf.exp(tail)), tail)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return -upstream * tf.exp(-(x**2) / 2 - value) / math.sqrt(2 * math.pi)

    return value, gradient


def normal_cdf(x: tf.Tensor) -> tf.Tensor:
    """The distribution function of N(0, 1), at full float32 precision where it is near 0 too."""
    return tf.exp(normal_log_survival(-x))


def normal_mass(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """P(low < epsilon < high) for epsilon ~ N(0, 1), at full precision for short intervals and in the tails too.

    Short intervals take the Taylor series of the density around their middle, whose coefficients are Hermite
    polynomials of the middle.
    """
    width, square = high - low, ((high + low) / 2) ** 2
    terms = (
        (1.0, 1.0),
        (square - 1, 24.0),
        (3 + square * (square - 6), 1920.0),
        (square * (45 + square * (square - 15)) - 15, 322560.0),
    )
    series = tf.add_n([tf.ones_like(width) * h * width ** (2 * k) / c for k, (h, c) in enumerate(terms)])
    short = width * tf.exp(-square / 2) / math.sqrt(2 * math.pi) * series
    is_right = low > 0
    far = normal_cdf(tf.where(is_right, -low, high)) - normal_cdf(tf.where(is_right, -high, low))
    return tf.where(width**2 * tf.maximum(square, 1.0) < 0.5, short, far)


def normal_quantile(p: tf.Tensor) -> tf.Tensor:
    """The inverse of `normal_cdf`, for p from 1e-7 to 1 - 1e-7.

    Reference: Giles 2010, Approximating the erfinv Function, table 5.
    """
    x = 2 * p - 1
    w = -tf.math.log(4 * p * (1 - p))
    central = _polynomial(tf.minimum(w, 5.0) - 2.5, _ERFINV_CENTRAL)
    tail = _polynomial(tf.sqrt(tf.maximum(w, 5.0)) - 3, _ERFINV_TAIL)
    return math.sqrt(2) * x * tf.where(w < 5, central, tail)


def noise_to_gumbel(epsilon: tf.Tensor) -> tf.Tensor:
    """Maps epsilon ~ N(0, 1) to a standard Gumbel variable: -log(-log P(N(0, 1) < epsilon))."""
    return -tf.math.log(-normal_log_survival(-epsilon))


def unit(x: tf.Tensor) -> tf.Tensor:
    """Divides vectors [..., L] by their length; one of length 0 becomes (1, 0, ..., 0)."""
    squared = tf.reduce_sum(x**2, axis=-1, keepdims=True)
    return tf.where(
        squared > _MIN_SQUARED, x * tf.math.rsqrt(tf.maximum(squared, _MIN_SQUARED)), first_axis(x.shape[-1])
    )


def first_axis(dim: int) -> tf.Tensor:
    """The vector (1, 0, ..., 0) [dim]."""
    return tf.one_hot(0, dim)


@tf.custom_gradient
def scale_of(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes log(1 + exp(x)) at full relative precision near 0 too, for scales, which are divided by."""
    return tf.nn.relu(x) + log1p(tf.exp(-tf.abs(x))), lambda upstream: upstream * tf.sigmoid(x)


def log1p(x: tf.Tensor) -> tf.Tensor:
    """Computes log(1 + x), near 0 by its Taylor series: TFLite adds 1 first, which loses digits."""
    is_small = tf.abs(x) < 0.1
    small = tf.where(is_small, x, 0.0)
    series = tf.ones_like(small) / 8
    for order in range(7, 0, -1):
        series = 1 / order - small * series
    return tf.where(is_small, small * series, tf.math.log1p(tf.where(is_small, 0.1, x)))


def log1mexp(x: tf.Tensor) -> tf.Tensor:
    """Computes log(1 - exp(-x)) for x > 0, near 0 by the series of log(2 sinh(x / 2)) - x / 2."""
    is_small = x < 0.5
    small = tf.where(is_small, x, 0.5)
    square = small**2
    series = tf.math.log(small) - small / 2 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
    return tf.where(is_small, series, tf.math.log(1 - tf.exp(-tf.where(is_small, 0.5, x))))


def cos_of_turns(turns: tf.Tensor) -> tf.Tensor:
    """Computes cos(2 pi turns) for turns from 0 to 1, by a Taylor series: GPUs compute cosines to three digits only."""
    # cos(2 pi t) = sin(angle), and the angle is from -pi / 2 to pi / 2.
    angle = 2 * math.pi * (tf.abs(turns - 0.5) - 0.25)
    return angle * _polynomial(angle**2, _SINE)


def is_number(x: tf.Tensor) -> tf.Tensor:
    """Which elements are not NaN.

    TFLite has no op for `tf.math.is_nan`, and its GPU delegates refuse to compare a tensor with itself. XLA takes
    abs(x) >= 0 for true, whatever x is, so the comparison is with another number.
    """
    return tf.abs(x) > -1


def logsumexp(x: tf.Tensor) -> tf.Tensor:
    """Computes log(sum(exp(x))) along the last axis.

    GPU delegates of TFLite refuse `tf.reduce_logsumexp`, which looks for infinity by subtracting a tensor from itself.
    """
    largest = tf.stop_gradient(tf.reduce_max(x, axis=-1, keepdims=True))
    # Infinity minus infinity would be NaN.
    largest = tf.clip_by_value(largest, x.dtype.min, x.dtype.max)
    return tf.squeeze(tf.math.log(tf.reduce_sum(tf.exp(x - largest), axis=-1, keepdims=True)) + largest, axis=-1)


def log_softmax(logits: tf.Tensor) -> tf.Tensor:
    """Computes the logarithm of the softmax over the last axis, for which GPU delegates of TFLite have no op."""
    # The largest first: a difference of large numbers would lose digits.
    relative = logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    # Not minus the logarithm of the sum, of which the converter to TFLite would make the op that GPUs lack.
    return relative + tf.math.log(1 / tf.reduce_sum(tf.exp(relative), axis=-1, keepdims=True))


def log_rising(x: tf.Tensor, start: tf.Tensor | float) -> tf.Tensor:
    """Computes log Gamma(start + x) - log Gamma(start), the logarithm of a rising factorial.

    By Stirling's series at start + 3, where four terms suffice for float32, and the recurrence from there down to
    start. A difference of two `tf.math.lgamma` would lose its digits where start is large, and TFLite has no lgamma.

    Args:
        x: at least 0.
        start: above 0.

    Reference: Abramowitz & Stegun 1964, Handbook of Mathematical Functions, equations 6.1.16 and 6.1.41.
    """
    shifted = start + 3.0
    rise = (start + 2.5) * log1p(x / shifted) + x * (tf.math.log(x + shifted) - 1)
    rise += _stirling(x + shifted) - _stirling(shifted)
    return rise - log1p(x / start) - log1p(x / (start + 1.0)) - log1p(x / (start + 2.0))


def log_binomial(x: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Computes log Gamma(start + x) - log Gamma(start) - log Gamma(x + 1): the binomial coefficient (start + x - 1, x).

    By Stirling's series and the recurrence, as in `log_rising`, with the parts that cancel each other combined: each of
    the three logarithms by itself is off by 1 at x = 1e6.

    Args:
        x: at least 0.
        start: above 0.
    """
    first, second, both = start + 3.0, x + 4.0, start + x + 3.0
    value = (start + 2.5) * log1p(x / first) + (x + 3.5) * log1p((start - 1.0) / second) - 3.5 * tf.math.log(both)
    value += _stirling(both) - _stirling(first) - _stirling(second) + 4 - math.log(2 * math.pi) / 2
    return value - log1p(x / start) - log1p(x / (start + 1.0)) - log1p(x / (start + 2.0)) + _log_rise_of_1(x)


def log_poisson(x: tf.Tensor, log_rate: tf.Tensor) -> tf.Tensor:
    """Computes x log_rate - exp(log_rate) - log Gamma(x + 1), with the parts that cancel each other combined.

    Args:
        x: at least 0.
        log_rate: the logarithm of the mean.
    """
    second = x + 4.0
    ratio = log_rate - tf.math.log(second)
    is_small = tf.abs(ratio) < 0.5
    small = tf.where(is_small, ratio, 0.0)
    series = tf.ones_like(small)
    for order in range(10, 2, -1):
        series = 1 + small / order * series
    # 1 + ratio - exp(ratio).
    rest = tf.where(is_small, -(small**2) / 2 * series, 1 + ratio - tf.exp(tf.where(is_small, 0.0, ratio)))
    value = second * rest - 4 * ratio - 3.5 * tf.math.log(second)
    return value - _stirling(second) - math.log(2 * math.pi) / 2 + _log_rise_of_1(x)


def _log_rise_of_1(x: tf.Tensor) -> tf.Tensor:
    """The logarithm of (x + 1) (x + 2) (x + 3)."""
    return log1p(x) + log1p(x / 2) + log1p(x / 3) + math.log(6)


def _stirling(x: tf.Tensor | float) -> tf.Tensor:
    """Stirling's series, for log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2."""
    inverse = 1 / x
    square = inverse**2
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def _polynomial(x: tf.Tensor, coefficients: tuple[float, ...]) -> tf.Tensor:
    value = tf.zeros_like(x)
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
