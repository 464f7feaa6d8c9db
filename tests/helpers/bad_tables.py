"""Bad and odd tables, to train on: see `tests/helpers/bad_inputs.py`."""

from collections.abc import Callable, Iterator

from tests.helpers.bad_case import FINE, TRAIN, USAGE, WITHOUT_EXPORTS, Case
from tests.helpers.damages import holding

# A table of 60 rows with text, as texts of CSV; each case puts a column beside it.
BAD_COLUMNS: dict[str, tuple[frozenset[int], Callable[[int], str]]] = {
    "infinite numbers": (USAGE, lambda row: "inf" if row == 7 else f"{row * row / 7}"),
    "numbers beyond float32": (USAGE, lambda row: f"{row + 1}e300"),
    "text in one row of numbers": (FINE, lambda row: "oops" if row == 7 else f"{row * row / 7}"),
    "text in half of the rows of numbers": (FINE, lambda row: "oops" if row % 2 else f"{row * row / 7}"),
    "mixed types": (FINE, lambda row: ("1", "a", "2.5", "", "True", "2024-01-01")[row % 6]),
    "nothing": (FINE, lambda row: ""),
    "integers of 64 bits": (FINE, lambda row: str(2**63 + row * row * 2**40)),
    "integers beyond": (FINE, lambda row: str(2**100 + row * row * 2**80)),
    "dates of the years 1 and 9999": (FINE, lambda row: ("0001-01-01", "9999-12-31", "2024-05-31")[row % 3]),
    "a date that is none": (FINE, lambda row: "0000-00-00" if row == 7 else f"2024-01-{1 + row % 28:02d}"),
    "times with many zones": (FINE, lambda row: f"2024-01-01T00:00:00+{row % 12:02d}:00"),
    "very long texts": (FINE, lambda row: 50_000 * "t" + str(row % 3)),
    "texts of several lines": (FINE, lambda row: '"a\nb"' if row % 2 else '"c\r\nd"'),
}
BAD_HEADERS = {
    "x": FINE,
    "epsilon": FINE,
    "score": FINE,
    "with a space": FINE,
    '"with ""quotes"""': FINE,
    '"two\nlines"': FINE,
    "$x_1$": FINE,
    "a" * 500: FINE,
    "a": USAGE,
}
TABLE_FLAGS = {
    "kinds": ("b=numbers", "nowhere=count", "b=count", "c=date", "b", "=", "b=", "b=number,b=bool", "[]", "{}"),
    "drop": ("nowhere", "a,b,c", "", ",", "[]", "{}"),
    "columns": ("nowhere", "", ","),
    "likelihood": ("Poisson", "Bernoulli", "Categorical", "Missing", "Columns"),
    "binarize": ("dynamic",),
    "network": ("convolutional",),
    "image_size": ("8",),
}


def _table(header: str, cell: Callable[[int], str], rows: int = 60) -> bytes:
    lines = [f"a,b,{header}", *(f"{row * 37 % 60 / 7},{'xyz'[row % 3]},{cell(row)}" for row in range(rows))]
    return "\n".join([*lines, ""]).encode()


def tables() -> Iterator[Case]:
    """Tables as they are, for a training: what is odd is taken, and what is wrong refused."""
    train = ["train", "t.csv", *TRAIN[2:]]
    for what, (codes, cell) in BAD_COLUMNS.items():
        (make,) = holding("t.csv", {what: _table("c", cell)}).values()
        yield Case("tables", what, train, make, codes=codes, before=WITHOUT_EXPORTS)
    for header, codes in BAD_HEADERS.items():
        (make,) = holding("t.csv", {header: _table(header, lambda row: f"{row * 31 % 60 / 7}")}).values()
        yield Case("tables", f"a column {header[:30]!r}", train, make, codes=codes, before=WITHOUT_EXPORTS)
    others = {
        "identifiers alone": "\n".join(["id,key", *(f"{row},k{row}" for row in range(60)), ""]).encode(),
        "one value alone": b"c\n" + 60 * b"1\n",
        "one row": _table("c", str, rows=1),
        "two rows": _table("c", str, rows=2),
        "no rows": _table("c", str, rows=0),
    }
    for what, make in holding("t.csv", others).items():
        yield Case("tables", what, train, make)
    (make,) = holding("t.csv", {"": _table("c", lambda row: f"{row * 31 % 60 / 7}")}).values()
    for flag, wrong in TABLE_FLAGS.items():
        for value in wrong:
            yield Case("tables", f"--{flag} {value!r}", [*train, f"--{flag}={value}"], make)
    for flag in ("kinds", "drop", "columns"):
        yield Case("tables", f"--{flag} of an array", [*TRAIN, "--name", "other", f"--{flag}=b=bool"])
