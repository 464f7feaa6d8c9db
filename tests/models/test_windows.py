"""Models of windows of time series, which keep what the series are."""

import re

import keras
import numpy as np
import pytest

import tfvae
from tfvae import likelihoods, networks
from tfvae.data import Series
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


def test_a_threshold_of_steps_is_saved_and_ends_with_a_training(tmp_path):
    model = windows_vae()
    x = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    model.calibrate(x, threshold=3.0)
    limit = tfvae.detection.Threshold(2.0, "given", None, 8)
    model.decision = tfvae.detection.Decision(
        model.decision.expected_contributions, model.decision.expected_kl, model.decision.threshold, limit
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.decision.of_steps == limit
    assert again.export_description()["threshold_of_steps"]["value"] == 2.0
    again.check_training(x)
    assert "threshold_of_steps" not in again.export_description()


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
