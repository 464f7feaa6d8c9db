"""The command line on tables as they are: text, dates, gaps and identifiers."""

import contextlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

import tfvae
from tests.helpers.usage import error_line
from tfvae.callbacks import Checkpoints
from tfvae.cli import commands, flags, run_folder, table_run
from tfvae.data import Table

SMALL = ["--epochs", "1", "--hidden", "8", "--latent_dim", "2", "--num_samples", "4", "--latency", "false"]
SMALL += ["--report", "false"]
KINDS = {
    "order_id": "identifier",
    "channel": "category",
    "amount": "number",
    "items": "count",
    "gift": "bool",
    "when": "date",
    "country": "constant",
}


def orders(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    channel = rng.choice(["web", "shop"], rows)
    frame = pd.DataFrame(
        {
            "order_id": np.arange(1000, 1000 + rows),
            "channel": channel,
            "amount": np.round(rng.normal(50, 10, rows) + 30 * (channel == "shop"), 2),
            "items": rng.negative_binomial(2, 0.1, rows),
            "gift": rng.random(rows) < 0.3,
            "when": (pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, rows), unit="D")).strftime(
                "%Y-%m-%d"
            ),
            "country": "DE",
        }
    )
    frame.loc[::10, "channel"] = None
    frame.loc[5, "amount"] = 9000.0
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which `tfvae train orders.csv` ran, without exports."""
    folder = tmp_path_factory.mktemp("tables")
    orders().to_csv(folder / "orders.csv", index=False)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        # The row with the planted amount is held out, too.
        commands.main(
            [
                *["train", "orders.csv", "--export", "none", "--validation_fraction", "0.5", "--seed", "1"],
                *SMALL,
                *["--report", "true", "--label", "channel"],
            ]
        )
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_a_training_prints_and_keeps_what_the_columns_are_and_draws_them(trained):
    run = trained / "runs/orders"
    names = {"model.keras", "history.csv", "config.yaml", "training.json", "evaluation.txt", ".lock", "table.txt"}
    names |= {"marginals.png", "anomalies.png", "latent.png", "history.png", "report.html"}
    assert {path.name for path in run.iterdir()} == names
    printed = (trained / "printed.txt").read_text()
    model = run_folder.load_model(run)
    assert printed.startswith((run / "table.txt").read_text())
    assert (run / "table.txt").read_text() == f"{model.table}\n"
    assert {column.name: column.kind for column in model.table.columns} == KINDS
    assert re.search(r"held out: 60 rows of 5 columns +nats per row\nELBO", printed)
    assert "bits" not in printed


def test_the_report_says_what_was_trained_on_what_how_long_and_by_which_command(trained):
    text = (trained / "runs/orders/report.html").read_text(encoding="utf-8")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["Data"] == "orders.csv"
    assert re.fullmatch(r"60 examples, 1 epoch in \d.*(s|min)", facts["Training"])
    assert facts["Held out"] == "60 examples"
    assert facts["Command"].startswith("tfvae train orders.csv --export none --validation_fraction 0.5 --seed 1")
    assert "coloured by class" in text


def test_a_report_counts_training_examples_by_batches_and_says_of_which_epoch_the_weights_are(trained, monkeypatch):
    seen = {}
    monkeypatch.setattr(run_folder, "write_report", lambda *_, **given: seen.update(given))
    monkeypatch.setattr(run_folder, "MOST_EXAMPLES", 50)
    run = trained / "runs/orders"
    model = run_folder.load_model(run)
    rows = run_folder.load_rows(run, model.table, str(trained / "orders.csv"))
    arguments = (model, run, rows.pipelines, rows.held_out, None, None, 1, 0)
    run_folder.report(*arguments, label=None)
    assert len(seen["train"]) == 50
    assert seen["facts"]["Training"].startswith("some 64 examples, 1 epoch in ")
    assert "Weights" not in seen["facts"]
    # As a run that was stopped early says, whose weights are not those of its last epoch.
    of_run = {"epochs": 37, "seconds": 50.0, "best_epoch": 29}
    monkeypatch.setattr(run_folder.record, "read", lambda _: of_run)
    run_folder.report(*arguments, label=None)
    assert seen["facts"]["Training"].endswith(", 37 epochs in 50 s")
    assert seen["facts"]["Weights"] == "those of epoch 29, whose held-out bound is the highest"


def test_the_table_is_learned_from_the_training_part_alone(trained):
    run, frame = trained / "runs/orders", orders()
    table = run_folder.load_model(run).table
    rows = run_folder.load_rows(run, table, str(trained / "orders.csv"))
    assert len(rows.held_out) == 60
    kept = frame.drop(rows.held_out.index)
    amount = next(column for column in table.columns if column.name == "amount")
    assert (amount.low, amount.high) == (kept["amount"].min(), kept["amount"].max())
    np.testing.assert_array_equal(run_folder.held_out(rows.pipelines), table.transform(rows.held_out))
    # In the order of tfvae.data.load for arrays of as many rows.
    as_array = tfvae.data.load(np.arange(120.0)[:, None], validation_fraction=0.5, seed=1, batch_size=32)
    np.testing.assert_array_equal(run_folder.held_out(as_array)[:, 0], rows.held_out.index)
    order = np.concatenate([batch[:, 0] for batch in as_array.train.as_numpy_iterator()]).astype(int)
    x = np.concatenate(list(rows.pipelines.train.as_numpy_iterator()))
    np.testing.assert_array_equal(x, table.transform(frame.iloc[order]))


def test_the_most_unusual_rows_are_printed_with_the_columns_that_say_most(trained):
    lines = (trained / "printed.txt").read_text().splitlines()
    first = lines.index("The most unusual held-out rows, with what adds most to their scores:") + 1
    assert lines[first].startswith("row 5, order_id = 1005: score ")
    assert lines[first + 1].startswith("    amount = 9000 (+")
    assert sum(line.startswith("row ") for line in lines) == 5


@pytest.mark.parametrize("format", ["%d.%m.%Y", "%Y%m%d"])
def test_dates_of_any_format_are_drawn_as_dates(format, monkeypatch, tmp_path):
    frame = orders()
    frame["when"] = pd.to_datetime(frame["when"]).dt.strftime(format)
    table, drawn = Table.learn(frame), []
    model = tfvae.VAE.of_table(table, 2, (8,))
    monkeypatch.setattr(run_folder, "write_picture", lambda figure, path: drawn.append(figure))
    table_run.draw(model, table, table.transform(frame), frame, None, tmp_path, 0)
    panel = next(axes for axes in drawn[0].axes if axes.get_title("left").startswith("when\nKS"))
    # Days since 1970.
    assert 19_000 < np.mean(panel.get_xlim()) < 20_000


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_generate_writes_rows_with_the_columns_and_categories_of_the_table(in_trained, suffix):
    commands.main(["generate", "runs/orders", "--output", f"rows{suffix}", "--n", "30", "--sample"])
    written = getattr(pd, f"read_{suffix[1:]}")(f"rows{suffix}")
    assert list(written.columns) == list(KINDS)
    assert set(written["channel"]) == {"web", "shop"}
    assert pd.to_datetime(written["when"]).between("2024-01-01", "2024-03-31").all()
    expected = keras.saving.load_model("runs/orders/model.keras").generate(30, seed=0, sample=True)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)


def test_generate_draws_the_columns_beside_the_real_ones_but_writes_no_array(in_trained, capsys):
    commands.main(["generate", "runs/orders", "--output", "rows.png", "--n", "30", "--sample"])
    assert Path("rows.png").read_bytes().startswith(b"\x89PNG")
    line = error_line(capsys, ["generate", "runs/orders", "--output", "rows.npy"])
    assert "`--output` must end in .png, .csv or .parquet for a run of a table. Received: rows.npy" in line


def test_evaluate_takes_other_rows_with_their_columns_in_another_order(in_trained, capsys):
    orders(40, seed=3)[list(KINDS)[::-1]].to_parquet("others.parquet")
    commands.main(["evaluate", "runs/orders", "--data", "others.parquet", "--num_samples", "4"])
    assert "held out: 20 rows of 5 columns" in capsys.readouterr().out
    orders(40).drop(columns="gift").to_csv("without.csv", index=False)
    line = error_line(capsys, ["evaluate", "runs/orders", "--data", "without.csv"])
    assert "Received: rows without gift" in line


def test_a_likelihood_is_that_of_the_numbers_with_a_scale_for_each():
    table = Table.learn(orders())
    likelihood = tfvae.likelihoods.StudentT(df=4.0)
    model = table_run.make_model(table, likelihood, 2, (4,), "silu")
    numbers, *others = model.likelihood.likelihood.likelihoods
    assert numbers.get_config()["scale"] == "per_dimension"
    assert numbers.get_config()["df"] == 4.0
    assert [type(other).__name__ for other in others] == ["Bernoulli", "NegativeBinomial", *["Categorical"] * 2]
    with pytest.raises(ValueError, match=r"`--likelihood` must be Normal, Laplace or StudentT for a table.*Poisson"):
        table_run.make_model(table, tfvae.likelihoods.Poisson(), 2, (4,), "silu")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--drop", "chanel"], "`drop` must name columns of the table, order_id, channel"),
        (["--drop", "chanel"], "(did you mean channel?). Received: drop=['chanel']"),
        (["--label", "chanel"], "`--label` must be one of the columns order_id, channel"),
        (["--columns", "amount,Items"], "(did you mean items?)"),
        (["--kinds", "amount=counts"], "(did you mean count?). Received: 'counts' for the column 'amount'"),
        (["--kinds", "amuont=count"], "(did you mean amount?)"),
        (["--kinds", "amount"], "`--kinds` must be columns with their kinds, such as age=count,zip=category, or null"),
        (["--columns", "amount", "--kinds", "items=number"], "`kinds` must be of columns that are taken"),
        (["--columns", "amount", "--drop", "amount"], "`drop` must leave a column"),
        (["--likelihood", "Poisson"], "`--likelihood` must be Normal, Laplace or StudentT for a table"),
        (["--binarize", "dynamic"], "`--binarize` must not be given for a table"),
        (["--network", "convolutional"], "`--network` must not be given for a table"),
    ],
)
def test_flags_of_a_table_are_checked_before_tensorflow_is_needed(given, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.noise, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))
    orders().to_csv("orders.csv", index=False)
    assert expected in error_line(capsys, ["train", "orders.csv", *given])


def test_flags_of_a_table_need_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = error_line(capsys, ["train", "digits", "--drop", "a"])
    assert "`--drop` must be given for a .csv or .parquet table alone. Received: digits" in line
    line = error_line(capsys, ["train", "digits", "--label", "a"])
    assert "`--label` must be given for a .csv or .parquet table alone. Received: digits" in line


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (flags.COLUMN_NAMES, "a,b", ["a", "b"]),
        (flags.COLUMN_NAMES, '"income, net", b', ["income, net", "b"]),
        (flags.COLUMN_NAMES, "[a, b]", ["a", "b"]),
        (flags.COLUMN_NAMES, ["a", 3], ["a", "3"]),
        (flags.COLUMN_KINDS, "a=count,b=c=date", {"a": "count", "b=c": "date"}),
        (flags.COLUMN_KINDS, {"a": "count"}, {"a": "count"}),
    ],
)
def test_names_and_kinds_of_columns_are_read(kind, value, expected):
    assert kind(value) == expected


@pytest.mark.parametrize("value", ["", ",", "a,,b", "a=count,a=date", "a=", "=count", 3, {"a": None}, {}])
def test_what_is_no_kinds_is_refused(value):
    with pytest.raises(flags.FlagError, match=r"must be columns with their kinds.*Received: "):
        flags.COLUMN_KINDS(value)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder in which `tfvae train orders.parquet` ran, with exports."""
    folder = tmp_path_factory.mktemp("exported")
    orders(400).drop(5).to_parquet(folder / "orders.parquet", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        commands.main(["train", "orders.parquet", *SMALL, "--drop", "when", "--kinds", "items=number"])
    new = orders(50, seed=7).drop(columns="when")
    new.loc[3, "channel"] = "fax"
    new.to_csv(folder / "new.csv", index=False)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Column .amount. should be like the data of the export")
@pytest.mark.parametrize("model", ["saved_models/orders", "saved_models/orders/orders.tflite"])
def test_detect_and_predict_take_the_rows_of_an_exported_table(exported, monkeypatch, model):
    monkeypatch.chdir(exported)
    own, rows = keras.saving.load_model("runs/orders/model.keras"), pd.read_csv("new.csv")
    commands.main(["detect", "--model", model, "--input", "new.csv", "--output", "flagged.csv"])
    flagged, found = pd.read_csv("flagged.csv"), own.detect(rows)
    pd.testing.assert_frame_equal(flagged[list(rows.columns)], rows)
    np.testing.assert_allclose(flagged["score"], found["score"], rtol=1e-4, atol=1e-3)
    assert flagged.loc[5, ["is_anomaly", "reason_1", "reason_1_value"]].tolist() == [True, "amount", "9000.0"]
    contributions = own.table.by_column(found["contributions"])
    np.testing.assert_allclose(flagged["reason_1_nats"], contributions.max(axis=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(contributions.sum(axis=1) + found["kl"], found["score"], rtol=1e-4, atol=1e-3)
    commands.main(["predict", "--model", model, "--input", "new.csv", "--output", "p.parquet", "--sample"])
    predicted = pd.read_parquet("p.parquet")
    pd.testing.assert_frame_equal(
        predicted[list(rows.columns)], own.reconstruct(rows), check_dtype=False, rtol=1e-3, atol=0.02
    )
    assert {"elbo", "kl", "loc_1", "loc_2", "sample_amount", "sample_channel"} <= set(predicted.columns)
    np.testing.assert_allclose(predicted["elbo"], own.score(own.table.transform(rows))["elbo"], rtol=1e-3)


@pytest.mark.slow
def test_the_other_commands_take_the_run_of_a_table(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    config = yaml.safe_load(Path("runs/orders/config.yaml").read_text())
    assert (config["drop"], config["kinds"], config["columns"]) == (["when"], {"items": "number"}, None)
    commands.main(["verify", "runs/orders", "--saved_model", "saved_models/orders", "--latency", "false"])
    commands.main(["export", "runs/orders", "--output", "new", "--latency", "false", "--threshold", "3"])
    assert Path("new/1/saved_model.pb").is_file()
    commands.main(["train", "--config", "runs/orders/config.yaml", "--name", "again", "--export", "none"])
    first, second = (keras.saving.load_model(f"runs/{name}/model.keras") for name in ("orders", "again"))
    for a, b in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.slow
def test_the_training_of_a_table_that_is_cut_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    orders().to_csv("orders.csv", index=False)
    train = ["train", "orders.csv", *SMALL, "--epochs", "3", "--export", "none", "--pictures", "false"]
    commands.main([*train, "--name", "uncut"])
    save, saved = Checkpoints._save, []

    def cut(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", cut)
        with pytest.raises(KeyboardInterrupt):
            commands.main(train)
    commands.main([*train, "--resume"])
    first, second = (keras.saving.load_model(f"runs/{name}/model.keras") for name in ("uncut", "orders"))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
