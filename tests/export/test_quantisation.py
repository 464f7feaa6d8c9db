"""Quantised TFLite files: their size, their answers, and what they cost."""

import functools

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

from tests.export.test_device import OF_MEANS, SIGNATURES, binary_images, build, noise, operators, questions, runners
from tfvae import export


def constants_size(file):
    """The bytes of all constants in the flatbuffer, without its metadata, which have an identifier of their own."""
    buffers = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0).buffers
    data = [bytes(buffer.data) for buffer in buffers if buffer.data is not None]
    return sum(len(content) for content in data if content[4:8] != b"M001")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose weights take far more space than its graphs, and what writes its file in a precision, once."""
    model = build(likelihood="Normal(0.5)", hidden=512, event_shape=(16, 16, 1))
    folder, x = tmp_path_factory.mktemp("large"), binary_images(64, (16, 16, 1))
    return model, functools.cache(
        lambda quantize: export.tflite(model, folder / f"{quantize}.tflite", quantize=quantize, x=x)
    )


@pytest.mark.slow
def test_weights_are_stored_once(large):
    model, file = large[0], large[1](None)
    parameters = 4 * model.count_params()
    assert parameters <= constants_size(file) < 1.01 * parameters
    assert file.stat().st_size < 1.02 * parameters + 80_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantize", "constants", "size", "nats"),
    [
        # By default, a file in float16 is written in test_file_crashes.py and tried in cli/test_commands.py.
        pytest.param("float16", 0.5, 0.6, 1, marks=pytest.mark.slow),
        ("dynamic", 0.25, 0.4, 20),
        ("int8", 0.25, 0.5, 200),
    ],
)
def test_a_quantised_file_is_smaller_runs_every_signature_and_its_cost_is_reported(
    large, quantize, constants, size, nats
):
    model, write = large
    file, parameters = write(quantize), 4 * model.count_params()
    np.testing.assert_allclose(constants_size(file), constants * parameters, rtol=0.05)
    # The whole file, with the graphs, which repeat the quantisation ranges of each channel for each signature.
    assert file.stat().st_size < size * parameters
    names, custom = operators(file)
    assert "CUSTOM" not in names
    assert custom == []
    # Where numbers are rounded to int8, a draw would not be that of the model.
    signature_runners = runners(file, SIGNATURES if quantize == "float16" else OF_MEANS)
    for signature, (inputs, outputs) in questions(model, 7).items():
        if signature not in OF_MEANS:
            continue
        runner = signature_runners[signature]
        for details in (*runner.get_input_details().values(), *runner.get_output_details().values()):
            assert details["dtype"] == np.float32
        received = runner(**inputs)
        for name, value in outputs.items():
            assert received[name].shape == value.shape
            assert np.all(np.isfinite(received[name]))
            assert 0 < np.abs(received[name] - value).max() < 0.3 * np.abs(value).max(), (signature, name)
    verification = export.verify(model, tflite=file, x=binary_images(20, (16, 16, 1)), timed_calls=1)
    assert 0 < abs(verification.costs[1].elbo_difference) < nats
    assert export.load(file).metadata["quantize"] == quantize


@pytest.mark.slow
def test_float16_costs_less_than_dynamic_and_dynamic_less_than_int8(large):
    model, write = large
    x, epsilon = binary_images(20, (16, 16, 1)), noise(20, 3)
    expected = model.score(x, epsilon)["elbo"]
    errors = [
        np.abs(export.load(file).score(x, epsilon)["elbo"] - expected).mean()
        for file in map(write, (None, "float16", "dynamic", "int8"))
    ]
    assert errors == sorted(errors)
