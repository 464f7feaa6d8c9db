"""Requests to a SavedModel as a server makes them: through TensorFlow's C API, without any checks by Python."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.helpers.c_api import C_CLIENT
from tests.helpers.exports import EVENT_SHAPE, LATENT_DIM

SHAPES = {"x": EVENT_SHAPE, "z": (LATENT_DIM,), "epsilon": (LATENT_DIM,)}
INPUTS = {
    "encode": ["x"],
    "decode": ["z"],
    "reconstruct": ["x"],
    "generate": ["epsilon"],
    "score": ["x", "epsilon"],
    "serving_default": ["x"],
    "detect": ["x"],
}
INVALID_ARGUMENT = 3


@pytest.fixture(
    scope="module", params=["dense-Normal", pytest.param("convolutional-Bernoulli", marks=pytest.mark.slow)]
)
def served(request, exported):
    """A model and its published version."""
    return exported(request.param).model, exported(request.param).version


def inputs_of(signature, batch):
    """Inputs by name; x is binary, which is valid under every likelihood."""
    rng = np.random.default_rng(batch)
    arrays = {name: rng.integers(0, 2, size=(batch, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: arrays[name] for name in INPUTS[signature]}


def wrong(shape):
    """Arrays that are not float32 [B, *shape], by their fault."""
    rest = shape[1:]
    shapes = {
        "scalar": (),
        "vector": (5,),
        "no batch": shape,
        "one more axis": (5, *shape, 1),
        "two batch axes": (5, 1, *shape),
        "first axis too long": (5, shape[0] + 1, *rest),
        "first axis too short": (5, shape[0] - 1, *rest),
        "first axis 1": (5, 1, *rest),
        "first axis empty": (5, 0, *rest),
        "last axis too long": (5, *shape[:-1], shape[-1] + 1),
        "flat": (5, int(np.prod(shape)), 1),
    }
    arrays = {what: np.ones(shape, np.float32) for what, shape in shapes.items()}
    return arrays | {dtype: np.ones((5, *shape), dtype) for dtype in ("float64", "float16", "int32", "int64", "uint8")}


REQUESTS = {
    "good": {signature: (signature, inputs_of(signature, 5)) for signature in INPUTS},
    "wrong": {
        f"{signature}: {name}: {what}": (signature, {**inputs_of(signature, 5), name: array})
        for signature, names in INPUTS.items()
        for name in names
        for what, array in wrong(SHAPES[name]).items()
    },
    "unequal": {
        f"{a} and {b}": ("score", {"x": inputs_of("score", a)["x"], "epsilon": inputs_of("score", b)["epsilon"]})
        for a, b in ((5, 3), (5, 1), (1, 5), (5, 0), (0, 5))
    },
    "empty": {signature: (signature, inputs_of(signature, 0)) for signature in INPUTS},
    "last": {signature: (signature, inputs_of(signature, 5)) for signature in INPUTS},
}


@pytest.fixture(scope="module")
def received(served, tmp_path_factory, run_new_python):
    """The answers of one process to all requests in order, through the C API: {key: (code, message, outputs)}."""
    _, version = served
    folder = tmp_path_factory.mktemp("requests")
    content = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    signatures = content.meta_graphs[0].signature_def
    # Only one of the models is calibrated, and has `detect`.
    asked = {
        kind: {key: request for key, request in requests.items() if request[0] in signatures}
        for kind, requests in REQUESTS.items()
    }
    written = {}
    for kind, requests in asked.items():
        for key, (signature, inputs) in requests.items():
            definition = signatures[signature]
            feeds = {
                definition.inputs[name].name: (array.dtype.name, array.shape, array.tolist() if array.size else None)
                for name, array in inputs.items()
            }
            fetches = {name: info.name for name, info in definition.outputs.items()}
            written[f"{kind}/{key}"] = {"feeds": feeds, "fetches": fetches}
    (folder / "requests.json").write_text(json.dumps(written))
    library = Path(tf.__file__).parent
    run_new_python(C_CLIENT, version, folder / "requests.json", folder / "results.npz", library)
    results = dict(np.load(folder / "results.npz"))
    codes = json.loads(str(results.pop("codes")))
    outputs = {name: {} for name in written}
    for name, value in results.items():
        request, output = name.rsplit("/", 1)
        outputs[request][output] = value
    return {
        kind: {key: (*codes[f"{kind}/{key}"], outputs[f"{kind}/{key}"]) for key in requests}
        for kind, requests in asked.items()
    }


def test_a_good_request_gets_the_numbers_of_keras(served, received):
    model = served[0]
    detection = model.export_signatures().get("detect")
    values = {**inputs_of("score", 5), **inputs_of("decode", 5)}
    x, z, epsilon = values["x"], values["z"], values["epsilon"]
    expected = {
        "encode": model.encode(x),
        "decode": {"mean": model.decode(z)},
        "reconstruct": {"mean": model.reconstruct(x)},
        "generate": {"mean": model.decode(epsilon)},  # The prior is N(0, I).
        "score": model.score(x, epsilon),
        "serving_default": {"mean": model.reconstruct(x), **model.score(x)},
        **({} if detection is None else {"detect": detection.of_model({"x": x})}),
    }
    for kind in ("good", "last"):
        assert received[kind].keys() == expected.keys()
        for signature, (code, message, outputs) in received[kind].items():
            assert code == 0, message
            assert outputs.keys() == expected[signature].keys()
            for name, value in expected[signature].items():
                # float32 sums in another order: a few units in the last place of the largest value.
                tolerance = 5e-6 * max(1, np.abs(value).max())
                np.testing.assert_allclose(outputs[name], value, rtol=0, atol=tolerance, strict=True)


def test_a_wrong_request_is_an_invalid_argument_and_the_server_lives(received):
    assert {key: code for key, (code, _, _) in received["wrong"].items() if code != INVALID_ARGUMENT} == {}
    assert {key: code for key, (code, _, _) in received["last"].items() if code != 0} == {}


def test_a_score_of_unequal_batches_is_an_invalid_argument(received):
    assert {key: code for key, (code, _, _) in received["unequal"].items() if code != INVALID_ARGUMENT} == {}


def test_an_empty_batch_gives_empty_answers_or_an_invalid_argument(received):
    for signature, (code, message, outputs) in received["empty"].items():
        assert code in (0, INVALID_ARGUMENT), message
        assert all(len(value) == 0 for value in outputs.values()), signature
