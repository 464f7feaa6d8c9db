"""What series are, how they become windows in the units of a model, and outputs of windows steps again."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfvae import data
from tfvae.data import series_files
from tfvae.detection import StepDecision, Threshold


def hourly(count=60, **columns):
    return pd.DataFrame({"when": pd.date_range("2024-01-01", periods=count, freq="h"), **columns})


def meters(count=60):
    return hourly(count, a=np.arange(float(count)), b=np.cos(np.arange(float(count))))


def test_new_series_become_windows_of_every_step_in_the_units_of_the_training():
    frame = meters()
    series = data.windows(frame, 8, time="when").series
    cut = series.windows(frame.drop(index=[30]).assign(note="x")[["note", "b", "when", "a"]])
    assert cut.x.shape == (53, 8, 2)
    assert cut.first.tolist() == list(range(53))
    raw = series.raw(cut.x)
    np.testing.assert_allclose(raw[0, :, 0], np.arange(8.0), atol=1e-5)
    np.testing.assert_array_equal(np.isnan(raw[23]).any(axis=1), np.arange(8) == 7)
    assert cut.starts[10] == (0, np.datetime64("2024-01-01T10"))
    assert np.isnan(cut.steps.values[30]).all()
    np.testing.assert_array_equal(cut.steps.times, frame["when"])
    # The last window ends with the last step, whatever the stride is.
    assert series.windows(frame, 7).first.tolist() == [0, 7, 14, 21, 28, 35, 42, 49, 52]


def test_the_same_windows_come_from_windows_and_from_its_series():
    found = data.windows(meters(), 8, 8, time="when")
    cut = found.series.windows(meters(), 8)
    np.testing.assert_array_equal(cut.x[: len(found.train)], found.train)
    assert cut.starts[: len(found.train)] == found.train_starts
    assert found.scale is found.series.scale


@pytest.mark.parametrize("step", [None, 0.5, np.timedelta64(600, "ns"), np.timedelta64(3, "M")])
def test_a_configuration_is_json_and_gives_the_same_series(step):
    series = data.Series(["a", "b"], [1, 2], [3, 4], 8, time="when", by="machine", step=step)
    again = data.Series(**json.loads(json.dumps(series.get_config())))
    assert again.get_config() == series.get_config()
    assert again.step == step
    np.testing.assert_array_equal(again.scale, series.scale)
    assert "by machine" in str(again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": [1, 0]}, "`offset` must be finite and `scale` above 0"),
        ({"offset": [1]}, "`offset` and `scale` must have a number for each of the channels"),
        ({"channels": []}, "`offset` and `scale` must have a number for each of the channels"),
        ({"length": 0}, "`length` must be an integer"),
        ({"channels": ["a", "a"]}, "`channels` must be different names. Received: a, a"),
        ({"channels": "ab"}, "`channels` must be a list of names. Received: channels='ab'"),
        ({"offset": None}, "`offset` must hold real numbers"),
        ({"step": -1}, "`step` must be a finite number above 0. Received: step=-1"),
        ({"step": "often"}, "`step` must be a Timedelta"),
        ({"step": [1, "h"]}, "`step` must be a pair of a number and 'ns' or 'M'"),
    ],
)
def test_what_is_no_series_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.Series(**{"channels": ["a", "b"], "offset": [0, 0], "scale": [1, 1], "length": 4, **arguments})


def test_a_step_of_any_unit_is_the_same_step():
    for step in ("1h", np.timedelta64(60, "m"), pd.Timedelta("1h"), [3600 * 10**9, "ns"]):
        series = data.Series(["a"], [0], [1], 4, time="when", step=step)
        assert "steps of 1 h" in str(series)
        assert len(series.windows(hourly(9, a=0.0).drop(index=4)).steps.times) == 9


def test_new_series_have_times_of_the_kind_of_the_training_wherever_they_stand():
    dates, numbers = meters(), meters().assign(when=np.arange(60))
    of_dates, of_numbers = (data.windows(frame, 8, time="when").series for frame in (dates, numbers))
    expected = of_dates.windows(dates.drop(index=4))
    for same in (dates.set_index("when"), dates.astype({"when": str})):
        np.testing.assert_array_equal(of_dates.windows(same.drop(index=same.index[4])).x, expected.x)
    assert len(of_numbers.windows(numbers.set_index("when").drop(index=4)).steps.times) == 60
    one = data.windows(dates[["when", "a"]], 8, time="when").series
    column = dates.set_index("when")["a"]
    assert len(one.windows(column.drop(column.index[4])).steps.times) == 60
    assert len(one.windows([column.rename(None)]).steps.times) == 60
    for series, frame, message in (
        (of_dates, numbers, "`time` must hold dates, as in the training. Received: numbers in series 0"),
        (of_numbers, dates, "`time` must hold numbers, as in the training. Received: dates in series 0"),
        (one, column.reset_index(drop=True), "or its index one of dates, or `series` a data frame with the column 'wh"),
        (
            one,
            column.rename("c"),
            "`series` must have the channels a. Received: the columns c in series 0, without 'a'",
        ),
        (of_dates, dates.assign(a=1e300), "`series` must hold values that fit in float32"),
        (data.windows(column, 8).series, column.reset_index(drop=True), "`time` must be a column or an index of dates"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            series.windows(frame)
    with pytest.raises(ValueError, match=r"`time` must hold dates, as in series 0\. Received: numbers in series 1"):
        data.windows([dates, numbers], 8, time="when")


def test_outputs_of_windows_become_means_for_each_step():
    series = data.windows(np.arange(40.0), 4).series
    cut = series.windows([np.arange(6.0), np.arange(10.0, 15.0), np.arange(2.0)])
    # Each window says its own number of all of its steps.
    values = np.broadcast_to(np.arange(5.0)[:, None, None], cut.x.shape)
    expected = [0, 0.5, 1, 1, 1.5, 2, 3, 3.5, 3.5, 3.5, 4, np.nan, np.nan]
    np.testing.assert_allclose(series.by_step(values, cut)[:, 0], expected)
    assert cut.steps.names.tolist() == [0] * 6 + [1] * 5 + [2] * 2
    with pytest.raises(ValueError, match=re.escape("`values` must have the shape [5, 4, '...']")):
        series.by_step(values[1:], cut)


def test_detections_become_scores_of_steps_and_of_the_windows_that_end_with_them():
    series = data.windows(meters(), 4, time="when").series
    frame = meters(6).drop(index=2)
    cut = series.windows(frame)
    contributions = np.zeros([3, 4, 2])
    # What is at the step 4, in each window that holds it.
    contributions[1, 3, 1], contributions[2, 2, 1] = 5.0, 7.0
    outputs = {"score": [1.0, 8.0, 9.0], "is_anomaly": [0, 1, 0], "contributions": contributions}
    limit = Threshold(4.0, "given", None, 6)
    found = series.detected(outputs, cut, StepDecision(2.0, 10.0, limit))
    np.testing.assert_allclose(found["contributions"][4], [0, 6])
    np.testing.assert_allclose(found["around"], [1, 4.5, np.nan, 6, 8.5, 9])
    # Of its own in units of 2 nats, and of the windows around in units of 10.
    np.testing.assert_allclose(found["score"], [0.1, 0.45, np.nan, 0.6, 6 / 2 + 0.85, 0.9])
    assert not found["is_anomaly"].any()
    lower = StepDecision(2.0, 10.0, dataclasses.replace(limit, value=3.8))
    assert series.detected(outputs, cut, lower)["is_anomaly"].tolist() == [False] * 4 + [True, False]
    np.testing.assert_allclose(found["window_score"], [np.nan, np.nan, np.nan, 1, 8, 9])
    assert found["window_is_anomaly"].tolist() == [False] * 4 + [True, False]
    # A step far off is an anomaly, and those that share its windows are not: to them it counts for 5 times 0.5 nats.
    outputs = {**outputs, "score": [1.0, 503.0, 702.0], "contributions": 100 * contributions}
    found = series.detected(outputs, cut, StepDecision(0.5, 10.0, limit))
    assert found["is_anomaly"].tolist() == [False] * 4 + [True, False]
    np.testing.assert_allclose(found["around"], [1, 3.25, np.nan, (1 + 5.5 + 4.5) / 3, 5, 4.5])
    table = series.frame(cut.steps, score=found["score"])
    assert list(table.columns) == ["when", "score"]
    pd.testing.assert_series_equal(table["when"], meters(6)["when"], check_dtype=False)


def test_whole_sequences_are_padded_and_held_out_as_a_whole():
    lengths = {"p": 3, "q": 5, "r": 2, "s": 4, "t": 1}
    frame = pd.concat([pd.DataFrame({"who": name, "v": np.arange(float(n))}) for name, n in lengths.items()])
    found = data.windows(frame, None, by="who")
    assert [name for name, _ in found.train_starts] == ["p", "q", "r", "s"]
    assert [name for name, _ in found.validation_starts] == ["t"]
    assert (~np.isnan(found.train[..., 0])).sum(axis=1).tolist() == [3, 5, 2, 4]
    ragged = tf.RaggedTensor.from_row_lengths(frame["v"], list(lengths.values()))
    for same in (ragged, list(ragged.to_list()), {name: rows["v"].to_numpy() for name, rows in frame.groupby("who")}):
        np.testing.assert_array_equal(data.windows(same, None).train, found.train)
    # What is beyond the end of a sequence is of no step.
    cut = found.series.windows([np.ones(2), np.ones(5)])
    np.testing.assert_array_equal(found.series.by_step(np.ones(cut.x.shape), cut), np.ones([7, 1]))
    assert cut.counts.tolist() == [2, 5]
    with pytest.raises(
        ValueError, match=r"of at most 5 steps, as the longest of the training has\. Received: one of 6$"
    ):
        found.series.windows([np.ones(6)])


def test_whole_sequences_with_times_are_held_out_from_the_latest_on():
    late, early = hourly(5, v=np.zeros(5)), hourly(5, v=np.ones(5))
    early["when"] -= pd.Timedelta("30D")
    found = data.windows({"late": late, "early": early}, None, time="when", validation_fraction=0.5)
    assert [name for name, _ in found.validation_starts] == ["late"]


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (pd.date_range("1990-01-31", periods=60, freq="ME"), "1 month"),
        (pd.date_range("1990-01-01", periods=60, freq="QS").delete([3, 20]), "3 months"),
        (pd.date_range("1990-03-15T12:00", periods=60, freq="D") + pd.Timedelta("1s"), "1 d"),
        (pd.period_range("1990-01", periods=60, freq="M"), "1 month"),
        (pd.date_range("2024-01-01", periods=60, freq="10min", tz="Europe/Berlin"), "10 min"),
        (pd.date_range("2024-01-01", periods=60, freq="h").strftime("%d.%m.%Y %H:%M"), "1 h"),
        (pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin").astype(str), "1 h"),
        (np.arange(1700, 1760), "1"),
        (np.arange(60) * 0.25, "0.25"),
    ],
    ids=["month ends", "quarters", "days", "periods", "zone", "texts", "texts of offsets", "integers", "floats"],
)
def test_times_of_all_kinds_have_their_steps(times, step):
    frame = pd.DataFrame({"t": times, "v": np.arange(float(len(times)))}).sample(frac=1, random_state=0)
    series = data.windows(frame, 5, time="t").series
    assert f"steps of {step}\n" in str(series)
    cut = series.windows(frame)
    rows = ~np.isnan(cut.steps.values[:, 0])
    # Every row has a step of its own, with its time.
    np.testing.assert_array_equal(cut.steps.values[rows, 0], np.arange(len(times)))
    assert len(rows) == 60
    returned = series.frame(cut.steps)["t"][rows].to_numpy()
    if isinstance(times, pd.DatetimeIndex | np.ndarray):
        expected = times.tz_convert("UTC") if getattr(times, "tz", None) else times
        assert list(returned) == list(np.asarray(expected))


def test_rows_that_jitter_or_drift_have_one_step_each():
    rng = np.random.default_rng(0)
    jitter = np.arange(400) + rng.uniform(-0.3, 0.3, 400)
    drift = np.cumsum(rng.uniform(0.85, 1.15, 4000))
    for times in (jitter, drift):
        frame = pd.DataFrame({"t": times, "v": 0.0})
        cut = data.windows(frame, 5, time="t").series.windows(frame)
        assert len(cut.steps.times) == pytest.approx(len(times), rel=0.01)
        assert (np.diff(cut.steps.times) > 0).all()
        assert set(times) <= set(cut.steps.times)


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (hourly(20, a=["x"] * 20), {}, "the columns a, of which 'a' is of dtype"),
        (hourly(20, a=pd.Series([1, "x"] * 10, dtype=object)), {}, "is of dtype object, such as 'x'"),
        (hourly(20, a=[1.0, np.inf] * 10), {}, "an infinite one in row 1 of the channel 'a' of series 0"),
        (pd.concat([meters(), meters()]), {}, "`time` must be another in each row of a series: name the column"),
        (meters().assign(when="yesterday"), {}, "`time` must have a date in each row. Received: 'yesterday'"),
        (meters().assign(when=pd.to_timedelta(np.arange(60), unit="s")), {}, "`time` must be a column of numbers, or"),
        (
            meters().assign(when=["2024-01-01T00:00+01:00"] * 30 + ["2024-01-02T00:00"] * 30),
            {},
            "`time` must be a column of numbers, or of dates that all have a time zone or none",
        ),
        (meters(), {"time": "whne"}, "(did you mean when?). Received: time='whne'"),
        (meters().drop(columns=["a", "b"]), {}, "`series` must have at least one channel beside its times"),
        (pd.concat([meters()] * 2, axis=1), {}, "several columns with the name 'when', 'a', 'b'"),
        (
            hourly(20, a=0.0).assign(when=[*range(19), 1e9]),
            {},
            "`step` must give at most 1000 steps for each row. Received: 1,000,000,001 steps of 1 for 20 rows",
        ),
        (meters(), {"length": None, "stride": 2}, "`stride` must be None where `length` is None"),
        (meters(), {"length": None}, "`series` must be at least two, of which some are held out"),
        (meters(), {"step": "0s"}, "`step` must be above 0"),
    ],
)
def test_series_that_cannot_be_meant_are_refused_by_name(frame, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.windows(frame, **{"length": 4, "time": "when", **arguments})
    assert "Received: " in str(error.value)


def test_a_step_without_times_and_a_zone_in_some_series_alone_are_refused():
    with pytest.raises(ValueError, match="`step` must be None unless the rows have times"):
        data.windows(np.arange(40.0), 4, step=1)
    mixed = [meters(), meters().assign(when=lambda frame: frame["when"].dt.tz_localize("UTC"))]
    with pytest.raises(ValueError, match="`time` must have a time zone in all series, or in none"):
        data.windows(mixed, 4, time="when")


def test_files_of_series_are_loaded_without_channels_that_say_nothing(tmp_path):
    frame = meters(200).assign(constant=7.0, code=np.arange(200) % 5)
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="Channels") as given:
        loaded = data.load_series(tmp_path / "x.csv", 8, time="when", batch_size=16)
    texts = [str(each.message) for each in given]
    assert texts == [
        "Channels are left out, because they are constant before the split: constant",
        "Channels have few different whole numbers, which are taken for measurements; leave them out if they are "
        "codes: code",
    ]
    assert loaded.series.channels == ("a", "b", "code")
    train = np.concatenate(list(loaded.pipelines.train.as_numpy_iterator()))
    # Windows of the training begin at each step, as an eighth of 8 is.
    assert train.shape == (153, 8, 3)
    validation = np.concatenate(list(loaded.pipelines.validation.as_numpy_iterator()))
    np.testing.assert_array_equal(validation, loaded.held_out.x)
    assert len(validation) == 5
    # The same series from what is known of them.
    again = data.load_series(tmp_path / "x.csv", series=loaded.series, batch_size=16)
    np.testing.assert_array_equal(again.held_out.x, validation)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_series_are_read_from_files_of_all_kinds(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    x = np.random.default_rng(0).normal(size=(50, 2))
    if suffix == ".npy":
        np.save(path, x)
    elif suffix == ".npz":
        np.savez(path, first=x, second=x[:30])
    else:
        pd.DataFrame(x, columns=["a", "b"]).to_parquet(path, index=False)
    found = series_files.split(path, 4)
    assert [len(each.values) for each in found.before.series] == ([40, 24] if suffix == ".npz" else [40])
    with pytest.raises(ValueError, match=r"`source` must be a file .csv, .parquet, .npy, .npz of series"):
        series_files.split(tmp_path / "x.txt", 4)


def test_a_series_without_any_channel_that_varies_is_refused():
    with pytest.raises(ValueError, match="`series` must have a channel that varies before the split"):
        series_files.split(np.ones([40, 2]), 4)
