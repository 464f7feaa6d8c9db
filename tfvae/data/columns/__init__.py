"""What the columns of a table are: how raw values become numbers and codes, and these become values again.

Nothing here needs TensorFlow, so that the client of an exported model can read rows without it.
"""

from collections.abc import Mapping
from typing import Any

from tfvae.data.columns.categories import Boolean, Category
from tfvae.data.columns.column import BINARY, CATEGORY, COUNT, NUMBER, Column, Part
from tfvae.data.columns.dates import Date
from tfvae.data.columns.numbers import Count, Number
from tfvae.data.columns.unused import Constant, Identifier

__all__ = [
    "BINARY",
    "CATEGORY",
    "COUNT",
    "KINDS",
    "NUMBER",
    "Boolean",
    "Category",
    "Column",
    "Constant",
    "Count",
    "Date",
    "Identifier",
    "Number",
    "Part",
    "from_config",
]

# The kinds by the names that users give them.
KINDS: dict[str, type[Column]] = {
    kind.kind: kind for kind in (Number, Count, Boolean, Category, Date, Constant, Identifier)
}


def from_config(config: Mapping[str, Any]) -> Column:
    """Makes a column from what its `config` returned.

    Raises:
        ValueError: the configuration is of no known kind, or its values are not those of the kind.
    """
    fields = dict(config)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {list(KINDS)}. Received: kind={kind!r}")
    try:
        arguments: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"A column must have the fields of a {kind}. Received: {sorted(fields)}") from error
