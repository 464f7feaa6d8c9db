"""Models of windows of time series: what they know of the series."""

from collections.abc import Mapping
from typing import Any

from tfvae import checks
from tfvae.data.series import Series
from tfvae.exportable import as_markdown


def checked_series(series: Any) -> Series:
    """Returns a constructor's argument for the series, or the series of its configuration.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(series, Mapping):
        series = Series(**series)
    if not isinstance(series, Series):
        raise ValueError(
            "`series` must be a tfvae.data.Series, such as tfvae.data.windows(...).series. Received: "
            f"{checks.shown(series)}"
        )
    return series


def check_shape(series: Series, event_shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless x [B, *event_shape] may be windows of the series."""
    expected = (series.length, len(series.channels))
    if event_shape != expected:
        raise ValueError(
            f"`series` must be of the windows that the model takes, here of {expected[0]} steps and {expected[1]} "
            f"channels. Received: x of the shape {['B', *event_shape]}"
        )


def meaning(series: Series) -> str:
    """What x is made of, for the README of an export."""
    names = ", ".join(map(as_markdown, series.channels))
    return (
        f" x are windows of {series.length} steps of a series, with the channels {names}, in this order; `series` in "
        "metadata.json has what makes windows of a series."
    )
