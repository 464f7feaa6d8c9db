"""Cuts work into chunks, so that memory stays bounded however much work there is."""

from collections.abc import Iterator


def slices(length: int, size: int) -> Iterator[slice]:
    """Cuts a number of rows into successive slices.

    Args:
        length: the number of rows.
        size: the number of rows in a slice; the last slice may have fewer.
    """
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def rows_within(budget: int, row: int) -> int:
    """How many rows fit into a budget, but at least 1, even if a single row exceeds the budget.

    Args:
        budget: the most elements, or bytes, in a chunk.
        row: the number of elements, or bytes, in one row.
    """
    return max(1, budget // max(1, row))
