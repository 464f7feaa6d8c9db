"""OpenVINO reads a SavedModel with a batch of any size, and its answers are the Keras model's.

Needs `pip install openvino`, and fails without it; `-m "slow and not extra"` leaves it out.
"""

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.parametrize("case", ["dense-Normal", "convolutional-Bernoulli"])
def test_every_signature_agrees_with_keras(exported, case):
    import openvino

    model, version, loaded = (getattr(exported(case), name) for name in ("model", "version", "loaded"))
    examples = model.export_examples(model.export_data(None))
    for name, signature in model.export_signatures().items():
        # From the folder, OpenVINO takes `serving_default` alone; the others it takes from TensorFlow.
        source = str(version) if name == "serving_default" else loaded.signatures[name]
        # By default OpenVINO may compute in half precision.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(openvino.convert_model(source), "CPU", exact)
        assert {size.is_dynamic for size in (each.get_partial_shape()[0] for each in compiled.inputs)} == {True}
        expected = signature.of_model(examples[name])
        for rows in (64, 7, 1):
            received = compiled({given: array[:rows] for given, array in examples[name].items()})
            for output, value in expected.items():
                np.testing.assert_allclose(
                    received[output], value[:rows], rtol=1e-4, atol=1e-6 * signature.terms.get(output, 1)
                )
