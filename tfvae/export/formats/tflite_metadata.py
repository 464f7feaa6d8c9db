"""The metadata inside a .tflite file, as tflite-support, ML Kit and Netron read them.

The tables are those of metadata_schema.fbs (tensorflow/tflite-support). No package that is kept up has their classes,
so they are built by the numbers of their fields.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import flatbuffers.table
import numpy as np

_NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
# All fields that are written are in the first version of the schema.
_MIN_PARSER_VERSION = "1.0.0"
# Members of the unions and enumerations of the schema.
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALIZATION_OPTIONS = 1
_COLOR_SPACES = {1: 2, 3: 1}  # By the number of channels: GRAYSCALE and RGB.
_TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS = 2, 3
_LABELS = "labels.txt"
_NORMALIZED = "_normalized"
# The first version in which LiteRT (TensorFlow Lite) runs a signature in a subgraph of its own, as files with several
# signatures need (https://ai.google.dev/edge/litert/models/signatures). The converter counts ops alone.
_OF_SIGNATURES = "2.7.0"
# LiteRT reads weights in place, where their addresses must be multiples of this.
_ALIGNMENT = 16

# For each signature in the order of their subgraphs: the number of the subgraph, the name, and the name and shape of
# each of its inputs and outputs, in the order of the subgraph's.
Tensors = list[tuple[str, tuple[int, ...]]]
Graphs = dict[int, tuple[str, Tensors, Tensors]]


def describe(path: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Writes a description into a .tflite file, and adds to it which runtime the file needs.

    Args:
        path: the file.
        description: the result of `tfvae.export.metadata.metadata`.

    Returns:
        The description with `min_runtime_version`, the first of LiteRT (TensorFlow Lite) that has the ops of the file
        and signatures, which is written to the file too.
    """
    content = bytearray(path.read_bytes())
    graphs, count = _read(content)
    minimum = _set_minimum(content)
    path.write_bytes(_with_metadata(bytes(content), _model_metadata(path.stem, description, graphs, count)))
    if "num_classes" in description:
        # At the end of the file, as associated files of tflite-support are; LiteRT does not read that far.
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(_LABELS, "".join(f"{label}\n" for label in range(description["num_classes"])))
    return {**description, "min_runtime_version": minimum}


def _read(content: bytearray) -> tuple[Graphs, int]:
    """The signatures of a file, and the number of its subgraphs."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content)
    graphs: Graphs = {}
    for number in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(number)
        graph = model.Subgraphs(signature.SubgraphIndex())
        inputs = {item.TensorIndex(): item for item in map(signature.Inputs, range(signature.InputsLength()))}
        outputs = {item.TensorIndex(): item for item in map(signature.Outputs, range(signature.OutputsLength()))}
        named = (
            [
                (names[index].Name().decode(), _shape(graph.Tensors(index)))
                for index in map(int, order)
                if index in names
            ]
            for order, names in ((graph.InputsAsNumpy(), inputs), (graph.OutputsAsNumpy(), outputs))
        )
        graphs[signature.SubgraphIndex()] = (signature.SignatureKey().decode(), *named)
    return graphs, model.SubgraphsLength()


def _set_minimum(content: bytearray) -> str:
    """Writes the runtime that a file needs in place of the one that the converter wrote, and returns it."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content)
    entries = map(model.Metadata, range(model.MetadataLength()))
    (entry,) = (entry for entry in entries if entry.Name() == b"min_runtime_version")
    # A view of the content, which ends in zeros.
    written = model.Buffers(entry.Buffer()).DataAsNumpy()
    of_ops = written.tobytes().rstrip(b"\0").decode()
    minimum = max(of_ops, _OF_SIGNATURES, key=lambda version: [int(part) for part in version.split(".")])
    written[:] = np.frombuffer(minimum.encode().ljust(len(written), b"\0"), np.uint8)
    return minimum


def _shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor, in which -1 is any size."""
    shape = tensor.ShapeAsNumpy() if tensor.ShapeSignatureIsNone() else tensor.ShapeSignatureAsNumpy()
    return () if isinstance(shape, int) else tuple(map(int, shape))


def _with_metadata(content: bytes, metadata: bytes) -> bytes:
    """The file with the metadata in a buffer of its own.

    A flatbuffer is built from its end to its start, and refers only forwards. So a new root and new lists are put
    before the old content, which stays as it is, weights included; unpacking and packing it would lose their alignment.
    """
    from ai_edge_litert import schema_py_generated as schema

    # The builder aligns by the distance from the end, and so is given an end that is a multiple of the alignment.
    padding = -len(content) % _ALIGNMENT
    content += bytes(padding)
    root = flatbuffers.table.Table(content, int.from_bytes(content[:4], "little"))
    builder = flatbuffers.Builder(0)
    room = len(metadata) + 4096
    builder.Bytes, builder.head = bytearray(room) + content, room

    def target(position: int) -> int:
        """The offset of what the field at a position of the old content refers to, counted from the end."""
        return len(content) - (position + int.from_bytes(content[position : position + 4], "little"))

    def field(number: int) -> int | None:
        """The position of a field of the old root."""
        within = root.Offset(4 + 2 * number)
        return root.Pos + within if within else None

    def entries(number: int) -> list[int]:
        within = root.Offset(4 + 2 * number)
        if not within:
            return []
        start = root.Vector(within)
        return [target(start + 4 * index) for index in range(root.VectorLen(within))]

    # The numbers of the fields of the table Model in schema.fbs.
    version, buffers, metadata_list = 0, 4, 6
    others = {number: field(number) for number in (1, 2, 3, 5, 7, 8, 9)}
    builder.StartVector(1, len(metadata), _ALIGNMENT)
    builder.head -= len(metadata)
    builder.Bytes[builder.head : builder.head + len(metadata)] = metadata
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffer = schema.BufferEnd(builder)
    all_buffers = [*entries(buffers), buffer]
    name = builder.CreateString(_NAME)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, name)
    schema.MetadataAddBuffer(builder, len(all_buffers) - 1)
    entry = schema.MetadataEnd(builder)
    lists = {buffers: _offsets(builder, all_buffers)}
    lists[metadata_list] = _offsets(builder, [*entries(metadata_list), entry])
    builder.StartObject(10)
    at = field(version)
    builder.PrependUint32Slot(version, 0 if at is None else int.from_bytes(content[at : at + 4], "little"), 0)
    for number, position in others.items():
        if position is not None:
            builder.PrependUOffsetTRelativeSlot(number, target(position), 0)
    for number, offset in lists.items():
        builder.PrependUOffsetTRelativeSlot(number, offset, 0)
    model = builder.EndObject()
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())[: -padding or None]


def _model_metadata(name: str, description: Mapping[str, Any], graphs: Graphs, count: int) -> bytes:
    """The table ModelMetadata of a description, as a flatbuffer of its own."""
    builder = flatbuffers.Builder(4096)
    tables = []
    for number in range(count):
        signature, inputs, outputs = graphs.get(number, ("", [], []))
        takes_raw = description.get("units") == "raw" and not signature.endswith(_NORMALIZED)
        text = f"{'raw data' if takes_raw else 'the units of the model'}" if "units" in description else ""
        of_inputs, of_outputs = (
            _offsets(builder, [_tensor(builder, description, signature, *tensor, is_input) for tensor in tensors])
            for tensors, is_input in ((inputs, True), (outputs, False))
        )
        # SubGraphMetadata: name 0, description 1, input_tensor_metadata 2, output_tensor_metadata 3.
        strings = builder.CreateString(signature), builder.CreateString(text and f"It takes and gives {text}.")
        tables.append(_table(builder, 7, dict(enumerate((*strings, of_inputs, of_outputs)))))
    fields = {
        # ModelMetadata: name 0, description 1, version 2, subgraph_metadata 3, author 4, license 5,
        # associated_files 6, min_parser_version 7.
        0: builder.CreateString(name),
        1: builder.CreateString(_summary(description)),
        2: builder.CreateString(description["tfvae_version"]),
        3: _offsets(builder, tables),
        7: builder.CreateString(_MIN_PARSER_VERSION),
    }
    builder.Finish(_table(builder, 8, fields), _IDENTIFIER)
    return bytes(builder.Output())


def _summary(description: Mapping[str, Any]) -> str:
    parts = ", ".join(str(description[name]) for name in ("posterior", "prior", "likelihood") if name in description)
    scaling = description.get("scaling")
    units = "" if scaling is None else f" {scaling['formula']}."
    threshold = description.get("threshold")
    anomalies = "" if threshold is None else f" An anomaly has a score above {threshold['value']:g} nats."
    return f"A model exported by tfvae{f' ({parts})' if parts else ''}.{units}{anomalies}"


def _tensor(
    builder: flatbuffers.Builder,
    description: Mapping[str, Any],
    signature: str,
    name: str,
    shape: tuple[int, ...],
    is_input: bool,
) -> int:
    """The table TensorMetadata of an input or output."""
    is_normalized = signature.endswith(_NORMALIZED)
    text = description["meanings"].get(name, "")
    is_of_x = list(shape[1:]) == description.get("event_shape") and name in ("x", "mean")
    axes = description["axes"].get("x" if is_of_x else name)
    # TensorMetadata: name 0, description 1, dimension_names 2, content 3, process_units 4, stats 5, associated_files 6.
    fields = {0: builder.CreateString(name), 1: builder.CreateString(text), 3: _content(builder, shape, is_of_x)}
    if axes is not None:
        fields[2] = _offsets(builder, [builder.CreateString(axis) for axis in axes.split(", ")])
    if is_input and name == "x":
        normalization = _normalization(builder, description.get("scaling") if is_normalized else None, shape[1:])
        if normalization is not None:
            fields[4] = normalization
        stats = _stats(builder, description, is_normalized)
        if stats is not None:
            fields[5] = stats
    kind = {"label": _TENSOR_VALUE_LABELS, "probabilities": _TENSOR_AXIS_LABELS}.get(name)
    if kind is not None and "num_classes" in description:
        # AssociatedFile: name 0, description 1, type 2, locale 3.
        strings = builder.CreateString(_LABELS), builder.CreateString("The names of the classes, one a line.")
        fields[6] = _offsets(builder, [_table(builder, 4, dict(enumerate(strings)), {2: kind})])
    return _table(builder, 7, fields)


def _content(builder: flatbuffers.Builder, shape: tuple[int, ...], is_of_x: bool) -> int:
    """The table Content: an image, if it is one, or else features."""
    if is_of_x and len(shape) == 4 and shape[3] in _COLOR_SPACES:
        builder.StartObject(2)  # ImageSize: width 0, height 1.
        builder.PrependUint32Slot(0, shape[2], 0)
        builder.PrependUint32Slot(1, shape[1], 0)
        size = builder.EndObject()
        # ImageProperties: color_space 0, default_size 1.
        kind, properties = _IMAGE_PROPERTIES, _table(builder, 2, {1: size}, {0: _COLOR_SPACES[shape[3]]})
    else:
        kind, properties = _FEATURE_PROPERTIES, _table(builder, 0, {})
    # Content: the kind of content_properties 0, content_properties 1, range 2.
    return _table(builder, 3, {1: properties}, {0: kind})


def _normalization(builder: flatbuffers.Builder, scaling: Mapping[str, Any] | None, shape: Sequence[int]) -> int | None:
    """What the caller has to do with x: nothing, with mean 0 and std 1, unless the signature takes the model's units.

    None if the units differ in another way than by channel, for which there is no form.
    """
    values = [0.0], [1.0]
    if scaling is not None:
        arrays = [np.asarray(scaling[name], np.float32) for name in ("offset", "scale")]
        if any(array.size not in (1, array.shape[-1] if array.ndim else 1) for array in arrays):
            return None
        values = arrays[0].ravel().tolist(), arrays[1].ravel().tolist()
    # NormalizationOptions: mean 0, std 1. ProcessUnit: the kind of options 0, options 1.
    options = _table(builder, 2, {number: _floats(builder, value) for number, value in enumerate(values)})
    return _offsets(builder, [_table(builder, 2, {1: options}, {0: _NORMALIZATION_OPTIONS})])


def _stats(builder: flatbuffers.Builder, description: Mapping[str, Any], is_normalized: bool) -> int | None:
    """The range of x, in the units of the signature; None if it is not known."""
    expected = description.get("expected_range")
    if expected is None:
        return None
    low, high = (np.atleast_1d(np.asarray(expected[name], float)) for name in ("low", "high"))
    scaling = description.get("scaling")
    if is_normalized and scaling is not None:
        offset, scale = (np.asarray(scaling[name], float) for name in ("offset", "scale"))
        ends = [(end - offset) / scale for end in (low, high)]
        low, high = np.fmin(*ends), np.fmax(*ends)
    if not np.isfinite([low, high]).all() or low.ndim > 1:
        return None
    # Stats: max 0, min 1.
    return _table(builder, 2, {0: _floats(builder, high), 1: _floats(builder, low)})


def _floats(builder: flatbuffers.Builder, values: Any) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.float32)))


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """A list of tables, strings or lists that are written already."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(
    builder: flatbuffers.Builder, size: int, offsets: Mapping[int, int], kinds: Mapping[int, int] | None = None
) -> int:
    """A table of `size` fields: some refer to what is written already, and some are members of an enumeration."""
    builder.StartObject(size)
    for number, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(number, offset, 0)
    for number, kind in (kinds or {}).items():
        builder.PrependUint8Slot(number, kind, 0)
    return int(builder.EndObject())
