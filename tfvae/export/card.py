"""The model card of an export: what it is for, what it was made of and how, and the hashes of its files.

It has the form that the Hugging Face Hub reads, Markdown after a head in YAML, and is part of the README.md of a
SavedModel's folder and of a repository to which `model.save("hf://...")` saves.

Reference: Mitchell et al. 2019, Model Cards for Model Reporting.
"""

import dataclasses
import hashlib
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tfvae.exportable import Exportable, as_markdown, weight_count

_PACKAGES = ("tfvae", "keras", "tensorflow", "tensorflow-probability")
_NOT_STATED = "not stated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What only its maker knows of a model, for its model card: Markdown, or None for what is not stated.

    Args:
        data: what the model was trained on, where it is from, and how much of it was held out.
        figures: what was measured, and on which data.
        intended_use: what the model is for, and what it is not for.
        limits: what is known to go wrong, beside what holds for every model of its kind.
        command: what made the model.
        license: the identifier of the license in the Hugging Face Hub, such as "apache-2.0".

    Raises:
        TypeError: an argument is not a text.
    """

    data: str | None = None
    figures: str | None = None
    intended_use: str | None = None
    limits: str | None = None
    command: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value is None or isinstance(value, str)):
                raise TypeError(f"`{field.name}` must be a text or None. Received: {field.name}={value!r}")


def checked(card: Any) -> Card:
    """The card, or an empty one for None.

    Raises:
        TypeError: it is neither.
    """
    if card is None:
        return Card()
    if not isinstance(card, Card):
        raise TypeError(f"`card` must be a tfvae.export.Card or None. Received: card={card!r}")
    return card


def head(model: Exportable, card: Card, **entries: Any) -> str:
    """The head of the README.md, in YAML between two lines of dashes.

    Args:
        model: the model.
        card: what its maker says of it.
        entries: further entries.
    """
    entries = {**entries, "tags": ["tfvae", *model.export_tags]}
    if card.license is not None:
        entries["license"] = card.license
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---\n"


def section(model: Exportable, card: Card, folder: Path, name: str = "", beside: Sequence[Path] = ()) -> str:
    """The section of the README.md.

    Args:
        model: the model.
        card: what its maker says of it.
        folder: the folder whose files it lists, with their hashes.
        name: where a reader finds the folder, if it is not that of the README.md.
        beside: further files to list, which are beside the README.md.
    """
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    limits = [model.export_limits, *filter(None, [card.limits])]
    lines = [
        "## Model card",
        f"- **Intended use:** {_stated(card.intended_use)}",
        f"- **Limits:** {' '.join(limits)}",
        f"- **Data:** {_stated(card.data)}",
        f"- **Parts:** {_parts(model)}",
        f"- **Figures:** {_stated(card.figures)}",
        f"- **Made by:** {_stated(None if card.command is None else code_span(card.command))}; saved by "
        f"{', '.join(versions)}, Python {platform.python_version()}",
        f"- **License:** {_stated(card.license)}",
    ]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {str(Path(name, path.relative_to(folder))): path for path in files} | {path.name: path for path in beside}
    rows = [f"| {as_markdown(key)} | {path.stat().st_size} | `{_hash(path)}` |" for key, path in listed.items()]
    table = ["| file | bytes | SHA-256 |", "| --- | --: | --- |", *rows]
    if beside:
        table += ["", f"The hashes are those of the files when version {name} was published. A file that is exported"]
        table += ["again later has its own hash in the `sha256` of its .json."]
    return "\n".join([lines[0], "", *lines[1:], "", *table]) + "\n"


def code_span(text: str) -> str:
    """A text on one line as code in Markdown, whatever is in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _stated(text: str | None) -> str:
    if text is None:
        return _NOT_STATED
    # What has several lines stays within its entry.
    return text if "\n" not in text else "\n\n" + "\n".join(f"  {line}".rstrip() for line in text.splitlines()) + "\n"


def _parts(model: Exportable) -> str:
    """What the description of the export says of the parts, and how many weights they have."""
    described = model.export_description().items()
    known = [f"{key.replace('_', ' ')} {as_markdown(str(value))}" for key, value in described if _is_short(value)]
    return ", ".join([type(model).__name__, *known, f"{weight_count(model):,} weights"])


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return all(type(each) is int for each in value)
    if isinstance(value, dict):
        return bool(value) and all(isinstance(each, list) and _is_short(each) for each in value.values())
    return isinstance(value, str | int) and not isinstance(value, bool)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
