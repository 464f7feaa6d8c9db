"""The files beside a model's versions that explain how to serve it: templates, filled with its names and shapes."""

import importlib.resources
import json
import re
import string
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae.export import units
from tfvae.export.endpoints import Endpoints
from tfvae.exportable import Exportable, NamedColumns, Signature, as_markdown


def files(
    model: Exportable,
    signatures: Mapping[str, Signature],
    endpoints: Endpoints,
    name: str,
    scaling: units.Units | None = None,
    batching: bool = False,
) -> dict[str, str]:
    """The text of each file, by file name, for a format that takes texts.

    Every template of a README has the fields `name`; `serve`, how to start a server; `ask`, requests by REST and gRPC;
    `rows`, what B means; `signatures`, a table of the signatures; `units`, what is in raw units; and `columns`, a table
    of the named columns that stand in the place of x, if there are any.

    Args:
        model: the model.
        signatures: the functions of this export, from `tfvae.export.units.signatures`.
        endpoints: the functions that are served, whose outputs the table shows.
        name: the name under which the model is served.
        scaling: the units of the signatures.
        batching: whether to write a batching.config, and to start the server with it.
    """
    requests = {key: _row(signature) for key, signature in signatures.items() if signature.request is not None}
    columns = signatures["serving_default"].columns
    serve = _filled("serve.md", {"name": name, "flags": _BATCHING_FLAGS.format(name=name) if batching else ""})
    fields = {
        "name": name,
        "serve": serve + (_filled("batching.md", {}) if batching else ""),
        "ask": _ask(name, model.export_description(), signatures["serving_default"], list(requests)),
        "rows": f"B is any number of rows{', up to 1024 with batching.config' if batching else ''}; all are float32"
        f"{'' if columns is None else ', but for texts'}.",
        "columns": "" if columns is None else _table_of_columns(columns),
        "signatures": _table(signatures, endpoints),
        "units": "" if scaling is None else _filled("units.md", {"names": _normalized_names(signatures)}),
    }
    sections = [_filled(template, {**fields, **own}) for template, own in model.export_readme(signatures)]
    texts = {"README.md": _wrapped("".join(sections)), "models.config": _filled("models.config", fields)}
    if batching:
        texts["batching.config"] = _filled("batching.config", fields)
    for key, row in requests.items():
        inputs = [spec.name for spec in signatures[key].named_inputs]
        by_input = {name: [row[name] if isinstance(row, dict) else row] for name in inputs}
        texts[f"requests/{key}.json"] = _request(key, {"instances": [row]})
        texts[f"requests/{key}.columns.json"] = _request(key, {"inputs": by_input})
    return texts


def _row(signature: Signature) -> Any:
    """The row of a request, with named columns in the place of x if there are any."""
    if signature.columns is None:
        return signature.request
    is_named = isinstance(signature.request, Mapping)
    given = signature.request if is_named else {signature.inputs[0].name: signature.request}
    if "x" not in given:
        return signature.request
    raw = signature.columns.raw(np.array([given["x"]]))
    others = {name: value for name, value in given.items() if name != "x"}
    return {**{name: _short(array[0]) for name, array in raw.items()}, **others}


def _short(value: Any) -> Any:
    """A text, or a float32 number with no more digits than it needs."""
    return value if isinstance(value, str) else float(str(value))


_BATCHING_FLAGS = " \\\n        --enable_batching --batching_parameters_file=/models/{name}/batching.config"


def _normalized_names(signatures: Mapping[str, Signature]) -> str:
    return ", ".join(f"`{name}`" for name in signatures if name.endswith(units.SUFFIX))


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    text = (importlib.resources.files("tfvae.export") / "templates" / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(fields)


# Lines one after the other that are no code, table, heading or list.
_PROSE = re.compile(r"(?:^(?![ |#-]).+\n)+", re.MULTILINE)
_WIDTH = 120


def _wrapped(markdown: str) -> str:
    """Markdown with the lines of its prose broken anew, because the fields of templates have any length."""
    return _PROSE.sub(
        lambda lines: textwrap.fill(lines[0], _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n", markdown
    )


def _ask(name: str, description: Mapping[str, Any], signature: Signature, requests: Sequence[str]) -> str:
    address = f"http://localhost:8501/v1/models/{name}:predict"
    missing_values = description.get("missing_values", False)
    wrong = "infinity" if missing_values else "NaN or infinity"
    has_state = "state_shape" in description
    fields = {
        "name": name,
        "questions": "".join(
            f"    curl -d @requests/{file}.json {address}\n" for key in requests for file in (key, f"{key}.columns")
        ),
        "types": "float32" if signature.columns is None else "float32, or strings",
        "tensors": "".join(
            f'    request.inputs["{spec.name}"].CopyFrom(tf.make_tensor_proto({_tensor(signature, spec)}))\n'
            for spec in signature.named_inputs
        ),
        "but_state": " but `state`" if has_state else "",
        "wrong": f"{wrong}, or a value that is not a valid {'label' if 'num_classes' in description else 'code'},"
        if {"num_classes", "num_codes"} & set(description)
        else wrong,
    }
    if signature.columns is not None:
        fields["wrong"] = signature.columns.wrong
    has_nan_in_x = missing_values and signature.columns is None
    return _filled("ask.md", fields) + (_filled("missing.md", {}) if has_nan_in_x else "")


def _tensor(signature: Signature, spec: tf.TensorSpec) -> str:
    """Python code of an input with one row: that of the request if it is a column of a table, or else zeros."""
    if signature.columns is None or spec not in signature.columns.specs:
        # Of what may have any number of steps, one.
        return f"np.zeros({[1, *(size or 1 for size in spec.shape[1:])]}, np.float32)"
    value = _row(signature)[spec.name]
    return f"[{json.dumps(value)}]" if spec.dtype == tf.string else f"[{value}], tf.float32"


def _table_of_columns(columns: NamedColumns) -> str:
    lines = ["| column | input | type | |", "| --- | --- | --- | --- |"]
    names = {argument: column for column, argument in columns.arguments.items()}
    for spec in columns.specs:
        dtype = "string" if spec.dtype == tf.string else "float32"
        cells = (names[spec.name], spec.name, dtype, columns.meanings[spec.name])
        lines.append(f"| {' | '.join(map(as_markdown, cells))} |")
    return "\n".join(lines)


def _table(signatures: Mapping[str, Signature], endpoints: Endpoints) -> str:
    """A row for each signature, with the outputs that it was traced to have."""
    lines = ["| signature | inputs | outputs | |", "| --- | --- | --- | --- |"]
    for name, signature in signatures.items():
        outputs = endpoints.signatures_by_name[name].structured_outputs
        given = {spec.name: spec for spec in endpoints.signatures_by_name[name].structured_input_signature[0]}
        taken = [spec.name for spec in signature.inputs if signature.columns is None or spec.name != "x"]
        first = [] if signature.columns is None else [f"{signature.columns.called} [B]"]
        inputs = ", ".join([*first, *filter(None, [_shapes({each: given[each] for each in taken})])])
        meaning = signature.meaning.replace("|", "\\|")
        lines.append(f"| {name} | {inputs} | {_shapes(outputs)} | {meaning} |")
    return "\n".join(lines)


def _shapes(tensors: Mapping[str, tf.TensorSpec | tf.Tensor]) -> str:
    return ", ".join(
        f"{as_markdown(name)} [{', '.join(['B', *('T' if size is None else str(size) for size in tensor.shape[1:])])}]"
        for name, tensor in tensors.items()
    )


def _request(signature: str, body: dict[str, Any]) -> str:
    """The body of a REST request; one that names no signature is for `serving_default`."""
    named = {} if signature == "serving_default" else {"signature_name": signature}
    return json.dumps({**named, **body}) + "\n"
