"""Names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_attributes(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package.

    Args:
        package: the package's name.
        names: for each of its modules the names that the package offers; the module itself where there are none.

    Returns:
        A function that imports the module that has a name, and returns what the name stands for.
    """
    modules = {name: module for module, offered in names.items() for name in offered or [module]}

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if name == modules[name] else getattr(module, name)

    return getattr_
