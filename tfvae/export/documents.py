"""The files beside a model's versions that explain how to serve it: templates, filled with its names and shapes."""

import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfvae.export import units
from tfvae.export.endpoints import Endpoints
from tfvae.exportable import Exportable, Signature


def files(
    model: Exportable,
    signatures: Mapping[str, Signature],
    endpoints: Endpoints,
    name: str,
    scaling: units.Units | None = None,
    batching: bool = False,
) -> dict[str, str]:
    """The text of each file, by file name.

    Every template of a README has the fields `name`; `serve`, how to start a server; `ask`, requests by REST and gRPC;
    `rows`, what B means; `signatures`, a table of the signatures; and `units`, what is in raw units.

    Args:
        model: the model.
        signatures: the functions of this export, from `tfvae.export.units.signatures`.
        endpoints: the functions that are served, whose outputs the table shows.
        name: the name under which the model is served.
        scaling: the units of the signatures.
        batching: whether to write a batching.config, and to start the server with it.
    """
    requests = {key: signature.request for key, signature in signatures.items() if signature.request is not None}
    serve = _filled("serve.md", {"name": name, "flags": _BATCHING_FLAGS.format(name=name) if batching else ""})
    fields = {
        "name": name,
        "serve": serve + (_filled("batching.md", {}) if batching else ""),
        "ask": _ask(name, model.export_description(), signatures["serving_default"], list(requests)),
        "rows": f"B is any number of rows{', up to 1024 with batching.config' if batching else ''}; all are float32.",
        "signatures": _table(signatures, endpoints),
        "units": "" if scaling is None else _filled("units.md", {"names": _normalized_names(signatures)}),
    }
    sections = [_filled(template, {**fields, **own}) for template, own in model.export_readme(signatures)]
    texts = {"README.md": "".join(sections), "models.config": _filled("models.config", fields)}
    if batching:
        texts["batching.config"] = _filled("batching.config", fields)
    for key, row in requests.items():
        inputs = [spec.name for spec in signatures[key].inputs]
        columns = {column: [row[column] if isinstance(row, dict) else row] for column in inputs}
        texts[f"requests/{key}.json"] = _request(key, {"instances": [row]})
        texts[f"requests/{key}.columns.json"] = _request(key, {"inputs": columns})
    return texts


_BATCHING_FLAGS = " \\\n        --enable_batching --batching_parameters_file=/models/{name}/batching.config"


def _normalized_names(signatures: Mapping[str, Signature]) -> str:
    return ", ".join(f"`{name}`" for name in signatures if name.endswith(units.SUFFIX))


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    text = (importlib.resources.files("tfvae.export") / "templates" / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(fields)


def _ask(name: str, description: Mapping[str, Any], signature: Signature, requests: Sequence[str]) -> str:
    address = f"http://localhost:8501/v1/models/{name}:predict"
    missing_values = description.get("missing_values", False)
    wrong = "infinity" if missing_values else "NaN or infinity"
    fields = {
        "name": name,
        "questions": "".join(
            f"    curl -d @requests/{file}.json {address}\n" for key in requests for file in (key, f"{key}.columns")
        ),
        "tensors": "".join(
            f'    request.inputs["{spec.name}"].CopyFrom('
            f"tf.make_tensor_proto(np.zeros({[1, *spec.shape[1:]]}, np.float32)))\n"
            for spec in signature.inputs
        ),
        "wrong": f"{wrong}, or a value that is not a valid label," if "num_classes" in description else wrong,
    }
    return _filled("ask.md", fields) + (_filled("missing.md", {}) if missing_values else "")


def _table(signatures: Mapping[str, Signature], endpoints: Endpoints) -> str:
    """A row for each signature, with the outputs that it was traced to have."""
    lines = ["| signature | inputs | outputs | |", "| --- | --- | --- | --- |"]
    for name, signature in signatures.items():
        outputs = endpoints.signatures_by_name[name].structured_outputs
        inputs = {spec.name: spec for spec in signature.inputs}
        meaning = signature.meaning.replace("|", "\\|")
        lines.append(f"| {name} | {_shapes(inputs)} | {_shapes(outputs)} | {meaning} |")
    return "\n".join(lines)


def _shapes(tensors: Mapping[str, tf.TensorSpec | tf.Tensor]) -> str:
    return ", ".join(f"{name} [{', '.join(map(str, ('B', *tensor.shape[1:])))}]" for name, tensor in tensors.items())


def _request(signature: str, body: dict[str, Any]) -> str:
    """The body of a REST request; one that names no signature is for `serving_default`."""
    named = {} if signature == "serving_default" else {"signature_name": signature}
    return json.dumps({**named, **body}) + "\n"
