"""The command line on time series: windows for the training, and rows for each step of what comes out."""

import contextlib
import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

import tfvae
from tests.helpers.usage import error_line
from tfvae.cli import commands, run_folder, series_run
from tfvae.data import Series
from tfvae.export import client, units
from tfvae.export.metadata import metadata
from tfvae.likelihoods import Normal, Poisson
from tfvae.reporting import explorer

SMALL = ["--hidden", "8", "--latent_dim", "2", "--num_samples", "4", "--epochs", "1", "--latency", "false"]


def machines(steps=120):
    rng = np.random.default_rng(0)
    parts = []
    for name in ("left", "right"):
        a = 50 + 10 * np.sin(np.arange(steps) / 5) + rng.normal(0, 1, steps)
        when = pd.date_range("2024-01-01", periods=steps, freq="10min").astype(str)
        parts.append(pd.DataFrame({"machine": name, "when": when, "a": a, "b": 0.1 * a + rng.normal(0, 0.1, steps)}))
    return pd.concat(parts, ignore_index=True).drop(index=[5, 6])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which `tfvae train machines.csv --sequence` ran, without exports."""
    folder = tmp_path_factory.mktemp("series")
    frame = machines()
    # Held out, in the last fifth of the time.
    frame.loc[110, "a"] += 400
    frame.to_csv(folder / "machines.csv", index=False)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        given = ["--sequence", "--time", "when", "--by", "machine", "--length", "8", "--export", "none"]
        commands.main(["train", "machines.csv", *given, *SMALL, "--pictures", "false"])
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture(scope="module")
def model(trained):
    return run_folder.load_model(trained / "runs/machines")


@pytest.fixture
def exported(model, monkeypatch):
    """Lets the commands open what an export of the model would be, without writing one."""
    scaling = units.make(model, None, None)
    signatures = units.signatures(model, scaling)
    shapes = {name: {spec.name: tuple(spec.shape) for spec in each.inputs} for name, each in signatures.items()}
    description = json.loads(json.dumps(metadata(model, scaling)))
    made = client.ExportedModel(lambda name, arrays: signatures[name].of_model(arrays), shapes, description)
    monkeypatch.setattr(tfvae.export, "load", lambda path: made)
    return made


def test_a_training_keeps_what_the_series_are(trained, model):
    run = trained / "runs/machines"
    names = {"model.keras", "history.csv", "config.yaml", "training.json", "evaluation.txt", ".lock", "series.json"}
    assert {path.name for path in run.iterdir()} == {*names, "report.html"}
    series = Series(**json.loads((run / "series.json").read_text()))
    assert model.series.get_config() == series.get_config()
    assert series.get_config()["step"] == [600 * 10**9, "ns"]
    assert (series.channels, series.time, series.by, series.length) == (("a", "b"), "when", "machine", 8)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["sequence"], config["length"], config["stride"]) == (True, 8, None)
    likelihood = model.likelihood.get_config()
    assert likelihood["fill"] is False
    assert likelihood["likelihood"]["config"]["scale"] == "per_channel"


def test_a_training_says_what_it_found(trained):
    printed = (trained / "printed.txt").read_text()
    assert printed.startswith("windows of 8 steps of 10 min, by machine\nchannel ")
    assert re.search(r"held out: 6 windows of 8 steps, 2 channels +nats per window +per value\nELBO", printed)
    assert re.search(
        r"Steps are anomalies with a score above \S+ standard deviations: false_alarm_rate of \S+, on 48 held", printed
    )
    lines = printed.splitlines()
    first = lines.index("The most unusual held-out windows, with what adds most to their scores:") + 1
    assert re.match(r"window from 2024-01-01T17:20:00 of left: score ", lines[first])
    assert re.match(r"    a = 4\d\d\.\d* at 2024-01-01T18:20:00 \(\+", lines[first + 1])


def test_the_report_draws_channels_gaps_and_unusual_windows(trained):
    text = (trained / "runs/machines/report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    expected = ["Reconstructions", "Gaps", "Samples", "Latent space", "Unusual windows"]
    assert [title for title in titles if title in expected] == expected
    assert "coloured by time" in text
    assert "of the hidden values of these windows are in it." in text
    assert re.search(r"a = 4\d\d\.\d* at step", text)


def test_the_data_of_a_run_are_split_as_in_its_training(trained, model):
    run, path = trained / "runs/machines", str(trained / "machines.csv")
    loaded = run_folder.load_series(run, model.series, path)
    assert len(loaded.held_out.x) == 6
    assert min(time for _, time in loaded.held_out.starts) == np.datetime64("2024-01-01T16:00")
    held_out = run_folder.held_out(run_folder.load_data(run, path, series=model.series))
    np.testing.assert_array_equal(held_out, loaded.held_out.x)
    text = (run / "evaluation.txt").read_text().splitlines()[0]
    assert run_folder.card(run, text).data.endswith("held out is the last 0.2 of the time")


@pytest.mark.parametrize("output", ["flagged.csv", "flagged.parquet"])
def test_each_step_gets_a_score_a_decision_and_a_reason(in_trained, exported, model, output, capsys):
    given = pd.read_csv("machines.csv")
    # In the row of the step 60 of the series, before which two rows are missing.
    given.loc[58, "a"] += 4000
    given["b"] = given["b"].round().astype(int)
    given.to_csv("planted.csv", index=False)
    commands.main(["detect", "--model", ".", "--input", "planted.csv", "--output", output])
    found = pd.read_csv(output) if output.endswith(".csv") else pd.read_parquet(output)
    names = ["machine", "when", "a", "b", "score", "is_anomaly", "reason", "reason_nats"]
    assert list(found.columns) == [*names, "window_score", "window_is_anomaly"]
    assert len(found) == 240
    gap = found.iloc[5:7]
    assert gap[["a", "b", "score"]].isna().all(axis=None)
    if output.endswith(".csv"):
        with open(output) as file:
            assert {row["b"] for row in csv.DictReader(file)} == {"", *map(str, given["b"].unique())}
    assert not gap["is_anomaly"].any()
    planted = found.iloc[60]
    assert (planted["machine"], planted["reason"], bool(planted["is_anomaly"])) == ("left", "a", True)
    assert str(planted["when"]).startswith("2024-01-01 10:00:00")
    assert found["score"].idxmax() == 60
    limit = model.decision.of_steps.threshold.value
    np.testing.assert_array_equal(found["is_anomaly"], found["score"] > round(limit, 4))
    # The window that ends with a step is what the model takes it for; the first steps of a series end none.
    cut = model.series.windows(given)
    expected = model.detect(cut.x)["score"]
    np.testing.assert_allclose(found["window_score"].dropna(), expected, atol=1e-3 * abs(expected).max())
    assert found["window_score"].isna().sum() == 14
    assert f"({found['is_anomaly'].sum()} of 240 steps are anomalies)" in capsys.readouterr().out


def test_a_prediction_is_the_mean_over_windows_in_gaps_too(in_trained, exported, model):
    commands.main(["predict", "--model", ".", "--input", "machines.csv", "--output", "mean.csv", "--stride", "3"])
    found = pd.read_csv("mean.csv")
    assert list(found.columns) == ["machine", "when", "a", "b"]
    assert np.isfinite(found[["a", "b"]]).all(axis=None)
    cut = model.series.windows(pd.read_csv("machines.csv"), 3)
    mean = model.series.by_step(model.series.raw(model.reconstruct(cut.x)), cut)
    np.testing.assert_allclose(found[["a", "b"]], mean, rtol=1e-4)
    commands.main(["predict", "--model", ".", "--input", "machines.csv", "--output", "mean.npz", "--stride", "3"])
    arrays = np.load("mean.npz")
    assert arrays["mean"].shape == cut.x.shape
    assert list(arrays["start"]) == [time for _, time in cut.starts]
    assert set(arrays["series"]) == {"left", "right"}


def test_the_page_to_explore_a_run_has_its_held_out_windows_in_the_units_of_the_series(in_trained, model, monkeypatch):
    calls = []
    monkeypatch.setattr(explorer, "web", lambda *args, **kwargs: calls.append((args, kwargs)) or args[1])
    commands.main(["explore", "runs/machines"])
    (made, folder, x), options = calls[0]
    assert (made.series.channels, str(folder)) == (model.series.channels, "runs/machines/explore")
    held_out = run_folder.held_out(run_folder.load_data(in_trained / "runs/machines", series=model.series))
    np.testing.assert_array_equal(x, held_out)
    assert options["labels"] is None
    assert {"offset", "scale"}.isdisjoint(options)


def test_an_array_of_one_series_needs_no_times(in_trained, exported):
    np.save("one.npy", machines()[["a", "b"]].to_numpy()[:60])
    commands.main(["detect", "--model", ".", "--input", "one.npy", "--output", "one.csv"])
    found = pd.read_csv("one.csv")
    assert found["when"].tolist() == list(range(60))


def test_steps_are_not_judged_by_a_model_that_is_calibrated_for_windows_alone(in_trained, exported, capsys):
    del exported.metadata["decision_of_steps"]
    arguments = ["detect", "--model", ".", "--input", "machines.csv", "--output", "no.csv"]
    assert "`--model` must be an export of a model that is calibrated for steps" in error_line(capsys, arguments)


def test_windows_are_generated_as_rows_for_each_step(in_trained, model):
    commands.main(["generate", "runs/machines", "--n", "3", "--output", "made.csv", "--sample"])
    found = pd.read_csv("made.csv")
    assert list(found.columns) == ["sample", "step", "a", "b"]
    assert found["sample"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert found["a"].mean() == pytest.approx(50, abs=15)
    expected = model.series.raw(model.generate(3, seed=0, sample=True)).reshape(-1, 2)
    np.testing.assert_allclose(found[["a", "b"]], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explore", "runs/machines", "--label", "a"], "`--label` must be given for the run of a table alone"),
        (["detect", "--stride", "0"], "stride` must be an integer from 1"),
        (
            ["detect", "--input", "other.csv"],
            "`series` must have the channels a, b. Received: the columns a in series 'left', without 'b'",
        ),
        (["detect", "--input", "short.csv"], "`length` must be at most the number of steps of at least one series"),
        (["predict", "--input", "machines.csv", "--sample"], "`--output` must be a .npz file for `--sample` of series"),
    ],
)
def test_a_command_for_a_run_of_series_that_is_used_wrongly_says_so(in_trained, exported, capsys, arguments, message):
    machines().drop(columns="b").to_csv("other.csv", index=False)
    machines(5).to_csv("short.csv", index=False)
    if arguments[0] != "explore":
        arguments = [arguments[0], "--model", ".", "--output", "no.csv", "--input", "machines.csv", *arguments[1:]]
    assert message in error_line(capsys, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--sequence", "--length", "8"], "`data` must be a file .csv, .parquet, .npy, .npz of series with"),
        (
            ["machines.csv", "--sequence"],
            "`--length`, the number of steps of a window, must be given with `--sequence`",
        ),
        (["machines.csv", "--time", "when"], "`--time` must be given with `--sequence` alone. Received: --time when"),
        (["machines.csv", "--length", "8"], "`--length` must be given with `--sequence` alone. Received: --length 8"),
        (["machines.csv", "--network", "temporal"], "`--network` must be dense, convolutional or residual"),
        (
            ["S", "--network", "residual"],
            "`--network` must be one of dense, temporal, recurrent, transformer with",
        ),
        (["S", "--kinds", "a=count"], "`--kinds` must not be given with `--sequence`"),
        (["S", "--label", "a"], "`--label` must not be given with `--sequence`"),
        (["S", "--image_size", "8"], "`--image_size` must not be given with `--sequence`"),
        (["S", "--binarize", "threshold"], "`--binarize` must not be given with `--sequence`"),
        (["S", "--likelihood", "Bernoulli"], "`--likelihood` must be Normal, Laplace or StudentT with `--sequence`"),
        (["S", "--callbacks", "Pictures"], "Pictures` must not be given for series"),
        (["S", "--time", "whne"], "`time` must be one of the columns when, a, b (did you mean when?)"),
        (["S", "--step", "x"], "`step` must be a Timedelta where times are dates"),
        (["S", "--length", "1"], "must be an integer from 2"),
        (["S", "--length", "100"], "`length` must be at most the number of steps before the split"),
        (["S", "--drop", "c"], "`drop` must be one of the columns"),
        (["machines.csv", "--sequence", "--length", "8"], "`series` must have channels of numbers: name the column"),
        (
            ["machines.csv", "--sequence", "--time", "when", "--length", "8", "--drop", "machine"],
            "`time` must be another in each row of a series: name the column that says which series",
        ),
        (["machines.csv", "--sequence", "--by", "machine", "--length", "8"], "`series` must have channels of numbers"),
        (["x.npy", "--sequence", "--length", "8", "--time", "when"], "`--time` must be given for a .csv or .parquet"),
        (
            ["machines.csv", "--sequence", "--by", "machine", "--stride", "2"],
            "`--stride` must be given with `--length`",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name_before_anything_is_written(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    machines(60).to_csv("machines.csv", index=False)
    np.save("x.npy", np.zeros([40, 2]))
    if arguments[0] == "S":
        given = ["machines.csv", "--sequence", "--time", "when", "--by", "machine", "--length", "8"]
        arguments = [*given, *arguments[1:]]
    assert message in error_line(capsys, ["train", *arguments])
    assert {path.name for path in tmp_path.iterdir()} == {"machines.csv", "x.npy"}


def test_a_scale_that_is_chosen_is_kept_and_a_likelihood_of_counts_is_refused(model):
    made = series_run.make_model(model.series, "dense", Normal(0.5), 2, (4,), (8,), "silu")
    assert made.likelihood.likelihood.get_config()["scale"] == 0.5
    with pytest.raises(ValueError, match="`--likelihood` must be Normal, Laplace or StudentT with `--sequence`"):
        series_run.make_model(model.series, "dense", Poisson(), 2, (4,), (8,), "silu")


def test_dates_are_years_in_the_colours_of_the_latent_space(model):
    frame = machines()
    found = series_run.times_of(model.series.windows(frame, 8))
    assert ((found > 2023.99) & (found < 2024.01)).all()
    assert (np.diff(found[:10]) > 0).all()


def test_windows_are_drawn_with_what_makes_them_unusual(model, trained, monkeypatch):
    drawn = {}
    monkeypatch.setattr(run_folder, "write_picture", lambda figure, path: drawn.update({path.name: figure}))
    held_out = run_folder.load_series(trained / "runs/machines", model.series, str(trained / "machines.csv")).held_out
    series_run.draw(model, held_out, trained, 0)
    assert set(drawn) == {"reconstructions.png", "samples.png", "latent.png", "anomalies.png"}
    assert len(drawn["anomalies.png"].axes) == 8
    # The planted value is shaded.
    assert any(axes.patches for axes in drawn["anomalies.png"].axes[:4])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dense", "temporal", "recurrent", "transformer"])
def test_all_networks_train_are_exported_and_detect(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    frame = machines()
    frame.to_csv("machines.csv", index=False)
    given = ["--sequence", "--time", "when", "--by", "machine", "--length", "8", "--network", network]

    def exporting():
        # TFLite runs the loop of a recurrent layer for one example at a time.
        is_one = network == "recurrent"
        return pytest.warns(UserWarning, match="`batch_size` is 1") if is_one else contextlib.nullcontext()

    with exporting():
        commands.main(["train", "machines.csv", *given, *SMALL, "--report", "false", "--filters", "8"])
    for export in ("saved_models/machines", "saved_models/machines/machines.tflite"):
        commands.main(["detect", "--model", export, "--input", "machines.csv", "--output", f"{len(export)}.csv"])
    first, second = (
        pd.read_csv(f"{len(export)}.csv")
        for export in ("saved_models/machines", "saved_models/machines/machines.tflite")
    )
    np.testing.assert_allclose(first["score"], second["score"], atol=1e-3)
    with exporting():
        commands.main(["export", "runs/machines", "--false_alarm_rate", "0.1", "--latency", "false"])
    model = run_folder.load_model(tmp_path / "runs/machines")
    assert model.decision.of_steps.threshold.rate == 0.1
