"""How a client passes rows of a table to an exported model, without TensorFlow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfvae import checks
from tfvae.data.schema import Schema, is_rows
from tfvae.export.formats.format import Call, Shapes


class TableRows:
    """The columns of an exported model of a table, which turn rows into x, its numbers and codes, and x into rows.

    Args:
        metadata: the description of the export, with `table`, and `inputs` if the columns are inputs by name.
    """

    described = "rows, or numbers and codes"

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.schema = Schema(metadata["table"])
        self.names = self.schema.names
        self._arguments = metadata.get("inputs", {})
        self._columns = {argument: column for column, argument in self.schema.arguments.items()}

    def shapes(self, shapes: Shapes) -> Shapes:
        """The shapes of the inputs of each signature, with x in the place of the named columns."""
        named = set(self._arguments.values())
        result: Shapes = {}
        for signature, own in shapes.items():
            others = {name: shape for name, shape in own.items() if name not in named}
            result[signature] = {"x": (None, len(self.names)), **others} if named & set(own) else own
        return result

    def call(self, call: Call, shapes: Shapes) -> Call:
        """The call of a signature with x in the place of the named columns.

        Args:
            call: the call with the inputs of the export.
            shapes: their shapes.
        """
        named = set(self._arguments.values())

        def with_x(signature: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if named & set(shapes[signature]):
                others = {name: array for name, array in arrays.items() if name != "x"}
                arrays = {**self.schema.raw(arrays["x"]), **others}
            return call(signature, arrays)

        return with_x if named else call

    def gathered(self, arguments: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a signature with x, made of the arguments that are columns, if there are any.

        Args:
            arguments: the values by name. The name of a column may be that of its input, too. Columns that the model
                does not use are ignored.
            inputs: the inputs of the signature.
        """
        known = {*self._columns, *(column.name for column in self.schema.columns)}
        columns = {name: value for name, value in arguments.items() if name not in inputs and name in known}
        if "x" not in inputs or not columns:
            return arguments
        if "x" in arguments and "x" in known:
            columns["x"] = arguments["x"]
        others = {name: value for name, value in arguments.items() if name not in columns}
        return {"x": {self._columns.get(name, name): value for name, value in columns.items()}, **others}

    def codes(self, x: Any) -> np.ndarray:
        """The numbers and codes [N, D], float32, of rows, or of such themselves.

        Raises:
            ValueError: a column is missing, or a value is not one of its column.
        """
        codes = self.schema.codes(x) if are_rows(x) else checks.to_numpy(x)
        checks.check_shape(codes, (len(self.names),))
        return self.schema.checked_codes(codes)

    def rows(self, array: Any, seed: int = 0) -> Any:
        """A `pandas.DataFrame` of what a signature gave: see `ExportedModel.rows`."""
        array = checks.to_numpy(array, "array")
        means = sum(part.num_classes or 1 for part in self.schema.parts)
        if array.ndim != 2 or array.shape[1] not in (len(self.names), means):
            raise ValueError(
                f"`array` must have the shape [N, {len(self.names)}] of `sample` or [N, {means}] of `mean`. Received: "
                f"an array of shape {list(array.shape)}"
            )
        codes = array if array.shape[1] == len(self.names) else self.schema.codes_of_mean(array)
        return self.schema.rows_of_codes(codes, seed)


def are_rows(x: Any) -> bool:
    """Whether x are rows rather than an array of numbers and codes."""
    return isinstance(x, Mapping) or is_rows(x)
