"""What columns are taken for: real-looking tables against the kinds that a person would expect."""

import datetime
import decimal
import io
import uuid
import warnings

import numpy as np
import pandas as pd
import pyarrow
import pytest

from tfvae.data import Table
from tfvae.data.columns import KINDS

N = 240
RNG = np.random.default_rng(0)


def learned(frame, **arguments):
    return {column.name: column for column in Table.learn(frame, **arguments).columns}


def kind_of(values, name="c"):
    """The kind of one column beside a number, so that the table has something to model."""
    return learned({name: values, "beside": np.linspace(0.0, 1.0, len(values)) ** 2})[name].kind


def choice(*values, p=None, n=N):
    return RNG.choice(np.array(values, object), n, p=p)


def days(n=N, start="2023-01-01", span=300):
    return pd.Timestamp(start) + pd.to_timedelta(RNG.integers(0, span, n), unit="D")


def text(_):
    return " ".join(RNG.choice(["the", "late", "good", "box", "broken", "arrived", "blue", "again", "never"], 8))


# Of each table, what a column holds and what it may be taken for.
TABLES = {
    "orders": {
        "order_id": (np.arange(10_000, 10_000 + N), "identifier"),
        "customer_id": (RNG.integers(100, 200, N), "identifier"),
        "Order Date": (days().strftime("%Y-%m-%d").to_numpy(object), "date"),
        "price": (np.round(RNG.lognormal(3, 1, N), 2), "number"),
        "quantity": (RNG.negative_binomial(2, 0.15, N) + 1, "count"),
        "channel": (choice("web", "shop"), "category"),
        "zip": (RNG.integers(10_000, 99_999, N), "identifier"),
        "zip_code": (choice("01067", "10115", "80331"), "category"),
        "currency": (["EUR"] * N, "constant"),
        "discount_percent": (RNG.integers(0, 101, N), "number"),
        "is_gift": (RNG.random(N) < 0.2, "bool"),
        "coupon": (np.where(RNG.random(N) < 0.9, None, "SUMMER"), "constant"),
        "comment": ([text(i) for i in range(N)], "identifier"),
    },
    "sensors": {
        "sensor": (choice("s1", "s2", "s3"), "category"),
        "timestamp": (pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(N) * 37, unit="min"), "date"),
        "unix_time": (1_700_000_000 + np.arange(N) * 60, "number"),
        "temperature": (RNG.normal(20, 5, N), "number"),
        "humidity": (RNG.uniform(0, 100, N), "number"),
        "latitude": (RNG.uniform(-90, 90, N), "number"),
        "longitude": (RNG.uniform(-180, 180, N), "number"),
        "battery": (RNG.integers(0, 101, N), "number"),
        "reading": ([f"{value:.2f}" for value in RNG.normal(size=N)], "number"),
        "error_code": (choice(0, 17, 404, p=[0.9, 0.05, 0.05]).astype(int), "category"),
        "uptime": (pd.to_timedelta(RNG.integers(0, 10**6, N), unit="s"), "number"),
        "mostly_missing": (np.where(RNG.random(N) < 0.95, np.nan, RNG.normal(size=N)), "number"),
        "never": ([np.nan] * N, "constant"),
    },
    "patients": {
        "PatientID": ([f"P{i:05d}" for i in range(N)], "identifier"),
        "born": (days(start="1930-01-01", span=30_000).strftime("%d.%m.%Y").to_numpy(object), "date"),
        "admitted": (days().strftime("%Y%m%d").astype(int).to_numpy(), "date"),
        "age": (RNG.integers(0, 95, N), "number"),
        "sex": (choice("m", "f"), "category"),
        "smoker": (choice("yes", "no", "yes", None), "category"),
        "pregnant": (choice(True, False, None), "bool"),
        "bmi": (np.where(RNG.random(N) < 0.1, "?", np.round(RNG.normal(26, 4, N), 1).astype(str)), "number"),
        "visits": (RNG.poisson(0.8, N), ("count", "category")),
        "systolic": (RNG.normal(130, 15, N).round(), "number"),
        "icd": (choice("A01", "B20", "C50.1"), "category"),
        "outcome": (RNG.integers(0, 2, N), "bool"),
    },
    "weblogs": {
        "ip": ([".".join(map(str, RNG.integers(1, 255, 4))) for _ in range(N)], "identifier"),
        "session": ([str(uuid.UUID(bytes=RNG.bytes(16))) for _ in range(N)], "identifier"),
        "time": (pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(RNG.integers(0, 10**6, N), unit="s"), "date"),
        "clock": ([f"{RNG.integers(24):02d}:{RNG.integers(60):02d}" for _ in range(N)], "date"),
        "status": (choice(200, 404, 500, p=[0.8, 0.15, 0.05]).astype(int), "category"),
        "bytes": (RNG.lognormal(8, 2, N).astype(int), "number"),
        "method": (choice("GET", "POST"), "category"),
        "url": ([f"/page/{RNG.integers(30)}" for _ in range(N)], "category"),
        "cached": (choice("true", "false"), "category"),
    },
    "survey": {
        "respondent": (np.arange(N), "identifier"),
        "q1": (RNG.integers(1, 6, N), "category"),
        "q2": (np.where(RNG.random(N) < 0.2, np.nan, RNG.integers(1, 6, N)), "category"),
        "agrees": (choice("strongly agree", "agree", "neutral", "disagree"), "category"),
        "recommend": (RNG.binomial(10, 0.75, N), ("category", "number")),
        "year": (RNG.integers(2019, 2025, N), ("category", "number")),
        "born": (RNG.integers(1940, 2006, N), "number"),
        "children": (RNG.binomial(4, 0.3, N), "category"),
        "phone": ([f"+4930{RNG.integers(10**6, 10**7)}" for _ in range(N)], "identifier"),
        "mobile": ([f"0151{RNG.integers(10**6, 10**7)}" for _ in range(N)], "identifier"),
        "size": (pd.Categorical(choice("S", "M", "L"), ["S", "M", "L"], ordered=True), "category"),
    },
    "finance": {
        "account": (RNG.integers(10**9, 10**10, N), "identifier"),
        "iban": ([f"DE{RNG.integers(10**15, 10**16)}" for _ in range(N)], "identifier"),
        "amount": (np.round(RNG.standard_t(2, N) * 100, 2), "number"),
        "fee": (np.where(RNG.random(N) < 0.7, 0.0, RNG.gamma(2, 2, N)), "number"),
        "balance": ([decimal.Decimal(f"{value:.2f}") for value in RNG.normal(size=N)], "number"),
        "booked": ([datetime.date(2024, 1, 1) + datetime.timedelta(int(i)) for i in RNG.integers(0, 90, N)], "date"),
        "us_date": (days().strftime("%m/%d/%Y").to_numpy(object), "date"),
        "rate": (RNG.uniform(0, 0.08, N).round(4), "number"),
        "transactions": (RNG.poisson(40, N), ("count", "number")),
    },
}


@pytest.mark.parametrize("table", TABLES)
def test_columns_of_a_real_looking_table_are_what_a_person_would_expect(table):
    frame = pd.DataFrame({name: values for name, (values, _) in TABLES[table].items()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Column .* taken for missing", UserWarning)
        columns = learned(frame)
        of_csv = learned(pd.read_csv(io.StringIO(frame.to_csv(index=False))))
    wrong = {
        name: (columns[name].kind, columns[name].why)
        for name, (_, expected) in TABLES[table].items()
        if columns[name].kind not in ((expected,) if isinstance(expected, str) else expected)
    }
    assert not wrong
    # In a file all dates are texts. What pandas reads otherwise is left out: leading zeros, durations, true and false.
    lost = {"zip_code", "mobile", "uptime", "cached"}
    assert {name: column.kind for name, column in of_csv.items() if name not in lost} == {
        name: column.kind for name, column in columns.items() if name not in lost
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.array(RNG.normal(size=N), "Float64"), "number"),
        (RNG.normal(size=N).astype(np.float32), "number"),
        (pd.array(RNG.integers(20, 90, N), "Int64"), "number"),
        (RNG.integers(20, 90, N).astype(np.uint8), "number"),
        (pd.array(choice(True, False, None), "boolean"), "bool"),
        (choice(0.0, 1.0, np.nan).astype(float), "bool"),
        (choice(0, 1, None), "bool"),
        (choice(*range(20, 60), None), "number"),
        (pd.array(choice("a", "b", None), "string"), "category"),
        (pd.Categorical(choice("a", "b", None)), "category"),
        (pd.Categorical(RNG.integers(0, 50, N)), "category"),
        (days().to_series(index=range(N)).astype(object), "date"),
        (days().tz_localize("Europe/Berlin"), "date"),
        (days().astype("datetime64[s]"), "date"),
        (days().strftime("%Y-%m-%d %H:%M:%S"), "date"),
        (days().strftime("%Y-%m-%dT%H:%M:%SZ"), "date"),
        (days().strftime("%d %B %Y"), "date"),
        (days().strftime("%Y%m%d"), "date"),
        (RNG.poisson(3, 5), "number"),
        (["only"] * N, "constant"),
        ([None, "only"] * (N // 2), "constant"),
        ([""] * N, "constant"),
        (np.arange(N)[::-1] + 7, "identifier"),
        ([f"user{i}" for i in range(N)], "identifier"),
        ([f"{i}" for i in range(1, N + 1)], "identifier"),
    ],
)
def test_a_kind_is_recognised_under_each_dtype(values, kind):
    values = pd.Series(values).reset_index(drop=True)
    assert kind_of(values) == kind
    if kind not in ("constant", "identifier"):
        assert kind_of(values.mask(np.arange(len(values)) % 7 == 3)) == kind


@pytest.mark.parametrize("name", ["id", "user_id", "userId", "UserID", "uuid", "ids", "order_key", "row", "index"])
def test_different_whole_numbers_under_such_a_name_are_identifiers(name):
    scattered = RNG.choice(10**9, N, replace=False)
    assert kind_of(scattered, name) == "identifier"
    assert kind_of(scattered, "width") == "number"


def test_every_kind_is_expected_of_a_table():
    expected = {kind for table in TABLES.values() for _, kind in table.values() if isinstance(kind, str)}
    assert expected == set(KINDS)


def test_a_frame_of_pyarrow_is_read_as_one_of_pandas():
    frame = pd.DataFrame({"a": RNG.normal(size=N), "b": choice("x", "y"), "c": days()})
    assert learned(pyarrow.Table.from_pandas(frame)) == learned(frame)


def test_kinds_are_overridden_by_name():
    frame = pd.DataFrame({"a": RNG.integers(0, 3, N), "b": RNG.integers(0, 2, N), "c": RNG.integers(0, 90, N)})
    kinds = {"a": "count", "b": "category", "c": "count"}
    columns = learned(frame, kinds=kinds)
    assert {name: column.kind for name, column in columns.items()} == kinds
    assert {column.why for column in columns.values()} == {"set by kinds"}
    assert learned(frame, kinds={"c": "identifier"})["c"].kind == "identifier"
    assert learned(frame, kinds={"c": "number"})["c"].kind == "number"


def test_columns_are_taken_and_dropped_by_name():
    frame = pd.DataFrame({"a": RNG.normal(size=N), "b": RNG.normal(size=N), "c": RNG.normal(size=N)})
    assert list(learned(frame, drop=["b"])) == ["a", "c"]
    assert list(learned(frame, columns=["c", "b"])) == ["c", "b"]
    assert list(learned(frame, columns=["c", "b"], drop=["b"])) == ["c"]


WRONG = {
    "several values": ({"c": [[1, 2]] * N}, {}, '"c" must hold single values'),
    "complex numbers": ({"c": np.arange(N) * 1j}, {}, '"c" must hold real numbers'),
    "infinite": ({"c": [np.inf, *RNG.normal(size=N - 1)]}, {}, '"c" must hold finite numbers.*inf in row 0'),
    "no number": ({"c": choice("a", "b")}, {"kinds": {"c": "number"}}, "must hold numbers. Received: '[ab]' in row"),
    "no date": ({"c": choice("a", "b")}, {"kinds": {"c": "date"}}, "must hold dates. Received: '[ab]' in row"),
    "no count": ({"c": [-1, *range(N - 1)]}, {"kinds": {"c": "count"}}, '"c" must hold counts.*-1 in row 0'),
    "no bool": ({"c": choice(0, 1, 2)}, {"kinds": {"c": "bool"}}, '"c" must hold True, False, 1 or 0. Received: 2'),
    "texts": (
        {"c": choice("true", "false")},
        {"kinds": {"c": "bool"}},
        '"c" .* texts are a "category"',
    ),
    "all missing": ({"c": [None] * N}, {"kinds": {"c": "number"}}, '"c" must have values'),
    "no such kind": (
        {"c": np.arange(N)},
        {"kinds": {"c": "colour"}},
        r"among number, .*'colour' for the column 'c'",
    ),
    "no such column": ({"c": np.arange(N)}, {"drop": ["d"]}, "`drop` must name columns of the table, c"),
    "a text of names": ({"c": np.arange(N)}, {"drop": "c"}, "`drop` must name columns"),
    "nothing left": ({"c": np.arange(N)}, {"drop": ["c"]}, "`drop` must leave a column"),
    "nothing to model": ({"c": ["x"] * N, "id": np.arange(N)}, {}, "neither constant nor an identifier"),
    "no rows": ({"c": []}, {}, "must be a table with rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_column(case):
    columns, arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        Table.learn(pd.DataFrame(columns), **arguments)


def test_a_few_texts_among_numbers_or_dates_are_missing_then_and_later():
    dates = days().strftime("%Y-%m-%d").to_numpy(object)
    dates[0] = "unknown"
    frame = pd.DataFrame({"a": ["?", "n/a", *map(str, RNG.normal(size=N - 2))], "b": dates})
    with pytest.warns(UserWarning, match='Column "[ab]" holds') as warned:
        table = Table.learn(frame)
    assert [str(warning.message).split(": ")[-1] for warning in warned] == ["?, n/a", "unknown"]
    x = table.transform(frame)
    assert np.isnan(x[:2, table.names.index("a")]).all()
    assert np.isnan(x[0, table.names.index("b")])
    assert not np.isnan(x[2:]).any()
    with pytest.raises(ValueError, match=r'"a" must hold numbers. Received: .*oops.* in row 0'):
        table.transform({"a": ["oops"], "b": ["2023-05-05"]})


def test_texts_of_amounts_are_left_out_with_a_warning():
    amounts = [f"${value:,.2f}" for value in RNG.lognormal(7, 1, N)]
    with pytest.warns(UserWarning, match=r'"price" holds texts such as "\$.*convert them to numbers'):
        assert kind_of(amounts, "price") == "identifier"


def test_texts_of_amounts_of_which_some_are_equal_are_categories_with_a_warning():
    amounts = [f"{value % 60}%" for value in range(N)]
    with pytest.warns(UserWarning, match=r'"share" holds texts such as "0%", which are taken for categories'):
        assert kind_of(amounts, "share") == "category"


def test_codes_that_are_different_in_each_of_a_few_rows_are_identifiers():
    assert kind_of(list(range(10_000, 88_000, 2_600)), "zip") == "identifier"
