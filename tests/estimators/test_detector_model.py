"""The threshold of a detector by clean rows, and a detector as a model that is exported."""

import copy

import numpy as np
import pytest

from tfvae import detection, export


@pytest.fixture(scope="module")
def x(table):
    return table.astype(np.float32)


@pytest.fixture(scope="module")
def model(detector):
    return detector.to_model()


@pytest.fixture
def changed(detector):
    """A copy of the detector, which a test may change."""
    return copy.copy(detector)


@pytest.mark.slow
def test_the_threshold_of_contamination_is_that_of_tfvae_detection(detector, table):
    scores = -detector.score_samples(table)
    assert detector.threshold_ == detection.threshold(scores, contamination=0.05).value
    assert detector.offset_ == -detector.threshold_


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "flagged"), [({"false_alarm_rate": 0.1}, 29), ({"tail": 0.02}, None)])
def test_clean_rows_set_the_threshold(changed, x, rate, flagged):
    scores = -changed.score_samples(x)
    found = changed.set_threshold(x, **rate)
    assert found == detection.threshold(scores, **rate)
    assert (found.rows, changed.threshold_, changed.offset_) == (300, found.value, -found.value)
    np.testing.assert_array_equal(changed.predict(x) == -1, scores > found.value)
    assert flagged is None or np.sum(changed.predict(x) == -1) == flagged
    assert changed.decision.threshold.method == next(iter(rate))


@pytest.mark.slow
def test_a_threshold_needs_one_rate_and_enough_rows(changed, x):
    for wrong in ({}, {"false_alarm_rate": 0.1, "tail": 0.1}, {"tail": 2}):
        with pytest.raises(ValueError, match=r"false_alarm_rate|tail.*Received"):
            changed.set_threshold(x, **wrong)
    assert changed.decision.threshold.method == "contamination"
    with pytest.warns(UserWarning, match="needs at least 99 rows. Received: 20 rows"):
        changed.set_threshold(x[:20], false_alarm_rate=0.01)


@pytest.mark.slow
def test_the_model_says_what_the_detector_does(detector, model, x):
    found = model.detect(x)
    np.testing.assert_array_equal(found["is_anomaly"], detector.predict(x) == -1)
    np.testing.assert_allclose(found["score"], -detector.score_samples(x) - detector.typical_.sum(), rtol=1e-9)
    np.testing.assert_array_equal(found["contributions"], detector.contributions(x)[:, :-1])
    np.testing.assert_allclose(found["contributions"].sum(axis=1) + found["kl"], found["score"], rtol=1e-9)


@pytest.mark.parametrize("criterion", ["elbo", "log_likelihood", "reconstruction_log_likelihood"])
def test_the_graph_computes_what_the_detector_does(changed, x, criterion):
    model = changed.set_params(criterion=criterion).to_model()
    expected = model.detect(x)
    for name, output in model(x).items():
        np.testing.assert_allclose(output, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_model_is_of_the_detector_as_it_was(changed, x):
    model = changed.to_model()
    before = model.detect(x)
    changed.set_threshold(x, false_alarm_rate=0.5)
    np.testing.assert_array_equal(model.detect(x)["is_anomaly"], before["is_anomaly"])


def test_keras_does_not_save_the_model(model, tmp_path):
    with pytest.raises(NotImplementedError, match=r"joblib\.dump.*tfvae\.export"):
        model.save(tmp_path / "detector.keras")


def test_numbers_without_digits_in_float32_are_refused(x, changed):
    changed.scaler_ = type(changed.scaler_)().fit(x + np.array([0, 1e9, 0]))
    with pytest.raises(ValueError, match=r'Column "x1" must have numbers that keep their digits'):
        changed.to_model().check_exportable()


@pytest.mark.slow
def test_a_tflite_file_detects(detector, model, x, tmp_path):
    client = export.load(export.tflite(model, tmp_path / "detector.tflite"))
    found = client.detect(x)
    for name, value in model.detect(x).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
    assert client.metadata["threshold"]["value"] == pytest.approx(detector.threshold_ - detector.typical_.sum())
    assert client.metadata["columns"] == ["x0", "x1", "x2"]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["elbo", "log_likelihood", "reconstruction_log_likelihood"])
def test_exports_detect(changed, x, tmp_path, criterion):
    model = changed.set_params(criterion=criterion).to_model()
    expected = model.detect(x)
    paths = [
        (export.saved_model(model, tmp_path / "served"), None),
        (export.tflite(model, tmp_path / "one.tflite", batch_size=1), None),
        (export.tflite(model, tmp_path / "any.tflite"), "compiled_model"),
        (export.onnx(model, tmp_path / "onnx"), None),
    ]
    for path, runtime in paths:
        client = export.load(path, runtime=runtime)
        rows = slice(0, 1) if path.name == "one.tflite" else slice(None)
        for signature in ("detect", "predict"):
            found = getattr(client, signature)(x[rows])
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value[rows], rtol=1e-5, atol=1e-4, err_msg=f"{path} {name}")
