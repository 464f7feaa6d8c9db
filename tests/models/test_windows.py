"""Models of windows of time series, which keep what the series are."""

import json
import re

import keras
import numpy as np
import pytest

import tfvae
from tfvae import likelihoods, networks
from tfvae.data import Series
from tfvae.detection import StepDecision
from tfvae.export import units

SERIES = Series(["a", "b"], [1.0, -2.0], [3.0, 0.5], 4)


def windows_vae(series=SERIES, steps=4):
    encoder = networks.dense_encoder((steps, 2), hidden=(8,), missing_mask=True)
    decoder = networks.dense_decoder(2, (steps, 2), hidden=(8,))
    likelihood = likelihoods.Missing(likelihoods.Normal("per_channel"), fill=False)
    return tfvae.VAE(encoder, decoder, 2, likelihood=likelihood, series=series)


def test_a_model_keeps_its_series_in_its_file(tmp_path):
    windows_vae().save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.series.get_config() == SERIES.get_config()
    assert again.export_description()["series"] == SERIES.get_config()


def test_an_export_scales_raw_windows_by_the_series_unless_other_units_are_given():
    model = windows_vae()
    own = units.make(model, None, None)
    np.testing.assert_array_equal(own.offset, [1.0, -2.0])
    np.testing.assert_array_equal(own.scale, [3.0, 0.5])
    assert units.make(model, 0.0, 2.0).scale == 2.0


def test_what_steps_are_judged_by_is_saved_and_ends_with_a_training(tmp_path):
    model = windows_vae()
    held_out = np.random.default_rng(0).normal(SERIES.offset, SERIES.scale, size=(40, 2))
    held_out[7] = np.nan
    cut = SERIES.windows(held_out)
    with pytest.raises(ValueError, match=r"must be calibrated before `calibrate_steps\(\)`"):
        model.calibrate_steps(cut, false_alarm_rate=0.1)
    model.calibrate(cut.x, threshold=3.0)
    outputs = model.detect(cut.x)
    limit = model.calibrate_steps(cut, false_alarm_rate=0.1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    decision = again.decision.of_steps
    assert decision == model.decision.of_steps
    assert decision == StepDecision(**json.loads(json.dumps(again.export_description()["decision_of_steps"])))
    found = SERIES.detected(outputs, cut, decision)
    parts = np.stack([found["contributions"].sum(axis=1), found["around"]])
    np.testing.assert_allclose(np.nanstd(parts, axis=1), [decision.own_scale, decision.around_scale])
    # Of 39 steps with a value a tenth at most are above it: the fourth of the sorted scores is not.
    assert (limit, limit.rows) == (decision.threshold, 39)
    assert (found["is_anomaly"].sum(), np.isnan(found["score"]).sum()) == (3, 1)
    again.check_training(cut.x)
    assert "decision_of_steps" not in again.export_description()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"series": "a"},
            "`series` must be a tfvae.data.Series, such as tfvae.data.windows(...).series. Received: 'a'",
        ),
        ({"steps": 5}, "here of 4 steps and 2 channels. Received: x of the shape ['B', 5, 2]"),
    ],
)
def test_series_of_other_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        windows_vae(**arguments)
