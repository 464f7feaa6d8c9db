"""SavedModels as TF Serving uses them: plain TensorFlow, warm-up, configuration, REST and gRPC requests."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

import tfvae
from tests.helpers import readmes
from tests.helpers.exports import CALIBRATED, EVENT_SHAPE, IMAGES, LATENT_DIM, NETWORKS, Scaled
from tfvae import export
from tfvae.export.formats import saved_model

# The default tests of plain TensorFlow cover each network.
SOME = ["dense-Normal", "convolutional-Bernoulli"]
EVERY_CASE = [case if case in SOME else pytest.param(case, marks=pytest.mark.slow) for case in IMAGES]
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
    "score": ["elbo", "kl", "reconstruction_log_likelihood"],
    "serving_default": ["elbo", "kl", "mean", "reconstruction_log_likelihood"],
}
# Compared with draws of the Keras model in tests/models/test_sampling.py.
DRAWS = ["generate_sample", "reconstruct_sample"]
SHAPES = {"x": EVENT_SHAPE, "z": (LATENT_DIM,), "epsilon": (LATENT_DIM,)}
BATCHES = (1, 7, 64)


def arrays(batch):
    """Inputs by name; x is binary, which is valid under every likelihood."""
    rng = np.random.default_rng(batch)
    return {
        "x": rng.integers(0, 2, size=(batch, *EVENT_SHAPE)).astype(np.float32),
        "z": rng.standard_normal((batch, LATENT_DIM), np.float32),
        "epsilon": rng.standard_normal((batch, LATENT_DIM), np.float32),
    }


def inputs_of(signature, batch):
    return {name: array for name, array in arrays(batch).items() if name in INPUTS[signature]}


def keras_answer(model, signature, batch):
    """The Keras model's answer for a signature, from its public methods."""
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
        # float32 sums in another order: a few units in the last place of the largest value.
        np.testing.assert_allclose(received[name], value, rtol=0, atol=5e-6 * max(1, np.abs(value).max()), err_msg=name)


@pytest.fixture(
    scope="module", params=["dense-Normal", pytest.param("convolutional-Bernoulli", marks=pytest.mark.slow)]
)
def served(request, exported):
    """For one case, the model, its version, its loaded signatures and the name of the case."""
    shared = exported(request.param)
    return shared.model, shared.version, shared.loaded, request.param


def meta_graph_of(version):
    (meta_graph,) = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes()).meta_graphs
    return meta_graph


def graph_of(version):
    return meta_graph_of(version).graph_def


# Plain TensorFlow


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory, run_with_tensorflow):
    """What a process with only TensorFlow gets from every signature of some cases, for each batch size."""

    @functools.cache
    def ask(cases):
        folder = tmp_path_factory.mktemp("answers")
        requests = []
        for case in cases:
            for signature in INPUTS:
                for batch in BATCHES:
                    name = f"{case}-{signature}-{batch}"
                    np.savez(folder / f"{name}.inputs.npz", **inputs_of(signature, batch))
                    requests.append([str(exported(case).version), signature, name])
        (folder / "requests.json").write_text(json.dumps(requests))
        run_with_tensorflow(ONLY_TENSORFLOW, folder)
        return folder

    return lambda case: ask(tuple(SOME if case in SOME else IMAGES))


ONLY_TENSORFLOW = """
    import json, pathlib, sys
    import numpy as np

    sys.modules["tfvae"] = None
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
"""


@pytest.mark.parametrize("case", EVERY_CASE)
@pytest.mark.parametrize("signature", INPUTS)
def test_every_signature_gives_the_numbers_of_keras_where_only_tensorflow_is(exported, answers, case, signature):
    for batch in BATCHES:
        received = dict(np.load(answers(case) / f"{case}-{signature}-{batch}.outputs.npz"))
        assert sorted(received) == OUTPUTS[signature]
        assert_close(received, keras_answer(exported(case).model, signature, batch))


def saved_model_cli(*arguments):
    command = [Path(sys.executable).with_name("saved_model_cli"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_saved_model_cli_shows_every_signature(exported):
    shown = saved_model_cli("show", "--all", "--dir", exported("convolutional-Bernoulli").version)
    assert set(re.findall(r"signature_def\['(\w+)'\]", shown)) - {"__saved_model_init_op"} == {*INPUTS, *DRAWS}
    assert "shape: (-1, 8, 8, 1)" in shown


@pytest.mark.slow
def test_saved_model_cli_runs_a_signature(exported, tmp_path):
    model, version = exported("convolutional-Bernoulli").model, exported("convolutional-Bernoulli").version
    np.savez(tmp_path / "inputs.npz", **inputs_of("score", 7))
    where = f"x={tmp_path}/inputs.npz[x];epsilon={tmp_path}/inputs.npz[epsilon]"
    arguments = ["--dir", version, "--tag_set", "serve", "--signature_def", "score", "--inputs", where]
    saved_model_cli("run", *arguments, "--outdir", tmp_path)
    received = {name: np.load(tmp_path / f"{name}.npy") for name in OUTPUTS["score"]}
    assert_close(received, keras_answer(model, "score", 7))


# What is in the file


def nodes_of(version):
    """Every node of the graph and of its functions."""
    graph = graph_of(version)
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


@pytest.mark.parametrize("case", EVERY_CASE)
def test_every_op_is_built_in_and_none_draws_or_calls_python(exported, case):
    version = exported(case).version
    own = {function.signature.name for function in graph_of(version).library.function}
    ops = {node.op for node in nodes_of(version)} - own
    assert {"MatMul", "EnsureShape"} <= ops
    for op in ops:
        assert op_def_registry.get(op) is not None, op
        assert hasattr(tf.raw_ops, op), op
        assert not re.search("PyFunc|Random|Multinomial|Xla|Print|Lookup|Iterator", op), op
        # The only stateful ops are the weights and what reads, writes and calls them.
        if op_def_registry.get(op).is_stateful:
            assert re.search(
                "Assert|Variable|VarHandle|PartitionedCall|SaveV2|RestoreV2|MergeV2Checkpoints|CopyOnRead", op
            ), op


@pytest.mark.slow
def test_a_model_compiled_with_xla_exports_nothing_that_must_be_compiled(tmp_path):
    model = tfvae.VAE(*NETWORKS["dense"](), LATENT_DIM)
    model.compile("adam", jit_compile=True)
    expected = model.reconstruct(arrays(1)["x"])
    version = tmp_path / "1"
    saved_model.FORMAT.write(export.Endpoints(model), version)
    # XLA is off in a server on a CPU.
    marked = [*graph_of(version).library.function, *nodes_of(version)]
    assert not [item for item in marked for key in item.attr if key == "_XlaMustCompile" and item.attr[key].b]
    loaded = tf.saved_model.load(str(version))
    assert_close(loaded.signatures["reconstruct"](x=tf.constant(arrays(1)["x"])), {"mean": expected})


@pytest.mark.parametrize("case", EVERY_CASE)
def test_no_file_holds_a_path_of_the_machine(exported, case):
    version = exported(case).version
    files = [path for path in version.rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        for place in (version.parents[1], Path(tfvae.__file__).parents[1], Path(tf.__file__).parents[1]):
            assert str(place).encode() not in path.read_bytes(), path


# Warm-up


def warmup_requests(version):
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def test_the_warm_up_asks_every_signature_once_and_each_answers(served):
    _, version, loaded, case = served
    requests = warmup_requests(version)
    others = [*DRAWS, "detect"] if case == CALIBRATED else DRAWS
    assert [request.model_spec.signature_name for request in requests] == [*INPUTS, *others]
    for request in requests:
        assert request.model_spec.name == case
        assert {tensor.dtype for tensor in request.inputs.values()} == {tf.float32.as_datatype_enum}
        signature = request.model_spec.signature_name
        outputs = loaded.signatures[signature](**{name: tf.make_ndarray(t) for name, t in request.inputs.items()})
        if signature not in others:
            assert sorted(request.inputs) == sorted(INPUTS[signature])
            assert sorted(outputs) == OUTPUTS[signature]
        assert all(len(output) == 1 and np.all(np.isfinite(output)) for output in outputs.values())


# How to serve it


def test_the_configuration_names_the_model_and_its_folder(served):
    _, version, _, case = served
    text = (version.parent / "models.config").read_text()
    (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (case, f"/models/{case}", "tensorflow")


def test_every_tensor_leads_with_the_batch(served):
    _, version, loaded, _ = served
    signatures = meta_graph_of(version).signature_def
    for signature in INPUTS:
        outputs = loaded.signatures[signature](**inputs_of(signature, 5))
        assert all(output.shape[0] == 5 for output in outputs.values()), signature
        for info in (*signatures[signature].inputs.values(), *signatures[signature].outputs.values()):
            assert info.tensor_shape.dim[0].size == -1
            assert info.dtype == tf.float32.as_datatype_enum


def test_the_requests_and_the_table_of_the_readme_are_right(served, monkeypatch):
    model, version, loaded, case = served
    answers = readmes.check(version, loaded, monkeypatch)
    names = ["score", "serving_default", *(["detect"] if case == CALIBRATED else [])]
    assert list(answers) == [f"{name}{form}" for name in names for form in ("", ".columns")]
    zeros, noise = np.zeros((1, *EVENT_SHAPE)), np.zeros((1, LATENT_DIM))
    for name, answer in answers.items():
        expected = model.score(zeros, noise) if "score" in name else model.score(zeros)
        if "detect" in name:
            expected = model.detect(zeros)
        assert_close({key: answer[key] for key in expected}, expected)
    readme = (version.parent / "README.md").read_text()
    assert f'-v "$PWD:/models/{case}" tensorflow/serving' in readme


@pytest.mark.parametrize("batching", [False, True])
def test_batching_is_written_and_shown_only_if_it_is_asked_for(tmp_path, batching):
    folder = export.saved_model(Scaled(), tmp_path / "model", batching=batching).parent
    assert (folder / "batching.config").exists() == batching
    readme = (folder / "README.md").read_text()
    assert ("--batching_parameters_file=/models/model/batching.config" in readme) == batching
    assert ("is never answered" in readme) == ("up to 1024" in readme) == ("batching" in readme) == batching


def test_batching_config_is_what_a_server_accepts(tmp_path):
    text = (export.saved_model(Scaled(), tmp_path / "model", batching=True).parent / "batching.config").read_text()
    # Fields of BatchingParameters in tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    wrapped = dict(re.findall(r"(\w+) \{ value: (\d+) \}\n", text))
    allowed = json.loads(re.search(r"allowed_batch_sizes: (\[.*\])\n", text).group(1))
    fields = {"max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches"}
    assert wrapped.keys() == fields
    assert len(text.splitlines()) == 5
    assert allowed == sorted(set(allowed))
    assert allowed[-1] == int(wrapped["max_batch_size"])


def test_batching_must_be_true_or_false(tmp_path):
    with pytest.raises(ValueError, match=r"^`batching` must be True or False. Received: batching='yes'"):
        export.saved_model(Scaled(), tmp_path / "model", batching="yes")
    assert list(tmp_path.iterdir()) == []
