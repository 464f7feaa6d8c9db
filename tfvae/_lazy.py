"""Names of a package whose modules are imported when the names are first used."""

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
        names: for each module, by its full name, the names that the package offers from it; an empty sequence offers
            the module itself, under the last part of its name.

    Returns:
        `__getattr__`, which imports the module that a name comes from and returns its value; and `__dir__`, which lists
        these names and those that the package has already.
    """
    modules = {name: module for module, offered in names.items() for name in offered}
    modules |= {module.rpartition(".")[2]: module for module, offered in names.items() if not offered}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        return getattr(module, name) if name in names[modules[name]] else module

    return getattr_, lambda: sorted({*modules, *vars(sys.modules[package])})
