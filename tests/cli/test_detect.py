"""`tfvae detect`: the rows of a file with scores, decisions and reasons."""

import numpy as np
import pandas as pd
import pytest

import tfvae
from tests.helpers.exports import Scaled, linear_vae
from tests.helpers.usage import error_line
from tfvae.cli import commands

NAMES = ["a", "b", "c", "d"]
ADDED = ["score", "is_anomaly", *(f"reason_{n}{kind}" for n in (1, 2, 3) for kind in ("", "_nats"))]


@pytest.fixture(scope="module")
def x():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    x[3, 2] = 9
    return x


@pytest.fixture(scope="module")
def model(x):
    model = linear_vae()
    model.calibrate(x[4:], threshold=10.0)
    return model


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    # In float16, because a quantised file is compared with itself alone, which takes less time.
    return str(tfvae.export.tflite(model, tmp_path_factory.mktemp("detect") / "model.tflite", quantize="float16"))


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flagged(file, given, output="flagged.csv"):
    commands.main(["detect", "--model", file, "--input", given, "--output", output])
    return pd.read_csv(output) if output.endswith(".csv") else pd.read_parquet(output)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_gets_scores_decisions_and_the_columns_that_say_most(in_folder, file, model, x, suffix, capsys):
    frame = pd.DataFrame(x, columns=NAMES)
    getattr(frame, f"to_{suffix[1:]}")(f"x{suffix}", index=False)
    received = flagged(file, f"x{suffix}", f"flagged{suffix}")
    assert list(received.columns) == NAMES + ADDED
    np.testing.assert_allclose(received[NAMES], x, rtol=1e-6)
    expected = model.detect(x)
    np.testing.assert_allclose(received["score"], expected["score"], atol=0.05)
    np.testing.assert_array_equal(received["is_anomaly"], received["score"] > model.decision.threshold.value)
    top = np.argsort(-expected["contributions"], axis=1)
    assert (received["reason_1"] == np.array(NAMES)[top[:, 0]]).mean() > 0.9
    assert received.loc[3, ["is_anomaly", "reason_1"]].tolist() == [True, "c"]
    largest = -np.sort(-expected["contributions"], axis=1)
    for number in (1, 2, 3):
        np.testing.assert_allclose(received[f"reason_{number}_nats"], largest[:, number - 1], atol=0.05)
    count = np.count_nonzero(received["is_anomaly"])
    assert capsys.readouterr().out == f"Wrote flagged{suffix} ({count} of 20 rows are anomalies)\n"


def test_columns_of_an_array_are_named_by_their_index(in_folder, file, x):
    np.save("x.npy", x)
    received = flagged(file, "x.npy")
    assert list(received.columns) == ["0", "1", "2", "3", *ADDED]
    assert received.loc[3, "reason_1"] == 2


@pytest.mark.slow
def test_pixels_are_named_by_their_place_and_not_copied(in_folder):
    keras_model = tfvae.VAE(
        tfvae.networks.dense_encoder((2, 2, 1), hidden=(4,)), tfvae.networks.dense_decoder(1, (2, 2, 1), hidden=(4,)), 1
    )
    x = np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
    x[0, 1, 0, 0] = 20
    keras_model.calibrate(x[1:], threshold=5.0)
    tfvae.export.tflite(keras_model, "model.tflite", quantize="float16")
    np.save("x.npy", x)
    received = flagged("model.tflite", "x.npy")
    assert list(received.columns) == ADDED
    assert received.loc[0, "reason_1"] == "1,0,0"


def test_a_tflite_file_needs_no_tensorflow(in_folder, file, x, run_new_python):
    np.save("x.npy", x)
    script = """
        import sys
        from tfvae.cli import commands

        commands.main(["detect", "--model", sys.argv[1], "--input", sys.argv[2], "--output", sys.argv[3]])
        print(sorted({"tensorflow", "keras", "tensorflow_probability"} & set(sys.modules)))
    """
    output = run_new_python(script, file, in_folder / "x.npy", in_folder / "y.csv")
    assert output.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_what_cannot_be_flagged_is_one_line(in_folder, file, x, capsys, exported_without):
    frame = pd.DataFrame(x, columns=NAMES)
    arguments = ["detect", "--output", "y.csv", "--input"]
    frame.assign(score=0.0).drop(columns="d").to_csv("score.csv", index=False)
    line = error_line(capsys, [*arguments, "score.csv", "--model", file])
    assert "`--input` must not have columns of the names that are added" in line
    frame.drop(columns="d").to_csv("few.csv", index=False)
    assert "`x` must have the shape [N, 4]" in error_line(capsys, [*arguments, "few.csv", "--model", file])
    frame.assign(d="text").to_csv("text.csv", index=False)
    assert "non-numeric columns d" in error_line(capsys, [*arguments, "text.csv", "--model", file])
    frame.to_csv("x.csv", index=False)
    line = error_line(capsys, [*arguments, "x.csv", "--model", exported_without])
    assert "`--model` must be an export of a calibrated model" in line
    (in_folder / "zero.csv").symlink_to("/dev/zero")
    for command in ("detect", "predict"):
        output = "y.csv" if command == "detect" else "y.npz"
        line = error_line(capsys, [command, "--input", "zero.csv", "--model", file, "--output", output])
        assert "it is missing, or no regular file" in line
    assert not (in_folder / "y.csv").exists()


@pytest.fixture(scope="module")
def exported_without(tmp_path_factory):
    return str(tfvae.export.tflite(Scaled(), tmp_path_factory.mktemp("without") / "m.tflite", quantize="float16"))
