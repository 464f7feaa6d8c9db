"""What an exported model of windows says of series: a row for each step."""

from typing import Any, NamedTuple

import numpy as np

from tfvae.data.series import Cut, Series
from tfvae.detection import StepDecision

_DECIMALS = 4


class Given(NamedTuple):
    """Series for a model of windows.

    Attributes:
        series: what the model knows of series.
        cut: the windows.
        x: the same in the units that the export takes, [N, T, C].
        integers: the channels that are integers in the input.
    """

    series: Series
    cut: Cut
    x: np.ndarray
    integers: frozenset[str]


def is_of_series(given: Any, exported: Any) -> bool:
    """Whether what was read are series for a model of windows; an array [N, T, C] are windows already."""
    return "series" in exported.metadata and np.ndim(given) != 3


def check_no_stride(stride: int | None) -> None:
    """Raises ValueError if a stride is given for what are no series."""
    if stride is not None:
        raise ValueError(f"`--stride` must be given for series and the model of a `--sequence` run. Received: {stride}")


def cut(given: Any, exported: Any, stride: int | None) -> Given:
    """Cuts series into windows for an exported model.

    Args:
        given: what `tfvae.cli.rows.read` returned.
        exported: the `tfvae.export.ExportedModel`, of a model of windows.
        stride: the number of steps from the start of a window to that of the next; None means 1.

    Raises:
        ValueError: they are not series of the channels of the model.
    """
    series = Series(**exported.metadata["series"])
    windows = series.windows(given, 1 if stride is None else stride)
    if not len(windows.x):
        raise ValueError("`--input` must have a value in at least one window. Received: none")
    is_raw = exported.metadata.get("units") == "raw"
    x = series.raw(windows.x).astype(np.float32) if is_raw else windows.x
    return Given(series, windows, x, _integers(given, series))


def _integers(given: Any, series: Series) -> frozenset[str]:
    if isinstance(given, np.ndarray):
        return frozenset(series.channels if given.dtype.kind in "iu" else ())
    return frozenset(name for name in series.channels if given[name].dtype.kind in "iu")


def detected(given: Given, exported: Any) -> Any:
    """The steps with their scores, decisions and reasons, as a data frame of pandas.

    Raises:
        ValueError: the export does not say how steps are judged.
    """
    import pandas as pd

    described = exported.metadata.get("decision_of_steps")
    if described is None:
        raise ValueError(
            "`--model` must be an export of a model that is calibrated for steps, as `tfvae train` and `tfvae export "
            "--false_alarm_rate 0.01` do, and model.calibrate_steps(windows, false_alarm_rate=0.01) in Python. "
            f"Received: {exported!r}"
        )
    found = given.series.detected(exported.detect(given.x), given.cut, StepDecision(**described))
    score, contributions = found["score"], found["contributions"]
    known = np.isfinite(score)
    largest = np.where(known, np.argmax(np.nan_to_num(contributions, nan=-np.inf), axis=1), 0)
    nats = np.take_along_axis(contributions, largest[:, np.newaxis], axis=1)[:, 0]
    # Steps without a row have no value, which an array of integers cannot say.
    values = {
        name: pd.Series(values).astype("Int64" if name in given.integers else "float64")
        for name, values in zip(given.series.channels, given.cut.steps.values.T, strict=True)
    }
    columns: dict[str, Any] = {
        "score": score,
        "is_anomaly": found["is_anomaly"],
        "reason": np.where(known, np.array(given.series.channels, object)[largest], ""),
        "reason_nats": nats,
        "window_score": found["window_score"],
        "window_is_anomaly": found["window_is_anomaly"],
    }
    rounded = {
        name: np.round(values, _DECIMALS) if values.dtype.kind == "f" else values for name, values in columns.items()
    }
    return _framed(given, values, rounded)


def means(given: Given, mean: np.ndarray) -> Any:
    """The steps with what the model takes each channel for, as a data frame of pandas: the mean over windows.

    Args:
        given: the series.
        mean: the outputs of the model [N, T, C], in the units that the export gives.
    """
    values = given.series.by_step(mean, given.cut)
    columns = {name: values[:, place] for place, name in enumerate(given.series.channels)}
    return _framed(given, {}, columns)


def _framed(given: Given, values: dict[str, Any], columns: dict[str, Any]) -> Any:
    of_steps = given.series.frame(given.cut.steps, **values)
    taken = [name for name in of_steps.columns if name in columns]
    if taken:
        raise ValueError(
            f"`--input` must not have columns of the names that are added, {', '.join(columns)}. Received: series with "
            f"{', '.join(taken)}"
        )
    return of_steps.assign(**columns)
