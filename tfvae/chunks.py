"""Work that is cut into chunks, so that memory is bounded however much work there is."""

from collections.abc import Iterator


def slices(length: int, size: int) -> Iterator[slice]:
    """Cuts rows into slices.

    Args:
        length: how many rows there are.
        size: how many rows a slice has, but for the last, which may have fewer.
    """
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def rows_within(budget: int, row: int) -> int:
    """How many rows fit a budget, and one where not even that fits.

    Args:
        budget: the most elements, or bytes, of a chunk.
        row: those of one row.
    """
    return max(1, budget // max(1, row))
