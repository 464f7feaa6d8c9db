"""Names of a package that are imported when they are first used."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_attributes(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the `__getattr__` and the `__dir__` of a package.

    Args:
        package: the package's name.
        names: for each module, by its full name, the names that the package offers from it; none to offer the module
            itself, under the last part of its name.

    Returns:
        A function that imports the module that has a name, and returns what the name stands for; and one that lists the
        names, with those that are there already.
    """
    modules = {name: module for module, offered in names.items() for name in offered}
    modules |= {module.rpartition(".")[2]: module for module, offered in names.items() if not offered}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        return getattr(module, name) if name in names[modules[name]] else module

    return getattr_, lambda: sorted({*modules, *vars(sys.modules[package])})
