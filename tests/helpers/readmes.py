"""Does what the README of an export says, with a server played by the SavedModel itself."""

import json
import re
import textwrap

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def check(version, loaded, monkeypatch):
    """Sends every request of the README, and compares its table with what the signatures take and give.

    Returns the answers to the requests in requests/, by file name.
    """
    readme = (version.parent / "README.md").read_text()
    _check_table(readme, loaded)
    _check_grpc(readme, version.parent.name, loaded, monkeypatch)
    requests = re.findall(r"curl -d @requests/(\S+)\.json (\S+)\n", readme)
    assert {name for name, _ in requests} == {path.stem for path in (version.parent / "requests").iterdir()}
    assert {"serving_default", "serving_default.columns"} <= {name for name, _ in requests}
    answers = {}
    for name, url in requests:
        assert url == f"http://localhost:8501/v1/models/{version.parent.name}:predict"
        signature, inputs = read((version.parent / f"requests/{name}.json").read_text(), loaded)
        assert signature == name.removesuffix(".columns")
        answers[name] = _answer(loaded, signature, inputs)
        assert all(len(output) == 1 and np.isfinite(output).all() for output in answers[name].values()), name
    return answers


def read(body, loaded):
    """The signature and the inputs that TF Serving reads from the body of a REST request."""
    body = json.loads(body)
    signature = body.pop("signature_name", "serving_default")
    names = sorted(_specs(loaded, signature))
    ((form, content),) = body.items()
    if form == "instances":
        # Rows are plain values if there is one input, or else objects with exactly the inputs' names.
        rows = [row if isinstance(row, dict) else {names[0]: row} for row in content]
        assert all(sorted(row) == names for row in rows)
        assert len(names) == 1 or all(isinstance(row, dict) for row in content)
        content = {name: [row[name] for row in rows] for name in names}
    else:
        assert form == "inputs"
        assert sorted(content) == names
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in _specs(loaded, signature).items()}
    assert all(isinstance(row, str) for name in names if dtypes[name] is np.object_ for row in content[name])
    return signature, {name: np.array(column, dtypes[name]) for name, column in content.items()}


def _specs(loaded, signature):
    return loaded.signatures[signature].structured_input_signature[1]


def _answer(loaded, signature, inputs):
    specs = _specs(loaded, signature)
    assert inputs.keys() == specs.keys()
    for name, array in inputs.items():
        assert array.dtype == specs[name].dtype.as_numpy_dtype
        assert specs[name].shape.is_compatible_with(array.shape), (name, array.shape)
    outputs = loaded.signatures[signature](**{name: tf.constant(array) for name, array in inputs.items()})
    return {name: output.numpy() for name, output in outputs.items()}


def _check_grpc(readme, model, loaded, monkeypatch):
    """Runs the Python of the README, whose stub calls the SavedModel."""

    class Stub:
        def __init__(self, channel):
            pass

        def Predict(self, request, timeout):  # noqa: N802
            request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
            assert request.model_spec.name == model
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            answer = _answer(loaded, request.model_spec.signature_name, inputs)
            response = predict_pb2.PredictResponse()
            for name, output in answer.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(output))
            return response

    monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", Stub)
    (code,) = re.findall(r"^    import grpc\n(?:    .*\n|\n(?=    ))*", readme, re.MULTILINE)
    names = {}
    exec(textwrap.dedent(code), names)
    signature = names["request"].model_spec.signature_name
    assert names["outputs"].keys() == loaded.signatures[signature].structured_outputs.keys()
    assert all(len(output) == 1 and np.isfinite(output).all() for output in names["outputs"].values())


def _check_table(readme, loaded):
    signatures = readme.partition("## Signatures\n")[2]
    rows = re.findall(r"^\| (\w+) \| (.*?) \| (.*?) \| ", signatures, re.MULTILINE)[1:]
    assert sorted(name for name, _, _ in rows) == sorted(loaded.signatures)
    for signature, inputs, outputs in rows:
        specs = _specs(loaded, signature)
        found = _shapes(inputs)
        if "columns" in found:
            # One word for the columns of a table, which are in a table of their own.
            assert found.pop("columns") == []
            found |= {name: [] for name in re.findall(r"^\| [^|]* \| (\w+) \| (?:float32|string) \| ", readme, re.M)}
        assert found == {name: list(spec.shape[1:]) for name, spec in specs.items()}
        zeros = {
            name: np.full([2, *spec.shape[1:]], _zero(spec), spec.dtype.as_numpy_dtype) for name, spec in specs.items()
        }
        answer = _answer(loaded, signature, zeros)
        assert {output.shape[0] for output in answer.values()} == {2}
        assert _shapes(outputs) == {name: list(output.shape[1:]) for name, output in answer.items()}


def _zero(spec):
    return b"" if spec.dtype == tf.string else np.float32(0)


def _shapes(cell):
    """The shapes of one row, by name, in a cell such as "x [B, 8, 8, 1], label [B]"."""
    return {
        name: [int(size) for size in re.findall(r"\d+", sizes)] for name, sizes in re.findall(r"(\w+) \[B(.*?)\]", cell)
    }
