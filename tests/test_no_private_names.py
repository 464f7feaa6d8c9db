"""No module but `tfvae.private_apis` uses private names of other libraries."""

import ast
import pathlib
import re

import tfvae
from tests.helpers.private_names import USES

# Methods of named tuples, which are public in spite of the underscore.
OF_PYTHON = {"_asdict", "_fields", "_replace"}
PRIVATE_MODULES = re.compile(
    r"^(tensorflow\.(python|core|lite\.python|compiler)|keras\.src|tensorflow_probability\.python)\b"
)
SOURCES = {
    str(path.relative_to(pathlib.Path(tfvae.__file__).parent)): ast.parse(path.read_text())
    for path in pathlib.Path(tfvae.__file__).parent.rglob("*.py")
}


def own_names():
    """Every name that tfvae itself defines or assigns to, except in the module for the private names of others."""
    for tree in (tree for path, tree in SOURCES.items() if path != "private_apis.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr
            elif isinstance(node, ast.keyword) and node.arg:
                yield node.arg
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # For names such as `self.__dict__["_functions"]`.
                yield node.value


def test_no_other_module_takes_private_names_of_other_libraries():
    own = {*own_names(), *OF_PYTHON, *(path.removesuffix(".py") for path in SOURCES)} - {name for _, _, name, _ in USES}
    found = []
    for path, tree in SOURCES.items():
        if path == "private_apis.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr not in own:
                found.append(f"{path}:{node.lineno} {node.attr}")
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            found += [f"{path}:{node.lineno} {name}" for name in imported if PRIVATE_MODULES.match(name)]
    assert found == []
