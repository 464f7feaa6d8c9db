"""How numbers of a table become numbers of x, of about mean 0 and standard deviation 1, and back again.

The functions are monotone, so that ranks and outliers remain, and are inverted in closed form. `learn` chooses one:

- "standard": (v - loc) / scale, for numbers whose tails are about those of a normal distribution;
- "yeo_johnson": a power of v that makes skewed numbers nearly normal;
- "quantile": a broken line from quantiles to those of N(0, 1), for numbers that no power makes normal. Beyond the
  outermost knots it goes on with the slope of the last piece.

Reference: Yeo & Johnson 2000, A New Family of Power Transformations to Improve Normality or Symmetry.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# In words, for the description of a column.
NAMES = {"standard": "standardised", "yeo_johnson": "Yeo-Johnson", "quantile": "quantiles to normal"}
# The most skewness and excess kurtosis of numbers whose tails need no transformation.
_SKEWNESS, _KURTOSIS = 1.0, 2.0
_MOST_ROWS = 100_000
_KNOTS = 33
# The least distance of two knots, relative to their size and to the range of the middle half: the slope between closer
# ones would amplify roundings of float32.
_CLOSEST, _CLOSEST_IN_RANGE = 1e-4, 1e-9
# Yeo-Johnson's exponent is kept where the transformation has no bound, or no outlier would be far from the others.
_LEAST_POWER, _LARGEST_POWER = 0.0, 2.0
# A smaller scale is none in float32.
_TINY = float(np.finfo(np.float32).tiny)


def learn(values: np.ndarray) -> dict[str, Any]:
    """Chooses a transformation for numbers, and learns its parameters.

    Args:
        values: the numbers [N], finite, at least one.

    Returns:
        The name and the parameters, ready for JSON.
    """
    from scipy import stats

    v = values.astype(np.float64)
    if len(v) > _MOST_ROWS:
        v = np.random.default_rng(0).choice(v, _MOST_ROWS, replace=False)
    standard = {"name": "standard", "loc": float(v.mean()), "scale": _positive(v.std())}
    if len(np.unique(v)) < _KNOTS or _is_normal(stats, v):
        return standard
    with warnings.catch_warnings():
        # Where no power helps, the search may overflow; the result is then not normal.
        warnings.simplefilter("ignore")
        low, median, high = np.quantile(v, [0.25, 0.5, 0.75])
        centre = {"centre": float(median), "width": _positive(high - low, v.std())}
        u = (v - centre["centre"]) / centre["width"]
        try:
            power = float(np.clip(stats.yeojohnson_normmax(u), _LEAST_POWER, _LARGEST_POWER))
        except ValueError:
            # Of numbers so far apart that no power is found.
            power = 1.0
        powered = np.asarray(stats.yeojohnson(u, power))
        if np.isfinite(powered).all() and _is_normal(stats, powered):
            moments = {"loc": float(powered.mean()), "scale": _positive(powered.std())}
            return {"name": "yeo_johnson", **centre, "power": power, **moments}
    z = np.linspace(-1, 1, _KNOTS) * stats.norm.ppf(1 - 0.5 / len(v))
    knots = np.quantile(v, stats.norm.cdf(z))
    kept = [0]
    for index in range(1, _KNOTS):
        size = max(abs(knots[index]), abs(knots[kept[-1]]))
        if knots[index] - knots[kept[-1]] > max(_CLOSEST * size, _CLOSEST_IN_RANGE * (high - low)):
            kept.append(index)
    if len(kept) < 3:
        return standard
    return {"name": "quantile", "knots": knots[kept].tolist(), "levels": z[kept].tolist()}


def _is_normal(stats: Any, v: np.ndarray) -> bool:
    return bool(abs(stats.skew(v)) < _SKEWNESS and stats.kurtosis(v) < _KURTOSIS)


def _positive(scale: float, otherwise: float = 1.0) -> float:
    return next((float(each) for each in (scale, otherwise) if each > _TINY), 1.0)


class Transforms:
    """The transformations of the columns of x, as functions of tensors, in the dtype of their argument.

    Args:
        transforms: the transformation of each column, as `learn` returns it; None or the name "identity" leaves the
            column as it is.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any] | None]) -> None:
        self._transforms = [transform or {"name": "identity"} for transform in transforms]

    def forward(self, codes: Any) -> Any:
        """Converts numbers and codes [B, D] to x [B, D]. NaN stays NaN."""
        return self._apply(codes, _FORWARD)

    def inverse(self, x: Any) -> Any:
        """Converts x [B, D] to numbers and codes [B, D], the inverse of `forward`."""
        return self._apply(x, _INVERSE)

    def _apply(self, tensor: Any, functions: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        groups = [
            (name, list(group)) for name, group in itertools.groupby(self._transforms, key=lambda each: each["name"])
        ]
        parts = tf.split(tensor, [len(group) for _, group in groups], axis=-1) if len(groups) > 1 else [tensor]
        applied = [
            part if name == "identity" else functions[name](part, group)
            for part, (name, group) in zip(parts, groups, strict=True)
        ]
        return tf.concat(applied, axis=-1) if len(applied) > 1 else applied[0]


def _parameter(transforms: Sequence[Mapping[str, Any]], name: str, like: Any) -> Any:
    return np.array([transform[name] for transform in transforms], like.dtype.as_numpy_dtype)


def _standard(v: Any, transforms: Any) -> Any:
    return (v - _parameter(transforms, "loc", v)) / _parameter(transforms, "scale", v)


def _unstandard(x: Any, transforms: Any) -> Any:
    return x * _parameter(transforms, "scale", x) + _parameter(transforms, "loc", x)


def _yeo_johnson(v: Any, transforms: Any) -> Any:
    import tensorflow as tf

    u = (v - _parameter(transforms, "centre", v)) / _parameter(transforms, "width", v)
    power = _parameter(transforms, "power", v)
    size = tf.math.log(1 + tf.abs(u))
    return _standard(tf.where(u >= 0, _box_cox(size, power), -_box_cox(size, 2 - power)), transforms)


def _unyeo_johnson(x: Any, transforms: Any) -> Any:
    import tensorflow as tf

    y = _unstandard(x, transforms)
    power = _parameter(transforms, "power", x)
    size = tf.where(y >= 0, _inverse_box_cox(tf.abs(y), power), _inverse_box_cox(tf.abs(y), 2 - power))
    u = tf.sign(y) * (tf.exp(size) - 1)
    return u * _parameter(transforms, "width", x) + _parameter(transforms, "centre", x)


def _box_cox(log: Any, power: np.ndarray) -> Any:
    """(exp(power * log) - 1) / power, or its limit `log` where the power is 0."""
    import tensorflow as tf

    is_zero = power == 0
    safe = np.where(is_zero, np.ones_like(power), power)
    return tf.where(is_zero, log, (tf.exp(safe * log) - 1) / safe)


def _inverse_box_cox(y: Any, power: np.ndarray) -> Any:
    """The log of which `_box_cox` is y, or a large one where there is none."""
    import tensorflow as tf

    is_zero = power == 0
    safe = np.where(is_zero, np.ones_like(power), power)
    return tf.where(is_zero, y, tf.math.log(tf.maximum(1 + safe * y, 1e-6)) / safe)


def _quantile(v: Any, transforms: Any) -> Any:
    return _broken_line(v, [each["knots"] for each in transforms], [each["levels"] for each in transforms])


def _unquantile(x: Any, transforms: Any) -> Any:
    return _broken_line(x, [each["levels"] for each in transforms], [each["knots"] for each in transforms])


def _broken_line(v: Any, starts: Sequence[Sequence[float]], levels: Sequence[Sequence[float]]) -> Any:
    """The broken line through (start, level), of each column its own; v is [B, D]."""
    import tensorflow as tf

    most = max(map(len, starts))
    # Shorter lines get pieces of no length at their end, before the last piece.
    a, y = (np.stack([[*p[:-1], *[p[-2]] * (most - len(p)), p[-1]] for p in points]) for points in (starts, levels))
    with np.errstate(invalid="ignore"):
        slope = np.nan_to_num((y[:, 1:] - y[:, :-1]) / (a[:, 1:] - a[:, :-1]))
    low, high = a[:, :-1].copy(), a[:, 1:].copy()
    low[:, 0], high[:, -1] = -np.inf, np.inf
    dtype = v.dtype.as_numpy_dtype
    low, high = (np.clip(bound, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype) for bound in (low, high))
    # The parts go from the level that is closest to zero and have the same sign: a sum of large ones would lose digits.
    first = np.argmin(np.abs(y), axis=1)
    start = np.where(np.arange(most - 1) >= first[:, np.newaxis], a[:, :-1], a[:, 1:]).astype(dtype)
    pieces = tf.minimum(tf.maximum(tf.expand_dims(v, -1), low), high) - start
    return tf.reduce_sum(pieces * slope.astype(dtype), axis=-1) + y[np.arange(len(y)), first].astype(dtype)


_FORWARD = {"standard": _standard, "yeo_johnson": _yeo_johnson, "quantile": _quantile}
_INVERSE = {"standard": _unstandard, "yeo_johnson": _unyeo_johnson, "quantile": _unquantile}
