"""The metadata inside a .tflite file, whose tables are read by the numbers of their fields in metadata_schema.fbs."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import Model
from flatbuffers import number_types
from flatbuffers.table import Table

import tfvae
from tests.helpers.exports import EVENT_SHAPE, Scaled
from tfvae import export, networks
from tfvae.export.formats import FORMATS, tflite_metadata

OFFSET, SCALE = [5.0, 0.0, -3.0], [2.0, 0.5, 1.0]


class Reader:
    """A table, whose fields are read by their numbers in the schema."""

    def __init__(self, buffer, position):
        self.table = Table(buffer, position)

    @classmethod
    def root(cls, buffer):
        return cls(buffer, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0))

    def at(self, number):
        return self.table.Offset(4 + 2 * number)

    def string(self, number):
        within = self.at(number)
        return self.table.String(within + self.table.Pos).decode() if within else None

    def kind(self, number):
        within = self.at(number)
        return self.table.Get(number_types.Uint8Flags, within + self.table.Pos) if within else 0

    def size(self, number):
        return self.table.Get(number_types.Uint32Flags, self.at(number) + self.table.Pos)

    def child(self, number):
        return Reader(self.table.Bytes, self.table.Indirect(self.at(number) + self.table.Pos))

    def positions(self, number):
        within = self.at(number)
        if not within:
            return []
        start = self.table.Vector(within)
        return [start + 4 * index for index in range(self.table.VectorLen(within))]

    def children(self, number):
        return [Reader(self.table.Bytes, self.table.Indirect(position)) for position in self.positions(number)]

    def strings(self, number):
        return [self.table.String(position).decode() for position in self.positions(number)]

    def floats(self, number):
        return [self.table.Get(number_types.Float32Flags, position) for position in self.positions(number)]


def buffers_of(content):
    model = Model.GetRootAs(content)
    return {
        model.Metadata(number).Name().decode(): bytearray(model.Buffers(model.Metadata(number).Buffer()).DataAsNumpy())
        for number in range(model.MetadataLength())
    }


def read(path):
    """The metadata, and the metadata of each subgraph by its name."""
    content = buffers_of(path.read_bytes())["TFLITE_METADATA"]
    assert content[4:8] == b"M001"
    root = Reader.root(content)
    return root, {graph.string(0): graph for graph in root.children(3)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A file with labels, which was given data and units."""
    keras.utils.set_random_seed(0)
    model = tfvae.SemiSupervisedVAE(
        networks.dense_encoder((3,), (8,), condition_dim=3),
        networks.dense_decoder(2, (3,), (8,), condition_dim=3),
        networks.dense_decoder(3, (3,), (8,)),
        latent_dim=2,
        num_classes=3,
    )
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    data = {"x": x, "label": np.arange(9) % 3}
    return export.tflite(
        model, tmp_path_factory.mktemp("labelled") / "model.tflite", x=data, offset=OFFSET, scale=SCALE
    )


@pytest.mark.slow
def test_each_subgraph_has_the_names_of_its_signature_in_the_order_of_its_tensors(labelled):
    _, graphs = read(labelled)
    interpreter = Interpreter(str(labelled))
    assert set(graphs) == set(interpreter.get_signature_list())
    model = Model.GetRootAs(labelled.read_bytes())
    assert list(graphs) == [
        model.SignatureDefs(number).SignatureKey().decode() for number in range(model.SignatureDefsLength())
    ]
    assert [model.SignatureDefs(number).SubgraphIndex() for number in range(len(graphs))] == list(range(len(graphs)))
    for number, (name, graph) in enumerate(graphs.items()):
        runner = interpreter.get_signature_runner(name)
        for field, details, order in (
            (2, runner.get_input_details(), model.Subgraphs(number).InputsAsNumpy()),
            (3, runner.get_output_details(), model.Subgraphs(number).OutputsAsNumpy()),
        ):
            by_index = {tensor["index"]: key for key, tensor in details.items()}
            assert [tensor.string(0) for tensor in graph.children(field)] == [by_index[index] for index in order]
            for tensor in graph.children(field):
                axes = tensor.strings(2)
                assert not axes or len(axes) == len(details[tensor.string(0)]["shape"])


def tensor_of(graph, name, field=2):
    return next(tensor for tensor in graph.children(field) if tensor.string(0) == name)


@pytest.mark.slow
def test_the_model_is_named_and_described(labelled):
    root, _ = read(labelled)
    assert (root.string(0), root.string(2), root.string(7)) == ("model", tfvae.__version__, "1.0.0")
    assert "DiagonalNormal" in root.string(1)
    assert "(x - offset) / scale" in root.string(1)


@pytest.mark.slow
def test_the_normalisation_is_what_is_left_to_the_caller(labelled):
    _, graphs = read(labelled)
    description = json.loads(labelled.with_suffix(".json").read_text())["expected_range"]
    low, high = np.array(description["low"]), np.array(description["high"])
    for name, mean, std, ends in (
        ("encode", [0.0], [1.0], (low, high)),
        ("encode_normalized", OFFSET, SCALE, ((low - OFFSET) / SCALE, (high - OFFSET) / SCALE)),
    ):
        x = tensor_of(graphs[name], "x")
        (unit,) = x.children(4)
        assert unit.kind(0) == 1
        assert (unit.child(1).floats(0), unit.child(1).floats(1)) == (mean, std)
        np.testing.assert_allclose(x.child(5).floats(1), ends[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(x.child(5).floats(0), ends[1], rtol=1e-5, atol=1e-5)
        assert x.child(3).kind(0) == 1  # FeatureProperties
    assert "raw data" in graphs["encode"].string(1)
    assert "units of the model" in graphs["encode_normalized"].string(1)


def test_labels_are_a_file_within_the_file(labelled):
    _, graphs = read(labelled)
    with zipfile.ZipFile(labelled) as packed:
        assert packed.namelist() == ["labels.txt"]
        assert packed.read("labels.txt") == b"0\n1\n2\n"
    for tensor, kind in (
        (tensor_of(graphs["classify"], "probabilities", 3), 2),
        (tensor_of(graphs["encode"], "label"), 3),
    ):
        (file,) = tensor.children(6)
        assert (file.string(0), file.kind(2)) == ("labels.txt", kind)


def test_an_image_is_one(exported):
    _, graphs = read(exported("convolutional-Bernoulli").tflite)
    for tensor in (tensor_of(graphs["encode"], "x"), tensor_of(graphs["decode"], "mean", 3)):
        content = tensor.child(3)
        assert content.kind(0) == 2  # ImageProperties
        image = content.child(1)
        assert image.kind(0) == 2  # GRAYSCALE
        assert (image.child(1).size(0), image.child(1).size(1)) == EVENT_SHAPE[:2]
        assert tensor.strings(2) == ["example", "height", "width", "channel"]
        assert tensor.string(1) in ("the data", "the mean of p(x|z)")


@pytest.mark.slow
def test_the_rest_of_the_file_stays_as_it_was(tmp_path, monkeypatch):
    written = []
    right = tflite_metadata.describe

    def describe(path, description):
        written.append(path.read_bytes())
        return right(path, description)

    monkeypatch.setitem(FORMATS, "tflite", FORMATS["tflite"]._replace(describe=describe))
    after = export.tflite(Scaled(), tmp_path / "model.tflite").read_bytes()
    (before,) = written
    assert (len(after) - len(before)) % 16 == 0
    old, new = buffers_of(before), buffers_of(after)
    assert new.pop("TFLITE_METADATA")
    minimum = new["min_runtime_version"]
    assert after.endswith(before.replace(old["min_runtime_version"], minimum))
    assert new == {**old, "min_runtime_version": minimum}
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["min_runtime_version"] == minimum.rstrip(b"\0").decode() == "2.7.0"


@pytest.mark.parametrize(
    ("of_ops", "expected"), [("1.14.0", "2.7.0"), ("2.6.9", "2.7.0"), ("2.7.0", "2.7.0"), ("2.17.0", "2.17.0")]
)
def test_the_runtime_is_the_first_with_the_ops_and_with_several_signatures(exported, of_ops, expected):
    content = exported("linear").tflite.read_bytes()
    now = buffers_of(content)["min_runtime_version"]
    assert content.count(now) == 1
    written = bytearray(content.replace(now, of_ops.encode().ljust(len(now), b"\0")))
    assert tflite_metadata._set_minimum(written) == expected
    assert buffers_of(bytes(written))["min_runtime_version"].rstrip(b"\0").decode() == expected


@pytest.mark.slow
@pytest.mark.extra
def test_tflite_support_reads_it(labelled):
    """Fails without an environment of its own; `-m "slow and not extra"` leaves it out:

    python -m venv FOLDER && FOLDER/bin/pip install tflite-support "numpy<2"
    export TFLITE_SUPPORT_PYTHON=FOLDER/bin/python
    """
    assert "TFLITE_SUPPORT_PYTHON" in os.environ, "must be a Python that has tflite-support, as the docstring says"
    script = Path(__file__).parent.parent / "helpers" / "read_tflite_metadata.py"
    command = [os.environ["TFLITE_SUPPORT_PYTHON"], script, labelled]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    _, graphs = read(labelled)
    assert [graph["name"] for graph in shown["metadata"]["subgraph_metadata"]] == list(graphs)
    assert shown["files"] == {"labels.txt": "0\n1\n2\n"}
    encode = next(graph for graph in shown["metadata"]["subgraph_metadata"] if graph["name"] == "encode_normalized")
    x = next(tensor for tensor in encode["input_tensor_metadata"] if tensor["name"] == "x")
    assert x["process_units"] == [{"options_type": "NormalizationOptions", "options": {"mean": OFFSET, "std": SCALE}}]
