"""How models of tables are exported: their signatures take and give numbers and codes, or raw rows, instead of x."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfvae.data.table import Table
from tfvae.exportable import Arrays, Signature, as_markdown
from tfvae.models import rows as rows_module
from tfvae.models.signatures import AutoencoderExport


class TableExport(AutoencoderExport):
    """The signatures of an autoencoder that may be of a table: see `tfvae.export.Endpoints`.

    Attributes:
        table: what the columns of the table are; None if the data are no rows of a table.
    """

    table: Table | None

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        super().check_exportable()
        if self.table is not None:
            rows_module.check_float32(self.table)

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`. Those of a model of a table take and give numbers and codes.

        Args:
            x: has no effect.
        """
        own = super().export_signatures(x)
        if self.table is None:
            return own
        columns = rows_module.named_columns(self.table)
        return {name: rows_module.in_codes(self.table, signature, columns) for name, signature in own.items()}

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared or calibrated: see `Exportable`.

        Args:
            x: data as for `fit`, such as rows of the table; see `AutoencoderExport.export_data`.
            rows: how many rows to take or, without x, to draw.
        """
        data = super().export_data(x, rows)
        if self.table is None:
            return data
        # Draws and arrays may be of no row: a date may have the code of another month.
        made = rows_module.of_a_row(self.table, data["x"] if isinstance(data, dict) else data, is_drawn=x is None)
        return {**data, "x": made} if isinstance(data, dict) else made

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: see `AutoencoderExport.export_examples`.
        """
        examples = super().export_examples(x, calibrating)
        if self.table is None:
            return examples
        codes = self.table.to_codes(examples["serving_default"]["x"]).astype(np.float32)
        return {
            name: {argument: codes if argument == "x" else array for argument, array in inputs.items()}
            for name, inputs in examples.items()
        }

    def export_example(self, signatures: Mapping[str, Signature]) -> Arrays:
        """A row that the model draws, or a typical one of a table: see `Exportable`."""
        example = super().export_example(signatures)
        return example if self.table is None else {**example, "x": self.table.typical}

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        meanings = super().export_meanings()
        if self.table is None:
            return meanings
        return {
            **meanings,
            "x": f"numbers and codes of the columns {', '.join(self.table.names)}, with NaN where a value is missing",
            "sample": "a draw of p(x|z), in numbers and codes as x",
            "mean": "the mean of p(x|z), in numbers as x, with a probability for each code in the place of a code",
        }

    def export_description(self) -> dict[str, Any]:
        """What a caller must know: see `Exportable`. Of a table its columns, and what the codes in x stand for."""
        description = super().export_description()
        if self.table is None:
            return description
        return {
            **description,
            "expected_range": self.table.ranges,
            "codes": {name: list(labels) for name, labels in self.table.labels.items()},
            "table": self.table.config(),
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: the result of `export_signatures`.
        """
        sections = super().export_readme(signatures)
        if self.table is None:
            return sections
        ((_, fields),) = sections
        return [("table.md", {**fields, "columns_of_x": ", ".join(map(as_markdown, self.table.names))})]

    def _missing_in_draws(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements of drawn data are missing, all of a column of the table together."""
        drawn = super()._missing_in_draws(shape)
        if self.table is None:
            return drawn
        owners = self.table.owners()
        return drawn[:, [owners.index(owner) for owner in owners]]
