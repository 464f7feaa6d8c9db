"""Models of tables: rows become x before a model reads them, and what it gives becomes rows again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, networks
from tfvae.data.columns import COUNT, NUMBER
from tfvae.data.columns.column import missing
from tfvae.data.table import Table
from tfvae.exportable import NamedColumns, Signature
from tfvae.likelihoods import Likelihood

# The outputs of signatures that are in the units of x.
_OF_X = ("mean", "sample")
# The largest rounding of a number in float32, relative to how much the numbers differ.
_LARGEST_STEP = 1e-3


def checked_table(table: Any, likelihood: Likelihood) -> Table:
    """Returns a constructor's argument for the table, or the table of its configuration.

    Args:
        table: a `tfvae.data.Table`, or the result of its `get_config`.
        likelihood: the likelihood of the model.

    Raises:
        ValueError: it is neither, or the likelihood is not of its columns.
    """
    if isinstance(table, Mapping):
        table = Table(**table)
    if not isinstance(table, Table):
        raise ValueError(f"`table` must be a tfvae.data.Table. Received: {checks.shown(table)}")
    if likelihood.column_names != table.names:
        raise ValueError(
            "`likelihood` must be that of the table, as table.likelihood() makes it. Received: a likelihood of the "
            f"columns {checks.shown(likelihood.column_names)}, for a table that gives {checks.shown(table.names)}"
        )
    return table


def make_networks(
    table: Table, likelihood: Likelihood, latent_dim: int, hidden: tuple[int, ...], activation: str
) -> tuple[keras.Model, keras.Model]:
    """Makes an encoder of the rows of a table, and a decoder that mirrors it and gives the likelihood's parameters."""
    num_classes = [part.num_classes for part in table.parts]
    moments = [
        (part.transform["mean"], part.transform["stddev"]) if part.content == COUNT and part.transform else None
        for part in table.parts
    ]
    output_shape = likelihood.parameter_shape((len(table.parts),))
    return (
        networks.row_encoder(num_classes, moments, hidden, activation),
        networks.dense_decoder(latent_dim, output_shape, hidden[::-1], activation),
    )


def given_x(table: Table, given: Any) -> np.ndarray:
    """The x [1, D] of a row of which only some values are given, with NaN for the others.

    Args:
        table: the table.
        given: the values by column.

    Raises:
        ValueError: there is none, a column is not one of the model's, or a value is not of its column.
    """
    used = tuple(dict.fromkeys(table.owners()))
    if not isinstance(given, Mapping) or not given or not set(given) <= set(used):
        raise ValueError(
            f"`given` must be values by column, for some of {checks.shown_names(used)}. Received: "
            f"given={checks.shown(given)}"
        )
    x = table.transform([{name: given.get(name) for name in used}])
    unknown = [name for name, value in given.items() if _is_unknown(table, name, value)]
    if unknown:
        raise ValueError(f"`given` must have categories that the table has. Received: {checks.shown(given)}")
    return x


def _is_unknown(table: Table, name: str, value: Any) -> bool:
    column = next(column for column in table.columns if column.name == name)
    labels = (*getattr(column, "labels", ()), *getattr(column, "rare", ()))
    return bool(labels) and str(value).strip() not in {str(label).strip() for label in labels}


def filled(table: Table, rows: Any, x: np.ndarray) -> Any:
    """Rows in which the missing values are those of x, and the others as they were.

    Args:
        table: the table.
        rows: a `pandas.DataFrame`.
        x: the rows as the model completed them [N, D].
    """
    made, completed = table.rows(x), rows.reset_index(drop=True).copy()
    for name in dict.fromkeys(table.owners()):
        values = completed[name]
        is_missing = missing(values)
        if is_missing.any():
            of_data = made[name].astype(object).where(is_missing, values.astype(object))
            completed[name] = of_data.infer_objects().astype(made[name].dtype)
    return completed.set_axis(rows.index)


def named_columns(table: Table) -> NamedColumns:
    """The columns of a table as the named inputs of an export."""
    columns = {column.name: column for column in table.columns}
    meanings = {}
    for name, argument in table.arguments.items():
        column = columns[name]
        meanings[argument] = f"{column.kind}: {column.description}"
    return NamedColumns(table.specs(), table.in_graph, table.raw, table.arguments, meanings)


def in_codes(table: Table, signature: Signature, columns: NamedColumns) -> Signature:
    """The signature with the same names, which takes and gives numbers and codes instead of x.

    Args:
        table: the table.
        signature: a function of x, or one that gives `mean` or `sample` in the units of x.
        columns: the result of `named_columns`.
    """
    names = [spec.name for spec in signature.inputs]

    def function(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        pairs = zip(names, tensors, strict=True)
        outputs = signature.function(*(table.forward(tensor) if name == "x" else tensor for name, tensor in pairs))
        return {name: table.inverse(output) if name in _OF_X else output for name, output in outputs.items()}

    def expected(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        of_x = {name: table.from_codes(array) if name == "x" else array for name, array in inputs.items()}
        outputs = signature.of_model(of_x)
        return {
            name: table.to_codes(array).astype(np.float32) if name in _OF_X else array
            for name, array in outputs.items()
        }

    request = signature.request
    if request is not None and "x" in names:
        typical = table.typical[0].tolist()
        request = {**request, "x": typical} if isinstance(request, Mapping) else typical
    return dataclasses.replace(
        signature,
        function=function,
        expected=expected,
        request=request,
        columns=columns if "x" in names else None,
    )


def of_a_row(table: Table, x: np.ndarray, *, is_drawn: bool) -> np.ndarray:
    """The x of the rows that are closest to x, which may be of no row.

    Args:
        table: the table.
        x: an array [N, D].
        is_drawn: whether a model drew x; its rows are then within the range of the data.
    """
    if is_drawn:
        return table.transform(table.rows(x))
    raw = table.raw(table.to_codes(x))
    return table.transform({name: raw[argument] for name, argument in table.arguments.items()})


def check_float32(table: Table) -> None:
    """Raises ValueError if float32, in which exports take rows, has too few digits for a column."""
    for part in table.parts:
        labels = [label for label in part.labels if isinstance(label, int | float)]
        if len(set(np.asarray(labels, np.float32).tolist())) < len(set(labels)):
            raise ValueError(
                f'Column "{part.name}" must have values that are different in float32, in which an export takes them: '
                f"make texts of them. Received: {checks.shown(labels)}"
            )
        if part.content != NUMBER or part.range is None:
            continue
        step, scale = float(np.spacing(np.float32(np.abs(part.range).max()))), _scale(part.transform or {})
        if step > _LARGEST_STEP * scale:
            raise ValueError(
                f'Column "{part.name}" must have numbers that keep their digits in float32, in which an export takes '
                f"them: subtract a constant before. Received: numbers up to {np.abs(part.range).max():g}, which are "
                f"rounded to {step:g} where they differ by some {scale:g}"
            )


def _scale(transform: Mapping[str, Any]) -> float:
    """By how much the numbers of a transformation differ."""
    if transform["name"] == "quantile":
        low, high = np.interp([-1, 1], transform["levels"], transform["knots"])
        return float(high - low) / 2
    return float(transform["width"] if transform["name"] == "yeo_johnson" else transform["scale"])
