"""The page to explore a model of windows of time series, against the model: see test_explorer.py for what it needs."""

import io
import json

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tfvae
from tests.helpers.browser import choose, score_of, set_slider, text, values, violations, wait
from tfvae import export, networks
from tfvae.data import Series
from tfvae.likelihoods import Categorical, Missing, Normal
from tfvae.reporting import page_data

STEPS, CHANNELS = 6, 2
OFFSET, SCALE = np.array([50.0, -2.0], "float32"), np.array([10.0, 0.5], "float32")
BLUE = (0, 114, 178)


def windows(count=12):
    x = np.random.default_rng(0).normal(size=(count, STEPS, CHANNELS)).astype("float32")
    x[1, 2:4, 1] = np.nan
    return x


NETWORKS = {
    "dense": lambda: (
        networks.dense_encoder((STEPS, CHANNELS), (8,), missing_mask=True),
        networks.dense_decoder(2, (STEPS, CHANNELS), (8,)),
    ),
    "temporal": lambda: (
        networks.temporal_encoder((CHANNELS,), STEPS, 4, (1, 2)),
        networks.temporal_decoder(2, STEPS, (CHANNELS,), 4, (2, 1)),
    ),
    "recurrent": lambda: (
        networks.recurrent_encoder((CHANNELS,), STEPS, (4,)),
        networks.recurrent_decoder(2, STEPS, (CHANNELS,), (4,)),
    ),
}


def windows_vae(kind="dense", series=None):
    likelihood = Missing(Normal("per_channel"), fill=False)
    return tfvae.VAE(*NETWORKS[kind](), 2, likelihood=likelihood, series=series)


def known_series():
    return Series(["load", "<heat>"], OFFSET, SCALE, STEPS)


def raw(x):
    return x * SCALE + OFFSET


def config_of(model, x):
    arguments = {"rows": None, "labels": None, "offset": None, "scale": None, "seed": 0}
    return page_data.of_model(model, x, num_examples=3, **arguments)


def test_the_page_has_windows_in_raw_units_with_the_names_and_ranges_of_their_channels():
    x = windows()
    model = windows_vae(series=known_series())
    config = json.loads(json.dumps(config_of(model, x), allow_nan=False))
    assert (config["kind"], config["event_shape"]) == ("series", [STEPS, CHANNELS])
    assert [column["name"] for column in config["columns"]] == ["load", "<heat>"]
    expected = raw(x).reshape(-1, CHANNELS)
    ranges = np.stack([np.nanmin(expected, axis=0), np.nanmax(expected, axis=0)], axis=1)
    np.testing.assert_allclose(config["limits"], ranges, rtol=1e-5)
    np.testing.assert_allclose(np.array(config["examples"], float).reshape(-1, STEPS, CHANNELS), raw(x)[:3], atol=1e-4)
    assert config["examples"][1][2 * CHANNELS + 1] is None
    # A channel without any value has no range, and those of a model without series have numbers.
    x[..., 1] = np.nan
    config = config_of(windows_vae(), x)
    assert [column["name"] for column in config["columns"]] == ["channel 1", "channel 2"]
    assert config["limits"][1] == []


def test_codes_of_which_the_mean_has_another_shape_are_refused(tmp_path):
    encoder, decoder = networks.dense_encoder((STEPS, 1), (8,)), networks.dense_decoder(2, (STEPS, 3), (8,))
    model = tfvae.VAE(encoder, decoder, 2, likelihood=Categorical(3))
    with pytest.raises(ValueError, match=r"`model` must have a likelihood whose mean has the shape of x.*Received"):
        export.web(model, tmp_path, np.zeros([3, STEPS, 1]))


def line_of(canvas, panel):
    """The height of the blue line of a panel in each of its columns of pixels, as a share of the panel."""
    picture = np.asarray(Image.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB"), float)
    part = np.array_split(picture, CHANNELS)[panel]
    is_blue = np.abs(part - BLUE).max(axis=-1) < 60
    columns = np.flatnonzero(is_blue.any(axis=0))
    return columns, np.array([np.flatnonzero(is_blue[:, column]).mean() for column in columns])


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["temporal", "recurrent"])
def test_windows_are_drawn_as_lines_and_scored_as_python_does(kind, open_page, runtime, tmp_path):
    x = windows(40)
    keras.utils.set_random_seed(0)
    model = windows_vae(kind, known_series())
    # So that the lines are far from level.
    for variable in model.decoder.trainable_variables:
        variable.assign(4 * variable)
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(x, false_alarm_rate=0.01)
    page = export.web(model, tmp_path, x, runtime=runtime, single_file=True)
    driver = open_page(f"{page.as_uri()}#z=0.5,-1")
    set_slider(driver, "z0", 2)
    expected = raw(model.decode(np.array([[2, -1]], "float32"))[0])
    np.testing.assert_allclose(values(driver).reshape(STEPS, CHANNELS), expected, rtol=1e-4)
    canvas = driver.find_element("id", "generated")
    assert canvas.get_attribute("aria-label") == "What z is decoded to: load, <heat>"
    for channel in range(CHANNELS):
        columns, heights = line_of(canvas, channel)
        steps = np.interp(columns, np.linspace(columns[0], columns[-1], STEPS), -expected[:, channel])
        assert np.corrcoef(steps, heights)[0, 1] > 0.98

    scores = model.detect(x)
    choose(driver, 1)
    wait(driver, lambda: score_of(driver) == pytest.approx(scores["score"][1], rel=1e-4, abs=1e-3))
    step, channel = np.unravel_index(np.argmax(scores["contributions"][1]), (STEPS, CHANNELS))
    name, value = known_series().channels[channel], raw(x)[1, step, channel]
    assert text(driver, "reasons-list").startswith(f"{name} = {value:.6g} at step {step}: ")
    assert "more than 3 nats" in text(driver, "about-shade")

    # One's own steps: one more than a window, the last of which is alone in the next.
    own = pd.DataFrame(raw(x[:2]).reshape(-1, CHANNELS)[: STEPS + 1] + 5, columns=["load", "<heat>"])
    own.to_csv(tmp_path / "own.csv", index=False)
    driver.find_element("id", "file").send_keys(str(tmp_path / "own.csv"))
    own = ((own.to_numpy("float32") - OFFSET) / SCALE).astype("float32")
    second = np.concatenate([own[STEPS:], np.full([STEPS - 1, CHANNELS], np.nan, "float32")])
    expected = model.detect(np.stack([own[:STEPS], second]))["score"]
    wait(driver, lambda: score_of(driver) == pytest.approx(expected[0], rel=1e-4))
    choose(driver, 25)
    wait(driver, lambda: score_of(driver) == pytest.approx(expected[1], rel=1e-4, abs=1e-3))
    assert violations(driver) == []
