"""The command line as a user types it."""

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_digits

import tfvae
from tests.helpers.usage import error_line
from tfvae.cli import commands, exports, run_folder
from tfvae.export import verification

ROOT = Path(__file__).parents[2]
# Without the report, which is tested on tables and in tests/reporting.
SMALL = ["--epochs", "2", "--hidden", "[16]", "--latent_dim", "2", "--num_samples", "20", "--report", "false"]


@pytest.fixture(scope="module", autouse=True)
def few_timed_calls():
    """Measures what the exports cost in few calls; how it is measured is tested in export/test_verification.py."""
    latency = verification._latency
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_latency", lambda call, x, calls: latency(call, x, min(calls, 2)))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which `tfvae train digits` ran."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        commands.main(["train", "digits", *SMALL])
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def in_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_exports(monkeypatch):
    """Skips the plots and the exports of a training, which the tests of `trained` cover."""
    monkeypatch.setattr(run_folder, "draw", lambda *_: None)
    monkeypatch.setattr(exports, "write", lambda *_, **__: None)


@pytest.fixture
def without_evaluation(without_exports, monkeypatch):
    """Skips the evaluation of a training too."""
    monkeypatch.setattr(run_folder, "evaluation", lambda *_: "")


def table_values(output, label):
    """The numbers in the line that starts with `label`."""
    (line,) = [line for line in output.splitlines() if line.startswith(label)]
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


def test_train_writes_the_run_and_the_exports(trained):
    run = trained / "runs" / "digits"
    names = {"model.keras", "history.csv", "config.yaml", "training.json", "evaluation.txt", ".lock"}
    names |= {"reconstructions.png", "samples.png", "latent.png", "history.png"}
    assert {path.name for path in run.iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in run.glob("*.png"))
    elbo = json.loads((run / "training.json").read_text())["evaluation"]["elbo"]["mean"]
    assert f"{elbo:.3f}" in (run / "evaluation.txt").read_text()
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert float(rows[1]["val_elbo"]) > float(rows[0]["val_elbo"])
    assert (trained / "saved_models/digits/1/saved_model.pb").is_file()
    card = (trained / "saved_models/digits/README.md").read_text().split("## Model card")[1]
    assert "- **Data:** `digits`; held out is" in card
    assert all(line in card for line in (run / "evaluation.txt").read_text().splitlines())
    for name, batch_size in (("digits", None), ("digits_batch1", 1)):
        content = (trained / f"saved_models/digits/{name}.tflite").read_bytes()
        assert f"| {name}.tflite | {len(content)} | `{hashlib.sha256(content).hexdigest()}` |" in card
        description = json.loads((trained / f"saved_models/digits/{name}.json").read_text())
        assert description["batch_size"] == batch_size
        assert description["scaling"]["scale"] == 16.0


def test_train_changes_nothing_that_git_tracks(trained, tmp_path):
    shipped = "saved_models/digits_example"
    shutil.copytree(ROOT / shipped, tmp_path / shipped)
    shutil.copy(ROOT / "saved_models/README.md", tmp_path / "saved_models")
    shutil.copy(ROOT / ".gitignore", tmp_path)

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    git("add", ".")
    assert f"{shipped}/1/saved_model.pb" in git("ls-files")
    for written in ("runs", "saved_models"):
        shutil.copytree(trained / written, tmp_path / written, dirs_exist_ok=True)
    assert (tmp_path / "saved_models/digits/1/saved_model.pb").is_file()
    assert {line[:2] for line in git("status", "--porcelain").splitlines()} == {"A "}


def test_train_prints_the_evaluation_and_the_comparison(trained):
    output = (trained / "printed.txt").read_text()
    assert "Epoch 2/2" in output
    for label, sign in (("ELBO", -1), ("log-likelihood", -1), ("KL", 1)):
        nats, bits = table_values(output, label)
        np.testing.assert_allclose(bits, sign * nats / (64 * np.log(2)), atol=2e-4)
    signatures = {"encode", "decode", "reconstruct", "generate", "score", "serving_default"}
    signatures |= {"generate_sample", "reconstruct_sample", "detect"}
    differences, costs = output.split("largest difference from the Keras model, by format\n")[1].split("\n\n")[:2]
    header, *rows = (re.split(r"\s{2,}", line) for line in differences.splitlines())
    assert header[3:] == ["SavedModel", "TFLite", "TFLite batch 1"]
    assert {row[0].removesuffix("_normalized") for row in rows} == signatures
    for _, _, value, *by_format in rows:
        assert len(by_format) == 3
        assert all(float(difference) < 1e-4 * max(float(value), 1) for difference in by_format)
    assert [re.split(r"\s{2,}", line)[0] for line in costs.splitlines()[1:5]] == ["Keras", *header[3:]]


@pytest.mark.slow
def test_config_of_a_run_repeats_it(in_trained, without_evaluation):
    config = yaml.safe_load((in_trained / "runs/digits/config.yaml").read_text())
    assert config["hidden"] == [16]
    assert config["likelihood"] == {"class_path": "tfvae.likelihoods.Normal", "init_args": {"scale": "learned"}}
    commands.main(["train", "--config", "runs/digits/config.yaml", "--name", "repeated"])
    first, second = (keras.saving.load_model(f"runs/{name}/model.keras") for name in ("digits", "repeated"))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_earlier_run_is_kept_unless_told_otherwise(in_trained, capsys):
    before = (in_trained / "runs/digits/model.keras").read_bytes()
    assert "--overwrite" in error_line(capsys, ["train", "digits", *SMALL])
    assert (in_trained / "runs/digits/model.keras").read_bytes() == before


def test_evaluate_prints_the_held_out_figures_of_the_model(in_trained, capsys):
    commands.main(["evaluate", "runs/digits", "--num_samples", "200"])
    nats, _ = table_values(capsys.readouterr().out, "log-likelihood")
    model = keras.saving.load_model("runs/digits/model.keras")
    # Which fifth is held out changes this by at most about one nat; another model would be tens of nats away.
    assert abs(nats - model.log_likelihood(load_digits().images[..., None] / 16, 200, seed=0).mean()) < 2


def test_evaluate_takes_other_data(in_trained, capsys):
    np.save("blank.npy", np.zeros((10, 8, 8, 1), np.float32))
    commands.main(["evaluate", "runs/digits", "--data", "blank.npy"])
    assert "held out: 2 examples of 64 dimensions" in capsys.readouterr().out


def test_generate_writes_a_picture_or_an_array(in_trained):
    commands.main(["generate", "runs/digits", "--output", "s.png", "--n", "4"])
    commands.main(["generate", "runs/digits", "--output", "s.npy", "--n", "4", "--seed", "3"])
    expected = 16 * keras.saving.load_model("runs/digits/model.keras").generate(4, seed=3)
    np.testing.assert_array_equal(np.load("s.npy"), expected)
    assert (in_trained / "s.png").read_bytes().startswith(b"\x89PNG")


def test_generate_writes_a_table_with_the_columns_of_the_run_in_their_units(in_empty, trained, monkeypatch):
    frame = pd.DataFrame({"age": [20, 40, 60, 80] * 5, "income, net": [1e4, 3e4, 2e4, 5e4] * 5})
    frame.to_csv("t.csv", index=False)
    config = (trained / "runs/digits/config.yaml").read_text().replace("data: digits", "data: t.csv")
    Path("run").mkdir()
    Path("run/config.yaml").write_text(config)
    likelihood = tfvae.likelihoods.Normal("learned")
    model = tfvae.VAE(
        tfvae.networks.dense_encoder((2,)), tfvae.networks.dense_decoder(2, (2,)), 2, likelihood=likelihood
    )
    monkeypatch.setattr(commands, "_load_model", lambda *_, **__: model)
    for sample in (False, True):
        commands.main(["generate", "run", "--output", "s.csv", "--n", "5", "--sample", str(sample)])
        pipelines = tfvae.data.load("t.csv", seed=0)
        expected = model.generate(5, seed=0, sample=sample) * pipelines.scale + pipelines.offset
        written = pd.read_csv("s.csv")
        assert list(written.columns) == ["age", "income, net"]
        np.testing.assert_allclose(written, expected, rtol=1e-5)


def test_generate_writes_a_table_only_for_a_run_of_one(in_trained, capsys):
    with pytest.raises(SystemExit):
        commands.main(["generate", "runs/digits", "--output", "s.csv"])
    assert "`--output` must end in .png or .npy if the run is not of a table" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["linked.npy", "linked.png"])
def test_a_link_in_the_place_of_an_output_is_not_written_through(in_trained, output):
    (in_trained / "kept").write_bytes(b"kept")
    (in_trained / output).symlink_to(in_trained / "kept")
    commands.main(["generate", "runs/digits", "--output", output, "--n", "2"])
    assert not (in_trained / output).is_symlink()
    assert (in_trained / "kept").read_bytes() == b"kept"


def test_export_is_given_the_folder_and_its_name(in_trained, monkeypatch):
    given = []
    monkeypatch.setattr(exports, "write", lambda *arguments, latency: given.append((*arguments, latency)))
    options = ["--keep", "2", "--batching", "true", "--quantize", "float16", "--latency", "false"]
    for arguments in ([], ["--output", "elsewhere", *options]):
        commands.main(["export", "runs/digits", *arguments])
    models, folders, pipelines, cards, *rest = zip(*given, strict=True)
    assert {model.latent_dim for model in models} == {2}
    assert folders == (Path("saved_models/digits"), Path("elsewhere"))
    assert rest == [(None, 2), (False, True), (None, "float16"), (True, False)]
    assert all(card.data.startswith("`digits`; ") and "ELBO" in card.figures for card in cards)
    # The exports get the data of the run, for calibration and comparison.
    assert all(next(iter(each.train)).shape[1:] == (8, 8, 1) for each in pipelines)


@pytest.mark.slow
def test_export_writes_the_next_version(in_trained):
    shutil.copytree("saved_models/digits", "elsewhere")
    commands.main(["export", "runs/digits", "--output", "elsewhere"])
    names = {path.name for path in (in_trained / "elsewhere").iterdir()}
    assert {"1", "2", "elsewhere.tflite", "elsewhere_batch1.tflite"} < names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_parts_are_chosen_by_flags(in_empty, without_evaluation):
    arguments = ["--likelihood.scale", "0.3", "--objective.beta", "4", "--posterior", "DiagonalNormal", "--ema", "0.5"]
    commands.main(
        [
            "train",
            *SMALL,
            "--epochs",
            "1",
            *arguments,
            "--network",
            "convolutional",
            "--filters",
            "[4]",
            "--activation",
            "relu",
        ]
    )
    model = keras.saving.load_model("runs/digits/model.keras")
    assert (float(model.likelihood.scale), model.objective.beta) == (pytest.approx(0.3), 4)
    assert (model.optimizer.use_ema, model.optimizer.ema_momentum) == (True, 0.5)
    assert any(isinstance(layer, keras.layers.Conv2D) for layer in model.encoder.layers)


@pytest.mark.slow
def test_binary_data(in_empty, without_exports, capsys):
    message = error_line(capsys, ["train", "--binarize", "dynamic"])
    assert "--likelihood Bernoulli" in message
    commands.main(["train", *SMALL, "--epochs", "1", "--binarize", "dynamic", "--likelihood", "Bernoulli"])
    elbo, _ = table_values(capsys.readouterr().out, "ELBO")
    assert -64 < elbo < 0


def test_a_model_file_with_code_in_it_is_refused(in_empty, capsys):
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).save("model.keras")
    Path("config.yaml").touch()
    assert "arbitrary code" in error_line(capsys, ["evaluate", "."])


# The default test in test_run_training.py diverges in the second epoch.
@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_its_history(in_empty, capsys):
    with pytest.warns(UserWarning, match="The loss was nan in epoch 1"), pytest.raises(SystemExit, match="diverged"):
        commands.main(["train", *SMALL, "--learning_rate", "1e30"])
    assert {path.name for path in Path("runs/digits").glob("[!.]*")} == {"config.yaml", "history.csv", "training.json"}
    assert not (in_empty / "saved_models").exists()


@pytest.mark.slow
def test_what_follows_a_training_can_be_left_out(in_trained, tmp_path):
    shutil.copytree("runs/digits", tmp_path / "digits")
    for name in ("evaluation.txt", "history.png", "samples.png", "latent.png", "reconstructions.png"):
        (tmp_path / "digits" / name).unlink()
    left_out = ["--evaluate", "false", "--pictures", "false", "--export", "none"]
    commands.main(["train", *SMALL, "--runs", str(tmp_path), "--saved_models", str(tmp_path), "--resume", *left_out])
    written = [".lock", "config.yaml", "evaluation.txt", "history.csv", "model.keras", "training.json"]
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == written
    assert (tmp_path / "digits/evaluation.txt").read_text() == "left out by --evaluate false\n"


@pytest.mark.slow
def test_one_format_is_exported_alone_and_not_timed(in_trained, capsys):
    model = keras.saving.load_model("runs/digits/model.keras")
    pipelines = run_folder.load_data(Path("runs/digits"))
    for formats, expected in (("tflite", "alone.tflite"), ("saved_model", "1")):
        card = run_folder.card(Path("runs/digits"))
        exports.write(model, Path(formats, "alone"), pipelines, card, formats=formats, latency=False)
        names = {path.name for path in Path(formats, "alone").iterdir()}
        assert expected in names
        assert not {"alone.tflite", "1"} - {expected} & names
    assert "us per example" not in capsys.readouterr().out


def test_evaluate_repeats_what_train_printed(in_trained, capsys):
    commands.main(["evaluate", "runs/digits", "--num_samples", "20"])
    evaluated = capsys.readouterr().out
    printed = (in_trained / "printed.txt").read_text()
    for label in ("ELBO", "log-likelihood", "KL"):
        assert table_values(printed, label) == table_values(evaluated, label)


@pytest.mark.slow
def test_verify_and_predict_take_the_exports(in_trained, capsys):
    commands.main(["verify", "runs/digits", "--saved_model", "saved_models/digits", "--output", "v.json"])
    assert "TFLite" not in capsys.readouterr().out
    assert {row["format"] for row in json.loads((in_trained / "v.json").read_text())["agreements"]} == {"SavedModel"}
    raw = load_digits().images[:5, ..., None]
    x = (raw / 16).astype(np.float32)
    np.save("x.npy", raw)
    model = keras.saving.load_model("runs/digits/model.keras")
    for exported in ("saved_models/digits", "saved_models/digits/digits.tflite"):
        commands.main(["predict", "--model", exported, "--input", "x.npy", "--output", "y.npz"])
        outputs = np.load("y.npz")
        assert set(outputs) == {"mean", "elbo", "reconstruction_log_likelihood", "kl", "loc", "scale"}
        np.testing.assert_allclose(outputs["mean"], 16 * model.reconstruct(x), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs["elbo"], model.score(x)["elbo"], rtol=1e-4)


@pytest.mark.slow
def test_export_quantises_and_prunes(in_trained):
    shutil.copytree("saved_models/digits", "small")
    commands.main(["export", "runs/digits", "--output", "small", "--keep", "1", "--quantize", "int8"])
    assert [path.name for path in (in_trained / "small").iterdir() if path.name.isdecimal()] == ["2"]
    assert json.loads((in_trained / "small/small.json").read_text())["quantize"] == "int8"


def test_a_format_takes_no_arguments_of_the_others(in_trained, capsys):
    with pytest.raises(SystemExit):
        commands.main(["export", "runs/digits", "--format", "onnx", "--quantize", "int8"])
    assert "`--keep`, `--batching` and `--quantize` must not be given with `--format`" in capsys.readouterr().err


@pytest.mark.slow
def test_export_to_onnx(in_trained, capsys):
    commands.main(["export", "runs/digits", "--output", "other", "--format", "onnx"])
    assert "Exported to other/onnx/; compared with the Keras model on 359 examples" in capsys.readouterr().out
    assert [path.name for path in (in_trained / "other").iterdir()] == ["onnx"]
    commands.main(["verify", "runs/digits", "--onnx", "other/onnx"])
    assert re.search(r"output +max \|value\| +ONNX$", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.slow
def test_two_replicas_learn_what_one_device_learns(trained, tmp_path):
    command = [sys.executable, "-m", "tfvae", "train", *SMALL, "--strategy", "mirrored", "--devices", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in ("saved_models/digits/1/saved_model.pb", "saved_models/digits/digits.tflite"):
        assert (tmp_path / path).is_file()
    texts = [(folder / "runs/digits/evaluation.txt").read_text() for folder in (tmp_path, trained)]
    elbo, expected = (table_values(text, "ELBO")[0] for text in texts)
    # The replicas draw different noise. Seeds 0, 1 and 2 gave -59.4, -58.0 and -58.6, and within 0.2 of that with two
    # replicas; after a single epoch it is 1.6 lower.
    assert elbo == pytest.approx(expected, abs=0.7)


def test_train_calibrates_on_the_held_out_data(trained):
    model = keras.saving.load_model(trained / "runs/digits/model.keras")
    threshold = model.decision.threshold
    assert (threshold.method, threshold.rate, threshold.rows) == ("false_alarm_rate", 0.01, 359)
    printed = f"Anomalies have a score above {threshold.value:.4g} nats: false_alarm_rate of 0.01, on 359 held-out"
    assert printed in (trained / "printed.txt").read_text()
    for name in ("1/assets.extra/metadata.json", "digits.json", "digits_batch1.json"):
        assert json.loads((trained / "saved_models/digits" / name).read_text())["threshold"] == threshold.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "value"), [("threshold", 12.5), ("false_alarm_rate", 0.05), ("contamination", 0.1)])
def test_export_changes_the_threshold_without_a_training(in_trained, tmp_path, flag, value):
    shutil.copytree("runs/digits", tmp_path / "digits")
    folder = tmp_path / "exports"
    before = keras.saving.load_model(tmp_path / "digits/model.keras")
    arguments = ["export", str(tmp_path / "digits"), "--output", str(folder), "--latency", "false"]
    commands.main([*arguments, f"--{flag}", str(value)])
    after = keras.saving.load_model(tmp_path / "digits/model.keras")
    for a, b in zip(before.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    threshold = json.loads((folder / "exports.json").read_text())["threshold"]
    assert threshold == after.decision.threshold.to_dict()
    assert threshold["method"] == {"threshold": "given"}.get(flag, flag)
    assert (threshold["value"] if flag == "threshold" else threshold["rate"]) == value
    commands.main(["verify", str(tmp_path / "digits"), "--saved_model", str(folder), "--latency", "false"])
