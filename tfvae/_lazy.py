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
        names: for each of its modules the names that the package offers; the module itself where there are none.

    Returns:
        A function that imports the module that has a name, and returns what the name stands for; and one that lists the
        names, with those that are there already.
    """
    modules = {name: module for module, offered in names.items() for name in offered or [module]}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if name == modules[name] else getattr(module, name)

    return getattr_, lambda: sorted({*modules, *vars(sys.modules[package])})
