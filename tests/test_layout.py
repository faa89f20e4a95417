"""The layout of the package: which subpackages may import each other, and the files at its root."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import occvae

PACKAGE = Path(occvae.__file__).parent
# From the lowest up. A module may import from its own subpackage and from lower layers.
LAYERS = (
    {"errors"},
    {"system"},
    {"ops", "images", "visualize"},
    {"geometry"},
    {"observations"},
    {"models", "data", "metrics"},
    {"train", "evaluation", "reconstruction", "convert"},
    {"app"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


@functools.cache
def modules() -> dict[str, Path]:
    """Returns all modules by dotted name without `occvae`. Packages end in `__init__`."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def imports_of(file: Path) -> Iterator[str]:
    """Yields the modules of occvae that a file imports anywhere, also in functions or for types."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "occvae":
                yield resolve(rest)


def resolve(name: str) -> str:
    """Returns the module of a dotted name, which may end with a name in that module."""
    known = modules()
    while name and name not in known and f"{name}.__init__" not in known:
        name = name.rpartition(".")[0]
    return name if name in known else f"{name}.__init__".lstrip(".")


def subpackage(module: str) -> str:
    """Returns the subpackage of a module. Entry points of `python -m` are in the top layer."""
    names = module.split(".")
    return "__main__" if names[-1] == "__main__" else names[0]


def test_only_three_modules_lie_at_the_root():
    files = {file.name for file in PACKAGE.glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "errors.py"}


def test_every_subpackage_has_a_layer():
    assert {subpackage(module) for module in modules()} == set(LAYER_OF)


@pytest.mark.parametrize("name", sorted(LAYER_OF))
def test_subpackages_import_only_from_lower_layers(name):
    wrong = [
        f"{module} imports {imported}"
        for module, file in modules().items()
        if subpackage(module) == name
        for imported in imports_of(file)
        if subpackage(imported) != name and LAYER_OF[subpackage(imported)] >= LAYER_OF[name]
    ]
    assert not wrong


def test_imports_have_no_cycle():
    graph = {module: set(imports_of(file)) - {module} for module, file in modules().items()}
    remaining = dict(graph)
    while leaves := [module for module in remaining if not remaining[module] & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    assert not remaining, (
        f"these modules are in an import cycle or import from one: {sorted(remaining)}"
    )
