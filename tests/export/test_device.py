"""TFLite files, run by LiteRT, against the Keras model; and the contents of the files, read from the flatbuffer."""

import functools
import hashlib
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

import tfvae
from tests.helpers.exports import Scaled
from tfvae import export, likelihoods, networks

EVENT_SHAPE = (8, 8, 1)
OF_MEANS = {"encode", "decode", "reconstruct", "generate", "score", "serving_default"}
SIGNATURES = OF_MEANS | {"generate_sample", "reconstruct_sample"}
LIKELIHOODS = {
    "Normal(0.5)": lambda: likelihoods.Normal(scale=0.5),
    "Normal(learned)": lambda: likelihoods.Normal(scale="learned"),
    "Bernoulli": likelihoods.Bernoulli,
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
    "Missing": lambda: likelihoods.Missing(likelihoods.Normal()),
    "DiscretizedLogisticMixture": lambda: likelihoods.DiscretizedLogisticMixture(2),
}
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def binary_images(n, event_shape=EVENT_SHAPE):
    """Images that are valid under every likelihood."""
    return np.random.default_rng(0).integers(0, 2, size=(n, *event_shape)).astype(np.float32)


def noise(n, latent_dim):
    return np.random.default_rng(1).standard_normal((n, latent_dim), np.float32)


def build(network="dense", likelihood="Bernoulli", latent_dim=3, hidden=16, event_shape=EVENT_SHAPE):
    keras.utils.set_random_seed(0)
    arguments = {"hidden": (hidden,)} | ({"filters": (4,)} if network == "convolutional" else {})
    encoder = getattr(networks, f"{network}_encoder")(event_shape, **arguments)
    part = LIKELIHOODS[likelihood]()
    decoder = getattr(networks, f"{network}_decoder")(latent_dim, part.parameter_shape(event_shape), **arguments)
    model = tfvae.VAE(encoder, decoder, latent_dim, likelihood=part)
    rng = np.random.default_rng(2)
    model.set_weights([w + 0.1 * rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def questions(model, n):
    """For each signature, inputs and the Keras model's answers."""
    x, epsilon = binary_images(n, model.event_shape), noise(n, model.latent_dim)
    mean, drawn = {"mean": model.reconstruct(x)}, {"mean": model.decode(epsilon)}
    answers = {
        "encode": ({"x": x}, model.encode(x)),
        "decode": ({"z": epsilon}, drawn),
        "reconstruct": ({"x": x}, mean),
        "generate": ({"epsilon": epsilon}, drawn),
        "score": ({"x": x, "epsilon": epsilon}, model.score(x, epsilon)),
        "serving_default": ({"x": x}, {**mean, **model.score(x)}),
    }
    answers |= {
        name: (inputs, model.export_signatures()[name].of_model(inputs))
        for name, inputs in model.export_examples(x).items()
        if name.endswith("_sample")
    }
    return answers


def runners(file, names=SIGNATURES):
    interpreter = Interpreter(model_path=str(file))
    assert set(interpreter.get_signature_list()) == names
    return {name: interpreter.get_signature_runner(name) for name in names}


def operators(file):
    """The names of all operators in the flatbuffer, and those of the custom ones."""
    codes = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0).operatorCodes
    names = {OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes}
    return names, [code.customCode for code in codes if code.customCode is not None]


def refused_by_gpus(file):
    """What GPU delegates refuse in a flatbuffer, and int64 tensors, by signature."""
    content = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    codes = [
        (OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)], code.version) for code in content.operatorCodes
    ]
    found = []
    for definition in content.signatureDefs:
        graph, signature = content.subgraphs[definition.subgraphIndex], definition.signatureKey.decode()
        for tensor in graph.tensors:
            if tensor.shape is not None and len(tensor.shape) > 4:
                found.append((signature, f"{len(tensor.shape)} axes"))
            if tensor.type == schema.TensorType.INT64:
                found.append((signature, "int64"))
        for op in graph.operators:
            name, version = codes[op.opcodeIndex]
            inputs = list(op.inputs)
            if name == "LOG_SOFTMAX" or (name in {"EQUAL", "SUB"} and len(set(inputs)) < len(inputs)):
                found.append((signature, f"{name} of tensors {inputs}"))
            if name == "SELECT_V2":
                shapes = [
                    () if shape is None else tuple(shape) for shape in (graph.tensors[i].shape for i in inputs[1:])
                ]
                if not set(shapes) <= {(), tuple(graph.tensors[op.outputs[0]].shape)}:
                    found.append((signature, f"SELECT_V2 of {shapes}"))
            if name == "STRIDED_SLICE" and op.builtinOptions.shrinkAxisMask:
                found.append((signature, "STRIDED_SLICE that removes an axis"))
            if version > {"SUB": 2, "STRIDED_SLICE": 2}.get(name, 9):
                found.append((signature, f"{name} of version {version}"))
    return found


def read_outputs(file):
    """The outputs that other ops of their graph read too, as (signature, output)."""
    content = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    return [
        (definition.signatureKey.decode(), output.name.decode())
        for definition in content.signatureDefs
        for output in definition.outputs
        if any(output.tensorIndex in op.inputs for op in content.subgraphs[definition.subgraphIndex].operators)
    ]


def assert_fits_gpus(file):
    assert refused_by_gpus(file) == []
    # A GPU does not write an output of a convolution that is merged with the op that reads it.
    assert ("serving_default", "mean") not in read_outputs(file)


@functools.cache
def small_model():
    return build()


@pytest.fixture(scope="module")
def small(exported):
    """A model, and its float32 file."""
    return exported("convolutional-Bernoulli").model, exported("convolutional-Bernoulli").tflite


def assert_every_signature_agrees(model, file):
    signature_runners = runners(file)
    for batch in (1, 7, 64):
        for signature, (inputs, outputs) in questions(model, batch).items():
            received = signature_runners[signature](**inputs)
            assert set(received) == set(outputs)
            for name, value in outputs.items():
                assert received[name].shape == value.shape
                # Log-densities sum terms of both signs and of size about 1, which may cancel almost to 0.
                size = max(np.abs(value).max(), 1) if value.ndim == 1 else np.abs(value).max()
                assert np.abs(received[name] - value).max() <= 1e-5 * size, (batch, signature, name)
    names, custom = operators(file)
    assert "FULLY_CONNECTED" in names
    assert not names & {"CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
    assert custom == []


def test_every_signature_agrees_with_keras_at_every_batch(small):
    assert_every_signature_agrees(*small)


# Every pair of two of the likelihood, the network and the latent size. The default tests have the file above, which
# those of the client need too, and not the time to write others.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "network", "latent_dim"),
    [
        ("Normal(0.5)", "dense", 5),
        ("Normal(learned)", "convolutional", 5),
        ("Bernoulli", "convolutional", 1),
        ("ContinuousBernoulli", "dense", 1),
        ("Normal(0.5)", "convolutional", 1),
        ("Normal(learned)", "dense", 1),
        ("Bernoulli", "dense", 5),
        ("ContinuousBernoulli", "convolutional", 5),
    ],
)
def test_every_pair_of_parts_agrees_with_keras_at_every_batch(tmp_path, likelihood, network, latent_dim):
    model = build(network, likelihood, latent_dim)
    assert_every_signature_agrees(model, export.tflite(model, tmp_path / "model.tflite"))


def extreme(likelihood):
    """A model whose decoder gives z times -120 to 120, and whose posterior is concentrated at z = 1."""
    decoder = networks.dense_decoder(1, (9,), hidden=())
    decoder.set_weights([np.linspace(-120, 120, 9, dtype=np.float32)[None], np.zeros(9, np.float32)])
    model = tfvae.VAE(networks.dense_encoder((9,), hidden=(4,)), decoder, 1, likelihood=likelihood)
    for head, bias in ((model.posterior.loc_head, 1.0), (model.posterior.scale_head, -6.0)):
        head.set_weights([np.zeros_like(head.kernel), np.full(1, bias, np.float32)])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "likelihood", [pytest.param(likelihoods.Bernoulli, marks=pytest.mark.slow), likelihoods.ContinuousBernoulli]
)
def test_scores_at_extreme_outputs_are_finite_and_those_of_keras(tmp_path, likelihood):
    model = extreme(likelihood())
    x = binary_images(16, (9,))
    x[0], x[1] = 0, 1
    # The export compares itself with the model on data that the model generates, which are extreme too.
    exported = export.load(export.tflite(model, tmp_path / "model.tflite"))
    for epsilon in (np.zeros((16, 1)), noise(16, 1)):
        expected, received = model.score(x, epsilon), exported.score(x, epsilon)
        for name in ("elbo", "reconstruction_log_likelihood", "kl"):
            assert np.all(np.isfinite(received[name]))
            np.testing.assert_allclose(received[name], expected[name], rtol=1e-5)
    assert expected["reconstruction_log_likelihood"].min() < -250
    outputs = np.linspace(-120, 120, 9)
    means, of_keras = (f.decode(np.ones((1, 1), np.float32))[0] for f in (exported, model))
    np.testing.assert_allclose(means, of_keras, atol=1e-6)
    assert np.all(np.diff(means) >= 0)
    assert means[0] < 0.01 < 0.49 < means[outputs == 0] < 0.51 < 0.99 < means[-1]


@pytest.mark.slow
def test_the_scale_of_the_posterior_is_softplus_for_features_of_any_size(tmp_path):
    encoder, decoder = networks.dense_encoder((2,), hidden=()), networks.dense_decoder(2, (2,), hidden=(4,))
    model = tfvae.VAE(encoder, decoder, 2)
    model.posterior.scale_head.set_weights([np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    x = np.array([[-120, 120], [-88, 88.5], [89, 95], [-30, 30], [0, -5]], np.float32) + np.float32(0.25)
    exported = export.load(export.tflite(model, tmp_path / "model.tflite", x=x))
    expected = np.logaddexp(0, x.astype(np.float64) + np.log(np.e - 1)) + 1e-6
    np.testing.assert_allclose(exported.encode(x)["scale"], expected, rtol=1e-5, atol=1e-7)
    assert np.all(np.isfinite(exported.score(x, noise(5, 2))["elbo"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "logit", "expected"),
    [
        (likelihoods.Bernoulli, -16, -784 * np.log1p(np.exp(-16))),
        pytest.param(likelihoods.ContinuousBernoulli, 0, 0, marks=pytest.mark.slow),
    ],
    ids=["confident Bernoulli", "uniform ContinuousBernoulli"],
)
def test_log_likelihoods_that_are_all_but_zero_do_not_stop_the_export(tmp_path, likelihood, logit, expected):
    decoder = networks.dense_decoder(2, (28, 28, 1), hidden=())
    decoder.set_weights([np.zeros((2, 784), np.float32), np.full(784, logit, np.float32)])
    model = tfvae.VAE(networks.dense_encoder((28, 28, 1), hidden=(4,)), decoder, 2, likelihood=likelihood())
    exported = export.load(export.tflite(model, tmp_path / "model.tflite"))
    score = exported.score(np.zeros((3, 28, 28, 1)), noise(3, 2))
    # One unit in the last place of 1.0 for each of the 784 terms.
    np.testing.assert_allclose(score["reconstruction_log_likelihood"], expected, atol=784 * 1.2e-7)


@pytest.mark.slow
def test_an_output_without_more_axes_than_two_is_not_reshaped(small):
    content = schema.ModelT.InitFromPackedBuf(small[1].read_bytes(), 0)
    for definition in content.signatureDefs:
        graph = content.subgraphs[definition.subgraphIndex]
        last = {
            tensor: content.operatorCodes[op.opcodeIndex].deprecatedBuiltinCode
            for op in graph.operators
            for tensor in op.outputs
        }
        for output in definition.outputs:
            expected = "RESHAPE" if output.name.decode() in ("mean", "sample") else "ADD"
            assert OPERATORS[last[output.tensorIndex]] == expected, (definition.signatureKey, output.name)


@pytest.mark.slow
def test_the_same_call_gives_the_same_answer_in_any_interpreter(small):
    model, file = small
    first, second = runners(file), runners(file)
    for signature, (inputs, _) in questions(model, 7).items():
        expected = first[signature](**inputs)
        for again in (first[signature](**inputs), second[signature](**inputs)):
            for name, value in expected.items():
                np.testing.assert_array_equal(again[name], value)


@pytest.mark.slow
def test_a_fixed_batch_is_static_in_the_file_and_takes_any_number_of_rows_from_the_client(tmp_path):
    model = build("convolutional", "Normal(learned)")
    file = export.tflite(model, tmp_path / "model.tflite", batch_size=1)
    assert_fits_gpus(file)
    signature_runners = runners(file)
    for runner in signature_runners.values():
        for details in (*runner.get_input_details().values(), *runner.get_output_details().values()):
            assert details["shape_signature"][0] == details["shape"][0] == 1
    assert not operators(file)[1]
    exported = export.load(file)
    assert exported.metadata["batch_size"] == 1
    for signature, (inputs, outputs) in questions(model, 7).items():
        received = exported.run(signature, **inputs)
        for name, value in outputs.items():
            np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5)


# The test above has another pair by default.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "likelihood"),
    [
        ("dense", "Normal(learned)"),
        ("dense", "Bernoulli"),
        ("convolutional", "Bernoulli"),
        ("convolutional", "Normal(0.5)"),
        ("dense", "Missing"),
        ("dense", "DiscretizedLogisticMixture"),
    ],
)
def test_a_fixed_batch_needs_nothing_that_a_gpu_refuses(tmp_path, network, likelihood):
    assert_fits_gpus(export.tflite(build(network, likelihood), tmp_path / "model.tflite", batch_size=1))


# Arguments and failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, '`quantize` must be None, "float16", "dynamic" or "int8". Received: quantize=\'int4\''),
        ({"quantize": True}, "Received: quantize=True"),
        ({"quantize": "int8"}, '`x` must hold examples for quantize="int8", to calibrate it. Received: x=None'),
        ({"quantize": "int8", "x": np.full((2, *EVENT_SHAPE), 0.5)}, "`x` must hold only 0 and 1 under the Bernoulli"),
        ({"x": np.zeros((2, 8, 8))}, "`x` must have the shape [N, 8, 8, 1]"),
        ({"batch_size": 2}, "`batch_size` must be 1 or None. Received: batch_size=2"),
        ({"batch_size": 0}, "`batch_size` must be 1 or None. Received: batch_size=0"),
    ],
    ids=str,
)
def test_an_argument_out_of_its_range_is_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export.tflite(small_model(), tmp_path / "folder" / "model.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("The conversion failed")

    old = {"model.tflite": b"old", "model.json": b"{}"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", fail)
    with pytest.raises(RuntimeError, match="The conversion failed"):
        export.tflite(Scaled(), tmp_path / "model.tflite")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.parametrize("name", ["model", "metadata.json"])
def test_a_file_of_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"`path` must be a file that ends in .tflite. Received: path='.*" + name):
        export.tflite(small_model(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_description_beside_the_file_says_what_a_caller_must_know(small):
    _, file = small
    description = json.loads(file.with_suffix(".json").read_text())
    meanings, example = description.pop("meanings"), description.pop("example")
    assert description == {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "tfvae_version": tfvae.__version__,
        "event_shape": [8, 8, 1],
        "latent_dim": 3,
        "posterior": "DiagonalNormal",
        "prior": "StandardNormal",
        "likelihood": "Bernoulli",
        "missing_values": False,
        "units": "model",
        "scaling": None,
        "expected_range": None,
        "axes": {
            **{name: "example, height, width, channel" for name in ("x", "uniform")},
            **{name: "example, column" for name in ("z", "epsilon")},
        },
        "quantize": None,
        "batch_size": None,
        "min_runtime_version": "2.7.0",
    }
    assert {"x", "z", "epsilon", "mean", "elbo", "reconstruction_log_likelihood", "kl"} <= set(meanings)
    assert example["signature"] == "serving_default"
    answers = export.load(file).run("serving_default", **example["inputs"])
    assert set(answers) == set(example["outputs"])
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, example["outputs"][name], rtol=1e-5, atol=1e-5)
