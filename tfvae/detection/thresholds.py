"""Thresholds of scores that are high for anomalies: from a share of anomalies, or from a rate of false alarms."""

import dataclasses
import math
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfvae import checks

# The fewest rows for the fit of a tail, and the fewest times a rate. With them the share above the threshold is at most
# some ten times the rate, in nine samples of ten from an exponential, Pareto, t, gamma or normal distribution.
_FEWEST_OF_TAIL = 200
_FEWEST_TIMES_RATE = 0.1
# What a rate times a number of rows may be off by, for lack of digits.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold: a row is an anomaly if its score is above it.

    Args:
        value: the threshold, in the units of the scores: nats for those of a model.
        method: what it was computed from: "contamination", "false_alarm_rate" or "tail", as in `threshold`; or "given".
        rate: the share of the training data, or of clean data, above it; None if it was given.
        rows: how many scores it rests on.
    """

    value: float
    method: Literal["contamination", "false_alarm_rate", "tail", "given"]
    rate: float | None
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def threshold(
    scores: ArrayLike,
    *,
    contamination: float | None = None,
    false_alarm_rate: float | None = None,
    tail: float | None = None,
) -> Threshold:
    """Computes the threshold of scores that are high for anomalies. Exactly one rate is given.

    - `contamination`: the scores are of data that hold this share of anomalies. The threshold is their quantile of
      1 - contamination.
    - `false_alarm_rate`: the scores are of clean data that the model was not trained on. The threshold is the k-th
      smallest of n scores, k = ceil((n + 1) (1 - rate)). A clean row is above it with a probability of at most `rate`,
      whatever the distribution of the scores.
    - `tail`: as `false_alarm_rate`, for rates below 1 / n, of which the scores themselves say nothing. A generalised
      Pareto distribution with shape >= 0 is fitted to what exceeds a high quantile u, by maximum likelihood, and gives
      the threshold u + scale / shape ((rate n / m)^-shape - 1), where m is the number of scores above u, the smaller of
      n / 5 and 3 sqrt(n). For tails lighter than exponential ones, the threshold is higher than it need be.

    Args:
        scores: numbers [N].
        contamination: a share between 0 and 1.
        false_alarm_rate: as `contamination`.
        tail: as `contamination`, and below m / n.

    Returns:
        The threshold.

    Raises:
        ValueError: not exactly one rate is given, it is out of its range, or the scores are invalid or, for a tail, too
            few or too much alike.

    Warns:
        UserWarning: the scores are too few for the rate. The threshold of a `false_alarm_rate` is then the largest
            score, and its `rate` what that holds, 1 / (n + 1).

    Reference: Vovk et al. 2005, Algorithmic Learning in a Random World, for the conformal rank; Siffer et al. 2017,
    Anomaly Detection in Streams with Extreme Value Theory, equation 1; for m Vehtari et al. 2024, Pareto Smoothed
    Importance Sampling.
    """
    name, rate = chosen(contamination=contamination, false_alarm_rate=false_alarm_rate, tail=tail)
    values = checks.to_numpy(scores, "scores")
    checks.check_shape(values, (), "scores")
    checks.check_finite(values, "scores")
    function = {"contamination": _of_contamination, "false_alarm_rate": _of_false_alarms, "tail": _of_tail}[name]
    value, rate = function(np.sort(values.astype(np.float64)), rate)
    return Threshold(value, name, rate, len(values))  # type: ignore[arg-type]


def chosen(**given: float | None) -> tuple[str, float]:
    """The name and the value of the one argument that is not None, a rate unless it is called `threshold`.

    Raises:
        ValueError: there is not exactly one, or its value is out of its range.
    """
    numbers = {name: value for name, value in given.items() if value is not None}
    if len(numbers) != 1:
        names = "`, `".join(given)
        received = ", ".join(f"{name}={checks.shown(value)}" for name, value in given.items())
        raise ValueError(f"Exactly one of `{names}` must be given. Received: {received}")
    ((name, value),) = numbers.items()
    value = checks.number(name, value)
    if name != "threshold" and not 0 < value < 1:
        raise ValueError(f"`{name}` must be between 0 and 1, both excluded. Received: {name}={value:g}")
    return name, value


def least_rate(rows: int) -> float:
    """The least `false_alarm_rate` for which clean rows are enough: 1 / (n + 1)."""
    return 1 / (rows + 1)


def _of_contamination(scores: np.ndarray, rate: float) -> tuple[float, float]:
    _warn_if_few("contamination", rate, len(scores), math.ceil(1 / rate - _ROUNDING))
    return float(np.quantile(scores, 1 - rate)), rate


def _of_false_alarms(scores: np.ndarray, rate: float) -> tuple[float, float]:
    rows = len(scores)
    rank = math.ceil((rows + 1) * (1 - rate) - _ROUNDING)
    if rank > rows:
        held = least_rate(rows)
        needed = math.ceil(1 / rate - 1 - _ROUNDING)
        _warn_if_few("false_alarm_rate", rate, rows, needed, f", whose largest holds a rate of {held:.2g}")
        return float(scores[-1]), held
    return float(scores[rank - 1]), rate


def _of_tail(scores: np.ndarray, rate: float) -> tuple[float, float]:
    # Imported here, because a client on a device needs none of it.
    from scipy import stats

    rows = len(scores)
    number = int(min(rows / 5, 3 * math.sqrt(rows)))
    start = scores[-number - 1] if number else math.nan
    exceedances = scores[scores > start] - start
    if len(np.unique(exceedances)) < 5:
        raise ValueError(
            "`scores` must have at least 5 different values in their upper tail, their highest fifth or less, for "
            f"`tail`. Received: {rows} scores with {len(np.unique(exceedances))}"
        )
    share = len(exceedances) / rows
    if rate >= share:
        raise ValueError(
            f"`tail` must be below the share of the scores that are in their tail, {share:.3g}; for this rate, give "
            f"`false_alarm_rate`. Received: tail={rate:g}"
        )
    _warn_if_few("tail", rate, rows, max(_FEWEST_OF_TAIL, math.ceil(_FEWEST_TIMES_RATE / rate - _ROUNDING)))
    # In units of their mean, so that the search for the maximum does not depend on their size.
    size = exceedances.mean()
    shape, _, scale = stats.genpareto.fit(exceedances / size, floc=0)
    if shape < 0:
        # Scores have no upper end, which such a tail would have; the best scale of an exponential tail is the mean.
        shape, scale = 0.0, 1.0
    return float(start + size * stats.genpareto.isf(rate / share, shape, scale=scale)), rate


def _warn_if_few(name: str, rate: float, rows: int, needed: int, consequence: str = "") -> None:
    if rows < needed:
        warnings.warn(
            f"`{name}` of {rate:g} needs at least {needed} rows. Received: {rows} rows{consequence}",
            UserWarning,
            stacklevel=4,
        )
