"""What an export relies on: the attributes it reads of a model, user-defined models, and how often networks run."""

import ast
import concurrent.futures
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae import export, networks, posteriors
from tfvae.inference.variational_inference import VariationalInference
from tfvae.models.autoencoder import Autoencoder

SOURCES = sorted(pathlib.Path(export.__file__).parent.rglob("*.py"))


# The attributes that are read of a model


def private_reads(source):
    """The private attributes that a module reads of objects other than `self` and `cls`, and its imports of models."""
    for node in ast.walk(ast.parse(source)):
        name = ""
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1:
            name = ast.unparse(node.args[1]).strip("'")
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (each for each in names if re.match(r"tfvae\.(models|inference)\b", each))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if re.match(r"tfvae\.(models|inference)\b", alias.name))
        if name.startswith("_") and not name.endswith("__"):
            yield name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("model._encode(x)", ["_encode"]),
        ("model.posterior._scale", ["_scale"]),
        ("getattr(model, '_encode')", ["_encode"]),
        ("def f():\n    from tfvae.models.vae import VAE", ["tfvae.models.vae.VAE"]),
        ("from tfvae import inference", ["tfvae.inference"]),
        ("import tfvae.models.vae", ["tfvae.models.vae"]),
        ("self._encode(type(model).__name__, cls._x)\nfrom tfvae.exportable import Exportable", []),
    ],
)
def test_a_private_read_is_found(source, found):
    assert list(private_reads(source)) == found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_exports_read_nothing_private_of_a_model_and_know_none(path):
    assert list(private_reads(path.read_text())) == []


def test_the_models_keep_the_contract():
    assert issubclass(Autoencoder, export.Exportable)
    assert issubclass(VariationalInference, export.Exportable)
    for model in (tfvae.VAE, tfvae.ConditionalVAE, tfvae.SemiSupervisedVAE, tfvae.HierarchicalVAE, tfvae.VQVAE):
        assert issubclass(model, Autoencoder)
    assert issubclass(tfvae.SequentialVAE, Autoencoder)


# User-defined models


class Sums(export.Exportable, keras.Model):
    """y = x @ kernel, and the sum of y."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, use_bias=False)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)

    def export_signatures(self, x=None):
        def serving_default(x):
            y = self.dense(x)
            return {"y": y, "sum": tf.reduce_sum(y, axis=1)}

        def double(x):
            return {"y": 2.0 * self.dense(x)}

        def double_by_numpy(x):
            return {"y": 2.0 * x @ self.dense.get_weights()[0]}

        spec = tf.TensorSpec([None, 3], tf.float32, "x")
        return {
            "serving_default": export.Signature(serving_default, (spec,), terms={"sum": 2}, request=[0.0, 0.0, 0.0]),
            "double": export.Signature(double, (spec,), double_by_numpy),
        }

    def export_weights(self):
        return self.dense.weights

    def export_description(self):
        return {"sums": 2}


X = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")


def sums():
    model = Sums()
    model.build((None, 3))
    return model


# A TFLite file of another model of this kind is verified by default in test_export_formats.py.
@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_model_of_a_users_own_is_exported_compared_and_opened(file_format, tmp_path):
    model = sums()
    path = getattr(export, file_format)(model, tmp_path / "own.tflite", x=X, offset=1.0, scale=2.0)
    exported = export.load(path)
    assert set(exported.signatures) == {"serving_default", "double", "double_normalized"}
    expected, raw = X @ model.dense.get_weights()[0], 2 * X + 1
    received = exported.run("serving_default", x=raw)
    np.testing.assert_allclose(received["y"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(received["sum"], expected.sum(axis=1), rtol=1e-5, atol=1e-6)
    for name, x in (("double", raw), ("double_normalized", X)):
        np.testing.assert_allclose(exported.run(name, x=x)["y"], 2 * expected, rtol=1e-5, atol=1e-6)
    assert exported.metadata["sums"] == 2
    assert exported.metadata["scaling"]["offset"] == 1.0
    result = export.verify(model, **{file_format: path}, x=X, timed_calls=1)
    assert [(row.signature, row.output) for row in result.agreements] == [
        ("serving_default", "y"),
        ("serving_default", "sum"),
        ("double", "y"),
        ("double_normalized", "y"),
    ]
    # The model has no score, so there is no bound to compare.
    assert [cost.elbo_difference for cost in result.costs] == [None, None]
    assert "None" not in str(result)


def test_the_files_beside_a_model_of_a_users_own_name_its_signatures_and_its_request(tmp_path):
    export.saved_model(sums(), tmp_path / "own", x=X)
    readme = (tmp_path / "own/README.md").read_text()
    assert readme.startswith("---\ntags:\n- tfvae\n---\n\n# own\n")
    assert "$PWD:/models/own" in readme
    assert "    curl -d @requests/serving_default.json http://localhost:8501/v1/models/own:predict\n" in readme
    assert re.findall(r"^\| (\w+) \| (x.*) \| (.*?) \| ", readme, re.MULTILINE) == [
        ("serving_default", "x [B, 3]", "y [B, 2], sum [B]"),
        ("double", "x [B, 3]", "y [B, 2]"),
    ]
    assert "${" not in readme
    assert sorted(path.stem for path in (tmp_path / "own/requests").iterdir()) == [
        "serving_default",
        "serving_default.columns",
    ]
    assert (tmp_path / "own/requests/serving_default.json").read_text() == '{"instances": [[0.0, 0.0, 0.0]]}\n'


class Wrong(Sums):
    def export_signatures(self, x=None):
        """Pairs the function that is exported with a wrong reference: it gives twice what the model gives."""
        right = super().export_signatures(x)["double"]
        return {"serving_default": export.Signature(right.function, right.inputs, lambda x: {"y": self(x)})}


@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_function_that_is_not_the_models_is_refused(file_format, tmp_path):
    model = Wrong()
    model.build((None, 3))
    with pytest.raises(ValueError, match=r"must agree with the Keras model.*`serving_default` gives `y`"):
        getattr(export, file_format)(model, tmp_path / "own.tflite", x=X)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_what_cannot_be_exported_is_named(file_format, tmp_path):
    function = getattr(export, file_format)
    with pytest.raises(ValueError, match=r"^`model` must be built before it is exported"):
        function(Sums(), tmp_path / "own.tflite", x=X)
    with pytest.raises(ValueError, match=r"^`x` must hold data to compare the export with. Received: x=None"):
        function(sums(), tmp_path / "own.tflite")
    with pytest.raises(ValueError, match=r"^`model` must be a tfvae.export.Exportable, .*Received: <Dense"):
        function(keras.layers.Dense(2), tmp_path / "own.tflite")
    with pytest.raises(ValueError, match=r"^`model` must be a tfvae.export.Exportable, .*Received: "):
        export.Endpoints(keras.layers.Dense(2))


# How often networks run


class Counted(keras.Model):
    """A network that counts how often it is called."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.calls = 0

    def build(self, input_shape):
        pass

    def call(self, *arguments, **options):
        self.calls += 1
        return self.network(*arguments, **options)


def counted_vae():
    encoder, decoder = Counted(networks.dense_encoder((3,), (4,))), Counted(networks.dense_decoder(2, (3,), (4,)))
    model = tfvae.VAE(encoder, decoder, 2)
    model.build((None, 3))
    return model, {"encoder": encoder, "decoder": decoder}, X


def counted_conditional():
    encoder = Counted(networks.dense_encoder((3,), (4,), condition_dim=2))
    decoder = Counted(networks.dense_decoder(2, (3,), (4,), condition_dim=2))
    model = tfvae.ConditionalVAE(encoder, decoder, 2, 2)
    model.build((None, 3))
    return model, {"encoder": encoder, "decoder": decoder}, {"x": X, "condition": X[:, :2]}


def counted_semi_supervised():
    encoder = Counted(networks.dense_encoder((3,), (4,), condition_dim=5))
    decoder = Counted(networks.dense_decoder(2, (3,), (4,), condition_dim=5))
    classifier = Counted(networks.dense_decoder(3, (5,), (4,)))
    model = tfvae.SemiSupervisedVAE(encoder, decoder, classifier, 2, 5)
    model.build((None, 3))
    data = {"x": X, "label": np.arange(9) % 6 - 1}
    return model, {"encoder": encoder, "decoder": decoder, "classifier": classifier}, data


def counted_hierarchical():
    encoders = [Counted(networks.dense_encoder((3,), (4,))), Counted(networks.dense_encoder((2,), (4,)))]
    decoders = [Counted(networks.dense_decoder(2, (3,), (4,))), Counted(networks.dense_encoder((1,), (4,)))]
    model = tfvae.HierarchicalVAE(encoders, decoders, (2, 1))
    model.build((None, 3))
    counted = {"encoder": encoders[0], "encoder 2": encoders[1], "decoder": decoders[0], "decoder 2": decoders[1]}
    return model, counted, X


COUNTED = {
    "VAE": counted_vae,
    "conditional": counted_conditional,
    "semi-supervised": counted_semi_supervised,
    "hierarchical": counted_hierarchical,
}
ENCODING, DECODING, BOTH = ("encoder", "encoder 2"), ("decoder",), ("encoder", "encoder 2", "decoder")


def calls(counted, function):
    for network in counted.values():
        network.calls = 0
    function()
    return {name: network.calls for name, network in counted.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in ("VAE", "hierarchical") else pytest.param(name, marks=pytest.mark.slow) for name in COUNTED],
)
def test_a_signature_runs_each_network_once(name):
    model, counted, data = COUNTED[name]()
    model.calibrate(data, threshold=1.0)
    used = {
        "encode": ENCODING,
        "decode": DECODING,
        "reconstruct": BOTH,
        "generate": DECODING,
        "score": BOTH,
        "serving_default": BOTH,
        "generate_sample": DECODING,
        "reconstruct_sample": BOTH,
        "detect": BOTH,
    }
    if name == "semi-supervised":
        of_x = ("encode", "reconstruct", "score", "serving_default", "reconstruct_sample", "detect")
        used = {signature: (*of, *["classifier"] * (signature in of_x)) for signature, of in used.items()}
        used["classify"] = ("classifier",)
    if name == "hierarchical":
        # Every signature but `decode` needs the second decoder, which gives the prior of the lower layer.
        used = {key: of if key == "decode" else (*of, "decoder 2") for key, of in used.items()}
    for signature, of in model.export_signatures().items():
        graph = tf.function(of.function, input_signature=of.inputs)
        expected = {network: int(network in used[signature]) for network in counted}
        assert calls(counted, graph.get_concrete_function) == expected, signature


@pytest.mark.parametrize("name", COUNTED)
def test_in_python_each_network_runs_once_too(name):
    model, counted, data = COUNTED[name]()
    model.run_eagerly = True
    epsilon = np.zeros((9, 3 if name == "hierarchical" else 2), "float32")
    once = dict.fromkeys(counted, 1)
    assert calls(counted, lambda: model.score(data)) == once
    assert calls(counted, lambda: model.score(data, epsilon)) == once
    assert calls(counted, lambda: model.reconstruct(data)) == once


# The dtype policy while a float32 copy is made


class Watched(keras.Model):
    """A network that calls a function when it is constructed."""

    watch = staticmethod(lambda: None)

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.watch()
        self.dense = keras.layers.Dense(units)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x, training=False):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def half_precision(dtype_policy):
    dtype_policy("mixed_bfloat16")
    model = tfvae.VAE(Watched(4), networks.dense_decoder(2, (3,), (4,)), 2, posterior=posteriors.DiagonalNormal())
    model.build((None, 3))
    return model


@pytest.mark.slow
def test_an_export_in_float32_leaves_the_policy_of_every_thread_as_it_is(tmp_path, dtype_policy, monkeypatch):
    model = half_precision(dtype_policy)
    seen = []
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        other.submit(keras.config.set_dtype_policy, "mixed_float16").result()

        def watch():
            seen.append((keras.config.dtype_policy().name, other.submit(keras.config.dtype_policy).result().name))

        monkeypatch.setattr(Watched, "watch", staticmethod(watch))
        # The class is not registered, so the copy must be made within this scope, which Keras keeps for each thread.
        with keras.saving.custom_object_scope({"Watched": Watched}):
            export.saved_model(model, tmp_path / "model")
    assert seen == [("float32", "mixed_float16")]
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_a_copy_that_fails_leaves_the_policy_as_it_was(tmp_path, dtype_policy, monkeypatch):
    model = half_precision(dtype_policy)

    def fail():
        raise RuntimeError("this network cannot be made again")

    monkeypatch.setattr(Watched, "watch", staticmethod(fail))
    with (
        keras.saving.custom_object_scope({"Watched": Watched}),
        pytest.raises(Exception, match="this network cannot be made again"),
    ):
        export.saved_model(model, tmp_path / "model")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert list(tmp_path.iterdir()) == []
