"""Posterior predictive checks: whether data that a fitted model generates look like the data that it was fitted to."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.inference.variational_inference import VariationalInference

if TYPE_CHECKING:
    import pandas

_STATISTICS: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "sd": np.std, "min": np.min, "max": np.max}


@dataclasses.dataclass(frozen=True, repr=False)
class PredictiveCheck:
    """Statistics of the data beside those of data from the posterior predictive distribution.

    `tfvae.plots.predictive_check` draws them.

    Args:
        observed: the statistics of the data, by name.
        replicated: those of S replications of the data, each [S].
    """

    observed: dict[str, float]
    replicated: dict[str, np.ndarray]

    def __repr__(self) -> str:
        """The p-values by name."""
        return f"PredictiveCheck({', '.join(f'{name}: p={p:.3g}' for name, p in self.p_values.items())})"

    @property
    def p_values(self) -> dict[str, float]:
        """The probability by name that a replication has a higher statistic, equal ones counted as half.

        Near 0 or 1, the model does not generate data like these. Such p-values are not uniform for a right model, but
        nearer to 1/2.
        """
        return {
            name: float(np.mean(values > self.observed[name]) + 0.5 * np.mean(values == self.observed[name]))
            for name, values in self.replicated.items()
        }

    def summary(self) -> "pandas.DataFrame":
        """A table with one row for each statistic.

        Returns:
            The columns `observed`; `mean`, `sd`, `5%` and `95%` of the replications; and `p_value`.
        """
        import pandas

        rows = {}
        for name, values in self.replicated.items():
            low, high = np.quantile(values, [0.05, 0.95])
            moments = {"mean": values.mean(), "sd": values.std(), "5%": low, "95%": high}
            rows[name] = {"observed": self.observed[name], **moments, "p_value": self.p_values[name]}
        return pandas.DataFrame.from_dict(rows, orient="index")


def predictive_check(
    inference: VariationalInference,
    statistics: Mapping[str, Callable[[Any], Any]] | None = None,
    num_samples: int = 1000,
    x: Any = None,
    y: Any = None,
    *,
    seed: int = 0,
) -> PredictiveCheck:
    """Compares statistics of the data with those of replications, one for each of S draws of the posterior.

    The draws are weighted by their smoothed importance weights.

    Args:
        inference: a fitted `tfvae.VariationalInference` of a pinned joint distribution, or with `predictive`.
        statistics: for each name a function of one data set that returns a number, or several. The data set is an
            array: y [N, ...], or x where there is no y, or the pinned variable; if several variables are pinned, a
            dictionary of them. None means the mean, standard deviation, minimum and maximum of an array.
        num_samples: S.
        x: the data in the form given to `fit`; None takes those.
        y: see x.
        seed: the seed of the draws.

    Raises:
        ValueError: an argument is not valid, or the model says nothing of new data.

    Reference: Gelman, Meng & Stern 1996, Posterior Predictive Assessment of Model Fitness via Realized Discrepancies,
    section 2.2.
    """
    if not isinstance(inference, VariationalInference):
        raise ValueError(f"`inference` must be a tfvae.VariationalInference. Received: {checks.shown(inference)}")
    statistics = _STATISTICS if statistics is None else statistics
    if not isinstance(statistics, Mapping) or not statistics or not all(map(callable, statistics.values())):
        raise ValueError(f"`statistics` must be a dictionary of functions. Received: {checks.shown(statistics)}")
    pins = inference._joint.target.pins
    x, y = inference._all_data(x, y)
    if pins is None and inference.predictive is None:
        raise ValueError(
            "`predictive` must be given to VariationalInference, or `model` be a pinned joint distribution, for "
            "replications of the data. Received: predictive=None"
        )
    if pins is None and not isinstance(x if y is None else y, np.ndarray | tf.Tensor | list):
        raise ValueError(
            "The data must be an array y, or x where there is no y, of which `statistics` are taken. Received: "
            f"{checks.shown(x if y is None else y)}"
        )
    inference._check_fitted("predictive_check")
    draws = inference.draw(num_samples, x, y, seed=seed)
    latents = {name: tf.constant(value) for name, value in draws.resample(seed=seed).items()}
    replicated = inference._predicted(latents, x, tf.constant([seed, 1]))
    data: Any = {name: np.asarray(value) for name, value in pins.items()} if pins else np.asarray(x if y is None else y)
    if pins and len(pins) == 1:
        (name,) = pins
        data, replicated = data[name], replicated[name]
    found = PredictiveCheck({}, {})
    for name, function in statistics.items():
        observed = _value(name, function, data)
        each = [_value(name, function, _replication(replicated, index)) for index in range(num_samples)]
        if other := {value.shape for value in each} - {observed.shape}:
            raise ValueError(
                f"`statistics[{name!r}]` must return as many numbers for each data set. Received: values of shape "
                f"{observed.shape} for the data, and {other.pop()} for a replication"
            )
        values = np.array(each)
        for element in np.ndindex(observed.shape):
            label = f"{name}[{', '.join(map(str, element))}]" if element else name
            found.observed[label] = float(observed[element])
            found.replicated[label] = values[(slice(None), *element)]
    return found


def _replication(replicated: Any, index: int) -> Any:
    if isinstance(replicated, Mapping):
        return {name: value[index] for name, value in replicated.items()}
    return replicated[index]


def _value(name: str, function: Callable[[Any], Any], data: Any) -> np.ndarray:
    """The statistic of one data set, in double precision.

    Raises:
        ValueError: it is not a finite number, or several.
    """
    value = np.asarray(function(data))
    if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
        raise ValueError(
            f"`statistics[{name!r}]` must return finite numbers for a data set. Received: {checks.shown(value)}"
        )
    return value.astype(float)
