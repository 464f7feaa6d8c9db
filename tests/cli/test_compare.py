"""`tfvae compare` and `--seeds`: rows of seeds, tables of the same held-out data, and runs that are named instead."""

import csv
import itertools
import json
import math
import types

import numpy as np
import pytest
import yaml
from jsonargparse import Namespace
from PIL import Image

from tests.helpers import browser
from tests.helpers.usage import error_line
from tfvae.cli import commands, compare_command, record, seeds


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes the folder of a run by hand."""
    monkeypatch.chdir(tmp_path)

    def make(name, elbo=-10.0, *, seed=0, held_out="a", epochs=2, **config):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        given = {"data": "digits", "epochs": epochs, "seed": seed, "name": folder.name, **config}
        (folder / "config.yaml").write_text(yaml.safe_dump(given))
        rows = [f"{epoch},{-elbo - epoch},{elbo + epoch}\r\n" for epoch in range(epochs)]
        (folder / "history.csv").write_text("epoch,loss,val_elbo\r\n" + "".join(rows))
        (folder / "model.keras").touch()
        Image.fromarray(np.full((4, 4), seed, np.uint8)).save(folder / "samples.png")
        figures = {"elbo": elbo, "log_likelihood": elbo + 1, "kl": 3.0}
        evaluation = {key: {"mean": value, "standard_error": 0.1} for key, value in figures.items()}
        evaluation |= {"examples": 20, "held_out": held_out, "active_units": 4}
        record.add(folder, epochs=epochs, seconds=2.5, weights=1234, evaluation=evaluation, bytes={"TFLite": 5678})
        return folder

    return make


def compare(capsys, *arguments):
    commands.main(["compare", *arguments])
    return capsys.readouterr().out


def test_seeds_are_one_row_with_the_standard_error_of_the_mean(run, capsys, tmp_path):
    for seed, elbo in enumerate((-10.0, -11.0, -13.0)):
        run(f"many/seed-{seed}", elbo, seed=seed)
    run("wide", -9.0, latent_dim=16)
    out = compare(capsys, "--output", "x.json")
    header, best, of_seeds = out.splitlines()[1:4]
    assert header.split()[:8] == ["run", "seeds", "ELBO", "log", "p(x)", "KL", "active", "units"]
    assert "latent_dim" in header
    assert "prior" not in header
    assert best.split()[:4] == ["runs/wide", "1", "-9.000", "-8.000"]
    # The standard deviation of -10, -11 and -13 is sqrt(7 / 3).
    error = math.sqrt(7 / 3 / 3)
    assert of_seeds.split()[:5] == ["runs/many", "3", "-11.333", "±", f"{error:.2g}"]
    found = json.loads((tmp_path / "x.json").read_text())
    (table,) = found["tables"]
    figures = table["rows"][1]["figures"]
    np.testing.assert_allclose([figures["elbo"]["mean"], figures["elbo"]["standard_error"]], [-34 / 3, error])
    assert figures["seconds"]["mean"] == 2.5
    assert figures["weights"] == {"mean": 1234, "standard_error": 0}
    assert table["rows"][0]["figures"]["elbo"]["standard_error"] is None


def test_runs_without_a_bound_come_after_those_with_one_by_what_they_have(run, capsys):
    figures = {"examples": 20, "held_out": "a", "active_units": 4}
    for name, value in (("worse", -9.0), ("better", -2.0)):
        found = {"mean": value, "standard_error": 0.1}
        folder = run(name, latent_dim=len(name))
        record.add(folder, evaluation={**figures, "reconstruction_log_likelihood": found})
        (folder / "history.csv").write_text("epoch,loss,val_loss\r\n0,1,1\r\n1,1,1\r\n")
    run("bound", -10.0)
    header, *rows = compare(capsys).splitlines()[1:5]
    assert "log p(x|z)" in header
    assert [row.split()[0] for row in rows] == ["runs/bound", "runs/better", "runs/worse"]
    assert [row.split()[2] for row in rows] == ["-10.000", "-2.000", "-9.000"]


def test_runs_on_other_data_are_in_tables_of_their_own(run, capsys):
    run("a", -10.0)
    run("b", -5.0, seed=1, held_out="b")
    out = compare(capsys)
    assert "evaluated on 2 different sets of held-out data" in out
    assert "Held out (1): 20 examples of digits" in out
    assert out.index("runs/a") < out.index("Held out (2): 20 examples of digits") < out.index("runs/b")


def test_the_same_seed_again_is_no_further_seed(run, capsys):
    run("a")
    run("b")
    lines = compare(capsys).splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["runs/a", "1"], ["runs/b", "1"]]


def test_other_likelihoods_are_pointed_out(run, capsys):
    run("a")
    run("b", likelihood={"class_path": "tfvae.likelihoods.Bernoulli"})
    assert "The likelihoods differ: their ELBO and log p(x) compare only if all are densities" in compare(capsys)


def test_runs_that_cannot_be_compared_are_named_with_the_reason(run, capsys, tmp_path):
    run("good")
    (run("cut") / "checkpoints").mkdir()
    record.add(run("nan"), diverged=True)
    (run("damaged") / "config.yaml").write_text("a: [")
    record.add(run("wrong"), evaluation={"elbo": 3})
    unevaluated = run("unevaluated")
    (unevaluated / "training.json").unlink()
    left_out = run("left_out")
    (left_out / "training.json").unlink()
    (left_out / "evaluation.txt").write_text("left out by --evaluate false\n")
    (tmp_path / "runs/stray.txt").touch()
    out = compare(capsys, "runs/*", "nowhere")
    lines = dict(line.split(": ", 1) for line in out.split("Not compared:\n")[1].splitlines() if ": " in line)
    assert lines["runs/cut"] == "unfinished: 2 of 2 epochs; --resume goes on"
    assert lines["runs/nan"] == "diverged in epoch 2"
    assert lines["runs/damaged"].startswith("A YAML file was expected")
    assert lines["runs/unevaluated"] == "trained, but not evaluated yet; --resume goes on"
    assert lines["runs/left_out"] == "trained, but its evaluation was left out or is damaged"
    assert lines["runs/stray.txt"] == lines["nowhere"] == "not a run: it has no config.yaml"
    assert lines["runs/wrong"].startswith("training.json is damaged: ")
    assert "runs/good" in out
    assert "`runs` must be folders that `tfvae train` wrote. Received: nowhere" in error_line(
        capsys, ["compare", "nowhere"]
    )


def test_a_run_of_an_earlier_version_is_read_from_its_evaluation(run, capsys):
    folder = run("old", -10.0)
    (folder / "training.json").unlink()
    (folder / "evaluation.txt").write_text(
        f"{'held out: 359 examples of 64 dimensions':<50}{'nats':>10}{'bits/dim':>10}\n"
        f"{'ELBO':<50}{-12.25:>10.3f}{0.3:>10.4f}\n"
        f"{'log-likelihood (importance sampling, K = 1000)':<50}{-11.5:>10.3f}{0.3:>10.4f}\n"
        f"{'KL':<50}{8.125:>10.3f}{0.2:>10.4f}\n"
    )
    (row,) = (line for line in compare(capsys).splitlines() if line.startswith("runs/old"))
    assert row.split() == ["runs/old", "1", "-12.250", "-11.500", "8.125", "2"]


def test_the_page_needs_no_other_file_and_has_the_pictures_in_columns(run, capsys, tmp_path):
    run("a")
    run("<b>", latent_dim=3)
    compare(capsys)
    page = (tmp_path / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == page.count('<figure style="margin:0">') == 2
    # An image is as wide as in its file otherwise, over its neighbour.
    assert page.count('<img style="max-width:100%"') == 2
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert 'aria-label="The held-out bound of each run' in page
    assert "src=" not in page.replace('src="data:', "")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_are_beside_each_other_and_whole(width, rows, run, capsys, tmp_path):
    for number in range(rows):
        folder = run(f"run {number}", latent_dim=number + 1)
        Image.fromarray(np.zeros((700, 1024), np.uint8)).save(folder / "samples.png")
    compare(capsys)
    page = browser.driver(width)
    try:
        page.get(f"file://{tmp_path / 'compare.html'}")
        images = page.find_elements("css selector", "figure img")
        places = [each.rect for each in images]
        columns = [each.find_element("xpath", "..").rect for each in images]
        wide = page.execute_script("return document.documentElement.scrollWidth")
    finally:
        page.quit()
    assert len(places) == rows
    for place, column in zip(places, columns, strict=True):
        assert 250 < place["width"] <= column["width"] + 0.5
        assert place["height"] == pytest.approx(place["width"] * 700 / 1024, abs=1)
    for left, right in itertools.pairwise(places):
        assert left["x"] + left["width"] < right["x"]
    # The row of pictures may scroll, but the page does not; on a wide screen three fit.
    assert wide <= width
    if width == 1280 or rows == 1:
        assert places[-1]["x"] + places[-1]["width"] <= width


def test_the_csv_has_a_row_for_each_run(run, capsys, tmp_path):
    run("a/seed-0")
    run("a/seed-1", -12.0, seed=1)
    compare(capsys, "--output", "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["group"], float(row["elbo"])) for row in rows] == [
        ("runs/a/seed-0", "runs/a", -10.0),
        ("runs/a/seed-1", "runs/a", -12.0),
    ]
    assert rows[0]["latent_dim"] == "8"


def arguments(**changed):
    defaults = {"name": None, "data": "digits", "runs": "runs", "saved_models": "saved", "split_seed": None}
    defaults["strategy"] = "auto"
    return Namespace(**{**defaults, "seed": 0, "seeds": [3, 5], "resume": False, "overwrite": False, **changed})


def test_several_workers_train_no_seeds(monkeypatch):
    for changed in ({"strategy": "multi_worker"}, {}):
        monkeypatch.setenv("TF_CONFIG", "{}")
        with pytest.raises(ValueError, match=r"`--seeds` must not be given for several workers"):
            seeds.choices(arguments(**changed))


def test_each_seed_has_a_run_on_the_same_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = seeds.choices(arguments())
    assert (first.name, first.runs, first.saved_models, first.seed, first.split_seed) == (
        "seed-3",
        "runs/digits",
        "saved/digits",
        3,
        0,
    )
    assert (second.seed, second.split_seed, second.seeds, second.resume) == (5, 0, None, True)
    assert not seeds.choices(arguments(overwrite=True))[0].resume
    assert seeds.choices(arguments(split_seed=7))[1].split_seed == 7
    alone = arguments(seeds=None)
    assert seeds.choices(alone) == [alone]


def test_a_run_and_runs_of_seeds_do_not_share_a_folder(run):
    run("one")
    with pytest.raises(ValueError, match=r"`--name` must be that of no run.* Received: runs/one, a run"):
        seeds.choices(arguments(name="one"))
    run("many/seed-0")
    with pytest.raises(ValueError, match=r"`--name` must not be that of the runs of several seeds\. .*runs/many"):
        seeds.choices(arguments(name="many", seeds=None))


def test_a_seed_that_diverges_is_named_and_the_others_are_trained(run, monkeypatch, capsys):
    trained = []

    def train(index):
        trained.append(index)
        if index == 0:
            raise FloatingPointError("the training diverged")

    compared = types.SimpleNamespace(folders=None)
    monkeypatch.setattr(seeds, "compare", lambda folders, output: setattr(compared, "folders", (folders, output)))
    runs = seeds.choices(arguments())
    configs = ["data: digits\n"] * 2
    with pytest.raises(SystemExit, match=r"tfvae: the training of runs/digits/seed-3 diverged"):
        seeds.train_each(runs, configs, train)
    assert trained == [0, 1]
    assert compared.folders == (["runs/digits/seed-3", "runs/digits/seed-5"], "runs/digits/compare.html")
    # It is not trained again, unless it is of another configuration.
    folder = run("digits/seed-3")
    (folder / "config.yaml").write_text("data: digits\n")
    record.add(folder, diverged=True)
    with pytest.raises(SystemExit, match="diverged"):
        seeds.train_each(runs, configs, train)
    assert trained == [0, 1, 1]
    with pytest.raises(SystemExit) as raised:
        seeds.train_each(runs, ["data: digits\nlearning_rate: 0.1\n"] * 2, train)
    assert raised.value.code == 2
    assert "`--learning_rate` must be as in" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_are_trained_as_single_runs_are_and_those_complete_are_left(tmp_path, monkeypatch, capsys):
    import keras

    monkeypatch.chdir(tmp_path)
    small = ["train", "digits", "--epochs", "1", "--hidden", "8", "--latent_dim", "2", "--num_samples", "5"]
    small += ["--pictures", "false", "--report", "false", "--export", "none"]
    commands.main([*small, "--seeds", "0,1"])
    assert "runs/digits      2" in capsys.readouterr().out
    assert (tmp_path / "runs/digits/compare.html").is_file()
    before = {seed: (tmp_path / f"runs/digits/seed-{seed}/model.keras").read_bytes() for seed in range(2)}
    commands.main([*small, "--seeds", "0,1"])
    assert "runs/digits/seed-1 is trained already" in capsys.readouterr().out
    for seed, content in before.items():
        assert (tmp_path / f"runs/digits/seed-{seed}/model.keras").read_bytes() == content
    commands.main([*small, "--name", "alone", "--seed", "1", "--split_seed", "0"])
    alone, of_seeds = (
        keras.saving.load_model(tmp_path / f"runs/{name}/model.keras") for name in ("alone", "digits/seed-1")
    )
    for value, expected in zip(of_seeds.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    figures = compare_command._read(tmp_path / "runs/alone").figures
    # Keras counts the two numbers of the state of the noise too.
    assert (figures["epoch"], figures["weights"]) == (1, alone.count_params() - 2)
    assert figures["seconds"] > 0
