"""Windows of time series, and sequences of unequal length."""

import re

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfvae import data

SERIES = np.stack([np.arange(100.0), 3.0 * np.arange(100.0) ** 2], axis=1)


def raw(found):
    """The windows of both parts, in the units of the series."""
    return tuple(x * found.scale + found.offset for x in (found.train, found.validation))


def test_windows_are_split_by_time_and_scaled_by_what_is_before_the_split():
    found = data.windows(SERIES, 10, 5, validation_fraction=0.25)
    train, validation = raw(found)
    assert [start for _, start in found.train_starts] == list(range(0, 66, 5))
    assert [start for _, start in found.validation_starts] == [75, 80, 85, 90]
    np.testing.assert_allclose(found.offset, SERIES[:75].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale, SERIES[:75].std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(train[3], SERIES[15:25], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(validation[0], SERIES[75:85], rtol=1e-5)
    assert found.train.dtype == found.validation.dtype == np.float32
    assert found.channels == ("x0", "x1")


def test_windows_overlap_by_half_in_the_training_alone_unless_a_stride_is_given():
    found = data.windows(np.arange(100.0), 9)
    assert np.diff([start for _, start in found.train_starts]).tolist() == [5] * (len(found.train) - 1)
    assert [start for _, start in found.validation_starts] == [80, 89]


def frame(start, count, **columns):
    return pd.DataFrame({"when": pd.date_range(start, periods=count, freq="h"), **columns})


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_with_times_are_put_in_order_and_absent_ones_are_missing(shuffled):
    rows = frame("2024-01-01", 40, a=np.arange(40.0), b=np.arange(40.0) % 3).drop(index=[4, 5, 30])
    rows = rows.sample(frac=1, random_state=0) if shuffled else rows
    found = data.windows(rows, 8, 8, time="when")
    train, validation = raw(found)
    expected = np.where(np.isin(np.arange(40), [4, 5, 30]), np.nan, np.arange(40.0))
    np.testing.assert_allclose(train[0, :, 0], expected[:8], atol=1e-4)
    np.testing.assert_allclose(validation[0, :, 0], expected[32:], atol=1e-4)
    assert found.validation_starts == [(0, np.datetime64("2024-01-02T08"))]
    assert found.channels == ("a", "b")
    # A row is of the nearest step.
    rows["when"] += pd.to_timedelta(np.random.default_rng(0).uniform(-600, 600, len(rows)), unit="s")
    moved = data.windows(rows, 8, 8, time="when", step="1h")
    np.testing.assert_array_equal(np.isnan(moved.train), np.isnan(found.train))


def test_an_index_of_dates_is_the_time():
    rows = frame("2024-01-01", 40, a=np.arange(40.0))
    by_index, by_column = data.windows(rows.set_index("when"), 8), data.windows(rows, 8, time="when")
    np.testing.assert_array_equal(by_index.train, by_column.train)
    assert by_index.train_starts == by_column.train_starts


def test_columns_keep_the_dates_of_their_index():
    dates = pd.date_range("2024-01-01", periods=40, freq="h")
    column = pd.Series(np.arange(40.0), dates, name="v").drop(dates[[4, 5, 30]])
    expected = data.windows([column.to_frame(), column.to_frame()], 8, 8)
    assert np.isnan(expected.train[0, 4:6]).all()
    for several in ([column, column], (column, column.to_frame()), {0: column, 1: column}):
        found = data.windows(several, 8, 8)
        np.testing.assert_array_equal(found.train, expected.train)
        assert found.train_starts == expected.train_starts
        cut = found.series.windows(several, 8)
        np.testing.assert_array_equal(cut.x[: len(found.train) // 2], found.train[: len(found.train) // 2])
        assert len(cut.steps.times) == 80
        # Arrays have no times, and one beside a column that has some is refused.
        assert len(found.series.windows([column.to_numpy()]).steps.times) == 37
        for mixed in ([column.to_numpy(), column], [column, column.to_numpy()]):
            with pytest.raises(ValueError, match="`series` must all have times"):
                found.series.windows(mixed)
    with pytest.raises(ValueError, match=r"`series` must all have the channels v\. Received: w in series 1"):
        data.windows([column, column.rename("w")], 8)


def test_several_series_are_split_at_one_time():
    early, late = frame("2024-01-01", 100, a=np.zeros(100)), frame("2024-01-04", 100, a=np.ones(100))
    together = pd.concat([early.assign(machine="early"), late.assign(machine="late")])
    found = data.windows(together, 10, 10, time="when", by="machine")
    assert {name for name, _ in found.train_starts} == {"early", "late"}
    assert {name for name, _ in found.validation_starts} == {"late"}
    last = max(time for _, time in found.train_starts) + np.timedelta64(9, "h")
    assert last < min(time for _, time in found.validation_starts)
    as_dict = data.windows({"early": early, "late": late}, 10, 10, time="when")
    np.testing.assert_array_equal(found.train, as_dict.train)


def test_no_window_reaches_from_one_series_into_another():
    found = data.windows([np.full(60, 0.0), np.full(60, 1.0)], 10, 1)
    train, validation = raw(found)
    assert {len(set(window.ravel().round(3))) for window in (*train, *validation)} == {1}


def test_windows_without_any_value_are_left_out():
    values = np.arange(40.0)
    values[8:16] = np.nan
    assert [start for _, start in data.windows(values, 8, 8).train_starts] == [0, 16, 24]


@pytest.mark.parametrize(
    ("series", "arguments", "message"),
    [
        (SERIES, {"length": 1}, "`length` must be an integer of at least 2"),
        (SERIES, {"length": 30}, "`length` must be at most the number of steps after the split of at least one series"),
        (SERIES, {"length": 90}, "`length` must be at most the number of steps before the split"),
        (SERIES, {"stride": 0}, "`stride` must be"),
        (SERIES, {"validation_fraction": 1.0}, "`validation_fraction` must be between 0 and 1. Received: validation_f"),
        (SERIES, {"time": "when"}, "`time` must be None unless `series` is a data frame. Received: time='when'"),
        (SERIES, {"by": "name"}, "`by` must be None unless `series` is one data frame. Received: by='name'"),
        (SERIES[np.newaxis], {}, "`series` must have the shape [T] or [T, C]. Received: shape [1, 100, 2]"),
        ([], {}, "`series` must hold at least one series. Received: none"),
        (None, {}, "`series` must be an array [T] or [T, C] or a data frame, or several of them. Received: None"),
        ([SERIES, None], {}, "`series` must be an array [T] or [T, C] or a data frame, or several of them"),
        ([SERIES, []], {}, "`series` must have at least one row. Received: none in series 1"),
        (
            SERIES * [1, 1e200],
            {},
            "1.2e-38 to 3.4e+38: change the unit of others. Received: the channel 'x1'",
        ),
        (SERIES * [1, 1e-50], {}, "Received: the channel 'x1', from 0 to 1.8723e-46"),
        (np.where(SERIES > 50, np.inf, SERIES), {}, "`series` must"),
        (frame("2024-01-01", 40, a=np.zeros(40)), {"time": "then"}, "`time` must be one of the columns"),
        (
            frame("2024-01-01", 40, a=np.zeros(40)),
            {"time": "when", "step": "2h"},
            "`step` must be so short that no",
        ),
        (frame("2024-01-01", 40, a=np.zeros(40)), {"time": "when", "step": "x"}, "`step` must be a Timedelta where"),
        (frame("2024-01-01", 40, a=["x"] * 40), {"time": "when"}, "`series` must have channels of numbers"),
        ([SERIES, SERIES[:, :1]], {}, "`series` must all have the channels"),
        (np.where(np.arange(100) < 80, np.nan, 1.0), {}, "`series` must have a value of each channel before the split"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(series, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.windows(series, **{"length": 10, **arguments})
    assert "Received: " in str(error.value)


@pytest.mark.parametrize("kind", ["lists", "arrays", "ragged"])
def test_sequences_of_unequal_length_are_padded_by_nan(kind):
    lists = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]
    given = {"lists": lists, "arrays": [np.array(row)[:, None] for row in lists], "ragged": tf.ragged.constant(lists)}
    padded = data.pad(given[kind])
    np.testing.assert_array_equal(padded[..., 0], [[1, 2, 3], [4, np.nan, np.nan], [5, 6, np.nan]])
    assert padded.shape == (3, 3, 1)
    assert padded.dtype == np.float32
    assert np.isnan(data.pad(given[kind], 5)[:, 3:]).all()


@pytest.mark.parametrize(
    ("sequences", "length", "message"),
    [
        ([], None, "`sequences` must hold at least one sequence. Received: none"),
        (
            [[1.0], []],
            None,
            "`sequences` must hold arrays [T, 1] with at least one step. Received: shape [0]",
        ),
        ([[1.0, 2.0]], 1, "`length` must be at least that of the longest sequence, 2. Received: 1"),
        ([[1.0, np.inf]], None, "`sequences` must hold finite numbers that fit in float32"),
        ([[1.0, 1e300]], None, "`sequences` must hold finite numbers that fit in float32"),
        (None, None, "`sequences` must be a list of arrays [T] or [T, C]. Received: None"),
        (3.0, None, "`sequences` must be a list of arrays [T] or [T, C]. Received: 3.0"),
        (np.array(3.0), None, "`sequences` must be a list of arrays [T] or [T, C]"),
        (pd.DataFrame({"a": [1.0]}), None, "`sequences` must be a list of arrays [T] or [T, C]"),
        ([[1.0, [2.0, 3.0]]], None, "`sequences` must be one numeric array"),
        ([np.ones([2, 2]), np.ones([2, 3])], None, "`sequences` must hold arrays [T, 2]"),
    ],
)
def test_what_cannot_be_padded_is_refused_by_name(sequences, length, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.pad(sequences, length)
