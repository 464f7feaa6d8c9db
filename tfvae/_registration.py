"""Registers the classes that Keras must know to load a model's file, as soon as Keras is imported."""

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import wrapt

# Modules that no model needs.
_ABOVE = ("export", "cli", "__main__")


def import_with_keras(package: str, path: Sequence[str], modules: Sequence[str]) -> None:
    """Imports modules of a package once Keras is imported.

    If Keras is imported by one of the package's own modules, they wait until that module is complete, because they may
    import it themselves.

    Args:
        package: the package's name.
        path: its `__path__`.
        modules: the full names of the modules to import.
    """
    others = [
        name for name in _module_names(package, path) if name.removeprefix(f"{package}.").split(".")[0] not in _ABOVE
    ]

    def import_all(imported: ModuleType) -> None:
        under_way = [name for name in others if name != imported.__name__ and _is_under_way(name)]
        # `sys.modules` holds None for a module whose import is blocked.
        if sys.modules.get("keras") is not None and not under_way:
            for module in modules:
                importlib.import_module(module)

    for name in ("keras", *others):
        wrapt.register_post_import_hook(import_all, name)


def _module_names(package: str, path: Sequence[str]) -> Iterator[str]:
    """The full names of all modules in a package and in the packages within it, without importing any."""
    for module in pkgutil.iter_modules(path):
        name = f"{package}.{module.name}"
        yield name
        if module.ispkg:
            yield from _module_names(name, [str(Path(folder) / module.name) for folder in path])


def _is_under_way(name: str) -> bool:
    """Whether the import of a module has begun but not ended."""
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)
