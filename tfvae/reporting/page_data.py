"""What the script of the page that explores a model knows: units, examples, points of the map, columns of a table."""

from typing import Any

import numpy as np

from tfvae.data.columns import Boolean, Category, Column, Date, Number
from tfvae.data.columns.column import missing
from tfvae.data.table import Table
from tfvae.evaluation import kl_per_dimension
from tfvae.models.vae import VAE
from tfvae.plots.examples import is_image
from tfvae.priors import StandardNormal
from tfvae.reporting.unusual_windows import MARKED

_PRIOR_DRAWS = 256
# Greater whole numbers are written with an exponent.
_MOST_WHOLE = 1e15
# The standard deviation of a dimension that does not depend on x.
_LEAST_SPREAD = 1e-3


def of_model(
    model: VAE,
    x: np.ndarray,
    rows: Any,
    labels: np.ndarray | None,
    num_examples: int,
    offset: Any,
    scale: Any,
    seed: int,
) -> dict[str, Any]:
    """Everything, in raw units, ready for JSON.

    Args:
        model: the model.
        x: the examples whose z are the points of the map [N, ...].
        rows: the examples as rows, a `pandas.DataFrame`; None for arrays.
        labels: the class of each example [N], or None.
        num_examples: how many examples are on the page.
        offset: see `tfvae.export.tflite`.
        scale: see `tfvae.export.tflite`.
        seed: of the draws from the prior.
    """
    z = np.asarray(model.posterior.center(model.encode(x)))
    try:
        kl = kl_per_dimension(model, x, seed=seed)
    except ValueError:  # Of dimensions that depend on one another.
        kl = np.full(model.latent_dim, np.nan)
    order = np.argsort(-(z.var(axis=0) if np.isnan(kl).any() else kl), kind="stable")
    known = {} if labels is None else {"labels": [str(each) for each in labels]}
    # The units of the sliders and of the map: those of the prior, or those of the examples where it is not N(0, I).
    center, spread, draws = np.zeros(model.latent_dim), np.ones(model.latent_dim), None
    if not isinstance(model.prior, StandardNormal):
        center, spread = z.mean(axis=0), np.maximum(z.std(axis=0), _LEAST_SPREAD)
        draws = _rounded(model.prior.distribution().sample(_PRIOR_DRAWS, seed=[seed, 0]))
    decision = model.decision
    count = min(num_examples, len(x))
    if offset is None and scale is None and model.own_units is not None:
        offset, scale = model.own_units
    names = [f"example {place + 1}" for place in range(count)]
    if known:
        names = [f"{name}, {label}" for name, label in zip(names, known["labels"], strict=False)]
    if model.table is None:
        raw = x if scale is None else x * np.asarray(scale) + np.asarray(offset)
        of_data = {
            "kind": "image" if is_image(x.shape[1:]) else "vector",
            "limits": [float(np.nanmin(raw)), float(np.nanmax(raw))],
            "examples": [_or_none(example) for example in raw[:count].reshape(count, -1)],
            "example_names": names,
            **(_of_windows(model, raw) if is_window(x.shape[1:]) else {}),
        }
    else:
        typical = model.table.rows_of_codes(model.table.typical)
        of_data = {
            "kind": "table",
            "limits": [0.0, 1.0],
            "columns": _columns(model.table),
            "examples": _texts(model.table, typical) + _texts(model.table, rows.iloc[:count]),
            "example_names": ["a typical row", *names],
        }
    return {
        "event_shape": list(x.shape[1:]),
        "latent_dim": model.latent_dim,
        "order": order.tolist(),
        "kl": [None if np.isnan(each) else float(each) for each in kl],
        "z_mean": _rounded(center),
        "z_sd": _rounded(spread),
        "prior_draws": draws,
        "points": _rounded(z),
        **of_data,
        **known,
        "classes": sorted(set(known["labels"])) if known else None,
        "takes_missing": bool(model.export_description().get("missing_values", False)),
        "detects": decision is not None,
        "threshold": None if decision is None else float(decision.threshold.value),
    }


def is_window(event_shape: tuple[int, ...]) -> bool:
    """Whether examples of a shape are drawn as windows of time series [T, C]."""
    return len(event_shape) == 2


def _of_windows(model: VAE, raw: np.ndarray) -> dict[str, Any]:
    """The channels of windows [N, T, C], each with the range of its values."""
    names = [f"channel {number}" for number in range(1, raw.shape[2] + 1)]
    names = names if model.series is None else list(model.series.channels)
    places = [{"places": [place], "starts": [place], "widths": [1]} for place in range(len(names))]
    known = [values[~np.isnan(values)] for values in raw.reshape(-1, len(names)).T]
    return {
        "kind": "series",
        "limits": [[float(values.min()), float(values.max())] if len(values) else [] for values in known],
        "columns": [
            {"name": str(name), "kind": "number", "spikes": [], "decimals": None, **place}
            for name, place in zip(names, places, strict=True)
        ],
        "marked": MARKED,
    }


def _columns(table: Table) -> list[dict[str, Any]]:
    """For each column that the model uses, how its texts become numbers and codes, and means texts again."""
    owners = table.owners()
    widths = [part.num_classes or 1 for part in table.parts]
    starts = np.cumsum([0, *widths])
    used = {column.name: column for column in table.columns}
    return [
        {
            "name": name,
            "kind": used[name].kind,
            "blanks": list(used[name].blanks),
            # In the order of the parts of the column, which need not be that of x.
            **{
                key: [values[table.names.index(part.name)] for part in used[name].parts]
                for key, values in (
                    ("places", list(range(len(owners)))),
                    ("starts", starts.tolist()),
                    ("widths", widths),
                )
            },
            **_of_kind(used[name]),
        }
        for name in table.kinds
    ]


def _of_kind(column: Column) -> dict[str, Any]:
    if isinstance(column, Number):
        names = ["low", "high", "decimals", "spikes"]
    elif isinstance(column, Boolean):
        is_bool = column.dtype in ("bool", "boolean", "object")
        return {"labels": ["False", "True"] if is_bool else ["0", "1"]}
    elif isinstance(column, Category):
        labels = [_text(label) for label in column.labels]
        return {"labels": labels, "has_rare": bool(column.rare), "takes_text": column.takes_text}
    elif isinstance(column, Date):
        has_zone = column.zone is not None
        names = ["low", "high", "cycles", "has_times", "format"]
        return {"reference": column.day_0, "has_zone": has_zone, **{name: getattr(column, name) for name in names}}
    else:
        names = ["low", "high"]
    return {name: getattr(column, name) for name in names}


def _texts(table: Table, rows: Any) -> list[list[str]]:
    """The rows as the texts of the form, "" for what is missing."""
    columns = {column.name: column for column in table.columns}
    by_column = []
    for name in table.kinds:
        column, values = columns[name], rows[name]
        texts = [_text(value) for value in values]
        if isinstance(column, Date) and column.format is None:
            # Without the zone, whose clock it is.
            texts = [text[: len("2024-05-31 13:45:00") if column.has_times else len("2024-05-31")] for text in texts]
        elif isinstance(column, Number) and values.dtype.kind == "m":
            texts = [_text(seconds) for seconds in values.dt.total_seconds()]
        by_column.append(["" if gap else text for gap, text in zip(missing(values), texts, strict=True)])
    return [list(row) for row in zip(*by_column, strict=True)]


def _text(value: Any) -> str:
    """A value as a text; of a whole number without decimals."""
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    return f"{number:.0f}" if number.is_integer() and abs(number) < _MOST_WHOLE else repr(number)


def _or_none(values: np.ndarray) -> list[float | None]:
    """Values, with None for NaN, which JSON does not have."""
    return [None if np.isnan(value) else value for value in _rounded(values)]


def _rounded(values: Any) -> list[Any]:
    return np.round(np.asarray(values, float), 5).tolist()
