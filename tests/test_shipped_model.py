"""The trained model that ships with the code."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter

import tfvae

FOLDER = Path(__file__).parent.parent / "saved_models" / "digits_example"


@pytest.fixture(scope="module")
def held_out():
    """The held-out pixels, from 0 to 16."""
    return 16 * np.concatenate(list(tfvae.data.load("digits").validation.as_numpy_iterator()))


@pytest.mark.parametrize("name", ["1", "digits_example.tflite", "digits_example_batch1.tflite"])
def test_its_figures_are_those_of_the_card(name, held_out):
    model = tfvae.export.load(FOLDER / name)
    epsilon = np.random.default_rng(0).standard_normal((20, len(held_out), 8))
    scores = [model.score(held_out, noise) for noise in epsilon]
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for name, label in (("elbo", "ELBO"), ("kl", "KL")):
        documented = float(re.search(rf"{label} (-?\d+\.\d+)", card)[1])
        draws = np.mean([score[name] for score in scores], axis=1)
        # Four standard errors of the difference between the mean of 20 draws and the card's mean of 64, and rounding.
        tolerance = float(4 * draws.std() * (1 / 20 + 1 / 64) ** 0.5 + 0.005)
        assert draws.mean() == pytest.approx(documented, abs=tolerance)


def test_it_tells_digits_from_noise(held_out):
    model = tfvae.export.load(FOLDER)
    epsilon = np.zeros((len(held_out), 8))
    noise = np.random.default_rng(0).uniform(0, 16, size=held_out.shape)
    assert np.median(model.score(held_out, epsilon)["elbo"]) > model.score(noise, epsilon)["elbo"].max() + 100


def test_its_files_have_the_present_names():
    terms = {"elbo", "reconstruction_log_likelihood", "kl"}
    saved_model = tf.saved_model.load(FOLDER / "1").signatures
    tflite = interpreter.Interpreter(FOLDER / "digits_example.tflite").get_signature_list()
    for name, outputs in (("score", terms), ("serving_default", terms | {"mean"})):
        assert set(saved_model[name].structured_outputs) == set(tflite[name]["outputs"]) == outputs
    rows = json.loads((FOLDER / "verification.json").read_text())["agreements"]
    assert {row["output"] for row in rows if row["signature"] == "score"} == terms
    assert "reconstruction_log_likelihood" in (FOLDER / "README.md").read_text()


def test_it_takes_and_gives_raw_pixels(held_out):
    for path in (FOLDER / "1", FOLDER / "digits_example.tflite", FOLDER / "digits_example_batch1.tflite"):
        model = tfvae.export.load(path)
        assert (model.metadata["units"], model.metadata["scaling"]["scale"]) == ("raw", 16.0)
        assert np.abs(model.reconstruct(held_out) - held_out).mean() < 2
        with pytest.warns(UserWarning, match="`x` should be like the data of the export"):
            model.encode(16 * held_out)


def test_it_is_small():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) < 2.5e6
