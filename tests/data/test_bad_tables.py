"""Tables that are odd or wrong: what is taken as it is, what becomes missing, and what is refused."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from tfvae.data import Table, load_rows

N = 60


def with_column(values, name="c"):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=N), "b": rng.choice(["x", "y"], N), name: values})


def numbers(*first, scale=1.0):
    return [*first, *(scale * np.random.default_rng(1).normal(size=N - len(first)))]


REFUSED = {
    "lists": ([[1, 2]] * N, r'Column "c" must hold single values: drop it, or make columns of its parts. Received: \['),
    "dictionaries": ([{"k": 1}] * N, 'Column "c" must hold single values'),
    "infinity": (numbers(np.inf), 'Column "c" must hold finite numbers in float32. Received: inf in row 0'),
    "infinity as text": (
        ["inf", *map(str, numbers()[1:])],
        'Column "c" must hold finite numbers .* Received: .inf. in row 0',
    ),
    "beyond float32": (numbers(1e300), 'Column "c" must hold finite numbers in float32'),
    "complex numbers": (np.array(numbers()) + 1j, 'Column "c" must hold real numbers'),
    "periods": (pd.period_range("2020-01", periods=N, freq="M"), 'Column "c" must hold .*Received: dtype period'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_column_of_what_is_no_value_is_named(what):
    values, message = REFUSED[what]
    with pytest.raises(ValueError, match=f"^{message}"):
        Table.learn(with_column(values))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"id": range(N), "key": [f"k{i}" for i in range(N)]}), "`columns` must have one at least"),
        (pd.DataFrame([[1.0, 2.0]] * 2, columns=["a", "a"]), "`source` must be a table whose columns have different"),
        (pd.DataFrame([[1.0, 2.0]] * 2, columns=[1, "1"]), "Received: several columns with the name '1'"),
        (with_column(numbers()).head(1), "`validation_fraction` must leave at least one example"),
        (with_column(numbers()).head(0), "`source` must be a table with rows and columns"),
    ],
)
def test_a_table_that_says_nothing_is_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        load_rows(frame)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("number", ["u", "v"] * (N // 2), "Column \"c\" must hold numbers. Received: 'u' in row"),
        ("number", pd.date_range("2024-01-01", periods=N), 'Column "c" must hold numbers. Received: Timestamp'),
        ("count", numbers(), 'Column "c" must hold counts, whole numbers of at least 0'),
        ("bool", numbers(), 'Column "c" must hold True, False, 1 or 0'),
        ("date", numbers(), 'Column "c" must hold dates. Received: 0.34'),
        ("date", [None] * N, 'Column "c" must have values'),
        ("number", [None] * N, 'Column "c" must have values'),
    ],
)
def test_a_kind_that_is_not_possible_is_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        Table.learn(with_column(values), kinds={"c": kind})


def test_an_error_says_the_row_of_the_whole_table():
    frame = with_column(numbers())
    frame.loc[41, "c"] = np.inf
    for seed in range(3):
        with pytest.raises(ValueError, match=r"Received: inf in row 41$"):
            load_rows(frame, seed=seed)


@pytest.mark.parametrize(
    ("values", "gaps"),
    [
        (["n/a", "?", *map(str, numbers()[2:])], [0, 1]),
        (numbers("oops"), [0]),
        (["0000-00-00", *(f"2024-01-{1 + day % 28:02d}" for day in range(N - 1))], [0]),
    ],
)
def test_a_few_values_that_cannot_be_read_are_missing_with_a_warning(values, gaps):
    frame = with_column(values)
    for seed in range(2):
        # Whether they are in the training part or held out.
        with pytest.warns(UserWarning, match='Column "c" .*taken for missing'):
            rows = load_rows(frame, seed=seed)
        with warnings.catch_warnings(action="ignore"):
            column = rows.table.transform(frame)[:, rows.table.names.index("c")]
        assert rows.table.kinds["c"] in ("number", "date")
        assert np.flatnonzero(np.isnan(column)).tolist() == gaps
    # A single row that cannot be read is no exception among many.
    with pytest.raises(ValueError, match=r'Column "c" must hold .*in row 0'):
        rows.table.transform(frame.head(1).assign(c="a word"))


DATES = {
    "around 9999": ["9999-12-31", "2024-01-01", "2024-05-05"] * (N // 3),
    "around 1": ["0001-01-01", "2024-01-01", "2024-05-05"] * (N // 3),
    "all years": [f"{1 + 160 * i:04d}-03-01" for i in range(N)],
    "months of any length": pd.date_range("2019-01-31", periods=N, freq="31D"),
    "microseconds": pd.Series(np.array(["9999-12-31", "2024-01-01", "0001-01-01"] * (N // 3), "datetime64[us]")),
    "nanoseconds": pd.Series(pd.date_range("1700-01-01", periods=N, freq="1700D").astype("datetime64[ns]")),
    "a time zone": pd.date_range("2024-01-01", periods=N, freq="7h", tz="Europe/Berlin"),
}


@pytest.mark.parametrize("what", DATES)
def test_dates_of_any_year_come_back(what):
    frame = with_column(DATES[what])
    table = Table.learn(frame)
    assert table.kinds["c"] == "date"
    pd.testing.assert_frame_equal(table.rows(table.transform(frame))[["c"]], frame[["c"]])


ODD = {
    "names": with_column(numbers(), name="x").assign(
        **{
            "epsilon": numbers(),
            "with a space": numbers(),
            "a \"quote\" and a 'quote'": numbers(),
            "two\nlines": ["u", "v"] * (N // 2),
            "": numbers(),
            "$x^2$": numbers(),
            "a_spike": numbers(),
        }
    ),
    "integers of 64 bits": with_column(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, N)),
    "unsigned ones": with_column([2**63 + i**2 * 2**40 for i in range(N)]),
    "larger ones": with_column([2**100 + i**2 * 2**80 for i in range(N)]),
    "long texts": with_column([100_000 * "t" + str(i % 3) for i in range(N)]),
    "mixed types": with_column([1, "a", 2.5, None, True, "b"] * (N // 6)),
    "labels": with_column(["two\nlines", "$x$", "'", "", "a", "b"] * (N // 6)),
    "integers of pyarrow": with_column(pd.array(range(10, 10 + N), dtype="int64[pyarrow]")).assign(
        c=lambda frame: frame["c"] ** 2
    ),
    "all missing": with_column([None] * N),
    "3 rows": with_column(numbers()).head(3),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_table_is_taken_as_it_is(what):
    frame = ODD[what]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = load_rows(frame, seed=0)
        made = rows.table.rows(rows.table.transform(frame))
    assert list(made.columns) == list(frame.columns)
    assert len(made) == len(frame)
    assert Table(json.loads(json.dumps(rows.table.config()))) == rows.table
    # The text of the table has one line for each column, which fits a screen.
    lines = str(rows.table).splitlines()
    assert len(lines) == 1 + len(frame.columns)
    assert max(map(len, lines)) < 200


def test_numbers_as_texts_keep_their_digits():
    frame = with_column([f"{1_000_000 + 37 * i * i}.25" for i in range(N)])
    table = Table.learn(frame)
    np.testing.assert_allclose(
        table.rows(table.transform(frame))["c"].astype(float), frame["c"].astype(float), rtol=1e-6
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_an_outlier_is_far_from_the_others_in_x_too(sign):
    rng = np.random.default_rng(0)
    # Such amounts are most normal with a power of which a bound of 3 standard deviations is the limit.
    frame = pd.DataFrame({"amount": sign * np.exp(rng.normal(3, 1, 3000))})
    table = Table.learn(frame)
    near, far = table.transform(pd.DataFrame({"amount": [sign * 1e3, sign * 1e6]}))[:, 0]
    assert sign * far > sign * near + 3


def test_a_text_of_a_file_that_pandas_takes_for_missing_is_told(tmp_path):
    countries = ["NA" if row == 3 else ("DE", "FR", "")[row % 3] for row in range(60)]
    (tmp_path / "x.csv").write_text("country,amount\n" + "".join(f"{country},NA\n" for country in countries))
    with pytest.warns(UserWarning, match='Column "country" has 1 texts that are read as missing values, NA: rename'):
        country = Table.learn(tmp_path / "x.csv").columns[0]
    assert set(country.labels) == {"DE", "FR"}
