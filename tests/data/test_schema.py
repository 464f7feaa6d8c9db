"""The columns of a table without TensorFlow, and their conversion in a graph: names, codes and raw values."""

import re

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.helpers import table_rows
from tfvae.data import Table
from tfvae.data.columns import Boolean, Category, Count, Date, Number
from tfvae.data.schema import Schema

STANDARD = {"name": "standard", "loc": 0.0, "scale": 1.0}
DATE = Date(
    name="d",
    dtype="object",
    reference="2024-01-01T00:00:00",
    low=0.0,
    high=1.0,
    transform=STANDARD,
    cycles=("month", "weekday", "hour"),
    has_times=True,
)
TEXTS = Category(name="c", dtype="object", labels=("web", "shop ", "other", "größer"), rare=("fax",), rare_counts=(2,))
CODES = Category(name="c", dtype="int64", labels=(3, 1, 2.5))
SPIKES = Number(name="n", dtype="float64", low=0.0, high=9.0, decimals=2, spikes=(0.0, 0.1), transform=STANDARD)
NUMBER = Number(name="n", dtype="float64", low=0.0, high=9.0, decimals=2, spikes=(), transform=STANDARD)
COUNT = Count(name="n", dtype="int64", low=0, high=9, mean=1.0, stddev=1.0)
BOOL = Boolean(name="b", dtype="bool", rate=0.5)


@pytest.fixture(scope="module")
def table():
    return Table.learn(table_rows.frame())


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (NUMBER, [0.0, -3.5, 1e6, np.nan]),
        (SPIKES, [0.0, 0.1, 5.0, -7.0, np.nan]),
        (COUNT, [0.0, 17.0, np.nan]),
        (BOOL, [0.0, 1.0, np.nan]),
        (CODES, [1.0, 2.5, 3.0, 2.0, -1.0, np.nan]),
        (TEXTS, ["web", "shop", " shop ", "größer", "other", "fax", "Web", "", "  "]),
        (
            DATE,
            [
                *("2024-05-31", "2024-05-31T13:45:00", "2024-05-31 13:45", "2024-05-31T13:45:00.123456", " 2024-02-29"),
                *("1900-02-28", "2000-02-29", "1969-12-31T23:59:59", "9999-12-31", "0001-01-01", "2024-05-31T13"),
                "",
            ],
        ),
        (DATE, ["2024-05-31T13:45:00Z", "2024-05-31T23:45:00Z"]),
        (DATE, ["2024-05-31T13:45:00+02:00", "2024-05-31T13:45+02:00"]),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
def test_a_graph_converts_raw_values_as_python_does(column, values):
    is_text = isinstance(values[0], str)
    expected = column.codes(pd.Series(values, dtype=object if is_text else float))
    received = column.in_graph(tf.constant(values, tf.string if is_text else tf.float32)).numpy()
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    # And the raw values that it makes of codes have these codes.
    raw = column.raw(expected)
    again = column.in_graph(tf.constant(raw, tf.string if is_text else tf.float32)).numpy()
    np.testing.assert_allclose(again, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (NUMBER, [np.inf, -np.inf]),
        (SPIKES, [np.inf, -np.inf]),
        (COUNT, [-1.0, 0.5, np.inf, -np.inf]),
        (BOOL, [0.5, 2.0, -1.0, np.inf]),
        (CODES, [np.inf, -np.inf]),
        (
            DATE,
            [
                *("2024-02-30", "2023-02-29", "1900-02-29", "2024-13-01", "2024-00-10", "2024-05-00", "2024-05-31Z"),
                *(
                    "2024-05-31T24:00:00",
                    "2024-05-31T13:60",
                    "2024-05-31T13:45:60",
                    "nope",
                    "2024-05-31T",
                    "31.05.2024",
                ),
            ],
        ),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
def test_wrong_values_are_infinite_in_a_graph_and_errors_in_python(column, values):
    is_text = isinstance(values[0], str)
    received = column.in_graph(tf.constant(values, tf.string if is_text else tf.float32)).numpy()
    assert np.isinf(received).any(axis=1).all()
    for value in values:
        with pytest.raises(ValueError, match=f'^Column "{column.name}" must hold'):
            column.codes(pd.Series([value], dtype=object if is_text else float))


def test_a_time_stays_in_its_hour_however_its_day_is_rounded():
    times = pd.Series(pd.date_range("2024-01-01", "2033-01-01", freq="7h")).dt.strftime("%Y-%m-%dT%H:%M:%S")
    codes = DATE.codes(times.astype(object))
    rounded = codes.astype(np.float32).astype(float)
    again = DATE.codes(pd.Series(DATE.raw(rounded), dtype=object))
    np.testing.assert_array_equal(again[:, 1:], codes[:, 1:])
    np.testing.assert_allclose(again[:, 0], codes[:, 0], atol=2e-4)


def test_a_date_without_a_time_stays_one_however_its_day_is_rounded():
    column = Date(
        name="d", dtype="object", reference="2024-01-01T00:00:00", low=0.0, high=1.0, transform=STANDARD, cycles=(),
        has_times=False,
    )  # fmt: skip
    assert column.raw(np.array([[1000.0001], [-0.0002], [np.nan]])).tolist() == ["2026-09-27", "2024-01-01", ""]


def test_a_date_far_away_is_as_far_in_python():
    days = DATE.codes(pd.Series(["9999-12-31", "0001-01-01"], dtype=object))[:, 0]
    assert days.tolist() == [2913173.0, -738885.0]


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["age", "x", "Y_2"], ["age", "x", "Y_2"]),
        (["a", "A", "_b", "self", "Label"], ["a", "A_2", "column__b", "column_self", "column_Label"]),
        (["order date", "order_date", "Order-Date"], ["order_date_2", "order_date", "Order_Date_3"]),
        (["epsilon", "class", "2nd", "größe"], ["column_epsilon", "column_class", "column_2nd", "gr__e"]),
    ],
)
def test_an_input_has_the_name_of_its_column_where_that_is_one(names, arguments):
    columns = [
        Number(name=name, dtype="float64", low=0.0, high=1.0, decimals=None, spikes=(), transform=STANDARD)
        for name in names
    ]
    schema = Schema(columns)
    assert schema.arguments == dict(zip(names, arguments, strict=True))
    assert list(schema.raw(np.ones([2, len(names)]))) == arguments


def test_rows_codes_and_raw_values_are_the_same_rows(table):
    rows = table_rows.held_out()
    codes = table.codes(rows)
    raw = table.raw(codes)
    assert {name: values.dtype for name, values in raw.items() if values.dtype != np.float32} == dict.fromkeys(
        ["order_time", "shipped", "channel"], np.dtype(object)
    )
    tensors = {spec.name: tf.constant(raw[spec.name], spec.dtype) for spec in table.specs()}
    np.testing.assert_allclose(table.in_graph(tensors).numpy(), codes, rtol=1e-6)
    named = {column: raw[argument] for column, argument in table.arguments.items()}
    np.testing.assert_allclose(table.codes(named), codes, rtol=1e-6)
    assert Schema(table.config()) == table
    np.testing.assert_array_equal(Schema(table.config()).codes(rows), codes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("amount", 1e39, 'Column "amount" must hold finite numbers in float32. Received: inf in row 1'),
        ("items", 0.5, 'Column "items" must hold counts, whole numbers of at least 0. Received: 0.5 in row 1'),
        ("items", np.inf, 'Column "items" must hold counts'),
        ("gift", 2.0, 'Column "gift" must hold codes, whole numbers from 0 to 1. Received: 2 in row 1'),
        ("channel", 4.0, 'Column "channel" must hold codes, whole numbers from 0 to 3. Received: 4 in row 1'),
        ("channel", -1.0, 'Column "channel" must hold codes'),
        ("order time_hour", 0.5, 'Column "order time_hour" must hold codes, whole numbers from 0 to 23'),
    ],
)
def test_numbers_and_codes_that_are_none_are_named(table, name, value, message):
    codes = np.full([3, len(table.names)], np.nan)
    codes[1, table.names.index(name)] = value
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        table.checked_codes(codes)


def test_labels_and_ranges_are_those_of_the_columns_of_x(table):
    assert table.labels["channel"] == ("web", "shop", "phöne", "other")
    assert table.labels["discount_spike"] == ("not 0", 0.0)
    assert table.labels["order time_weekday"][0] == "Monday"
    assert all(len(table.labels[part.name]) == part.num_classes for part in table.parts if part.num_classes)
    low, high = table.ranges["low"], table.ranges["high"]
    assert (low[table.names.index("items")], high[table.names.index("channel")]) == (0, None)
    amounts = table_rows.frame()["amount"]
    position = table.names.index("amount")
    assert (low[position], high[position]) == (amounts.min(), amounts.max())


def test_a_typical_row_is_one(table):
    row = table.rows_of_codes(table.typical)
    assert row["country"].iloc[0] == "DE"
    assert not row.isna().any(axis=None)
    np.testing.assert_allclose(table.codes(row), table.typical, rtol=1e-5)
