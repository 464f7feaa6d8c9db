"""The layers of the package, called floors: each module is on one of them, and imports only from lower floors."""

import ast
import importlib.util
import pkgutil

import pytest

import tfvae

# A room, which is a folder or a top-level module, may import only from the floors listed before its own.
FLOORS = [
    {"chunks", "private_apis", "renamed"},
    {"_lazy", "_registration", "checks", "elbo", "files", "graphs", "numerics", "seeds"},
    {
        "detection",
        "distribute",
        "distributions",
        "exportable",
        "likelihoods",
        "networks",
        "objectives",
        "plots",
        "streams",
    },
    {"callbacks", "data", "posteriors"},
    {"priors", "training"},
    {"models"},
    {"inference"},
    {"evaluation", "export", "samplers", "sklearn"},
    {"reporting"},
    {"cli"},
    # The entry point of the command, and public aliases of modules that are in other rooms.
    {"__main__", "epochs", "shards", "strategies"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = [module.name for module in pkgutil.walk_packages(tfvae.__path__, "tfvae.")]


def room_of(module):
    return module.split(".")[1]


def imported_modules(tree):
    """What a module imports, except for imports that are only for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from imported_modules(node)


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_uphill(module):
    source = importlib.util.find_spec(module).loader.get_source(module)
    own = room_of(module)
    used = {room_of(name) for name in imported_modules(ast.parse(source)) if name.startswith("tfvae.")} - {own}
    # Names of the package itself, such as `tfvae.VAE`, are for users, not for its modules.
    assert used <= set(FLOOR)
    assert {room for room in used if FLOOR[room] >= FLOOR[own]} == set()
