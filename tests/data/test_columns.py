"""The columns of a table: values become numbers and codes, these become x, and x becomes the same values again."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from tfvae.data import Table
from tfvae.data.columns import KINDS, from_config

N = 200
RNG = np.random.default_rng(0)
GAPS = np.arange(N) % 9 == 4


def stamps(span=1500, unit="s", start="2021-03-01"):
    return pd.Series(pd.Timestamp(start) + pd.to_timedelta(RNG.integers(0, span * 86_400, N), unit="s")).dt.floor(unit)


def texts(*values):
    return pd.Series(RNG.choice(np.array(values, object), N))


# By kind: columns whose values, with gaps or without, must come back.
COLUMNS = {
    "number": {
        "float64": pd.Series(RNG.normal(50, 10, N)),
        "float32": pd.Series(RNG.normal(50, 10, N).astype(np.float32)),
        "heavy": pd.Series(RNG.standard_cauchy(N)),
        "skewed": pd.Series(np.exp(RNG.normal(0, 3, N))),
        "decimals": pd.Series(RNG.normal(50, 10, N).round(2)),
        "int64": pd.Series(RNG.integers(-500, 500, N)),
        "int8": pd.Series(RNG.integers(-50, 50, N).astype(np.int8)),
        "Int64": pd.Series(RNG.integers(-500, 500, N)).astype("Int64"),
        "Float64": pd.Series(RNG.normal(size=N)).astype("Float64"),
        "spikes": pd.Series(np.where(RNG.random(N) < 0.5, 0.0, RNG.gamma(2, 5, N))),
        "large": pd.Series(1e12 + RNG.normal(0, 1e9, N)),
        "tiny": pd.Series(RNG.normal(0, 1e-9, N)),
        "durations": pd.Series(pd.to_timedelta(RNG.integers(0, 10_000, N), unit="s")),
        "text": pd.Series([f"{value:.3f}" for value in RNG.normal(size=N)]),
        "object": pd.Series([*RNG.normal(size=N)], dtype=object),
        "decimal": pd.Series([decimal.Decimal(int(value)) for value in RNG.integers(30, 999, N)], dtype=object),
    },
    "count": {
        "int64": pd.Series(RNG.negative_binomial(1, 0.1, N)),
        "Int32": pd.Series(RNG.negative_binomial(1, 0.1, N)).astype("Int32"),
        "float64": pd.Series(RNG.negative_binomial(1, 0.1, N).astype(float)),
        "text": pd.Series(RNG.negative_binomial(1, 0.1, N).astype(str)),
    },
    "bool": {
        "bool": pd.Series(RNG.random(N) < 0.3),
        "boolean": pd.Series(RNG.random(N) < 0.3).astype("boolean"),
        "int64": pd.Series(RNG.integers(0, 2, N)),
        "float64": pd.Series(RNG.integers(0, 2, N).astype(float)),
        "object": pd.Series(RNG.random(N) < 0.3).astype(object),
    },
    "category": {
        "text": texts("red", "green", "blue"),
        "string": texts("red", "green", "blue").astype("string"),
        "object": texts("red", "green", "blue").astype(object),
        "category": texts("S", "M", "L").astype(pd.CategoricalDtype(["S", "M", "L", "XL"])),
        "ordered": texts("S", "M", "L").astype(pd.CategoricalDtype(["S", "M", "L"], ordered=True)),
        "numbers": pd.Series(RNG.integers(1, 6, N)),
        "decimals": texts(0.5, 1.5, 2.0).astype(float),
        "categorical numbers": pd.Series(RNG.integers(1, 6, N)).astype("category"),
        "bool": pd.Series(RNG.random(N) < 0.5),
        "words of bool": texts("true", "False"),
        "leading zeros": texts("01067", "10115"),
    },
    "date": {
        "datetime": stamps(),
        "ns": stamps().astype("datetime64[ns]"),
        "days": stamps(unit="D"),
        "centuries": pd.Series(pd.Timestamp("1890-01-01") + pd.to_timedelta(RNG.integers(0, 50_000, N), unit="D")),
        "zone": stamps().dt.tz_localize("Europe/Berlin", ambiguous="NaT", nonexistent="shift_forward"),
        "UTC": stamps().dt.tz_localize("UTC"),
        "text": stamps(unit="D").dt.strftime("%Y-%m-%d"),
        "text with time": stamps(30).dt.strftime("%Y-%m-%dT%H:%M:%S"),
        "minutes": stamps(30, "min").dt.strftime("%Y-%m-%d %H:%M"),
        "text with zone": stamps(30).dt.strftime("%Y-%m-%dT%H:%M:%S+02:00"),
        "german": stamps(unit="D").dt.strftime("%d.%m.%Y"),
        "american": stamps(unit="D").dt.strftime("%m/%d/%Y"),
        "compact": stamps(unit="D").dt.strftime("%Y%m%d"),
        "integers": stamps(unit="D").dt.strftime("%Y%m%d").astype("int64"),
        "month": stamps(unit="D").dt.strftime("%Y-%m"),
        "clock": stamps(unit="min").dt.strftime("%H:%M"),
        "objects": pd.Series([datetime.date(2024, 1, 1) + datetime.timedelta(int(i)) for i in RNG.integers(0, 99, N)]),
    },
    "constant": {
        "int64": pd.Series([7] * N),
        "text": pd.Series(["x"] * N),
        "bool": pd.Series([True] * N),
        "float64": pd.Series([np.nan] * N),
        "datetime": pd.Series([pd.Timestamp("2024-01-01")] * N),
        "category": pd.Series(["x"] * N, dtype=pd.CategoricalDtype(["x", "y"])),
    },
    "identifier": {"int64": pd.Series(np.arange(1, N + 1)), "text": pd.Series(map(str, range(1, N + 1)))},
}


def test_every_kind_of_column_has_a_test():
    assert COLUMNS.keys() == KINDS.keys()


def table_of(kind, has_gaps=False):
    """A table of all columns of a kind, which is set, beside a number."""
    has_gaps = has_gaps and kind not in ("constant", "identifier")
    columns = {name: values.mask(GAPS) if has_gaps else values for name, values in COLUMNS[kind].items()}
    frame = pd.DataFrame({**columns, "beside": np.linspace(-1.0, 1.0, N)})
    return Table.learn(frame, kinds=dict.fromkeys(columns, kind)), frame


def assert_same(made, values, seconds=0.0):
    """The same values, dates up to some seconds; what is missing is missing, in a dtype that has a missing value."""
    pd.testing.assert_series_equal(made.isna(), values.isna(), check_names=False)
    assert made.dtype == values.dtype or values.isna().any()
    made, values = made[~values.isna()], values[~values.isna()]
    if not len(values):
        return
    if values.dtype.kind == "M" or hasattr(values.dtype, "tz"):
        assert (made - values).abs().max() <= pd.Timedelta(seconds, "s")
    elif isinstance(values.iloc[0], float | np.floating | decimal.Decimal):
        x = values.astype(float)
        np.testing.assert_allclose(
            made.astype(float), x, rtol=2e-5, atol=3e-6 * np.subtract(*np.quantile(x, [0.75, 0.25]))
        )
    else:
        assert list(made) == list(values)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("has_gaps", [False, True], ids=["complete", "gaps"])
def test_x_becomes_the_same_rows_again(kind, has_gaps):
    table, frame = table_of(kind, has_gaps)
    x = table.transform(frame)
    assert x.dtype == np.float32
    assert x.shape == (N, len(table.parts))
    made, exact = table.rows(x), table.rows_of_codes(table.codes(frame))
    for column in table.columns:
        name, values = column.name, frame[column.name]
        assert column.has_gaps == bool(values.isna().any()), name
        assert_same(made[name], values, seconds=10)
        assert_same(exact[name], values)
    again = Table(json.loads(json.dumps(table.config())))
    assert again == table
    # In the dtype of rows that come from JSON.
    np.testing.assert_array_equal(again.transform(frame.astype(object)), x)


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_draw_becomes_a_row_within_the_range_of_the_data(kind):
    table, frame = table_of(kind)
    draws = {
        "number": lambda classes: RNG.normal(0, 3, N),
        "binary": lambda classes: RNG.integers(0, 2, N),
        "count": lambda classes: RNG.poisson(3, N),
        "category": lambda classes: RNG.integers(0, classes, N),
    }
    x = np.stack([draws[part.content](part.num_classes) for part in table.parts], axis=1).astype(np.float32)
    made = table.rows(x, seed=1)
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    pd.testing.assert_frame_equal(table.rows(x, seed=1), made)
    drawn, learned = (dict(zip(table.names, table.codes(rows).T, strict=True)) for rows in (made, frame))
    for name in COLUMNS[kind]:
        if kind in ("bool", "category", "constant"):
            assert set(made[name].dropna()) <= set(frame[name]), name
        elif kind in ("number", "date"):
            # A text without seconds may be of up to a minute before the first.
            less = {"minutes": 1 / 1440, "clock": 1 / 1440}.get(name, 1e-6 * np.nanstd(learned[name]))
            assert np.nanmin(learned[name]) - less <= np.nanmin(drawn[name]), name
            assert np.nanmax(drawn[name]) <= np.nanmax(learned[name]) + less, name
        elif kind == "count":
            assert (drawn[name] >= learned[name].min()).all(), name


@pytest.mark.parametrize(("kind", "unused"), [("constant", [5, 6]), ("identifier", [1, 2])])
def test_what_a_model_does_not_use_may_be_missing_from_the_rows(kind, unused):
    table, frame = table_of(kind)
    np.testing.assert_array_equal(table.transform(frame[["beside"]]), table.transform(frame))
    np.testing.assert_array_equal(table.transform(frame[:2].assign(int64=unused)), table.transform(frame[:2]))


def test_a_new_category_is_one_of_the_others_and_others_are_drawn_as_often_as_they_occurred():
    values = ["a"] * 50 + ["b"] * 40 + ["rare"] * 3 + ["rarest"]
    table = Table.learn({"c": values, "beside": np.arange(94.0) ** 2})
    codes = table.codes({"c": ["a", "b", "rare", "never seen", " a "], "beside": [0.0] * 5})
    np.testing.assert_array_equal(codes[:, table.names.index("c")], [0, 1, 2, 2, 0])
    drawn = table.rows(np.tile([0.0, 2.0], [4000, 1]))["c"]
    assert set(drawn) == {"rare", "rarest"}
    assert abs((drawn == "rare").mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)


def test_times_of_a_zone_are_by_its_clock_however_they_are_given():
    stamp = pd.Timestamp("2023-07-01 09:30", tz="Europe/Berlin")
    frame = pd.DataFrame({"c": pd.date_range(stamp, periods=50, freq="7h").astype("datetime64[us, Europe/Berlin]")})
    table = Table.learn(frame)
    expected = table.codes(frame[:1])
    np.testing.assert_array_equal(expected[0, 1:], [5, 9])
    for same in ("2023-07-01T07:30:00Z", "2023-07-01T09:30:00+02:00", stamp.tz_convert("UTC"), stamp.tz_localize(None)):
        np.testing.assert_array_equal(table.codes([{"c": same}]), expected)


WRONG_ROWS = {
    "a text": ({"a": ["x"]}, 'Column "a" must hold numbers. Received: .*x.* in row 0'),
    "infinite": ({"a": [np.inf]}, 'Column "a" must hold finite numbers in float32. Received: inf in row 0'),
    "no count": ({"b": [1.5]}, 'Column "b" must hold counts, whole numbers of at least 0. Received: 1.5 in row 0'),
    "no date": ({"c": ["31.05.2023"]}, 'Column "c" must hold dates, such as 2024-05-31'),
    "no bool": ({"d": ["perhaps"]}, 'Column "d" must hold True, False, 1 or 0. Received: .*perhaps'),
    "no column": ({"d": None}, "must have the columns .*Received: rows without d"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_wrong_row_is_refused_by_the_name_of_its_column(case):
    wrong, message = WRONG_ROWS[case]
    table = Table.learn(
        {"a": RNG.normal(size=N), "b": COLUMNS["count"]["int64"], "c": stamps(unit="D"), "d": RNG.random(N) < 0.5}
    )
    rows = {"a": [0.0], "b": [1], "c": ["2023-05-05"], "d": [True], **wrong}
    with pytest.raises(ValueError, match=message):
        table.transform({name: values for name, values in rows.items() if values is not None})


def test_rows_may_have_any_form_and_order_and_more_columns():
    frame = pd.DataFrame({"a": RNG.normal(size=N), "b": texts("x", "y"), "c": stamps()})
    table = Table.learn(frame)
    x = table.transform(frame)
    for same in (frame[["c", "b", "a"]], frame.assign(more="?"), frame.to_dict("list"), frame.to_dict("records")):
        np.testing.assert_array_equal(table.transform(same), x)
    np.testing.assert_array_equal(table.transform(frame.iloc[0].to_dict()), x[:1])
    np.testing.assert_array_equal(
        table.transform([{"a": None, "b": "", "c": pd.NaT}]), np.full([1, x.shape[1]], np.nan)
    )


def test_a_table_is_made_of_its_configuration_and_refuses_another():
    frame = pd.DataFrame({"a": RNG.normal(size=N), "b": texts("x", "y")})
    table = Table.learn(frame)
    assert from_config(table.config()[0]) == table.columns[0]
    assert Table(**json.loads(json.dumps(table.get_config()))) == table
    assert "a" in str(table)
    assert "category" in str(table)
    assert repr(table) == "Table of 2 columns, 2 in x"
    with pytest.raises(ValueError, match="`kind` must be one of"):
        from_config({"kind": "colour"})
    with pytest.raises(ValueError, match="must have the fields of a number"):
        from_config({"kind": "number", "name": "a"})
    with pytest.raises(ValueError, match=r"different names. Received: \['a'\] more than once"):
        Table([table.columns[0], table.columns[0]])
