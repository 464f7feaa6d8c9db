"""The signature `detect` of calibrated models: in each format and runtime, its description, and its comparison."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers.exports import EVENT_SHAPE, linear_vae
from tfvae import export
from tfvae.export import verification
from tfvae.exportable import Signature
from tfvae.sklearn import VAEOutlierDetector

OUTPUTS = {"score", "is_anomaly", "contributions", "kl"}


@pytest.fixture(scope="module")
def shared(exported):
    return exported("dense-Normal")


@pytest.fixture(scope="module")
def x():
    """Images of which about half are above the threshold."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(20, *EVENT_SHAPE)) * np.linspace(0.5, 2, 20)[:, None, None, None]).astype(np.float32)


def assert_same(received, expected):
    assert set(received) == set(expected) == OUTPUTS
    for name, value in expected.items():
        assert received[name].dtype == value.dtype
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"), [("version", None), ("tflite", "interpreter"), ("tflite", "compiled_model")]
)
def test_the_client_detects_what_the_model_does(shared, x, name, runtime):
    expected = shared.model.detect(x)
    assert 0 < expected["is_anomaly"].sum() < 20
    assert_same(export.load(getattr(shared, name), runtime=runtime).detect(x), expected)


def test_files_hold_decisions_as_numbers(shared, x):
    for client in shared.clients.values():
        is_anomaly = client.run("detect", x=x)["is_anomaly"]
        assert is_anomaly.dtype == np.float32
        np.testing.assert_array_equal(is_anomaly, shared.model.detect(x)["is_anomaly"])


def test_the_threshold_is_in_the_description_and_in_the_file(shared):
    threshold = shared.model.decision.threshold
    for client in shared.clients.values():
        assert client.metadata["threshold"] == threshold.to_dict()
        assert set(client.metadata["meanings"]) >= OUTPUTS
    assert (threshold.method, threshold.rows) == ("false_alarm_rate", 64)
    assert f"An anomaly has a score above {threshold.value:g} nats.".encode() in shared.tflite.read_bytes()
    assert "| detect |" in (shared.version.parent / "README.md").read_text()


@pytest.mark.slow
def test_a_model_that_is_not_calibrated_has_no_detect(exported):
    for client in exported("linear").clients.values():
        assert "threshold" not in client.metadata
        with pytest.raises(AttributeError, match="exported without the signature 'detect'"):
            client.detect(np.zeros((1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_quantised_files_detect(shared, x, tmp_path, quantize):
    expected = shared.model.detect(x)
    file = export.tflite(shared.model, tmp_path / "model.tflite", quantize=quantize, x=x)
    received = export.load(file).detect(x)
    # In int8 the weights, and activations, are coarse, and so are scores.
    coarse = np.ptp(expected["score"]) * (0.001 if quantize == "float16" else 0.05)
    assert np.abs(received["score"] - expected["score"]).max() < coarse
    is_far = np.abs(expected["score"] - shared.model.decision.threshold.value) > coarse
    assert is_far.any()
    np.testing.assert_array_equal(received["is_anomaly"][is_far], expected["is_anomaly"][is_far])


@pytest.mark.slow
def test_a_saved_model_of_an_estimator_answers_with_tensorflow_alone(run_with_tensorflow, tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    detector = VAEOutlierDetector(max_epochs=3, random_state=0).fit(x)
    version = export.saved_model(detector.to_model(), tmp_path / "detector")
    np.savez(tmp_path / "expected.npz", x=x, **detector.to_model().detect(x))
    run_with_tensorflow(
        """
        import sys, numpy as np, tensorflow as tf

        detect = tf.saved_model.load(sys.argv[1]).signatures["detect"]
        expected = np.load(sys.argv[2])
        for name, found in detect(x=tf.constant(expected["x"])).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)
        """,
        version,
        tmp_path / "expected.npz",
    )


@pytest.mark.slow
def test_onnx_detects_in_raw_units(tmp_path):
    model, x = linear_vae(), np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    model.calibrate(x, contamination=0.1)
    client = export.load(export.onnx(model, tmp_path / "onnx", x=x, offset=1.0, scale=2.0))
    assert_same(client.detect(2 * x + 1), model.detect(x))
    assert client.detect(2 * x + 1)["is_anomaly"].sum() == 5


# The comparison


def answers_to(question, **changed):
    return {**question.outputs, **{name: np.float32(value) for name, value in changed.items()}}


@pytest.fixture
def question():
    """Scores of which the second is on the threshold, as far as float32 can tell."""
    signature = Signature(None, (), jumps={"is_anomaly": ("score", 2.0)})
    outputs = {"score": np.float32([1.0, 2.0, 3.0]), "is_anomaly": np.float32([0, 0, 1])}
    sizes = {name: verification.tolerances.sizes(name, array, None, {}) for name, array in outputs.items()}
    return verification._Question(signature, {}, outputs, sizes)


def check(question, answers):
    verification._check("file", {"detect": question}, {"detect": answers}, 1e-4, "the Keras model", True)
    return verification.agreement("file", "detect", "is_anomaly", answers, question).max_difference


def test_a_decision_that_rounding_changes_is_no_disagreement(question):
    assert check(question, answers_to(question, score=[1, 2.00001, 3], is_anomaly=[0, 1, 1])) == 0


def test_a_decision_that_its_score_does_not_explain_is_one(question):
    for wrong in ([1, 0, 1], [0, 0, 0]):
        with pytest.raises(verification.DisagreementError, match="`detect` gives `is_anomaly` with a difference of 1"):
            check(question, answers_to(question, is_anomaly=wrong))


def test_another_threshold_is_refused(shared, x, monkeypatch):
    model = shared.model
    decision = model.decision
    other = dataclasses.replace(decision, threshold=dataclasses.replace(decision.threshold, value=1e6))
    monkeypatch.setattr(model, "decision", other)
    with pytest.raises(verification.DisagreementError, match="`is_anomaly`"):
        verification.check_agreement(model, tflite=shared.tflite, x=x)


@pytest.mark.slow
def test_a_file_from_before_the_calibration_is_verified_without_detect(exported):
    model, x = linear_vae(), np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    model.calibrate(x, threshold=1.0)
    result = export.verify(model, tflite=exported("linear").tflite, x=x, timed_calls=0)
    assert len({row.signature for row in result.agreements}) == 8


def test_a_wrong_threshold_in_a_description_is_named(shared, tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(shared.tflite.read_bytes())
    file.with_suffix(".json").write_text(json.dumps({"threshold": 3}))
    with pytest.raises(ValueError, match=r"^`threshold` in the description of an export must be an object"):
        export.load(file)
