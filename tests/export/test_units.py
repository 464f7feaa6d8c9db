"""Exports with an offset and a scale: raw data in, raw means out, in every format, and the model's units by name."""

import functools
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import tfvae
from tests.helpers.exports import Scaled, linear_vae
from tfvae import export, likelihoods, networks
from tfvae.export import expected_range, serving, units

OFFSET, SCALE = np.array([5.0, 0.0, -3.0, 1e4]), np.array([2.0, 0.1, 1.0, 300.0])
NORMALIZED = ["encode", "decode", "reconstruct", "generate", "score", "detect"]


def data(n=9):
    return np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)


def raw_of(x):
    return x * SCALE + OFFSET


def model_data(raw):
    """What the model is given for raw data, by the formula, in float64."""
    return (np.float64(np.float32(raw)) - np.float32(OFFSET)) / np.float32(SCALE)


@pytest.fixture(scope="module")
def model():
    model = linear_vae()
    model.calibrate(data(50), false_alarm_rate=0.1)
    return model


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    given = {"x": data(), "offset": OFFSET, "scale": SCALE}
    names = {"saved_model": "table", "tflite": "table.tflite"}
    return functools.cache(lambda name: getattr(export, name)(model, folder / names[name], **given))


@pytest.fixture(scope="module")
def clients(files):
    return functools.cache(lambda name: export.load(files(name)))


# By default, cli/test_commands.py asks a .tflite file in raw units, and test_tflite_metadata.py writes one.
@pytest.fixture(params=["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def client(request, clients):
    return clients(request.param)


def close(received, expected):
    np.testing.assert_allclose(received, expected, rtol=2e-5, atol=2e-5)


def test_raw_data_go_in_and_raw_means_come_out(model, client):
    raw, noise = raw_of(data()), np.random.default_rng(1).standard_normal((9, 2))
    x = model_data(raw)
    for name, value in model.encode(x).items():
        close(client.encode(raw)[name], value)
    for name, value in model.score(x, noise).items():
        close(client.score(raw, noise)[name], value)
    close(client.decode(noise), raw_of(model.decode(noise)))
    close(client.generate(noise), raw_of(model.decode(noise)))
    close(client.reconstruct(raw), raw_of(model.reconstruct(x)))
    for name, value in model.detect(x).items():
        close(client.detect(raw)[name], value)
    answers = client.run("serving_default", x=raw)
    close(answers.pop("mean"), raw_of(model.reconstruct(x)))
    assert set(answers) == set(model.score(x))
    for name, value in model.score(x).items():
        close(answers[name], value)


def test_the_models_units_are_there_by_name(model, client):
    x, noise = data(), np.random.default_rng(1).standard_normal((9, 2)).astype(np.float32)
    in_raw_units = {*NORMALIZED, "serving_default", "generate_sample", "reconstruct_sample"}
    assert set(client.signatures) == {*in_raw_units, *(f"{name}_normalized" for name in NORMALIZED)}
    close(client.run("encode_normalized", x=x)["loc"], model.encode(x)["loc"])
    close(client.run("reconstruct_normalized", x=x)["mean"], model.reconstruct(x))
    close(client.run("decode_normalized", z=noise)["mean"], model.decode(noise))
    close(client.run("generate_normalized", epsilon=noise)["mean"], model.decode(noise))
    close(client.run("score_normalized", x=x, epsilon=noise)["elbo"], model.score(x, noise)["elbo"])
    close(client.run("detect_normalized", x=x)["contributions"], model.detect(x)["contributions"])


@pytest.mark.slow
def test_verify_takes_the_models_units_and_asks_in_those_of_each_file(model, files, exported):
    # Its model has the same weights.
    unscaled = exported("linear").tflite
    result = export.verify(model, saved_model=files("saved_model"), tflite=unscaled, x=data(), timed_calls=1)
    signatures = {row.format: set() for row in result.agreements}
    for row in result.agreements:
        signatures[row.format].add(row.signature)
        assert row.max_difference <= 1e-5 * max(row.max_value, 1)
    assert {name: len(found) for name, found in signatures.items()} == {"SavedModel": 15, "TFLite": 8}
    assert [cost.elbo_difference for cost in result.costs] == pytest.approx([0, 0, 0], abs=1e-5)


def test_a_file_of_raw_units_without_its_description_is_not_verified(model, files, tmp_path):
    alone = shutil.copytree(files("saved_model"), tmp_path / "1")
    (alone / "assets.extra/metadata.json").unlink()
    with pytest.raises(ValueError, match=r"^An exported file must lie beside its description"):
        export.verify(model, saved_model=alone, x=data())


@pytest.mark.slow
def test_an_export_that_scales_in_another_way_than_it_says_is_refused(model, tmp_path, monkeypatch):
    wrong = units.make(model, OFFSET, 1.001 * SCALE)
    right = serving.Endpoints
    monkeypatch.setattr(serving, "Endpoints", lambda model, x, scaling, **others: right(model, x=x, scaling=wrong))
    with pytest.raises(ValueError, match=r"^The SavedModel must agree"):
        export.saved_model(model, tmp_path / "model", offset=OFFSET, scale=SCALE)
    assert not [path for path in (tmp_path / "model").iterdir() if path.name.isdecimal()]


# What is written beside


def test_requests_and_warm_up_are_zeros_of_the_models_units(files, clients):
    version = files("saved_model")
    for file in ("serving_default", "score"):
        (row,) = json.loads((version.parent / f"requests/{file}.json").read_text())["instances"]
        np.testing.assert_allclose(row["x"] if file == "score" else row, OFFSET)
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
    for request in logs:
        name = request.model_spec.signature_name
        if "x" in request.inputs:
            expected = np.zeros((1, 4)) if name.endswith("_normalized") else OFFSET[None]
            np.testing.assert_allclose(tf.make_ndarray(request.inputs["x"]), expected)
    assert {request.model_spec.signature_name for request in logs} == set(clients("saved_model").signatures)


def test_the_description_says_the_units_the_range_and_an_example(model, client):
    description = client.metadata
    assert description["units"] == "raw"
    np.testing.assert_allclose(description["scaling"]["offset"], OFFSET)
    np.testing.assert_allclose(description["scaling"]["scale"], SCALE, rtol=1e-6)
    assert "normalization" not in description
    np.testing.assert_allclose(description["expected_range"]["low"], raw_of(data()).min(axis=0), rtol=1e-5)
    np.testing.assert_allclose(description["expected_range"]["high"], raw_of(data()).max(axis=0), rtol=1e-5)
    example = description["example"]
    answers = client.run(example["signature"], **example["inputs"])
    assert set(answers) == set(example["outputs"])
    for name, answer in answers.items():
        close(answer, example["outputs"][name])
    x = model_data(example["inputs"]["x"])
    close(example["outputs"]["mean"], raw_of(model.reconstruct(x)))


def test_the_readme_says_not_to_scale(files):
    readme = (files("saved_model").parent / "README.md").read_text()
    assert "do not scale" in readme
    assert all(f"`{name}_normalized`" in readme for name in NORMALIZED)


def test_the_description_is_for_people_too(files):
    text = (files("saved_model") / "assets.extra/metadata.json").read_text()
    assert '"offset": [5.0, 0.0, -3.0, 10000.0]' in text
    assert text.count("\n") < 60


# The warning of what is far outside


def test_data_far_outside_are_told_and_scored_all_the_same(model, client):
    x = data()
    raw = raw_of(x)
    with pytest.warns(
        UserWarning, match=r"^`x` should .* lie from 9723.48 to 10312.8; .*Received: x with the v"
    ) as told:
        scores = client.score(x, np.zeros((9, 2)))
    assert len(told) == 1
    assert re.search(r"at index \[0, 3\], and \d+ such values", str(told[0].message))
    assert told[0].filename == __file__
    close(scores["elbo"], model.score(model_data(x), np.zeros((9, 2)))["elbo"])
    with pytest.warns(UserWarning, match="`x` should be like"):
        client.run("encode_normalized", x=raw)


def test_data_within_the_range_and_its_width_are_not_told(client):
    low, high = (np.array(client.metadata["expected_range"][end]) for end in ("low", "high"))
    width = high - low
    client.encode(np.stack([low - 0.99 * width, high + 0.99 * width]))
    client.run("encode_normalized", x=data())
    for column in range(4):
        row = high.copy()
        row[column] += 1.01 * width[column]
        with pytest.warns(UserWarning, match=rf"at index \[0, {column}\], and 1 such"):
            client.encode(row[None])


def test_without_data_there_is_no_range(exported):
    for client in exported("linear").clients.values():
        assert client.metadata["expected_range"] is None
        client.encode(1e6 * data())


# What offset and scale may be


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"offset": 0}, "`offset` and `scale` must be given together. Received: offset=0, scale=None"),
        ({"scale": 1}, "`offset` and `scale` must be given together. Received: offset=None, scale=1"),
        ({"offset": 0, "scale": 0}, "`scale` must not hold 0. Received: scale=0"),
        ({"offset": 0, "scale": [1, 1, 0, 1]}, "`scale` must not hold 0. Received: scale=[1, 1, 0, 1]"),
        ({"offset": 0, "scale": 1e-60}, "`scale` must not hold 0. Received: scale=1e-60"),
        ({"offset": 0, "scale": np.nan}, "`scale` must be finite in float32. Received: scale=nan"),
        ({"offset": 1e300, "scale": 1}, "`offset` must be finite in float32. Received: offset=1e+300"),
        ({"offset": "much", "scale": 1}, "`offset` must be a number or an array. Received: offset='much'"),
        ({"offset": [0, 1], "scale": 1}, "the shape of an example, [4]. Received: offset of shape [2]"),
        ({"offset": 0, "scale": np.ones((2, 4))}, "the shape of an example, [4]. Received: scale of shape [2, 4]"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_offset_or_scale_is_named_before_anything_is_written(model, tmp_path, given, message):
    for function, path in ((export.saved_model, "model"), (export.tflite, "model.tflite")):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(model, tmp_path / path, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_kind_gets_raw_units_without_knowing_of_them():
    scaled = Scaled()
    endpoints = export.Endpoints(scaled, scaling=units.make(scaled, 1.0, 2.0)).signatures_by_name
    answer = endpoints["serving_default"](x=tf.constant([[3.0, 5.0]]))["y"]
    np.testing.assert_allclose(answer, [[2.0, 6.0]])
    answer = endpoints["score_normalized"](x=tf.constant([[1.0, 2.0]]), epsilon=tf.zeros((1, 2)))["elbo"]
    np.testing.assert_allclose(answer, [8.0])


@pytest.mark.parametrize(("offset", "scale", "expected"), [(0, 1, 0), (0, 255, 1), (1, 1, 1), (OFFSET, SCALE, 2)])
def test_scaling_costs_an_op_for_each_number_that_changes_something(model, offset, scale, expected):
    signature = units.signatures(model, units.make(model, offset, scale))["encode"]
    function = tf.function(signature.function, autograph=False).get_concrete_function(*signature.inputs)
    names = [operation.type for operation in function.graph.get_operations()]
    # The first ops, before those of the encoder.
    assert len([name for name in names[: names.index("MatMul")] if name in ("Sub", "RealDiv")]) == expected


def vae_of(likelihood, width=4):
    keras.utils.set_random_seed(0)
    parameters = likelihood.parameter_shape((width,))
    return tfvae.VAE(
        networks.dense_encoder((width,), hidden=(8,)),
        networks.dense_decoder(2, parameters, hidden=()),
        2,
        likelihood=likelihood,
    )


def endpoints_of(model, offset, scale):
    return export.Endpoints(model, scaling=units.make(model, offset, scale)).signatures_by_name


def test_means_of_probabilities_stay_as_they_are():
    model = vae_of(likelihoods.Categorical(3))
    z = tf.random.stateless_normal([5, 2], [0, 1])
    # Codes that the source counts from 1.
    mean = endpoints_of(model, 1, 1)["decode"](z=z)["mean"]
    np.testing.assert_allclose(mean, model.decode(z), rtol=1e-5)


def test_of_columns_each_mean_has_the_units_of_its_column():
    columns = {
        "size": (likelihoods.Normal(), 1),
        "kind": (likelihoods.Categorical(3), 1),
        "place": (likelihoods.Normal(), 2),
    }
    model = vae_of(likelihoods.Missing(likelihoods.Columns(columns)))
    offset, scale = np.array([10.0, 1.0, 5.0, -5.0]), np.array([2.0, 1.0, 3.0, 4.0])
    z = tf.random.stateless_normal([5, 2], [0, 1])
    own = model.decode(z)
    expected = np.concatenate([own[:, :1] * 2 + 10, own[:, 1:4], own[:, 4:] * [3, 4] + [5, -5]], axis=1)
    np.testing.assert_allclose(endpoints_of(model, offset, scale)["decode"](z=z)["mean"], expected, rtol=1e-5)
    assert model.export_description()["columns"] == ["size", "kind", "place_1", "place_2"]
    # One number for all columns.
    own_units = endpoints_of(model, 0, 2)["decode"](z=z)["mean"]
    np.testing.assert_allclose(own_units, own * [2, 1, 1, 1, 2, 2], rtol=1e-5)


def test_missing_values_stay_missing():
    model = vae_of(likelihoods.Missing(likelihoods.Normal()))
    x = data()
    x[0, 1] = x[3, :3] = np.nan
    scores = endpoints_of(model, OFFSET, SCALE)["score"](x=tf.constant(raw_of(x), tf.float32), epsilon=tf.zeros((9, 2)))
    close(scores["elbo"], model.score(x, np.zeros((9, 2)))["elbo"])
    assert not np.isnan(np.array([*expected_range.of(x).values()])).any()
    assert expected_range.of(np.array([[np.nan, 1.0]])) == {"low": [None, 1.0], "high": [None, 1.0]}


def test_bits_in_raw_units_are_bits_for_the_model():
    """With an offset and a scale for which (1 * scale + offset - offset) / scale is not 1 in float32."""
    model = vae_of(likelihoods.Bernoulli())
    offset, scale = np.float32(0.7), np.float32(0.1)
    assert (np.float32(scale + offset) - offset) / scale != 1
    x = np.eye(4, dtype=np.float32)
    scaling = units.make(model, offset, scale)
    np.testing.assert_array_equal(scaling.to_model(scaling.to_raw({"x": x}))["x"], x)
    mean = endpoints_of(model, offset, scale)["reconstruct"](x=tf.constant(scale * x + offset))["mean"]
    close(mean, scale * model.reconstruct(x) + offset)


def test_int8_refuses_units_for_which_one_range_is_too_coarse(model, tmp_path):
    with pytest.raises(NotImplementedError, match=r'^quantize="int8" has one range.* use "dynamic"'):
        export.tflite(model, tmp_path / "m.tflite", quantize="int8", x=data(), offset=OFFSET, scale=SCALE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_takes_raw_pixels(exported, tmp_path):
    model = exported("convolutional-Bernoulli").model
    x = np.random.default_rng(0).integers(0, 2, size=(64, 8, 8, 1)).astype(np.float32)
    file = export.tflite(model, tmp_path / "m.tflite", quantize="int8", x=x, offset=0, scale=255)
    rows = {(row.signature, row.output): row for row in export.verify(model, tflite=file, x=x).agreements}
    for output in ("loc", "scale"):
        raw, own = (rows[name, output].mean_difference for name in ("encode", "encode_normalized"))
        assert raw < 2 * own + 1e-3


@pytest.mark.slow
def test_scaling_stores_no_second_copy_of_weights(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfvae.VAE(
        networks.dense_encoder((16, 16, 1), hidden=(8,)), networks.dense_decoder(2, (16, 16, 1), hidden=(256,)), 2
    )
    sizes = [
        export.tflite(model, tmp_path / "model.tflite", batch_size=1, **given).stat().st_size
        for given in ({}, {"offset": 0, "scale": 255})
    ]
    assert sizes[1] - sizes[0] < 0.3 * 4 * 256 * 256


@pytest.mark.parametrize(("offset", "scale"), [(1.7e9, 1e3), ([1e6, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])])
def test_units_that_float32_cannot_resolve_are_refused(tmp_path, offset, scale):
    with pytest.raises(ValueError, match=r"^`offset` must be at most .* rounded to .* of `scale`"):
        export.tflite(linear_vae(), tmp_path / "model.tflite", offset=offset, scale=scale)
    assert list(tmp_path.iterdir()) == []
