"""Loads a table as it is into the batches of a model of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae.data import loading
from tfvae.data.schema import frame_of
from tfvae.data.table import Table


class Rows(NamedTuple):
    """The rows of a table, split and as batches of x.

    Attributes:
        table: what its columns are.
        pipelines: the batches of x, with the offset 0 and the scale 1, because the table has the units.
        held_out: the rows of the validation batches, a `pandas.DataFrame`.
    """

    table: Table
    pipelines: loading.Pipelines
    held_out: Any


def load_rows(
    source: Any,
    table: Table | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    batch_size: int = 128,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Rows:
    """Reads a table, splits its rows, and learns from the training part what its columns are.

    Args:
        source: a table as for `Table.learn`.
        table: what the columns are, if that is known.
        kinds: see `Table.learn`.
        drop: see `Table.learn`.
        columns: see `Table.learn`.
        batch_size: the number of rows in a batch.
        validation_fraction: the share of the rows that is held out at random.
        seed: of the split and the order: see `tfvae.data.load`.

    Raises:
        ValueError: see `Table.learn`, `Table.transform` and `tfvae.data.load`.
        ImportError: the extra `tables` is not installed.

    Warns:
        UserWarning: a few values of a column cannot be read, and are taken for missing ones.
    """
    frame = frame_of(source)
    rng = np.random.default_rng(seed)
    kept, held_out = loading.split(len(frame), validation_fraction, rng)
    if table is None:
        table = Table.learn(frame.iloc[kept], kinds=kinds, drop=drop, columns=columns)
    x = table.transform(frame)
    train, validation = loading.batches_in_memory(
        x[kept], x[held_out], batch_size=batch_size, seed=int(rng.integers(2**31 - 1))
    )
    pipelines = loading.Pipelines(train, validation, np.zeros((), np.float32), np.ones((), np.float32))
    return Rows(table, pipelines, frame.iloc[held_out])
