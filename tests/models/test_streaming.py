"""Streams: step by step, with a state, an autoencoder of windows decides as it does about whole windows."""

import keras
import numpy as np
import pytest

import tfvae
from tfvae import likelihoods, networks

T, C, LATENT_DIM = 6, 2, 2


def windows_of(series):
    """All windows [N, T, C] of a series."""
    return np.lib.stride_tricks.sliding_window_view(series, T, axis=0).swapaxes(1, 2)


def series_vae(is_missing):
    """A calibrated VAE of windows, with or without missing values."""
    keras.utils.set_random_seed(0)
    x = keras.Input((T, C))
    shown = networks.MissingMask()(x) if is_missing else x
    features = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(shown))
    likelihood = likelihoods.Normal(0.5)
    likelihood = likelihoods.Missing(likelihood, fill=False) if is_missing else likelihood
    decoder = networks.dense_decoder(LATENT_DIM, (T, C), hidden=(8,))
    model = tfvae.VAE(keras.Model(x, features), decoder, LATENT_DIM, likelihood=likelihood)
    # Of another series, so that no score is on the threshold.
    model.calibrate(windows_of(series(60, seed=1)), false_alarm_rate=0.3)
    return model


def series(steps=20, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, C)).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    return {is_missing: series_vae(is_missing) for is_missing in (False, True)}


def stepped(stream, data):
    """The outputs for each step of a series [steps, C], or of n series [steps, n, C], by name."""
    outputs = [stream(step.reshape(-1, C)) for step in data]
    return {name: np.stack([output[name] for output in outputs]) for name in outputs[0]}


@pytest.mark.parametrize("is_missing", [False, True])
def test_steps_decide_as_detect_does_about_each_window(models, is_missing):
    model, data = models[is_missing], series()
    if is_missing:
        data[[3, 9], [0, 1]] = np.nan
        # A state of NaN is a window whose first steps are missing.
        expected = model.detect(windows_of(np.concatenate([np.full((T - 1, C), np.nan, np.float32), data])))
    else:
        expected = model.detect(windows_of(data))
    received = stepped(model.stream(), data)
    assert set(received) == set(expected)
    assert 0 < expected["is_anomaly"].sum() < len(expected["is_anomaly"])
    for name, value in expected.items():
        assert received[name].dtype == value.dtype
        np.testing.assert_allclose(received[name][-len(value) :, 0], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_without_missing_values_nothing_is_decided_before_the_window_is_full(models):
    received = stepped(models[False].stream(), series())
    for name in ("score", "kl", "contributions"):
        known = np.isfinite(received[name]).reshape(20, -1).all(1)
        np.testing.assert_array_equal(known, np.arange(20) >= T - 1, err_msg=name)
        assert np.isnan(received[name][~known]).all()
    assert not received["is_anomaly"][: T - 1].any()


def test_streams_side_by_side_do_not_see_each_other_and_restart_alone(models):
    model, data = models[True], np.stack([series(), -2 * series()], axis=1)
    stream = model.stream(2)
    both = stepped(stream, data)
    for number in range(2):
        alone = stepped(model.stream(), data[:, number])
        np.testing.assert_allclose(both["score"][:, number], alone["score"][:, 0], rtol=1e-5, atol=1e-5)
    stream.restart([1])
    again = stream(data[0])["score"]
    np.testing.assert_allclose(again[1], both["score"][0, 1], rtol=1e-5, atol=1e-5)
    assert abs(again[0] - both["score"][0, 0]) > 1e-3
    assert repr(stream) == "<Stream: 2 streams, each with a state of the shape [5, 2]>"


def test_the_state_is_the_steps_before(models):
    model, data = models[False], series()
    state = model.initial_state(3)
    assert state.shape == (3, T - 1, C)
    assert np.isnan(state).all()
    state = model.step(data[:3], state)["state"]
    np.testing.assert_array_equal(state[:, -1], data[:3])
    # In batches, of which the last is smaller.
    two, one = (model.step(data[3:6], state, batch_size=size) for size in (2, 256))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-5)


def test_a_wrong_step_leaves_the_stream_as_it_was(models):
    stream = models[False].stream()
    stream(series()[:1])
    before = stream.state
    with pytest.raises(ValueError, match=r"^`x_t` must be finite; if NaN marks missing values, wrap the likelihood"):
        stream([[np.nan, 0]])
    assert stream.state is before


def test_what_cannot_be_a_step_is_refused(models):
    model = models[True]
    state = model.initial_state(2)
    for x_t, given, message in (
        (np.zeros((2, C + 1)), state, r"^`x_t` must have the shape \[N, 2\]. Received: x_t of shape \[2, 3\]"),
        (np.zeros(C), state, r"^`x_t` must have the shape \[N, 2\]; add the batch axis. Received"),
        (np.zeros((2, C)), state[:, 1:], r"^`state` must have the shape \[N, 5, 2\]. Received"),
        (np.zeros((3, C)), state, "^`x_t` and `state` must have the same number of examples. Received"),
        (np.full((2, C), np.inf), state, "^`x_t` must be finite or NaN, which marks a missing value. Received"),
        (np.zeros((2, C)), np.full_like(state, np.inf), "^`state` must be finite or NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            model.step(x_t, given)
    whole = model.step([[1, 0]], model.initial_state())["score"]
    np.testing.assert_array_equal(whole, model.step([[1.0, 0.0]], model.initial_state())["score"])
    with pytest.raises(ValueError, match=r"^Beside x_t and state, `step` of this model takes nothing. Received: \['y'"):
        model.step(np.zeros((2, C)), state, y=1)
    with pytest.raises(ValueError, match=r"^`n` must be"):
        model.initial_state(0)


def test_models_that_have_no_steps_say_so(models):
    model = tfvae.VAE(networks.dense_encoder((4,), hidden=()), networks.dense_decoder(2, (4,), hidden=()), 2)
    with pytest.raises(ValueError, match=r"^The model must be of windows x \[N, T, C\].* a model of x \[N, 4\]"):
        model.stream()
    model = models[False]
    calibrated, model.decision = model.decision, None
    try:
        with pytest.raises(ValueError, match=r"^The model must be calibrated before `step\(\)`: .*Received"):
            model.step(np.zeros((1, C)), model.initial_state())
        with pytest.raises(ValueError, match=r"^The model must be calibrated before `stream\(\)`"):
            model.stream()
    finally:
        model.decision = calibrated


def test_the_condition_is_given_beside_the_step():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((T, C)), keras.Input((3,))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(inputs[0]), inputs[1]])
    encoder = keras.Model(inputs, keras.layers.Dense(4)(joined))
    decoder = networks.dense_decoder(LATENT_DIM, (T, C), hidden=(8,), condition_dim=3)
    model = tfvae.ConditionalVAE(encoder, decoder, LATENT_DIM, 3)
    x = windows_of(series())
    condition = np.eye(3, dtype=np.float32)[np.arange(len(x)) % 3]
    data = {"x": x, "condition": condition}
    model.calibrate(data, threshold=1.0)
    outputs = model.step(x[:, -1], x[:, :-1], condition=condition)
    np.testing.assert_allclose(outputs["score"], model.detect(data)["score"], rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"^Beside x_t and state, `step` of this model takes `condition`. Received: \[\]"
    ):
        model.step(x[:, -1], x[:, :-1])
