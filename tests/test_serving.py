"""SavedModels as TF Serving takes them: plain TensorFlow, its C API, its protocol buffers, REST and gRPC requests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

import tfvae
from tfvae import export, likelihoods, networks

EVENT_SHAPE = (8, 8, 1)
LATENT_DIM = 3
NETWORKS = {
    "dense": lambda: (
        networks.dense_encoder(EVENT_SHAPE, hidden=(16,)),
        networks.dense_decoder(LATENT_DIM, EVENT_SHAPE, hidden=(16,)),
    ),
    "convolutional": lambda: (
        networks.convolutional_encoder(EVENT_SHAPE, filters=(4,), hidden=(16,)),
        networks.convolutional_decoder(LATENT_DIM, EVENT_SHAPE, filters=(4,), hidden=(16,)),
    ),
}
LIKELIHOODS = {
    "Normal": lambda: likelihoods.Normal(scale="learned"),
    "Bernoulli": likelihoods.Bernoulli,
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
}
CASES = [f"{network}-{likelihood}" for network in NETWORKS for likelihood in LIKELIHOODS]
INPUTS = {
    "encode": ["x"],
    "decode": ["z"],
    "reconstruct": ["x"],
    "generate": ["epsilon"],
    "score": ["x", "epsilon"],
    "serving_default": ["x"],
}
OUTPUTS = {
    "encode": ["loc", "scale"],
    "decode": ["mean"],
    "reconstruct": ["mean"],
    "generate": ["mean"],
    "score": ["elbo", "kl", "log_likelihood"],
    "serving_default": ["elbo", "kl", "log_likelihood", "mean"],
}
SHAPES = {"x": EVENT_SHAPE, "z": (LATENT_DIM,), "epsilon": (LATENT_DIM,)}
BATCHES = (1, 7, 64)


def arrays(batch):
    """Inputs by name; x is binary, and so valid under every likelihood."""
    rng = np.random.default_rng(batch)
    return {
        "x": rng.integers(0, 2, size=(batch, *EVENT_SHAPE)).astype(np.float32),
        "z": rng.standard_normal((batch, LATENT_DIM), np.float32),
        "epsilon": rng.standard_normal((batch, LATENT_DIM), np.float32),
    }


def inputs_of(signature, batch):
    return {name: array for name, array in arrays(batch).items() if name in INPUTS[signature]}


def keras_answer(model, signature, batch):
    """What the Keras model gives where a signature is asked, by its public methods."""
    values = arrays(batch)
    x, z, epsilon = values["x"], values["z"], values["epsilon"]
    return {
        "encode": lambda: model.encode(x),
        "decode": lambda: {"mean": model.decode(z)},
        "reconstruct": lambda: {"mean": model.reconstruct(x)},
        "generate": lambda: {"mean": model.decode(epsilon)},  # The prior is N(0, I).
        "score": lambda: model.score(x, epsilon),
        "serving_default": lambda: {"mean": model.reconstruct(x), **model.score(x)},
    }[signature]()


def assert_close(received, expected):
    assert sorted(received) == sorted(expected)
    for name, value in expected.items():
        assert received[name].shape == value.shape, name
        # Float32 sums in another order: some units in the last place of the largest value.
        np.testing.assert_allclose(received[name], value, rtol=0, atol=5e-6 * max(1, np.abs(value).max()), err_msg=name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of each case the model and its published version."""
    models = {}
    for case in CASES:
        network, likelihood = case.split("-")
        keras.utils.set_random_seed(len(models))
        model = tfvae.VAE(*NETWORKS[network](), LATENT_DIM, likelihood=LIKELIHOODS[likelihood]())
        models[case] = model, export.saved_model(model, tmp_path_factory.mktemp("served") / case)
    return models


@pytest.fixture(scope="module", params=["dense-Normal", "convolutional-Bernoulli"])
def served(request, exported):
    """Of one case the model, its version and its loaded signatures."""
    model, version = exported[request.param]
    loaded = tf.saved_model.load(str(version))
    return model, version, loaded, request.param


def graph_of(version):
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((version / "saved_model.pb").read_bytes())
    (meta_graph,) = content.meta_graphs
    return meta_graph


# Plain TensorFlow


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory, run_python):
    """What a process that has only TensorFlow gets from every signature of every case, at each batch size."""
    folder = tmp_path_factory.mktemp("answers")
    requests = []
    for case in CASES:
        for signature in INPUTS:
            for batch in BATCHES:
                name = f"{case}-{signature}-{batch}"
                np.savez(folder / f"{name}.inputs.npz", **inputs_of(signature, batch))
                requests.append([str(exported[case][1]), signature, name])
    (folder / "requests.json").write_text(json.dumps(requests))
    run_python(
        """
        import json, pathlib, sys
        import numpy as np

        for name in ("tfvae", "keras", "tensorflow_probability", "tf_keras"):
            sys.modules[name] = None
        import tensorflow as tf

        folder = pathlib.Path(sys.argv[1])
        requests = json.loads((folder / "requests.json").read_text())
        loaded = {version: tf.saved_model.load(version) for version in {request[0] for request in requests}}
        for version, signature, name in requests:
            inputs = {key: tf.constant(value) for key, value in np.load(folder / f"{name}.inputs.npz").items()}
            call = loaded[version].signatures[signature]
            first, second = call(**inputs), call(**inputs)
            for key in first:
                np.testing.assert_array_equal(first[key], second[key])
            np.savez(folder / f"{name}.outputs.npz", **{key: value.numpy() for key, value in first.items()})
        """,
        folder,
    )
    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("signature", INPUTS)
def test_every_signature_gives_the_numbers_of_keras_where_only_tensorflow_is(exported, answers, case, signature):
    for batch in BATCHES:
        received = dict(np.load(answers / f"{case}-{signature}-{batch}.outputs.npz"))
        assert sorted(received) == OUTPUTS[signature]
        assert_close(received, keras_answer(exported[case][0], signature, batch))


def saved_model_cli(*arguments):
    command = [Path(sys.executable).with_name("saved_model_cli"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_saved_model_cli_shows_every_signature(exported):
    shown = saved_model_cli("show", "--all", "--dir", exported["convolutional-Bernoulli"][1])
    assert set(re.findall(r"signature_def\['(\w+)'\]", shown)) - {"__saved_model_init_op"} == set(INPUTS)
    assert "shape: (-1, 8, 8, 1)" in shown


def test_saved_model_cli_runs_a_signature(exported, tmp_path):
    model, version = exported["convolutional-Bernoulli"]
    np.savez(tmp_path / "inputs.npz", **inputs_of("score", 7))
    where = f"x={tmp_path}/inputs.npz[x];epsilon={tmp_path}/inputs.npz[epsilon]"
    arguments = ["--dir", version, "--tag_set", "serve", "--signature_def", "score", "--inputs", where]
    saved_model_cli("run", *arguments, "--outdir", tmp_path)
    received = {name: np.load(tmp_path / f"{name}.npy") for name in OUTPUTS["score"]}
    assert_close(received, keras_answer(model, "score", 7))


# What is in the file


def test_every_op_is_built_in_and_none_draws_or_calls_python(exported):
    for model, version in exported.values():
        graph = graph_of(version).graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        own = {function.signature.name for function in graph.library.function}
        ops = {node.op for node in nodes} - own
        assert {"MatMul", "EnsureShape"} <= ops
        assert not [op for op in ops if op_def_registry.get(op) is None or not hasattr(tf.raw_ops, op)]
        assert not [op for op in ops if re.search("PyFunc|Random|Multinomial|XlaLaunch|Print|Custom", op)]
        assert model.count_params() > 0


def test_a_model_compiled_with_xla_exports_nothing_that_must_be_compiled(tmp_path):
    model = tfvae.VAE(*NETWORKS["dense"](), LATENT_DIM)
    model.compile("adam", jit_compile=True)
    model.fit(arrays(8)["x"], verbose=0)
    graph = graph_of(export.saved_model(model, tmp_path / "model")).graph_def
    attributes = {key for function in graph.library.function for key in function.attr}
    attributes |= {key for function in graph.library.function for node in function.node_def for key in node.attr}
    assert not any(
        "XlaMustCompile" in key and function.attr[key].b for function in graph.library.function for key in function.attr
    )


def test_no_file_holds_a_path_of_the_machine(exported):
    for _, version in exported.values():
        files = [path for path in version.rglob("*") if path.is_file()]
        assert len(files) >= 6
        for path in files:
            for secret in (version.parents[1], Path(tfvae.__file__).parents[1], Path(tf.__file__).parent, Path.home()):
                assert str(secret).encode() not in path.read_bytes(), path


# As a server sends it

C_CLIENT = """
    import ctypes, json, sys
    import numpy as np

    assert "tensorflow" not in sys.modules
    folder, requests, results = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
    ctypes.CDLL(sys.argv[4] + "/libtensorflow_framework.so.2", ctypes.RTLD_GLOBAL)
    c = ctypes.CDLL(sys.argv[4] + "/libtensorflow_cc.so.2", ctypes.RTLD_GLOBAL)
    pointers = ["TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel"]
    for name in [*pointers, "TF_AllocateTensor", "TF_TensorData", "TF_GraphOperationByName"]:
        getattr(c, name).restype = ctypes.c_void_p
    c.TF_Message.restype = ctypes.c_char_p
    c.TF_Dim.restype = ctypes.c_int64
    c.TF_TensorByteSize.restype = ctypes.c_size_t
    P = ctypes.c_void_p

    class Output(ctypes.Structure):
        _fields_ = [("operation", P), ("index", ctypes.c_int)]

    TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "float16": 19}
    status, graph = P(c.TF_NewStatus()), P(c.TF_NewGraph())
    tags = (ctypes.c_char_p * 1)(b"serve")
    options = P(c.TF_NewSessionOptions())
    session = P(c.TF_LoadSessionFromSavedModel(options, None, folder.encode(), tags, 1, graph, None, status))
    assert c.TF_GetCode(status) == 0, c.TF_Message(status)

    def output(name):
        operation, index = name.split(":")
        found = c.TF_GraphOperationByName(graph, operation.encode())
        assert found, name
        return Output(found, int(index))

    def tensor(array):
        array = np.ascontiguousarray(array)
        shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
        made = P(c.TF_AllocateTensor(TYPES[array.dtype.name], shape, array.ndim, ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(P(c.TF_TensorData(made)), array.ctypes.data, array.nbytes)
        return made

    answers, codes = {}, {}
    for key, request in requests.items():
        feeds, fetches = request["feeds"], request["fetches"]
        arrays = [np.zeros(shape, dtype) if values is None else np.array(values, dtype).reshape(shape)
                  for dtype, shape, values in feeds.values()]
        received = (P * len(fetches))()
        c.TF_SessionRun(
            session, None,
            (Output * len(feeds))(*map(output, feeds)), (P * len(feeds))(*map(tensor, arrays)), len(feeds),
            (Output * len(fetches))(*map(output, fetches.values())), received, len(fetches),
            None, 0, None, status,
        )
        codes[key] = [c.TF_GetCode(status), c.TF_Message(status).decode()]
        if codes[key][0] == 0:
            for name, pointer in zip(fetches, map(P, received)):
                shape = [c.TF_Dim(pointer, axis) for axis in range(c.TF_NumDims(pointer))]
                content = ctypes.string_at(c.TF_TensorData(pointer), c.TF_TensorByteSize(pointer))
                answers[key + "/" + name] = np.frombuffer(content, np.float32).reshape(shape)
    np.savez(results, codes=json.dumps(codes), **answers)
"""


@pytest.fixture
def ask(served, tmp_path, run_python):
    """Sends requests {key: (signature, {input: array})} through the C API; gives {key: (code, message, outputs)}."""
    _, version, _, _ = served
    signatures = graph_of(version).signature_def

    def send(requests):
        written = {}
        for key, (signature, inputs) in requests.items():
            definition = signatures[signature]
            feeds = {
                definition.inputs[name].name: (array.dtype.name, array.shape, array.tolist() if array.size else None)
                for name, array in inputs.items()
            }
            fetches = {name: info.name for name, info in definition.outputs.items()}
            written[key] = {"feeds": feeds, "fetches": fetches}
        (tmp_path / "requests.json").write_text(json.dumps(written))
        library = Path(tf.__file__).parent
        run_python(C_CLIENT, version, tmp_path / "requests.json", tmp_path / "results.npz", library)
        results = dict(np.load(tmp_path / "results.npz"))
        codes = json.loads(str(results.pop("codes")))
        return {
            key: (
                *codes[key],
                {name.split("/")[1]: value for name, value in results.items() if name.split("/")[0] == key},
            )
            for key in requests
        }

    return send


def test_the_c_api_gives_the_numbers_of_keras(served, ask):
    received = ask({signature: (signature, inputs_of(signature, 5)) for signature in INPUTS})
    for signature, (code, message, outputs) in received.items():
        assert code == 0, message
        assert_close(outputs, keras_answer(served[0], signature, 5))


def wrong(shape):
    """Arrays that are not float32 [B, *shape], by what is wrong with them."""
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


def test_a_wrong_request_is_an_invalid_argument_and_the_server_lives(served, ask):
    requests = {}
    for signature, names in INPUTS.items():
        for name in names:
            for what, array in wrong(SHAPES[name]).items():
                requests[f"{signature}: {name}: {what}"] = signature, {**inputs_of(signature, 5), name: array}
        requests[f"{signature} last"] = signature, inputs_of(signature, 5)
    received = ask(requests)
    expected = {key: 0 if key.endswith("last") else 3 for key in requests}
    assert {key: code for key, (code, _, _) in received.items() if code != expected[key]} == {}


def test_a_score_of_unequal_batches_is_an_invalid_argument(ask):
    pairs = {"5 and 3": (5, 3), "5 and 1": (5, 1), "1 and 5": (1, 5), "5 and 0": (5, 0), "0 and 5": (0, 5)}
    received = ask(
        {key: ("score", {"x": arrays(a)["x"], "epsilon": arrays(b)["epsilon"]}) for key, (a, b) in pairs.items()}
    )
    assert {key: code for key, (code, _, _) in received.items() if code != 3} == {}


def test_an_empty_batch_gives_empty_answers_or_an_invalid_argument(ask):
    received = ask({signature: (signature, inputs_of(signature, 0)) for signature in INPUTS})
    for signature, (code, message, outputs) in received.items():
        assert code in (0, 3), message
        assert all(len(value) == 0 for value in outputs.values()), signature
