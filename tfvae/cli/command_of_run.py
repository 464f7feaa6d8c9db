"""The command that makes a run anew, for its model card: without paths, which may say what is not to be published."""

import csv
import importlib
import inspect
import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfvae.cli import parts, train_command

# The arguments that do not change the trained model, and those that are folders.
_LEFT_OUT = {"data", "name", "runs", "saved_models", "resume", "overwrite", "seeds", "strategy", "devices", "label"}
_LEFT_OUT |= {"worker_timeout", "save_freq", "evaluate", "pictures", "report", "export", "latency", "num_samples"}


def defaults() -> dict[str, Any]:
    """The defaults of the arguments of `tfvae train`, by the names of the flags."""
    parameters = inspect.signature(train_command.train).parameters
    flags_of_train = [name for names in train_command.GROUPS.values() for name in names if name not in parts.PARTS]
    return {name: parameters[name].default for name in flags_of_train} | parts.DEFAULTS


def command(config: Mapping[str, Any]) -> str:
    """The command: the data, of a path its name alone, and the flags that differ from their defaults.

    The values of arguments of callbacks that are neither of Keras nor of tfvae are left out, as they may be secrets.

    Args:
        config: the content of the config.yaml of a run.
    """
    data = Path(config["data"]).name
    words = ["tfvae", "train", data]
    if config.get("name") not in (None, Path(data).stem):
        words += ["--name", config["name"]]
    for name, default in defaults().items():
        value = config.get(name, default)
        if name in _LEFT_OUT or value == default or (isinstance(default, tuple) and list(default) == value):
            continue
        if name in parts.PARTS:
            words += _of_part(name, parts.read(value))
        elif name == "callbacks":
            for each in value or ():
                words += _of_callback(parts.read(each))
        else:
            words += [f"--{name}", _of_flag(value)]
    return shlex.join(words)


def _of_part(slot: str, choice: Mapping[str, Any]) -> list[str]:
    """The words that choose a part and its arguments."""
    path, default = choice["class_path"], parts.DEFAULTS[slot]
    module, _, name = path.rpartition(".")
    is_own = not module.startswith("tfvae.")
    of_class = {} if is_own else inspect.signature(getattr(importlib.import_module(module), name)).parameters
    words = [] if path == default["class_path"] else [f"--{slot}", path if is_own else name]
    for argument, value in (choice.get("init_args") or {}).items():
        usual = of_class[argument].default if argument in of_class else None
        if not words and argument in default.get("init_args", {}):
            usual = default["init_args"][argument]
        if value != usual:
            words += [f"--{slot}.{argument}", _text(value)]
    return words


def _of_callback(choice: Mapping[str, Any]) -> list[str]:
    words = ["--callbacks", choice["class_path"]]
    is_own = "." in choice["class_path"] and not choice["class_path"].startswith(("keras.", "tfvae."))
    for argument, value in (choice.get("init_args") or {}).items():
        words += [f"--callbacks.{argument}", "..." if is_own else _text(value)]
    return words


def _of_flag(value: Any) -> str:
    """The value of a flag as one word, in which names that have a comma are in quotation marks."""
    if isinstance(value, Mapping):
        value = [f"{name}={each}" for name, each in value.items()]
    if not isinstance(value, list):
        return _text(value)
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(value)
    return written.getvalue()


def _text(value: Any) -> str:
    """The value of an argument as one word; of a path its name."""
    if isinstance(value, str):
        return Path(value).name if "/" in value else value
    return json.dumps(value)
