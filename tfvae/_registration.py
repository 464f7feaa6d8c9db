"""Classes that Keras must know before it opens a file of theirs, imported as soon as Keras is there."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import wrapt

# What no model needs.
_ABOVE = ("export", "cli", "__main__")


def import_with_keras(package: str, path: Sequence[str], modules: Sequence[str]) -> None:
    """Imports modules of a package once Keras is imported.

    Where it is one of the package's own modules that imports Keras, they wait for the end of that, because they need it
    whole.

    Args:
        package: the package's name.
        path: its `__path__`.
        modules: the names of the modules to import.
    """
    others = [f"{package}.{module.name}" for module in pkgutil.iter_modules(path) if module.name not in _ABOVE]

    def import_all(imported: ModuleType) -> None:
        under_way = [name for name in others if name != imported.__name__ and _is_under_way(name)]
        # Of a module whose import is blocked, None is there.
        if sys.modules.get("keras") is not None and not under_way:
            for module in modules:
                importlib.import_module(f"{package}.{module}")

    for name in ("keras", *others):
        wrapt.register_post_import_hook(import_all, name)


def _is_under_way(name: str) -> bool:
    """Whether the import of a module has begun and not ended."""
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)
