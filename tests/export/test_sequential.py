"""SavedModels of sequential models, which take sequences of any length."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfvae
from tests.models.test_sequential import C, X, build

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("memory", [False, True])
def test_a_saved_model_takes_sequences_of_any_length(memory, tmp_path):
    model = build(memory=memory)
    model.calibrate(X, false_alarm_rate=0.1)
    # Compared with the model before it is published.
    tfvae.export.saved_model(model, tmp_path / "sequences")
    exported = tfvae.export.load(tmp_path / "sequences")
    readme = " ".join((tmp_path / "sequences" / "README.md").read_text().split())
    assert f"x has the shape [T, {C}]" in readme
    assert "T is the number of steps, any from 1 on and the same for all sequences of a request" in readme
    before = np.full_like(exported.initial_state(2), 0.5)
    wrong = np.float32([[0] * C, [np.inf] * C])
    outputs = exported._call("step", {"x_t": wrong, "state": before})
    np.testing.assert_array_equal(outputs["state"][1], before[1])
    assert np.isnan(outputs["score"]).tolist() == [False, True]
    for length in (1, 6, 20):
        x = np.random.default_rng(length).normal(size=(3, length, C)).astype(np.float32)
        x[0, length // 2 + 1 :] = np.nan
        np.testing.assert_allclose(exported.reconstruct(x), model.reconstruct(x), atol=1e-5)
        scores, decisions = model.score(x), model.detect(x)
        for name, expected in scores.items():
            np.testing.assert_allclose(exported.run("serving_default", x=x)[name], expected, atol=1e-4, err_msg=name)
        for name, found in exported.detect(x).items():
            np.testing.assert_allclose(found, decisions[name], atol=1e-4, err_msg=name)
        assert exported.generate(np.zeros((2, length, 2))).shape == (2, length, C)


def test_what_is_generated_by_noise_is_the_model(tmp_path):
    model = build(memory=True)
    tfvae.export.saved_model(model, tmp_path / "sequences")
    exported = tfvae.export.load(tmp_path / "sequences")
    rng = np.random.default_rng(0)
    epsilon, uniform = rng.normal(size=(4000, 4, 2)), rng.uniform(size=(4000, 4, 2 * C))
    drawn = exported.generate_sample(epsilon, uniform)
    expected = model.generate(4000, 4, seed=0, sample=True)
    # Two means of 4000 draws, of which the deviation is about 1.
    error = 5 * np.sqrt(2 / 4000) * expected.std(axis=0)
    assert (np.abs(drawn.mean(axis=0) - expected.mean(axis=0)) < error).all()
    np.testing.assert_allclose(drawn.std(axis=0), expected.std(axis=0), rtol=5 / np.sqrt(4000))


@pytest.mark.browser
def test_a_stream_in_a_browser_answers_as_the_model_does_and_a_wrong_step_leaves_its_state(tmp_path):
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    import browser

    model = build(memory=True)
    model.calibrate(X, false_alarm_rate=0.1)
    file = tfvae.export.tflite(model, tmp_path / "one.tflite", batch_size=1, x=X)
    inputs = {name: value[:3] for name, value in model.export_examples(X)["step"].items()}
    expected = model.export_signatures()["step"].of_model(inputs)
    inputs["x_t"] = inputs["x_t"].copy()
    inputs["x_t"][2, 0] = np.inf
    answers = browser.ask(file, {"step": inputs}, "wasm")[0]["step"]
    for name, value in expected.items():
        received = answers[name].reshape(value.shape)
        np.testing.assert_allclose(received[:2], value[:2], rtol=1e-4, atol=1e-4, err_msg=name)
        assert name == "state" or np.isnan(received[2]).all()
    np.testing.assert_array_equal(answers["state"].reshape(inputs["state"].shape)[2], inputs["state"][2])


def test_half_precision_is_exported_in_float32(dtype_policy, tmp_path):
    dtype_policy("mixed_bfloat16")
    model = build(memory=True)
    tfvae.export.saved_model(model, tmp_path / "sequences")
    keras.config.set_dtype_policy("float32")
    single = build(memory=True)
    single.set_weights(model.get_weights())
    np.testing.assert_allclose(
        tfvae.export.load(tmp_path / "sequences").reconstruct(X), single.reconstruct(X), atol=1e-5
    )
