"""What `tfvae predict` reads: arrays and tables, and what it says of what it cannot read."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tfvae
from tests.helpers.exports import Scaled
from tests.helpers.usage import error_line
from tfvae.cli import commands

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("suffix", [".CSV", ".parquet"])
def test_predict_takes_the_rows_of_a_table(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    tfvae.export.tflite(Scaled(), "model.tflite", quantize="float16")
    frame = pd.DataFrame({"a": [1, 1], "b": [True, True]})
    getattr(frame, f"to_{suffix[1:].lower()}")(f"x{suffix}", index=False)
    commands.main(["predict", "--model", "model.tflite", "--input", f"x{suffix}", "--output", "y.npz"])
    assert np.load("y.npz")["y"].tolist() == [[2, 3], [2, 3]]


@pytest.mark.slow
def test_predict_takes_an_export_of_a_model_without_an_encoder(tmp_path):
    exported, x, y = (str(tmp_path / name) for name in ("model.tflite", "x.npy", "y.npz"))
    tfvae.export.tflite(Scaled(), exported, quantize="float16")
    np.save(x, np.ones([2, 2]))
    commands.main(["predict", "--model", exported, "--input", x, "--output", y])
    assert {name: array.tolist() for name, array in np.load(y).items()} == {"y": [[2, 3], [2, 3]]}


def test_predict_warns_once_of_data_far_from_those_of_the_export(tmp_path, recwarn):
    np.save(tmp_path / "x.npy", np.full((3, 8, 8, 1), 777.0))
    exported = ROOT / "saved_models/digits_example/digits_example.tflite"
    arguments = ["--model", exported, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz"]
    with pytest.warns(UserWarning, match="777") as warned:
        commands.main(["predict", *map(str, arguments)])
    assert len(warned) == 1


def header_of_terabytes(path):
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 64)})


NO_ARRAYS = {
    "a pipe": os.mkfifo,
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a folder": os.mkdir,
    "nothing in it": Path.touch,
    "a header of terabytes": header_of_terabytes,
    "objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
}


@pytest.mark.parametrize("what", NO_ARRAYS)
def test_predict_names_an_input_that_is_no_array(what, tmp_path, capsys):
    NO_ARRAYS[what](tmp_path / "x.npy")
    arguments = ["--model", ROOT, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz"]
    line = error_line(capsys, ["predict", *map(str, arguments)])
    assert "`--input` must be a readable .npy" in line
    assert f"Received: --input='{tmp_path}/x.npy': " in line
