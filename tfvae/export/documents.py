"""The files beside a model's versions that explain how to serve it: templates, filled with its names and shapes."""

import importlib.resources
import json
import string
from collections.abc import Mapping
from typing import Any

from tfvae.export import units
from tfvae.exportable import Exportable, Signature


def files(
    model: Exportable, signatures: Mapping[str, Signature], name: str, scaling: units.Units | None = None
) -> dict[str, str]:
    """The text of each file, by file name.

    Every template has the fields `name`; `serve`, how to start a server; `questions`, a command for each example
    request; `signatures`, the rows of a table of the signatures; and `units`, what is in raw units.

    Args:
        model: the model.
        signatures: the functions of this export, from `tfvae.export.units.signatures`.
        name: the name under which the model is served.
        scaling: the units of the signatures.
    """
    requests = {key: signature.request for key, signature in signatures.items() if signature.request is not None}
    address = f"http://localhost:8501/v1/models/{name}:predict"
    fields = {
        "name": name,
        "serve": _filled("serve.md", {"name": name}),
        "questions": "".join(f"    curl -d @requests/{key}.json {address}\n" for key in requests),
        "signatures": "\n".join(f"| {key} | {_inputs(signature)} |" for key, signature in signatures.items()),
        "units": "" if scaling is None else _filled("units.md", {"names": _normalized_names(signatures)}),
    }
    sections = [_filled(template, {**fields, **own}) for template, own in model.export_readme(signatures)]
    return {
        "README.md": "".join(sections),
        "models.config": _filled("models.config", fields),
        "batching.config": _filled("batching.config", fields),
        **{f"requests/{key}.json": _request(key, row) for key, row in requests.items()},
    }


def _normalized_names(signatures: Mapping[str, Signature]) -> str:
    return ", ".join(f"`{name}`" for name in signatures if name.endswith(units.SUFFIX))


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    text = (importlib.resources.files("tfvae.export") / "templates" / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(fields)


def _inputs(signature: Signature) -> str:
    return ", ".join(f"{spec.name} [{', '.join(map(str, ('B', *spec.shape[1:])))}]" for spec in signature.inputs)


def _request(signature: str, row: Any) -> str:
    """The body of a REST request; one that names no signature is for `serving_default`."""
    named = {} if signature == "serving_default" else {"signature_name": signature}
    return json.dumps({**named, "instances": [row]}) + "\n"
