"""YAML from files that may be damaged, or made to do harm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tfvae import files

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 50
# What PyYAML raises for text that is not YAML, and for values that do not fit their tags, such as a 99th of May.
_INVALID = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError)


def read(path: Path, *, empty: bool = False) -> dict[str, Any]:
    """Reads a YAML file of named values.

    Args:
        path: the file.
        empty: whether it may hold nothing.

    Raises:
        ValueError: the file is something else.
        OSError: it cannot be read.
    """
    text = files.read_text(path, _MAX_BYTES)
    try:
        content = checked(yaml.safe_load)(text)
    except _INVALID as error:
        raise ValueError(f"A YAML file was expected. Received: {path}: {error}") from error
    if content is None and empty:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"A YAML file of named values was expected. Received: {path}, which holds none")
    return content


def checked(load: Callable[..., Any]) -> Callable[[str], Any]:
    """Makes a function that loads YAML refuse text that would take it all memory or the whole stack.

    Args:
        load: the function, of the text.

    Returns:
        A function of the text that raises `yaml.YAMLError` if it is longer than a megabyte, holds an alias, which may
        stand for thousands of others, is nested too deeply, or gives a name two values.
    """

    def load_checked(text: str) -> Any:
        if len(text) > _MAX_BYTES:
            raise yaml.YAMLError(f"at most {_MAX_BYTES} bytes are allowed")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError(f"aliases are not allowed: write the value itself in place of *{event.anchor}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise yaml.YAMLError(f"at most {_MAX_DEPTH} levels are allowed")
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return load(text)

    return load_checked


def _check_keys(node: yaml.Node | None) -> None:
    """Raises `yaml.YAMLError` if a name has two values, of which PyYAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"each name must have one value, but {name!r} has {names.count(name)}")
        for _, value in node.value:
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)
